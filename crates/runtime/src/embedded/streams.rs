//! Processes' streams: pipes and terminals whose other ends the shim gives to the process itself.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::shim_client::{CallError, ShimClient};
use super::state::Container;
use crate::cri::*;
use crate::shim::protocol::Operation;
use crate::sys::terminal;

/// containerd's bound of what `exec_sync` keeps of each stream.
const EXEC_SYNC_MAX: u64 = 16 << 20;
/// How long output is waited for that a process left behind holds open.
const DRAIN_MAX: Duration = Duration::from_secs(1);
const RESIZES_MAX: usize = 8;

pub struct ExecOptions {
    pub container: String,
    pub command: Vec<String>,
    pub options: StreamOptions,
}

/// What the process gets: stdin, stdout and stderr. And what we keep of it.
struct Pipes {
    theirs: Vec<OwnedFd>,
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

fn pipes(options: &StreamOptions) -> io::Result<Pipes> {
    let null = || -> io::Result<OwnedFd> {
        Ok(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
    };
    let output = |wanted: bool| -> io::Result<(OwnedFd, Option<pipe::Receiver>)> {
        if !wanted {
            return Ok((null()?, None));
        }
        let (reader, writer) = io::pipe()?;
        Ok((writer.into(), Some(receiver(reader.into())?)))
    };
    let (their_stdin, stdin) = match options.stdin {
        true => {
            let (reader, writer) = io::pipe()?;
            (OwnedFd::from(reader), Some(sender(writer.into())?))
        }
        false => (null()?, None),
    };
    let (their_stdout, stdout) = output(options.stdout)?;
    let (their_stderr, stderr) = output(options.stderr)?;
    Ok(Pipes { theirs: vec![their_stdin, their_stdout, their_stderr], stdin, stdout, stderr })
}

fn receiver(file: OwnedFd) -> io::Result<pipe::Receiver> {
    set_nonblocking(&file)?;
    pipe::Receiver::from_owned_fd(file)
}

fn sender(file: OwnedFd) -> io::Result<pipe::Sender> {
    set_nonblocking(&file)?;
    pipe::Sender::from_owned_fd(file)
}

fn set_nonblocking(file: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn internal(cause: io::Error) -> CriError {
    CriError::Internal(cause.to_string())
}

/// Starts it; the receiver tells its exit code. `Err` words as containerd and runc do.
async fn start_exec(
    shim: &Arc<ShimClient>,
    wanted: ExecOptions,
    streams: Vec<OwnedFd>,
) -> CriResult<(String, Vec<OwnedFd>, oneshot::Receiver<i32>)> {
    let exec = uuid::Uuid::new_v4().simple().to_string();
    let exit = shim.exec_exit(&exec);
    let operation = Operation::Exec {
        container: wanted.container,
        exec: exec.clone(),
        args: wanted.command,
        tty: wanted.options.tty,
    };
    match shim.call(operation, streams).await {
        Ok((_, descriptors)) => Ok((exec, descriptors, exit)),
        Err(problem) => {
            shim.forget_exec(&exec);
            Err(match problem {
                CallError::Failed(text) => CriError::Internal(format!(
                    "failed to exec in container: failed to start exec {exec:?}: OCI runtime exec failed: exec failed: \
                     unable to start container process: {text}: unknown"
                )),
                other => other.into(),
            })
        }
    }
}

pub async fn exec(shim: &Arc<ShimClient>, wanted: ExecOptions) -> CriResult<ProcessStreams> {
    let options = wanted.options.clone();
    let pipes = if options.tty { None } else { Some(pipes(&options).map_err(internal)?) };
    let (theirs, ours) = match pipes {
        Some(Pipes { theirs, stdin, stdout, stderr }) => (theirs, Some((stdin, stdout, stderr))),
        None => (Vec::new(), None),
    };
    let (exec, descriptors, exit) = start_exec(shim, wanted, theirs).await?;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(follow_exec(shim.clone(), exec, exit, sender));
    match ours {
        Some((stdin, stdout, stderr)) => Ok(ProcessStreams {
            stdin: stdin.map(|it| Box::new(it) as _),
            stdout: stdout.map(|it| Box::new(it) as _),
            stderr: stderr.map(|it| Box::new(it) as _),
            resize: None,
            exit: receiver,
        }),
        None => {
            let terminal = descriptors.into_iter().next();
            let terminal = terminal.ok_or_else(|| CriError::Internal("the shim sent no terminal".to_string()))?;
            with_terminal(terminal, None, &options, receiver).map_err(internal)
        }
    }
}

/// Passes the exit code on; kills the process when nobody waits for it any more.
async fn follow_exec(
    shim: Arc<ShimClient>,
    exec: String,
    exit: oneshot::Receiver<i32>,
    mut waiter: oneshot::Sender<CriResult<i32>>,
) {
    tokio::pin!(exit);
    let code = tokio::select! {
        code = &mut exit => code,
        () = waiter.closed() => {
            let _ = shim.call(Operation::KillExec { exec }, Vec::new()).await;
            return;
        }
    };
    let _ = waiter.send(code.map_err(|_| CriError::Unavailable("the pod's shim is gone".to_string())));
}

pub async fn exec_sync(
    shim: &Arc<ShimClient>,
    container: &str,
    command: Vec<String>,
    limit: Option<Duration>,
) -> CriResult<ExecSyncResponse> {
    let options = StreamOptions { stdin: false, stdout: true, stderr: true, tty: false };
    let Pipes { theirs, stdout, stderr, .. } = pipes(&options).map_err(internal)?;
    let name = command.join(" ");
    let wanted = ExecOptions { container: container.to_string(), command, options };
    let (exec, _, exit) = start_exec(shim, wanted, theirs).await?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let waited = {
        let reading = async { tokio::join!(keep(stdout, &mut out), keep(stderr, &mut err)) };
        tokio::pin!(reading);
        let running = async {
            tokio::pin!(exit);
            let mut drained = false;
            let code = loop {
                tokio::select! {
                    code = &mut exit => break code,
                    _ = &mut reading, if !drained => drained = true,
                }
            };
            if !drained {
                let _ = tokio::time::timeout(DRAIN_MAX, &mut reading).await;
            }
            code
        };
        match limit {
            Some(limit) => tokio::time::timeout(limit, running).await,
            None => Ok(running.await),
        }
    };
    match waited {
        Ok(Ok(exit_code)) => Ok(ExecSyncResponse { stdout: out, stderr: err, exit_code }),
        Ok(Err(_)) => Err(CriError::Unavailable("failed to exec in container: the pod's shim is gone".to_string())),
        Err(_) => {
            shim.forget_exec(&exec);
            let _ = shim.call(Operation::KillExec { exec }, Vec::new()).await;
            let seconds = limit.unwrap_or_default().as_secs();
            Err(CriError::DeadlineExceeded(format!(
                "failed to exec in container: timeout {seconds}s exceeded: command {name:?} timed out"
            )))
        }
    }
}

/// Reads to the end and keeps the beginning, so that a process that writes more is not held up.
async fn keep(stream: Option<pipe::Receiver>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let _ = (&mut stream).take(EXEC_SYNC_MAX).read_to_end(kept).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

pub async fn attach(container: &Arc<Container>, options: StreamOptions, stdin_once: bool) -> CriResult<ProcessStreams> {
    let shim = container.pod.shim()?;
    let wants_stderr = options.stderr && !options.tty;
    let output = StreamOptions { stdin: false, stdout: options.stdout, stderr: wants_stderr, tty: false };
    let Pipes { theirs, stdout, stderr, .. } = pipes(&output).map_err(internal)?;
    let mut theirs = theirs.into_iter().skip(1);
    let mut sinks = Vec::new();
    for wanted in [options.stdout, wants_stderr] {
        let file = theirs.next();
        sinks.extend(file.filter(|_| wanted));
    }
    let operation = Operation::Attach {
        container: container.id.clone(),
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: wants_stderr,
    };
    let (_, descriptors) = shim.call(operation, sinks).await?;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(follow_container(container.clone(), sender, stdin_once && options.stdin));
    let input = descriptors.into_iter().next();
    match input {
        Some(terminal) if options.tty => with_terminal(terminal, Some(stdout), &options, receiver).map_err(internal),
        input => Ok(ProcessStreams {
            stdin: match input {
                Some(file) => Some(Box::new(self::sender(file).map_err(internal)?)),
                None => None,
            },
            stdout: stdout.map(|it| Box::new(it) as _),
            stderr: stderr.map(|it| Box::new(it) as _),
            resize: None,
            exit: receiver,
        }),
    }
}

/// Tells the attached one how the container ended. When he leaves before, stdin may have been his alone.
async fn follow_container(container: Arc<Container>, mut waiter: oneshot::Sender<CriResult<i32>>, close_stdin: bool) {
    let mut live = container.subscribe();
    let ended = async {
        let exited = live.wait_for(|live| live.state == ContainerState::Exited).await;
        exited.map(|live| live.exit.exit_code).ok()
    };
    tokio::select! {
        code = ended => {
            let gone = || CriError::NotFound(format!("container {:?} was removed", container.id));
            let _ = waiter.send(code.ok_or_else(gone));
        }
        () = waiter.closed() => {
            if close_stdin && let Ok(shim) = container.pod.shim() {
                let operation = Operation::CloseStdin { container: container.id.clone() };
                let _ = shim.call(operation, Vec::new()).await;
            }
        }
    }
}

/// `output` is given when somebody else reads the terminal and copies it to us.
fn with_terminal(
    terminal: OwnedFd,
    output: Option<Option<pipe::Receiver>>,
    options: &StreamOptions,
    exit: oneshot::Receiver<CriResult<i32>>,
) -> io::Result<ProcessStreams> {
    let resized = terminal.try_clone()?;
    let (resize, mut sizes) = mpsc::channel::<TerminalSize>(RESIZES_MAX);
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            let _ = terminal::resize(resized.as_fd(), size.width, size.height);
        }
    });
    let stdin = match options.stdin {
        true => Some(Box::new(Terminal::new(terminal.try_clone()?)?) as _),
        false => None,
    };
    let stdout = match output {
        Some(copied) => copied.map(|it| Box::new(it) as _),
        None => Some(Box::new(Terminal::new(terminal)?) as _),
    };
    Ok(ProcessStreams { stdin, stdout, stderr: None, resize: Some(resize), exit })
}

/// Our side of a pseudo terminal. Its end is an I/O error when the last process has closed the other side.
struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(file: OwnedFd) -> io::Result<Terminal> {
        set_nonblocking(&file)?;
        // SAFETY: the descriptor is owned by the value that is registered, and is not exchanged while it is.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register(file) }?;
        Ok(Terminal(registered))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let target = buffer.initialize_unfilled();
            match guard.try_io(|file| Ok(nix::unistd::read(file.get_ref(), target)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(cause)) if cause.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(cause)) => return Poll::Ready(Err(cause)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|file| Ok(nix::unistd::write(file.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
