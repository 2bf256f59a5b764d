//! Logs, exec, attach, terminals, ports.

use std::time::Duration;

use runtime::cri::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

crate::tests![exec_sync, exec_streams, exec_terminal, exec_dropped, attach, attach_terminal, logs_rotate, long_lines, stuck_reader, port_forward];

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(String::from).to_vec()
}

async fn read(stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>) -> String {
    let mut text = String::new();
    stream.expect("a stream").read_to_string(&mut text).await.expect("text");
    text
}

async fn exec_sync(world: &mut World) {
    let (_, id) = world.sleeper().await;
    let runtime = world.runtime();
    let answer = runtime.exec_sync(&id, shell("echo out; echo err >&2; exit 7"), 5).await.unwrap();
    assert_eq!((answer.stdout.as_slice(), answer.stderr.as_slice(), answer.exit_code), (&b"out\n"[..], &b"err\n"[..], 7));

    let before = std::time::Instant::now();
    let problem = runtime.exec_sync(&id, shell("sleep 100"), 1).await.unwrap_err();
    assert!(matches!(problem, CriError::DeadlineExceeded(_)), "{problem}");
    assert!(before.elapsed() < Duration::from_secs(3));

    let problem = runtime.exec_sync(&id, vec!["absent".into()], 1).await.unwrap_err().to_string();
    assert!(problem.starts_with("failed to exec in container: failed to start exec"), "{problem}");
    assert!(problem.ends_with("exec: \"absent\": executable file not found in $PATH: unknown"), "{problem}");

    // A daemon that keeps the pipe does not keep the caller.
    let before = std::time::Instant::now();
    let answer = runtime.exec_sync(&id, shell("sleep 30 & echo started"), 10).await.unwrap();
    assert_eq!(answer.stdout, b"started\n");
    assert!(before.elapsed() < Duration::from_secs(3));

    // More than a pipe holds.
    let answer = runtime.exec_sync(&id, shell("head -c 3000000 /dev/zero"), 10).await.unwrap();
    assert_eq!(answer.stdout.len(), 3_000_000);
    runtime.stop_container(&id, 1).await.unwrap();
    let problem = runtime.exec_sync(&id, shell("true"), 1).await.unwrap_err().to_string();
    assert_eq!(problem, "container is in CONTAINER_EXITED state");
}

async fn exec_streams(world: &mut World) {
    let (_, id) = world.sleeper().await;
    let options = StreamOptions { stdin: true, stdout: true, stderr: true, tty: false };
    let mut streams = world.runtime().exec(&id, shell("cat; echo end >&2; exit 4"), options).await.unwrap();
    let mut stdin = streams.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin); // Half a close: output still comes.
    assert_eq!(read(streams.stdout.take()).await, "one\ntwo\n");
    assert_eq!(read(streams.stderr.take()).await, "end\n");
    assert_eq!(streams.exit.await.unwrap().unwrap(), 4);
}

