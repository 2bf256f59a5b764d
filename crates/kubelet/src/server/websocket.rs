//! Kubernetes' channels over WebSocket: the first byte of a message says which stream the rest belongs to.
//!
//! Channels of a remote command: 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; in v5, 255 closes the one named.
//! `base64.` protocols carry text, the channel as a digit.

use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{SinkExt as _, Stream as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};
use tokio_util::sync::CancellationToken;

use super::remote::{self, ClientStreams, Version, Wishes};

const OUTGOING_LIMIT: usize = 64;
const STREAM_LIMIT: usize = 32;
const CLOSE_STREAM: u8 = 255;

/// The subprotocols of remote commands, best first.
pub const REMOTE_PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];

/// The subprotocols of what is only read: logs.
pub const READ_PROTOCOLS: [&str; 3] = ["binary.k8s.io", "base64.binary.k8s.io", ""];

/// One message per chunk, without channels, until there are no more or the reader has gone.
pub async fn send<T: AsyncRead + AsyncWrite + Unpin + Send>(transport: T, protocol: &str, mut chunks: mpsc::Receiver<Bytes>) {
    let mut socket = WebSocketStream::from_raw_socket(transport, Role::Server, None).await;
    while let Some(chunk) = chunks.recv().await {
        let message = match protocol.starts_with("base64") {
            true => Message::Text(STANDARD.encode(&chunk).into()),
            false => Message::Binary(chunk),
        };
        if socket.send(message).await.is_err() {
            return;
        }
    }
    let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    // Who has gone needs no farewell.
    let _ = socket.close(Some(farewell)).await;
}

#[derive(Clone)]
pub struct Sink {
    channel: u8,
    messages: mpsc::Sender<(u8, Bytes)>,
}

impl Sink {
    /// False once the connection is gone.
    pub async fn write(&self, data: Bytes) -> bool {
        self.messages.send((self.channel, data)).await.is_ok()
    }
}

/// An accepted connection, taken apart into channels.
pub struct Channels {
    pub streams: ClientStreams,
    messages: mpsc::Sender<(u8, Bytes)>,
    writer: tokio::task::JoinHandle<()>,
}

pub async fn accept<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(transport: T, protocol: &str, wishes: Wishes) -> Channels {
    let socket = WebSocketStream::from_raw_socket(transport, Role::Server, None).await;
    let base64 = protocol.contains("base64");
    let closes = protocol.starts_with("v5.");
    let (mut output, mut input) = socket.split();
    let (messages, mut outgoing) = mpsc::channel::<(u8, Bytes)>(OUTGOING_LIMIT);
    let gone = CancellationToken::new();

    let (answers, mut control) = mpsc::channel::<Message>(4);
    let writer = tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                biased;
                Some(answer) = control.recv() => answer,
                data = outgoing.recv() => match data {
                    Some((channel, data)) => encode(channel, &data, base64),
                    None => break,
                },
            };
            if output.send(message).await.is_err() {
                return;
            }
        }
        // An empty close would give kubectl exit code 1.
        let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = output.send(Message::Close(Some(farewell))).await;
        let _ = output.close().await;
    });

    let (stdin_sender, stdin) = mpsc::channel(STREAM_LIMIT);
    let (resize_sender, resize) = mpsc::channel(STREAM_LIMIT);
    let reader_gone = gone.clone();
    tokio::spawn(async move {
        let mut stdin_sender = Some(stdin_sender);
        while let Some(Ok(message)) = input.next().await {
            let Some((channel, data)) = decode(message, base64) else { continue };
            match channel {
                0 => {
                    if let Some(sender) = &stdin_sender {
                        // A process that reads no more loses the rest.
                        let _ = sender.send(data).await;
                    }
                }
                4 => drop(resize_sender.send(data).await),
                CLOSE_STREAM if closes && data.first() == Some(&0) => stdin_sender = None,
                _ => {}
            }
        }
        drop(answers);
        reader_gone.cancel();
    });

    let sink = |channel: u8| remote::Sink::WebSocket(Sink { channel, messages: messages.clone() });
    let streams = ClientStreams {
        stdin: wishes.stdin.then_some(stdin),
        stdout: wishes.stdout.then(|| sink(1)),
        stderr: (wishes.stderr && !wishes.tty).then(|| sink(2)),
        resize: wishes.tty.then_some(resize),
        error: sink(3),
        version: if protocol.starts_with("v4") || protocol.starts_with("v5") { Version::Status } else { Version::Text },
        gone,
    };
    Channels { streams, messages, writer }
}

impl Channels {
    /// The streams, and what is to be awaited after them so that everything is sent.
    pub fn split(self) -> (ClientStreams, impl Future<Output = ()>) {
        let Channels { streams, messages, writer } = self;
        drop(messages);
        (streams, async move { drop(writer.await) })
    }
}

pub fn encode(channel: u8, data: &[u8], base64: bool) -> Message {
    if base64 {
        return Message::Text(format!("{channel}{}", STANDARD.encode(data)).into());
    }
    let mut framed = BytesMut::with_capacity(data.len() + 1);
    framed.put_u8(channel);
    framed.put_slice(data);
    Message::Binary(framed.freeze())
}

pub fn decode(message: Message, base64: bool) -> Option<(u8, Bytes)> {
    let bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        _ => return None,
    };
    let (channel, data) = (*bytes.first()?, bytes.slice(1..));
    if base64 {
        return Some((channel.wrapping_sub(b'0'), STANDARD.decode(&data).ok()?.into()));
    }
    Some((channel, data))
}

/// A WebSocket whose messages are pieces of one byte stream: SPDY inside WebSocket.
pub struct ByteStream<T> {
    socket: WebSocketStream<T>,
    unread: Bytes,
}

impl<T: AsyncRead + AsyncWrite + Unpin> ByteStream<T> {
    pub async fn accept(transport: T) -> ByteStream<T> {
        ByteStream { socket: WebSocketStream::from_raw_socket(transport, Role::Server, None).await, unread: Bytes::new() }
    }
}

fn other(error: tokio_tungstenite::tungstenite::Error) -> std::io::Error {
    std::io::Error::other(error)
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for ByteStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        while self.unread.is_empty() {
            match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(other(error))),
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => self.unread = bytes,
                Poll::Ready(Some(Ok(Message::Close(_)))) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Ok(_))) => {}
            }
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ByteStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        use futures::Sink as _;
        match Pin::new(&mut self.socket).poll_ready(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(answer) => answer.map_err(other)?,
        }
        Pin::new(&mut self.socket).start_send(Message::Binary(Bytes::copy_from_slice(data))).map_err(other)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        use futures::Sink as _;
        Pin::new(&mut self.socket).poll_flush(cx).map_err(other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        use futures::Sink as _;
        Pin::new(&mut self.socket).poll_close(cx).map_err(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels() {
        for base64 in [false, true] {
            let message = encode(3, b"bad \xff", base64);
            assert_eq!(decode(message, base64), Some((3, Bytes::from_static(b"bad \xff"))));
        }
        assert_eq!(decode(Message::Ping(Bytes::new()), false), None);
    }
}
