//! gRPC as etcd speaks it: one HTTP/2 connection to one of the endpoints, unary calls and one kind of stream.
//!
//! Invariants: a call that may have reached etcd is repeated only if it changes nothing; a connection that failed is
//! left at once and the next endpoint is tried. Deliberately absent: balancing. Every etcd member forwards to the
//! leader, so one that answers is as good as another.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use percent_encoding::percent_decode;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::wire;

/// To one endpoint; there may be more to try.
const CONNECT: Duration = Duration::from_secs(5);
/// One call, however often it is tried.
const CALL: Duration = Duration::from_secs(10);
/// The original's figures: a dead peer is noticed after both.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Enough for a watch not to slow reads down.
const WINDOW_BYTES: u32 = 8 << 20;
/// Attempts at a call that changes nothing.
const ATTEMPTS: usize = 3;

/// gRPC's numbers.
const OUT_OF_RANGE: u16 = 11;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

#[derive(Debug)]
pub(super) enum CallError {
    /// Nothing was sent.
    Unreachable(String),
    /// Whether it was done is not known.
    Broken(String),
    /// etcd said no.
    Status { code: u16, message: String },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Unreachable(why) | CallError::Broken(why) => write!(f, "rpc error: code = Unavailable desc = {why}"),
            CallError::Status { message, .. } => f.write_str(message),
        }
    }
}

impl CallError {
    fn status(code: u16, message: &str) -> Self {
        CallError::Status { code, message: message.to_owned() }
    }

    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, CallError::Status { code: OUT_OF_RANGE, message } if message.contains("compacted"))
    }

    pub(super) fn is_future(&self) -> bool {
        matches!(self, CallError::Status { code: OUT_OF_RANGE, message } if message.contains("future revision"))
    }

    fn is_elsewhere_better(&self) -> bool {
        matches!(self, CallError::Unreachable(_) | CallError::Broken(_) | CallError::Status { code: UNAVAILABLE, .. })
    }
}

#[derive(Clone)]
pub(super) struct Endpoint {
    /// `http://host:port`
    pub uri: Uri,
    pub host: String,
    pub port: u16,
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

pub(super) struct Channel {
    endpoints: Vec<Endpoint>,
    credentials: Option<(String, String)>,
    state: tokio::sync::Mutex<Connection>,
    /// What Authenticate gave.
    token: Mutex<Option<HeaderValue>>,
}

#[derive(Default)]
struct Connection {
    sender: Option<(SendRequest<Body>, Endpoint)>,
    /// The endpoint to try first.
    next: usize,
}

impl Channel {
    pub(super) fn new(endpoints: Vec<Endpoint>, credentials: Option<(String, String)>) -> Self {
        Channel { endpoints, credentials, state: Default::default(), token: Mutex::new(None) }
    }

    /// A call that changes nothing.
    pub(super) async fn read<A: prost::Message + Default>(&self, path: &'static str, request: &impl prost::Message) -> Result<A, CallError> {
        self.within(self.call(path, request, ATTEMPTS)).await
    }

    /// A call that must not be made twice.
    pub(super) async fn write<A: prost::Message + Default>(&self, path: &'static str, request: &impl prost::Message) -> Result<A, CallError> {
        self.within(self.call(path, request, 1)).await
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        match tokio::time::timeout(CALL, call).await {
            Ok(result) => result,
            Err(_) => {
                // Whoever does not answer is left, or the next call would wait for it, too.
                self.leave(&mut *self.state.lock().await);
                Err(CallError::Broken("etcdserver: request timed out".to_owned()))
            }
        }
    }

    /// `attempts` counts those in which something was sent.
    async fn call<A: prost::Message + Default>(&self, path: &'static str, request: &impl prost::Message, attempts: usize) -> Result<A, CallError> {
        let message = encode(request);
        let (mut sent, mut unsent) = (0, 0);
        loop {
            let outcome = async {
                let (sender, endpoint) = self.connected().await?;
                let token = self.token(&sender, &endpoint).await?;
                unary(sender, &endpoint, path, message.clone(), token).await
            };
            let error = match outcome.await {
                Ok(answer) => {
                    return A::decode(answer).map_err(|cause| CallError::Broken(format!("etcd's answer: {cause}")));
                }
                Err(error) => error,
            };
            if error.is_elsewhere_better() {
                self.leave(&mut *self.state.lock().await);
            }
            match &error {
                CallError::Unreachable(_) if unsent < self.endpoints.len() => unsent += 1,
                CallError::Status { code: UNAUTHENTICATED, .. } if self.token.lock().take().is_some() => {}
                _ if error.is_elsewhere_better() && !matches!(error, CallError::Unreachable(_)) && sent + 1 < attempts => sent += 1,
                _ => return Err(error),
            }
        }
    }

