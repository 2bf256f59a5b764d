//! Requests to the API server.
//!
//! Invariant: every refusal comes back as the `metav1.Status` that the server sent, every lack of an answer as the
//! original's sentence about it. Deliberately absent: retries, and typed objects.

use api::percent;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::flags::parse_duration;
use crate::session::Session;
use crate::value::text;

pub const JSON: &str = "application/json";
pub const TABLE: &str =
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
pub const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// Longest line of a watch or a log that is held in memory.
const LINE_MAX: usize = 64 << 20;

/// A path with its query, the query's values escaped.
#[derive(Clone, Debug)]
pub struct Url {
    text: String,
    has_query: bool,
}

impl Url {
    pub fn new(path: impl Into<String>) -> Self {
        let text = path.into();
        let has_query = text.contains('?');
        Url { text, has_query }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text += name;
        self.text.push('=');
        self.text += &percent::encode(value);
        self
    }

    /// Left out when the value is empty.
    pub fn with_filled(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.with(name, value) }
    }

    /// What the query says of `name`; empty when nothing.
    pub fn value(&self, name: &str) -> String {
        let query = self.text.split_once('?').map_or("", |(_, query)| query);
        let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.map(percent::decode).unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Session {
    pub async fn get(&self, url: Url) -> Result<Value> {
        self.call(Method::GET, url, JSON, "", Vec::new()).await
    }

    pub async fn post(&self, url: Url, object: &Value) -> Result<Value> {
        self.call(Method::POST, url, JSON, JSON, object.to_string().into_bytes()).await
    }

    pub async fn put(&self, url: Url, object: &Value) -> Result<Value> {
        self.call(Method::PUT, url, JSON, JSON, object.to_string().into_bytes()).await
    }

    pub async fn patch(&self, url: Url, kind: &str, patch: &Value) -> Result<Value> {
        self.call(Method::PATCH, url, JSON, kind, patch.to_string().into_bytes()).await
    }

    pub async fn delete(&self, url: Url, options: &Value) -> Result<Value> {
        self.call(Method::DELETE, url, JSON, JSON, options.to_string().into_bytes()).await
    }

    /// One request with a JSON answer.
    pub async fn call(&self, method: Method, url: Url, accept: &str, content_type: &str, body: Vec<u8>) -> Result<Value> {
        let bytes = self.call_raw(method, url, accept, content_type, body).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| Error::Message(format!("the server's answer is no JSON: {error}")))
    }

    /// One request, its answer as it came.
    pub async fn call_raw(&self, method: Method, url: Url, accept: &str, content_type: &str, body: Vec<u8>) -> Result<Bytes> {
        let timeout = parse_timeout(self.globals.text("request-timeout"));
        let work = async {
            let response = self.send(method, url, accept, content_type, body).await?;
            let collected = response.into_body().collect().await.map_err(|error| unreachable(&chain(&error), ""))?;
            Ok(collected.to_bytes())
        };
        match timeout {
            None => work.await,
            Some(limit) => match tokio::time::timeout(limit, work).await {
                Ok(done) => done,
                Err(_) => Err(Error::Unreachable(
                    "Unable to connect to the server: net/http: request canceled (Client.Timeout exceeded while awaiting headers)".to_owned(),
                )),
            },
        }
    }

    /// A request whose answer comes bit by bit.
    pub async fn stream(&self, url: Url) -> Result<Lines> {
        let response = self.send(Method::GET, url, "*/*", "", Vec::new()).await?;
        Ok(Lines::new(response.into_body(), parse_timeout(self.globals.text("request-timeout"))))
    }

    /// A watch in the given form.
    pub async fn watch(&self, url: Url, accept: &str) -> Result<Lines> {
        let response = self.send(Method::GET, url, accept, "", Vec::new()).await?;
        Ok(Lines::new(response.into_body(), parse_timeout(self.globals.text("request-timeout"))))
    }

    /// A request for another protocol; the answer is the connection, or what the server said instead.
    pub async fn upgrade(&self, method: Method, url: &Url, headers: &[(&'static str, &str)]) -> Result<hyper::upgrade::Upgraded> {
        let mut request = Request::builder().method(method.clone()).uri(url.as_str()).header(http::header::CONNECTION, "Upgrade");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(kube::client::Body::empty()).map_err(|error| Error::Message(error.to_string()))?;
        let response = self.client().await?.send(request).await.map_err(|error| unreachable(&chain(&error), &self.selected().map(|selected| selected.server.clone()).unwrap_or_default()))?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Err(refusal(status, &body, &method));
        }
        hyper::upgrade::on(response).await.map_err(|error| Error::Message(format!("unable to upgrade connection: {error}")))
    }

    async fn send(&self, method: Method, url: Url, accept: &str, content_type: &str, body: Vec<u8>) -> Result<http::Response<kube::client::Body>> {
        let client = self.client().await?;
        let shown = format!("{}{}", self.selected()?.server, url.as_str());
        let mut request = Request::builder().method(method.clone()).uri(url.as_str()).header(http::header::ACCEPT, accept);
        if !content_type.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, content_type);
        }
        if self.verbosity() >= 8 && !body.is_empty() {
            self.complain(format!("Request Body: {}", String::from_utf8_lossy(&body)));
        }
        let request = request.body(kube::client::Body::from(body)).map_err(|error| Error::Message(error.to_string()))?;
        let begun = tokio::time::Instant::now();
        let response = client.send(request).await.map_err(|error| unreachable(&chain(&error), &self.selected().map(|selected| selected.server.clone()).unwrap_or_default()))?;
        let status = response.status();
        if self.verbosity() >= 6 {
            let milliseconds = begun.elapsed().as_millis();
            self.complain(format!("{method} {shown} {status} in {milliseconds} milliseconds"));
        }
        for warning in response.headers().get_all("warning") {
            // 299 - "text"
            let quoted = warning.to_str().ok().and_then(|text| text.split_once('"')).map(|(_, rest)| rest.trim_end_matches('"'));
            if let Some(text) = quoted {
                self.warn(&text.replace("\\\"", "\"").replace("\\\\", "\\"));
            }
        }
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(refusal(status, &body, &method))
    }
}

