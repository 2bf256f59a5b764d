//! Remote commands (exec, attach, run): a process's streams joined to a client's, over WebSocket or SPDY.
//!
//! | version | error stream carries | resize | half-close |
//! | --- | --- | --- | --- |
//! | v1, v2, v3 (`channel.k8s.io` and no name at all) | text | from v3 | SPDY |
//! | v4 | a Status as JSON | yes | SPDY |
//! | v5 | a Status as JSON | yes | also WebSocket |

use std::time::Duration;

use bytes::Bytes;
use runtime::cri::{CriResult, ProcessStreams, TerminalSize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::spdy;
use super::websocket;

/// What the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The protocol's version as far as it changes behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// v1 to v3.
    Text,
    /// v4 and v5.
    Status,
}

/// Clients open their streams within this time or are sent away.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
const CHUNK: usize = 32 * 1024;

#[derive(Clone)]
pub enum Sink {
    Spdy(spdy::Sink),
    WebSocket(websocket::Sink),
}

impl Sink {
    async fn write(&self, data: Bytes) -> bool {
        match self {
            Sink::Spdy(sink) => sink.write(data).await,
            Sink::WebSocket(sink) => sink.write(data).await,
        }
    }

    async fn finish(&self) {
        match self {
            Sink::Spdy(sink) => sink.finish().await,
            // WebSocket has no end of one channel from this side.
            Sink::WebSocket(_) => {}
        }
    }
}

/// The client's side of a remote command.
pub struct ClientStreams {
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub stdout: Option<Sink>,
    pub stderr: Option<Sink>,
    pub resize: Option<mpsc::Receiver<Bytes>>,
    pub error: Sink,
    pub version: Version,
    /// Resolves when the client has gone.
    pub gone: tokio_util::sync::CancellationToken,
}

/// Joins the two sides until the process ends or the client goes, and tells the client how it ended.
/// `what`: `executing command in container`, `attaching to container`. Only a command's exit code is the client's.
pub async fn join(process: CriResult<ProcessStreams>, client: ClientStreams, what: &str, is_command: bool) {
    let ClientStreams { stdin, stdout, stderr, resize, error, version, gone } = client;
    let process = match process {
        Ok(process) => process,
        Err(problem) => {
            let message = format!("error {what}: {problem}");
            return report(&error, version, &internal_error(&message)).await;
        }
    };
    let ProcessStreams { stdin: to_process, stdout: from_stdout, stderr: from_stderr, resize: resizer, exit } = process;

    let feed = tokio::spawn(feed_stdin(stdin, to_process));
    let resizing = tokio::spawn(feed_resize(resize, resizer));
    let output = async {
        tokio::join!(copy(from_stdout, stdout.as_ref()), copy(from_stderr, stderr.as_ref()));
    };
    let ended = async {
        // A process may end while grandchildren hold its output; the exit is awaited after the output as the
        // original does, so that nothing written before the end is lost.
        output.await;
        exit.await
    };
    let outcome = tokio::select! {
        _ = gone.cancelled() => None,
        outcome = ended => Some(outcome),
    };
    feed.abort();
    resizing.abort();
    let Some(outcome) = outcome else { return };
    let status = match outcome {
        Ok(Ok(0)) => json!({"metadata": {}, "status": "Success"}),
        Ok(Ok(_)) if !is_command => json!({"metadata": {}, "status": "Success"}),
        Ok(Ok(code)) => non_zero_exit(code),
        Ok(Err(problem)) => internal_error(&format!("error {what}: {problem}")),
        Err(_) => internal_error(&format!("error {what}: the process was lost")),
    };
    report(&error, version, &status).await;
    for sink in [stdout, stderr].into_iter().flatten() {
        sink.finish().await;
    }
}

async fn report(error: &Sink, version: Version, status: &Value) {
    let text = match version {
        Version::Status => status.to_string(),
        // Silence is success to the old ones.
        Version::Text if status["status"] == "Success" => String::new(),
        Version::Text => status["message"].as_str().unwrap_or_default().to_owned(),
    };
    if !text.is_empty() {
        error.write(Bytes::from(text)).await;
    }
    error.finish().await;
}

fn non_zero_exit(code: i32) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn internal_error(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    })
}

