//! A command's streams over a WebSocket: `v5.channel.k8s.io`.
//!
//! Invariant: the terminal is raw only while the connection lives, and whatever ends the connection restores it. The
//! remote exit code becomes ours. Deliberately absent: SPDY, which every server since 1.30 can do without.

use futures::{SinkExt, StreamExt};
use http::Request;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::error::{Error, Result};
use crate::rest::Url;
use crate::session::Session;
use crate::terminal::{Size, Terminal};
use crate::value::{list, text};

pub struct Remote {
    pub url: Url,
    pub stdin: bool,
    pub tty: bool,
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

pub type Socket = tokio_tungstenite::WebSocketStream<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>>;

/// Opens the connection; a refusal is the server's own words.
pub async fn connect(session: &Session, url: &Url) -> Result<(Socket, bool)> {
    let client = session.client().await?;
    let request = Request::get(url.as_str()).body(Vec::new()).map_err(|error| Error::Message(error.to_string()))?;
    let connection = client.connect(request).await.map_err(|error| match error {
        kube::Error::Api(status) => Error::Status(serde_json::to_value(&status).unwrap_or_default()),
        other => Error::Message(format!("unable to upgrade connection: {}", crate::rest::chain(&other))),
    })?;
    let closes = connection.supports_stream_close();
    Ok((connection.into_stream(), closes))
}

pub async fn run_remote(session: &Session, remote: Remote) -> Result {
    let (socket, can_close) = connect(session, &remote.url).await?;
    let guard = match (&session.terminal, remote.tty) {
        (Some(terminal), true) => Some(terminal.raw()?),
        _ => None,
    };
    let ends = Ends {
        input: remote.stdin.then(|| session.take_input()),
        out: Sink::Out(session),
        err: Sink::Err(session),
        resizes: if remote.tty { session.terminal.as_deref() } else { None },
    };
    let outcome = join(socket, can_close, ends).await;
    drop(guard);
    session.flush()?;
    outcome
}

/// Runs a command whose streams are this program's own, not the user's.
pub async fn pipe(session: &Session, url: &Url, ends: Ends<'_>) -> Result {
    let (socket, can_close) = connect(session, url).await?;
    join(socket, can_close, ends).await
}

/// Where a remote command's streams come from and go to.
pub struct Ends<'a> {
    pub input: Option<Box<dyn AsyncRead + Unpin + 'a>>,
    pub out: Sink<'a>,
    pub err: Sink<'a>,
    /// The terminal whose size the other side is told.
    pub resizes: Option<&'a dyn Terminal>,
}

pub enum Sink<'a> {
    Out(&'a Session),
    Err(&'a Session),
    To(Box<dyn AsyncWrite + Unpin + 'a>),
}

impl Sink<'_> {
    async fn write(&mut self, data: &[u8]) -> Result {
        match self {
            Sink::Out(session) => {
                session.print(data)?;
                session.flush()
            }
            Sink::Err(session) => {
                session.print_err(data);
                Ok(())
            }
            Sink::To(writer) => Ok(writer.write_all(data).await?),
        }
    }
}

/// Both directions go on at once: neither waits for the other, or a command that echoes much would stop for ever.
async fn join(socket: Socket, can_close: bool, ends: Ends<'_>) -> Result {
    let (to_server, mut from_server) = socket.split();
    let Ends { input, mut out, mut err, resizes } = ends;
    let mut verdict: Option<Value> = None;
    let (receiving, sent_verdict) = (&mut out, &mut verdict);
    let receive = async move {
        loop {
            match from_server.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(()),
                // Once the verdict is in, how the connection ends does not matter.
                Some(Err(_)) if sent_verdict.is_some() => return Ok(()),
                Some(Err(error)) => return Err(lost(error)),
                Some(Ok(Message::Binary(data))) => match data.first() {
                    Some(&STDOUT) => receiving.write(&data[1..]).await?,
                    Some(&STDERR) => err.write(&data[1..]).await?,
                    Some(&ERROR) => *sent_verdict = serde_json::from_slice(&data[1..]).ok(),
                    _ => {}
                },
                Some(Ok(_)) => {}
            }
        }
    };
    let outcome = {
        let send = send(to_server, can_close, input, resizes);
        tokio::pin!(receive, send);
        tokio::select! {
            outcome = &mut receive => outcome,
            // What cannot be sent any more does not matter to what is still to be read.
            _ = &mut send => receive.await,
        }
    };
    if let Sink::To(writer) = &mut out {
        let _ = writer.shutdown().await;
    }
    outcome?;
    exit(verdict)
}

type Sender = futures::stream::SplitSink<Socket, Message>;

async fn send(mut to_server: Sender, can_close: bool, input: Option<Box<dyn AsyncRead + Unpin + '_>>, resizes: Option<&dyn Terminal>) -> Result {
    let mut buffer = vec![0u8; 32 * 1024];
    let mut reading = input.is_some();
    let mut input = input.unwrap_or_else(|| Box::new(tokio::io::empty()));
    let mut resized = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?;
    let size = || resizes.and_then(Terminal::size);
    if let Some(size) = size() {
        to_server.send(resize_message(size)).await.map_err(lost)?;
    }
    loop {
        tokio::select! {
            count = input.read(&mut buffer), if reading => {
                let count = count.unwrap_or(0);
                let message = if count == 0 {
                    reading = false;
                    if !can_close {
                        continue;
                    }
                    vec![CLOSE, STDIN]
                } else {
                    let mut message = vec![STDIN];
                    message.extend_from_slice(&buffer[..count]);
                    message
                };
                to_server.send(Message::binary(message)).await.map_err(lost)?;
            }
            _ = resized.recv() => {
                if let Some(size) = size() {
                    to_server.send(resize_message(size)).await.map_err(lost)?;
                }
            }
        }
    }
}

fn resize_message(size: Size) -> Message {
    let mut message = vec![RESIZE];
    message.extend(format!("{{\"Width\":{},\"Height\":{}}}", size.width, size.height).into_bytes());
    Message::binary(message)
}

fn lost(error: tokio_tungstenite::tungstenite::Error) -> Error {
    Error::Message(format!("error reading from error stream: {error}"))
}

/// What the remote side said of how the command ended.
fn exit(verdict: Option<Value>) -> Result {
    let Some(status) = verdict else { return Ok(()) };
    if text(&status, "/status") == "Success" {
        return Ok(());
    }
    if text(&status, "/reason") == "NonZeroExitCode" {
        let code = list(&status, "/details/causes").iter().find(|cause| text(cause, "/reason") == "ExitCode");
        if let Some(code) = code.and_then(|cause| text(cause, "/message").parse::<u8>().ok()) {
            return Err(Error::Remote(code));
        }
    }
    Err(Error::Message(text(&status, "/message").to_owned()))
}