/// The status that a refusing answer carries, or one made from its code.
pub fn refusal(code: StatusCode, body: &[u8], method: &Method) -> Error {
    if let Ok(status) = serde_json::from_slice::<Value>(body)
        && text(&status, "/kind") == "Status"
    {
        return Error::Status(status);
    }
    let said = String::from_utf8_lossy(body).trim().to_owned();
    let (reason, message) = match code.as_u16() {
        400 => ("BadRequest", if said.is_empty() { "the server rejected our request for an unknown reason".to_owned() } else { said }),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials".to_owned()),
        403 => ("Forbidden", if said.is_empty() { "forbidden".to_owned() } else { said }),
        404 => ("NotFound", "the server could not find the requested resource".to_owned()),
        405 => ("MethodNotAllowed", format!("the server does not allow this method on the requested resource ({method})")),
        409 => ("AlreadyExists", "the server reported a conflict".to_owned()),
        415 => ("UnsupportedMediaType", "the server does not support the media type we sent".to_owned()),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later".to_owned()),
        503 => ("ServiceUnavailable", if said.is_empty() { "the server is currently unable to handle the request".to_owned() } else { said }),
        504 => ("Timeout", "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned()),
        _ => ("InternalError", format!("an error on the server ({said:?}) has prevented the request from succeeding")),
    };
    Error::Status(json!({"kind": "Status", "code": code.as_u16(), "reason": reason, "message": message}))
}

/// A duration, or a number of seconds.
pub fn timeout(text: &str) -> Option<std::time::Duration> {
    parse_duration(text).or_else(|| text.parse::<u64>().ok().map(std::time::Duration::from_secs))
}

/// Zero is no limit.
fn parse_timeout(text: &str) -> Option<std::time::Duration> {
    timeout(text).filter(|limit| !limit.is_zero())
}

/// An error and what lies beneath it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut shown = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        if !shown.contains(&text) {
            shown = format!("{shown}: {text}");
        }
        source = inner.source();
    }
    shown
}

pub fn unreachable(cause: &str, server: &str) -> Error {
    if cause.to_lowercase().contains("connection refused") {
        return Error::Unreachable(format!("The connection to the server {} was refused - did you specify the right host or port?", host_of(server)));
    }
    Error::Unreachable(format!("Unable to connect to the server: {}", reason(cause, server)))
}

fn host_of(server: &str) -> &str {
    let host = server.split_once("://").map_or(server, |(_, host)| host);
    host.split('/').next().unwrap_or_default()
}

