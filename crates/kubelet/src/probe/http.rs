//! HTTP probes, and the HTTP client that lifecycle hooks share with them.
//!
//! Invariant: certificates are not checked (kubelet's documented behaviour); bodies are read up to 10 KiB; a
//! redirect is followed on the same host only, elsewhere it counts as success with a warning.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Outcome;
use super::tcp::{dial, join};

const BODY_MAX: usize = 10 * 1024;
const REDIRECTS_MAX: usize = 10;

/// An answer, its body cut at 10 KiB.
pub struct Answer {
    pub status: u16,
    pub body: String,
    location: Option<String>,
}

pub async fn probe(action: &HTTPGetAction, pod_ip: &str, port: u16, timeout: Duration) -> Outcome {
    let first = url_of(action, pod_ip, port);
    match tokio::time::timeout(timeout, follow(&first, action, timeout)).await {
        Err(_) => Outcome::Failure(format!("Get \"{first}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")),
        Ok(outcome) => outcome,
    }
}

async fn follow(first: &str, action: &HTTPGetAction, timeout: Duration) -> Outcome {
    let mut url = first.to_owned();
    let host = host_of(first);
    for _ in 0..REDIRECTS_MAX {
        let answer = match get(&url, action, timeout).await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Failure(format!("Get \"{url}\": {error}")),
        };
        match answer.status {
            301 | 302 | 303 | 307 | 308 => {
                let Some(next) = answer.location.as_deref().and_then(|location| join_url(&url, location)) else {
                    return Outcome::Failure(format!("Get \"{url}\": {} response missing Location header", answer.status));
                };
                if host_of(&next) != host {
                    return Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body));
                }
                url = next;
            }
            200..400 => return Outcome::Success,
            code => return Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        }
    }
    Outcome::Failure(format!("Get \"{url}\": stopped after {REDIRECTS_MAX} redirects"))
}

pub fn url_of(action: &HTTPGetAction, pod_ip: &str, port: u16) -> String {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{}{slash}{path}", join(host, port))
}

fn host_of(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    uri.and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default()
}

fn join_url(base: &str, location: &str) -> Option<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_owned());
    }
    let base: Uri = base.parse().ok()?;
    let authority = base.authority()?;
    let scheme = base.scheme_str()?;
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
    Some(format!("{scheme}://{authority}{directory}/{location}"))
}

/// One GET with the action's headers.
pub async fn get(url: &str, action: &HTTPGetAction, timeout: Duration) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().ok_or("no host in request URL")?.to_owned();
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let request = request(&uri, action)?;
    let stream = dial(&host, port, timeout).await?;
    if !secure {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(trusting_client()?);
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    send(stream, request).await
}

fn request(uri: &Uri, action: &HTTPGetAction) -> Result<Request<Empty<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().uri(path).body(Empty::new()).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    for own in action.http_headers.iter().flatten() {
        let name: HeaderName = own.name.parse().map_err(|_| format!("invalid header field name {:?}", own.name))?;
        let value: HeaderValue = own.value.parse().map_err(|_| format!("invalid header field value for {:?}", own.name))?;
        headers.append(name, value);
    }
    let fallback = [
        (header::USER_AGENT, "kube-probe/1.35"),
        (header::ACCEPT, "*/*"),
        (header::CONNECTION, "close"),
    ];
    for (name, value) in fallback {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    // An empty value asks for none.
    if headers.get(header::ACCEPT).is_some_and(|value| value.is_empty()) {
        headers.remove(header::ACCEPT);
    }
    if !headers.contains_key(header::HOST) {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        headers.insert(header::HOST, authority.parse().map_err(|_| "invalid host".to_owned())?);
    }
    Ok(request)
}

async fn send<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, request: Request<Empty<Bytes>>) -> Result<Answer, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(go_wording)?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(go_wording);
    let answer = match response {
        Ok(response) => {
            let status = response.status().as_u16();
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let mut body = response.into_body();
            let mut read = Vec::new();
            while read.len() < BODY_MAX {
                match body.frame().await {
                    Some(Ok(frame)) => read.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                    _ => break,
                }
            }
            read.truncate(BODY_MAX);
            Ok(Answer { status, body: String::from_utf8_lossy(&read).into_owned(), location })
        }
        Err(error) => Err(error),
    };
    driver.abort();
    answer
}

fn go_wording(error: hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() { "EOF".to_owned() } else { error.to_string() }
}

pub fn trusting_client() -> Result<Arc<ClientConfig>, String> {
    static CONFIG: std::sync::OnceLock<Arc<ClientConfig>> = std::sync::OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}

/// Probes ask whether it answers, not who it is.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A server that gives one fixed answer to everything.
    async fn check(answer: &'static str, expected: &str) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.replace("PORT", &port.to_string()).as_bytes()).await;
            }
        });
        let action: HTTPGetAction = serde_json::from_value(json!({"path": "/x", "port": 1})).expect("an action");
        let outcome = probe(&action, "127.0.0.1", port, Duration::from_secs(2)).await;
        let text = match outcome {
            Outcome::Success => "ok".to_owned(),
            Outcome::Warning(text) => format!("warning: {text}"),
            Outcome::Failure(text) => text.replace(&port.to_string(), "PORT"),
        };
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn answers() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "ok").await;
        check("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "HTTP probe failed with statuscode: 500").await;
        check(
            "HTTP/1.1 302 Found\r\nlocation: http://other/\r\ncontent-length: 2\r\n\r\nby",
            "warning: Probe terminated redirects, Response body: by",
        )
        .await;
        check(
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:PORT/y\r\ncontent-length: 0\r\n\r\n",
            "Get \"http://127.0.0.1:PORT/y\": stopped after 10 redirects",
        )
        .await;
        check("", "Get \"http://127.0.0.1:PORT/x\": EOF").await;
    }
}