    /// A stream that starts with one message; what follows is read with `Stream::next`.
    pub(super) async fn stream(&self, path: &'static str, first: &impl prost::Message) -> Result<Stream, CallError> {
        let opened = async {
            let (mut sender, endpoint) = self.connected().await?;
            let token = self.token(&sender, &endpoint).await?;
            // Open at this end as long as the answer is read: etcd ends a watch whose client has closed its half.
            let (keep, mut kept) = tokio::sync::mpsc::channel::<std::convert::Infallible>(1);
            let first = encode(first);
            let frames = async_frames(first, move |context| kept.poll_recv(context).is_ready());
            let mut request = request(&endpoint, path, token, BodyExt::boxed(StreamBody::new(frames)));
            request.headers_mut().insert("hasleader", HeaderValue::from_static("true"));
            let response = sender.send_request(request).await.map_err(broken)?;
            if let Some(error) = status(response.headers()) {
                return Err(error);
            }
            Ok(Stream { body: response.into_body(), buffer: BytesMut::new(), _keep: keep })
        };
        let outcome = tokio::time::timeout(CALL, opened).await.unwrap_or_else(|_| Err(CallError::Broken("etcdserver: request timed out".into())));
        if let Err(error) = &outcome {
            if error.is_elsewhere_better() {
                self.leave(&mut *self.state.lock().await);
            }
            if matches!(error, CallError::Status { code: UNAUTHENTICATED, .. }) {
                self.token.lock().take();
            }
        }
        outcome
    }

    fn leave(&self, state: &mut Connection) {
        if state.sender.take().is_some() {
            state.next = (state.next + 1) % self.endpoints.len();
        }
    }

    async fn connected(&self) -> Result<(SendRequest<Body>, Endpoint), CallError> {
        let mut state = self.state.lock().await;
        if let Some((sender, endpoint)) = &state.sender
            && !sender.is_closed()
        {
            return Ok((sender.clone(), endpoint.clone()));
        }
        self.leave(&mut state);
        let mut problems = Vec::new();
        for step in 0..self.endpoints.len() {
            let at = (state.next + step) % self.endpoints.len();
            let endpoint = &self.endpoints[at];
            match tokio::time::timeout(CONNECT, connect(endpoint)).await {
                Ok(Ok(sender)) => {
                    state.next = at;
                    state.sender = Some((sender.clone(), endpoint.clone()));
                    return Ok((sender, endpoint.clone()));
                }
                Ok(Err(why)) => problems.push(format!("{}:{}: {why}", endpoint.host, endpoint.port)),
                Err(_) => problems.push(format!("{}:{}: no answer", endpoint.host, endpoint.port)),
            }
        }
        Err(CallError::Unreachable(problems.join("; ")))
    }

    async fn token(&self, sender: &SendRequest<Body>, endpoint: &Endpoint) -> Result<Option<HeaderValue>, CallError> {
        let Some((name, password)) = &self.credentials else { return Ok(None) };
        if let Some(token) = &*self.token.lock() {
            return Ok(Some(token.clone()));
        }
        let request = wire::AuthenticateRequest { name: name.clone(), password: password.clone() };
        let answer = unary(sender.clone(), endpoint, "/etcdserverpb.Auth/Authenticate", encode(&request), None).await?;
        let malformed = |_| CallError::status(UNAUTHENTICATED, "etcd's token cannot be read");
        let answer = <wire::AuthenticateResponse as prost::Message>::decode(answer).map_err(|_| malformed(()))?;
        let token = HeaderValue::from_str(&answer.token).map_err(|_| malformed(()))?;
        *self.token.lock() = Some(token.clone());
        Ok(Some(token))
    }
}

/// What etcd says on a stream.
pub(super) struct Stream {
    body: Incoming,
    buffer: BytesMut,
    _keep: tokio::sync::mpsc::Sender<std::convert::Infallible>,
}

impl Stream {
    /// Waits for the next message. Streams of etcd end by failing only.
    pub(super) async fn next<A: prost::Message + Default>(&mut self) -> Result<A, CallError> {
        loop {
            if let Some(message) = take_message(&mut self.buffer)? {
                return A::decode(message).map_err(|cause| CallError::Broken(format!("etcd's answer: {cause}")));
            }
            match self.body.frame().await {
                None => return Err(CallError::Broken("the stream has ended".to_owned())),
                Some(Err(cause)) => return Err(broken(cause)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Err(status(&trailers).unwrap_or_else(|| CallError::Broken("the stream has ended".to_owned())));
                    }
                },
            }
        }
    }
}

