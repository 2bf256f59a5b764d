//! A command's streams over a WebSocket: `v5.channel.k8s.io`.
//!
//! Invariant: the terminal is raw only while the connection lives, and whatever ends the connection restores it. The
//! remote exit code becomes ours. Deliberately absent: SPDY, which every server since 1.30 can do without.

use futures::{SinkExt, StreamExt};
use http::Request;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;

use crate::error::{Error, Result};
use crate::rest::Url;
use crate::session::Session;
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

type Socket = tokio_tungstenite::WebSocketStream<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>>;

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
    let outcome = stream(session, &remote, socket, can_close).await;
    drop(guard);
    session.flush()?;
    outcome
}

async fn stream(session: &Session, remote: &Remote, socket: Socket, can_close: bool) -> Result {
    let (mut to_server, mut from_server) = socket.split();
    let mut input = session.take_input();
    let mut buffer = vec![0u8; 32 * 1024];
    let mut reading = remote.stdin;
    let mut resized = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?;
    let size = || session.terminal.as_ref().filter(|_| remote.tty).and_then(|terminal| terminal.size());
    let resize_message = |size: crate::terminal::Size| {
        let mut message = vec![RESIZE];
        message.extend(format!("{{\"Width\":{},\"Height\":{}}}", size.width, size.height).into_bytes());
        Message::binary(message)
    };
    let lost = |error: tokio_tungstenite::tungstenite::Error| Error::Message(format!("error reading from error stream: {error}"));
    if let Some(size) = size() {
        to_server.send(resize_message(size)).await.map_err(lost)?;
    }
    let mut verdict: Option<Value> = None;
    loop {
        tokio::select! {
            message = from_server.next() => match message {
                None => break,
                Some(Err(error)) => {
                    if verdict.is_some() {
                        break;
                    }
                    return Err(lost(error));
                }
                Some(Ok(Message::Binary(data))) => match data.first() {
                    Some(&STDOUT) => {
                        session.print(&data[1..])?;
                        session.flush()?;
                    }
                    Some(&STDERR) => session.print_err(&data[1..]),
                    Some(&ERROR) => verdict = serde_json::from_slice(&data[1..]).ok(),
                    _ => {}
                },
                Some(Ok(Message::Close(_))) => break,
                Some(Ok(_)) => {}
            },
            count = input.read(&mut buffer), if reading => {
                let count = count.unwrap_or(0);
                if count == 0 {
                    reading = false;
                    if can_close {
                        to_server.send(Message::binary(vec![CLOSE, STDIN])).await.map_err(lost)?;
                    }
                } else {
                    let mut message = vec![STDIN];
                    message.extend_from_slice(&buffer[..count]);
                    to_server.send(Message::binary(message)).await.map_err(lost)?;
                }
            }
            _ = resized.recv(), if remote.tty => {
                if let Some(size) = size() {
                    to_server.send(resize_message(size)).await.map_err(lost)?;
                }
            }
        }
    }
    let _ = to_server.close().await;
    exit(verdict)
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
