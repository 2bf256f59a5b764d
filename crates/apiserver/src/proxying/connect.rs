//! Connections to kubelets and backends, and the passing on of a request over one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{CONNECTION, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::RequestError;
use crate::http::body::{Body, BoxError};
use crate::http::reply::{Content, Reply};
use crate::rest::Call;
use crate::server::KubeletAccess;

const CONNECT: Duration = Duration::from_secs(10);

/// Where a request goes.
pub struct Backend {
    pub host: String,
    pub port: u16,
    /// None: plain HTTP.
    pub tls: Option<ClientConfig>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// TLS to kubelets: with the server's own client certificate.
pub fn kubelet_tls(access: &KubeletAccess) -> Result<ClientConfig, RequestError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(RequestError::internal)?;
    let chain = CertificateDer::pem_slice_iter(access.identity.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(RequestError::internal)?;
    let key = PrivateKeyDer::from_pem_slice(access.identity.key_pem.as_bytes()).map_err(RequestError::internal)?;
    let builder = match &access.authority_pem {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate.map_err(RequestError::internal)?).map_err(RequestError::internal)?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
    };
    builder.with_client_auth_cert(chain, key).map_err(RequestError::internal)
}

/// TLS to backends of Services and pods, whose certificates the original does not verify either.
pub fn unverified_tls() -> Result<ClientConfig, RequestError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(RequestError::internal)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth())
}

/// Accepts every certificate.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
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

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn open(backend: &Backend) -> Result<Box<dyn Stream>, String> {
    let address = (backend.host.trim_matches(['[', ']']), backend.port);
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address))
        .await
        .map_err(|_| format!("dial tcp {}:{}: i/o timeout", backend.host, backend.port))?
        .map_err(|cause| format!("dial tcp {}:{}: {cause}", backend.host, backend.port))?;
    let _ = stream.set_nodelay(true); // Without it streams are merely slower.
    let Some(config) = &backend.tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(address.0.to_owned()).map_err(|cause| cause.to_string())?;
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let stream = tokio::time::timeout(CONNECT, connector.connect(name, stream))
        .await
        .map_err(|_| "TLS handshake timeout".to_owned())?
        .map_err(|cause| cause.to_string())?;
    Ok(Box::new(stream))
}

/// Passes the call's request on with another method, path and query; streams the answer, or joins both ends.
pub async fn pass_on(
    call: &Call,
    backend: Backend,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Reply, RequestError> {
    let upgrading = call.headers.get(UPGRADE).is_some();
    let failed = |cause: String| unreachable_backend(&cause);
    let stream = open(&backend).await.map_err(failed)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|cause| failed(cause.to_string()))?;
    tokio::spawn(async move {
        if let Err(cause) = connection.with_upgrades().await {
            tracing::debug!("connection to a backend: {cause}");
        }
    });
    let mut request = Request::builder().method(method).uri(path);
    if let Some(headers) = request.headers_mut() {
        copy_headers(&call.headers, headers, upgrading);
        if let Ok(host) = format!("{}:{}", backend.host, backend.port).parse() {
            headers.insert(HOST, host);
        }
    }
    let request = request.body(Full::new(body)).map_err(RequestError::internal)?;
    let mut response = sender.send_request(request).await.map_err(|cause| failed(cause.to_string()))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        let ours = call.upgrade.lock().take();
        let Some(ours) = ours else {
            return Err(RequestError::BadRequest("Upgrade request required".into()));
        };
        tokio::spawn(join(ours, theirs));
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        copy_headers(response.headers(), answer.headers_mut(), true);
        return Ok(Reply::ok(Content::Response(answer)));
    }
    let (parts, body) = response.into_parts();
    let pieces = body.into_data_stream().map_err(|cause| -> BoxError { Box::new(cause) });
    // The sender must outlive the body, or the connection is closed under it.
    let pieces = pieces.inspect_ok(move |_| {
        let _ = &sender;
    });
    let mut answer = Response::new(Body::stream(pieces));
    *answer.status_mut() = parts.status;
    copy_headers(&parts.headers, answer.headers_mut(), false);
    Ok(Reply::ok(Content::Response(answer)))
}

/// The whole answer to a GET, if it is a success of at most `max` bytes.
pub async fn fetch(backend: &Backend, path: &str, max: usize) -> Result<Bytes, String> {
    let stream = open(backend).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|cause| cause.to_string())?;
    tokio::spawn(async move {
        if let Err(cause) = connection.await {
            tracing::debug!("connection to a backend: {cause}");
        }
    });
    let request = Request::get(path)
        .header(HOST, format!("{}:{}", backend.host, backend.port))
        .body(Full::new(Bytes::new()))
        .map_err(|cause| cause.to_string())?;
    let response = sender.send_request(request).await.map_err(|cause| cause.to_string())?;
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), max);
    let body = body.collect().await.map_err(|cause| cause.to_string())?.to_bytes();
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
    }
    Ok(body)
}

pub fn unreachable_backend(cause: &str) -> RequestError {
    RequestError::Other {
        code: 502,
        status: Box::new(serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("error dialing backend: {cause}"), "code": 502,
        })),
    }
}

/// Until either side ends.
async fn join(ours: OnUpgrade, theirs: OnUpgrade) {
    let (ours, theirs) = match tokio::try_join!(ours, theirs) {
        Ok(both) => both,
        Err(cause) => {
            tracing::debug!("upgrade: {cause}");
            return;
        }
    };
    let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
    if let Err(cause) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
        tracing::debug!("stream: {cause}");
    }
}

/// All but what belongs to one connection or to the caller's credentials.
fn copy_headers(from: &HeaderMap, to: &mut HeaderMap, upgrading: bool) {
    const PRIVATE: [&str; 7] =
        ["authorization", "keep-alive", "proxy-authorization", "te", "trailer", "host", "content-length"];
    for (name, value) in from {
        let hop = name == CONNECTION || name == UPGRADE || name == TRANSFER_ENCODING;
        if (hop && !upgrading) || PRIVATE.contains(&name.as_str()) || is_impersonation(name) {
            continue;
        }
        to.append(name.clone(), value.clone());
    }
}

fn is_impersonation(name: &HeaderName) -> bool {
    name.as_str().starts_with("impersonate-")
}