async fn unary(
    mut sender: SendRequest<Body>,
    endpoint: &Endpoint,
    path: &'static str,
    message: Bytes,
    token: Option<HeaderValue>,
) -> Result<Bytes, CallError> {
    let body = BodyExt::boxed(Full::new(message));
    let response = sender.send_request(request(endpoint, path, token, body)).await.map_err(broken)?;
    if let Some(error) = status(response.headers()) {
        return Err(error);
    }
    let collected = response.into_body().collect().await.map_err(broken)?;
    if let Some(error) = collected.trailers().and_then(status) {
        return Err(error);
    }
    let mut buffer = BytesMut::from(collected.to_bytes());
    take_message(&mut buffer)?.ok_or_else(|| CallError::Broken("an answer without a message".to_owned()))
}

fn request(endpoint: &Endpoint, path: &'static str, token: Option<HeaderValue>, body: Body) -> Request<Body> {
    let uri = Uri::builder()
        .scheme(endpoint.uri.scheme().cloned().unwrap_or(http::uri::Scheme::HTTP))
        .authority(format!("{}:{}", endpoint.host, endpoint.port))
        .path_and_query(path);
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.build().expect("the endpoint was read from a URI");
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    if let Some(token) = token {
        headers.insert("token", token);
    }
    request
}

async fn connect(endpoint: &Endpoint) -> Result<SendRequest<Body>, String> {
    let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, endpoint.port)).await.map_err(|cause| cause.to_string())?;
    let _ = stream.set_nodelay(true); // Without it answers are merely later.
    match &endpoint.tls {
        None => handshake(stream).await,
        Some(config) => {
            let name = ServerName::try_from(host.to_owned()).map_err(|cause| cause.to_string())?;
            let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
            handshake(stream.map_err(|cause| format!("TLS: {cause}"))?).await
        }
    }
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<SendRequest<Body>, String> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|cause| cause.to_string())?;
    tokio::spawn(async move {
        if let Err(cause) = connection.await {
            tracing::debug!("connection to etcd: {cause}");
        }
    });
    Ok(sender)
}

/// The first message, then nothing until `is_over`.
fn async_frames(
    first: Bytes,
    mut is_over: impl FnMut(&mut std::task::Context<'_>) -> bool + Send + Sync + 'static,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> + Send + Sync {
    let mut first = Some(first);
    futures::stream::poll_fn(move |context| match first.take() {
        Some(first) => std::task::Poll::Ready(Some(Ok(Frame::data(first)))),
        None if is_over(context) => std::task::Poll::Ready(None),
        None => std::task::Poll::Pending,
    })
}

/// With gRPC's five bytes before it.
fn encode(message: &impl prost::Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(len + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).expect("a request is far below 4 GiB"));
    message.encode(&mut out).expect("the buffer has room");
    out.freeze()
}

/// The next whole message, if it is there.
fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, CallError> {
    if buffer.len() < 5 {
        return Ok(None);
    }
    if buffer[0] != 0 {
        return Err(CallError::Broken("a compressed answer, which was not asked for".to_owned()));
    }
    let len = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
    if buffer.len() < 5 + len {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// What headers or trailers say, if it is no success.
fn status(headers: &HeaderMap) -> Option<CallError> {
    let code: u16 = headers.get("grpc-status")?.to_str().ok()?.parse().unwrap_or(2);
    if code == 0 {
        return None;
    }
    let message = headers.get("grpc-message").map(|text| percent_decode(text.as_bytes()).decode_utf8_lossy().into_owned())
        .unwrap_or_default();
    Some(CallError::Status { code, message })
}

fn broken(cause: hyper::Error) -> CallError {
    if cause.is_canceled() {
        CallError::Unreachable(cause.to_string()) // The connection was closed before anything was sent.
    } else {
        CallError::Broken(cause.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_out_of_the_stream() {
        let mut buffer = BytesMut::from(&b"\0\0\0\0\x02ab\0\0\0\0\x01"[..]);
        assert_eq!(take_message(&mut buffer).expect("whole"), Some(Bytes::from_static(b"ab")));
        assert_eq!(take_message(&mut buffer).expect("a part"), None);
        buffer.extend_from_slice(b"c");
        assert_eq!(take_message(&mut buffer).expect("whole"), Some(Bytes::from_static(b"c")));
        assert!(take_message(&mut BytesMut::from(&b"\x01\0\0\0\0"[..])).is_err());
    }
}