/// `certificate not valid for name "a"; certificate is only valid for DnsName("b") or IpAddress(c)`, in Go's words.
fn not_valid_for(cause: &str, host: &str) -> String {
    let wanted = cause.split("for name \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or(host);
    let (begin, end) = if wanted.parse::<std::net::IpAddr>().is_ok() { ("IpAddress(", ')') } else { ("DnsName(\"", '"') };
    let valid: Vec<&str> = cause.split(begin).skip(1).filter_map(|rest| rest.split(end).next()).collect();
    let why = match valid.is_empty() {
        true if end == ')' => format!("cannot validate certificate for {wanted} because it doesn't contain any IP SANs"),
        true => format!("certificate is not valid for any names, but wanted to match {wanted}"),
        false => format!("certificate is valid for {}, not {wanted}", valid.join(", ")),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// Why no connection came about, in Go's words.
pub fn reason(cause: &str, server: &str) -> String {
    let host = host_of(server);
    let lower = cause.to_lowercase();
    if lower.contains("connection refused") {
        format!("dial tcp {host}: connect: connection refused")
    } else if lower.contains("unknownissuer") || lower.contains("unknown issuer") {
        "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
    } else if lower.contains("notvalidforname") || lower.contains("not valid for") {
        not_valid_for(cause, host)
    } else if lower.contains("expired") {
        "tls: failed to verify certificate: x509: certificate has expired or is not yet valid".to_owned()
    } else if lower.contains("dns error") || lower.contains("failed to lookup") {
        format!("dial tcp: lookup {}{}: no such host", host.split(':').next().unwrap_or_default(), resolver())
    } else if lower.contains("invalid http version parsed") {
        "net/http: HTTP/1.x transport connection broken: malformed HTTP response (does the server want https?)".to_owned()
    } else if lower.contains("deadline has elapsed") || lower.contains("timed out") {
        format!("dial tcp {host}: i/o timeout")
    } else {
        cause.to_owned()
    }
}

/// ` on 10.0.0.1:53`: who was asked for the name, as far as the system's configuration tells.
fn resolver() -> String {
    let configuration = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = configuration.lines().find_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next());
    match server {
        Some(address) if address.contains(':') => format!(" on [{address}]:53"),
        Some(address) => format!(" on {address}:53"),
        None => String::new(),
    }
}

/// An answer, line by line.
pub struct Lines {
    body: std::pin::Pin<Box<dyn futures::Stream<Item = std::result::Result<Bytes, String>>>>,
    buffer: BytesMut,
    ended: bool,
}

impl Lines {
    /// What has not come within `limit` does not come.
    fn new(body: kube::client::Body, limit: Option<std::time::Duration>) -> Self {
        let stream = body.into_data_stream().map(|chunk| chunk.map_err(|error| chain(&error)));
        let stream: std::pin::Pin<Box<dyn futures::Stream<Item = _>>> = match limit {
            Some(limit) => Box::pin(stream.take_until(tokio::time::sleep(limit))),
            None => Box::pin(stream),
        };
        Lines { body: stream, buffer: BytesMut::new(), ended: false }
    }

    /// Whatever has come, unbroken; None at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.buffer.is_empty() {
            return Ok(Some(self.buffer.split().freeze()));
        }
        match self.body.next().await {
            None => Ok(None),
            Some(Ok(chunk)) => Ok(Some(chunk)),
            Some(Err(error)) => Err(Error::Message(error)),
        }
    }

    /// The next line with its newline, where it has one.
    pub async fn line(&mut self) -> Result<Option<Bytes>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.buffer.split_to(searched + at + 1).freeze()));
            }
            searched = self.buffer.len();
            if self.ended || self.buffer.len() > LINE_MAX {
                let rest = self.buffer.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            match self.body.next().await {
                None => self.ended = true,
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return Err(Error::Message(error)),
            }
        }
    }

    /// The next watch event: its type and object. An ERROR event is an error.
    pub async fn event(&mut self) -> Result<Option<(String, Value)>> {
        let Some(line) = self.line().await? else { return Ok(None) };
        let Ok(mut event) = serde_json::from_slice::<Value>(&line) else { return Ok(None) };
        let kind = text(&event, "/type").to_owned();
        let object = event["object"].take();
        if kind == "ERROR" {
            return Err(Error::Status(object));
        }
        Ok(Some((kind, object)))
    }
}