async fn feed_stdin(from: Option<mpsc::Receiver<Bytes>>, to: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(data) = from.recv().await {
        if to.write_all(&data).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn feed_resize(from: Option<mpsc::Receiver<Bytes>>, to: Option<mpsc::Sender<TerminalSize>>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    while let Some(data) = from.recv().await {
        for size in sizes(&data) {
            if to.send(size).await.is_err() {
                return;
            }
        }
    }
}

/// SPDY may bring several in one piece, each JSON by itself.
fn sizes(data: &[u8]) -> Vec<TerminalSize> {
    let values = serde_json::Deserializer::from_slice(data).into_iter::<Value>().flatten();
    let number = |size: &Value, key: &str| size[key].as_u64().and_then(|value| u16::try_from(value).ok());
    values.filter_map(|size| Some(TerminalSize { width: number(&size, "Width")?, height: number(&size, "Height")? })).collect()
}

async fn copy(from: Option<Box<dyn AsyncRead + Send + Unpin>>, to: Option<&Sink>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            // A terminal whose other end is closed answers with an error, which is its end.
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if let Some(to) = to
                    && !to.write(Bytes::copy_from_slice(&buffer[..count])).await
                {
                    return;
                }
            }
        }
    }
}

/// Takes up the streams that a SPDY client opens for these wishes.
pub async fn spdy_streams(
    connection: &mut spdy::Connection,
    wishes: Wishes,
    version: Version,
    with_resize: bool,
    gone: tokio_util::sync::CancellationToken,
) -> Result<ClientStreams, String> {
    let resize_expected = wishes.tty && with_resize;
    let expected = 1 + usize::from(wishes.stdin) + usize::from(wishes.stdout) + usize::from(wishes.stderr && !wishes.tty) + usize::from(resize_expected);
    let (mut stdin, mut stdout, mut stderr, mut resize, mut error) = (None, None, None, None, None);
    let mut received = 0;
    let deadline = tokio::time::Instant::now() + STREAMS_WITHIN;
    while received < expected {
        let stream = match tokio::time::timeout_at(deadline, connection.streams.recv()).await {
            Err(_) => return Err("timed out waiting for client to create streams".to_owned()),
            Ok(None) => return Err("the client went away".to_owned()),
            Ok(Some(stream)) => stream,
        };
        let kind = stream.header("streamtype").unwrap_or_default().to_owned();
        match kind.as_str() {
            "stdin" => stdin = Some(stream.data),
            "stdout" => stdout = Some(Sink::Spdy(stream.sink)),
            "stderr" => stderr = Some(Sink::Spdy(stream.sink)),
            "resize" => resize = Some(stream.data),
            "error" => error = Some(Sink::Spdy(stream.sink)),
            _ => {
                stream.sink.reset().await;
                return Err(format!("unexpected stream type: \"{kind}\""));
            }
        }
        received += 1;
    }
    let error = error.ok_or("the client opened no error stream")?;
    Ok(ClientStreams { stdin, stdout, stderr, resize, error, version, gone })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use futures::{SinkExt as _, StreamExt as _};
    use tokio::io::{DuplexStream, duplex};
    use tokio::sync::oneshot;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::{Message, Role};

    use super::spdy::{Connection, Frame, FrameReader, FrameWriter};
    use super::*;

    #[test]
    fn terminal_sizes() {
        let found = sizes(b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":30}\n{\"Width\":-1}");
        assert_eq!(found, [TerminalSize { width: 80, height: 24 }, TerminalSize { width: 100, height: 30 }]);
    }

    /// A process that answers its input in capitals on stdout, greets on stderr, and ends with this code.
    fn shouting(exit_code: i32) -> ProcessStreams {
        let (stdin, mut input) = duplex(1024);
        let (stdout, mut output) = duplex(1024);
        let (stderr, mut errors) = duplex(1024);
        let (done, exit) = oneshot::channel();
        tokio::spawn(async move {
            errors.write_all(b"hello").await.expect("written");
            drop(errors);
            let mut all = Vec::new();
            input.read_to_end(&mut all).await.expect("read");
            output.write_all(&all.to_ascii_uppercase()).await.expect("written");
            drop(output);
            let _ = done.send(Ok(exit_code));
        });
        ProcessStreams { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), stderr: Some(Box::new(stderr)), resize: None, exit }
    }

    const ALL: Wishes = Wishes { stdin: true, stdout: true, stderr: true, tty: false };

    /// As kubectl before 1.31 speaks: what came on each stream, in the end.
    async fn over_spdy(exit_code: i32, version: Version) -> [String; 3] {
        let (client, server) = duplex(4096);
        tokio::spawn(async move {
            let mut connection = Connection::accept(server);
            let gone = connection.gone();
            let streams = spdy_streams(&mut connection, ALL, version, true, gone).await.expect("streams");
            join(Ok(shouting(exit_code)), streams, "executing command in container", true).await;
            connection.close().await;
        });
        let (input, mut output) = tokio::io::split(client);
        let mut writer = FrameWriter::new();
        let mut bytes = BytesMut::new();
        for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
            let headers = vec![("streamtype".to_owned(), kind.to_owned())];
            writer.encode(&Frame::SynStream { id, fin: false, headers }, &mut bytes).expect("encoded");
        }
        writer.encode(&Frame::Data { id: 3, fin: true, data: Bytes::from_static(b"quiet") }, &mut bytes).expect("encoded");
        output.write_all(&bytes).await.expect("written");

        let mut reader = FrameReader::new(input);
        let mut seen: [Vec<u8>; 3] = Default::default();
        while let Some(frame) = reader.next().await.expect("read") {
            if let Frame::Data { id, data, .. } = frame {
                let place = match id {
                    1 => 0,
                    5 => 1,
                    _ => 2,
                };
                seen[place].extend_from_slice(&data);
            }
        }
        seen.map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[tokio::test]
    async fn a_command_over_spdy() {
        let [status, stdout, stderr] = over_spdy(0, Version::Status).await;
        assert_eq!([status.as_str(), &stdout, &stderr], ["{\"metadata\":{},\"status\":\"Success\"}", "QUIET", "hello"]);
        let [status, ..] = over_spdy(7, Version::Status).await;
        let status: Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!((&status["reason"], &status["details"]["causes"][0]["message"]), (&json!("NonZeroExitCode"), &json!("7")));
        let [status, ..] = over_spdy(7, Version::Text).await;
        assert_eq!(status, "command terminated with non-zero exit code: exit status 7");
        assert_eq!(over_spdy(0, Version::Text).await[0], "");
    }

    /// As kubectl from 1.31 on speaks: messages by channel, and the code it was closed with.
    async fn over_websocket(exit_code: i32) -> (Vec<(u8, String)>, u16) {
        let (client, server): (DuplexStream, DuplexStream) = duplex(4096);
        tokio::spawn(async move {
            let channels = websocket::accept(server, "v5.channel.k8s.io", ALL).await;
            let (streams, finish) = channels.split();
            join(Ok(shouting(exit_code)), streams, "executing command in container", true).await;
            finish.await;
        });
        let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        socket.send(Message::Binary(Bytes::from_static(b"\0quiet"))).await.expect("sent");
        socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.expect("sent"); // The end of its input.
        let mut seen = Vec::new();
        let mut code = 0;
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(bytes) => seen.push((bytes[0], String::from_utf8_lossy(&bytes[1..]).into_owned())),
                Message::Close(Some(frame)) => code = frame.code.into(),
                _ => {}
            }
        }
        seen.sort();
        (seen, code)
    }

    #[tokio::test]
    async fn a_command_over_websocket() {
        let (seen, code) = over_websocket(0).await;
        let expected = [(1, "QUIET"), (2, "hello"), (3, "{\"metadata\":{},\"status\":\"Success\"}")];
        assert_eq!(seen, expected.map(|(channel, text)| (channel, text.to_owned())));
        assert_eq!(code, 1000);
    }

    #[tokio::test]
    async fn a_command_that_cannot_start() {
        let (client, server) = duplex(4096);
        tokio::spawn(async move {
            let (streams, finish) = websocket::accept(server, "v4.channel.k8s.io", ALL).await.split();
            let failure = Err(runtime::cri::CriError::NotFound("no such file".to_owned()));
            join(failure, streams, "executing command in container", true).await;
            finish.await;
        });
        let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let Some(Ok(Message::Binary(message))) = socket.next().await else { panic!("no answer") };
        let status: Value = serde_json::from_slice(&message[1..]).expect("JSON");
        assert_eq!(status["message"], "Internal error occurred: error executing command in container: no such file");
    }
}