async fn exec_terminal(world: &mut World) {
    let (_, id) = world.sleeper().await;
    let options = StreamOptions { stdin: true, stdout: true, stderr: false, tty: true };
    let mut streams = world.runtime().exec(&id, shell("read x; stty size; tty; exit 5"), options).await.unwrap();
    streams.resize.as_ref().unwrap().send(TerminalSize { width: 100, height: 40 }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    streams.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    let text = read(streams.stdout.take()).await;
    assert_eq!(text, "go\r\n40 100\r\n/dev/pts/0\r\n");
    assert_eq!(streams.exit.await.unwrap().unwrap(), 5);
}

async fn exec_dropped(world: &mut World) {
    let (_, id) = world.sleeper().await;
    let options = StreamOptions { stdout: true, ..Default::default() };
    let streams = world.runtime().exec(&id, shell("exec sleep 12345"), options).await.unwrap();
    drop(streams);
    for _ in 0..100 {
        if !world.exec(&id, "ps").await.1.contains("sleep 12345") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the process goes on");
}

async fn attach(world: &mut World) {
    let sandbox = world.sandbox().await;
    let mut config = world.script("while read line; do echo got $line; done; echo end; exit 6");
    config.stdin = true;
    config.stdin_once = true;
    let id = world.start(&sandbox, config).await;
    let options = StreamOptions { stdin: true, stdout: true, stderr: true, tty: false };
    let mut streams = world.runtime().attach(&id, options).await.unwrap();
    let mut stdin = streams.stdin.take().unwrap();
    stdin.write_all(b"a\nb\n").await.unwrap();
    let mut text = [0; 12];
    let stdout = streams.stdout.as_mut().unwrap();
    stdout.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"got a\ngot b\n");
    drop((stdin, streams)); // stdinOnce: the end of the first is the end of stdin.
    let status = world.exit(&id).await;
    assert_eq!(status.exit_code, 6);
    assert_eq!(world.log(&id).await, "got a\ngot b\nend\n");
}

async fn attach_terminal(world: &mut World) {
    let sandbox = world.sandbox().await;
    let mut config = world.script("tty; test -c /dev/console && echo console; read x; stty size; exit 3");
    config.stdin = true;
    config.tty = true;
    let id = world.start(&sandbox, config).await;
    let options = StreamOptions { stdin: true, stdout: true, stderr: false, tty: true };
    let mut streams = world.runtime().attach(&id, options).await.unwrap();
    streams.resize.as_ref().unwrap().send(TerminalSize { width: 90, height: 30 }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    streams.stdin.as_mut().unwrap().write_all(b"x\n").await.unwrap();
    let text = read(streams.stdout.take()).await;
    assert!(text.ends_with("x\r\n30 90\r\n"), "{text:?}");
    assert_eq!(streams.exit.await.unwrap().unwrap(), 3);
    assert_eq!(world.log(&id).await, "/dev/pts/0\nconsole\nx\n30 90\n");
}

async fn logs_rotate(world: &mut World) {
    let sandbox = world.sandbox().await;
    let mut config = world.script("echo first; read x; echo second");
    config.stdin = true;
    let id = world.start(&sandbox, config).await;
    let path = world.runtime().container_status(&id).await.unwrap().log_path;
    world.log_is(&id, "first\n").await;
    std::fs::rename(&path, format!("{path}.1")).unwrap();
    world.runtime().reopen_container_log(&id).await.unwrap();
    let options = StreamOptions { stdin: true, ..Default::default() };
    let mut streams = world.runtime().attach(&id, options).await.unwrap();
    streams.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    world.exit(&id).await;
    assert_eq!(world.log(&id).await, "second\n");
}

async fn long_lines(world: &mut World) {
    let sandbox = world.sandbox().await;
    let id = world.start(&sandbox, world.script("head -c 40000 /dev/zero | tr '\\0' x; echo; seq 1 20000")).await;
    let status = world.exit(&id).await;
    let text = std::fs::read_to_string(status.log_path).unwrap();
    let tags: Vec<_> = text.lines().take(3).map(|line| (line.split(' ').nth(2).unwrap(), line.len() - 40)).collect();
    let (stamp, line) = (38, 16 << 10);
    assert_eq!(tags[0].0, "P");
    assert!(tags[0].1.abs_diff(line) < stamp && tags[1].0 == "P" && tags[2].0 == "F", "{tags:?}");
    assert!(text.ends_with("stdout F 20000\n"));
    assert_eq!(text.lines().count(), 20_003);
}

/// Somebody attaches and reads nothing: the container is held up for a while, not for ever.
async fn stuck_reader(world: &mut World) {
    let sandbox = world.sandbox().await;
    let mut config = world.script("read x; head -c 1000000 /dev/zero | tr '\\0' '\\n'; echo done");
    config.stdin = true;
    let id = world.start(&sandbox, config).await;
    let options = StreamOptions { stdin: true, stdout: true, ..Default::default() };
    let mut streams = world.runtime().attach(&id, options).await.unwrap();
    streams.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    let status = world.exit(&id).await;
    assert_eq!(status.exit_code, 0);
    assert!(world.log(&id).await.ends_with("\ndone\n"));
    drop(streams);
}

async fn port_forward(world: &mut World) {
    let sandbox = world.sandbox().await;
    let id = world.start(&sandbox, world.script("while :; do nc -l -p 8080 -e cat; done")).await;
    let mut stream = loop {
        // It takes a moment to listen.
        match world.runtime().port_forward(&sandbox, 8080).await {
            Ok(stream) => break stream,
            Err(problem) => assert!(problem.to_string().contains("failed to connect to localhost:8080"), "{problem}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    stream.write_all(b"ping\n").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping\n");
    drop(stream);
    world.runtime().stop_container(&id, 0).await.unwrap();
}
