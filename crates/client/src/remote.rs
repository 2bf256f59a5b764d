//! API servers on other machines: one client over all of them, whose certificate may be replaced while it is in use.
//!
//! ```text
//! requests ──► one HTTP/2 connection ──► the server that answered last
//!                       └─ broken ──► the next one that answers
//! ```
//!
//! Invariants: every server shows a certificate of the one authority, for the name `kubernetes`, whatever its address
//! is; nothing is sent, no credentials either, before it has. A server that is gone without a word (power, cable) is
//! noticed by the kernel's own timers, so that nothing here polls.
//!
//! While no server answers, requests wait for one together, and fail only if that takes long.
//!
//! Deliberately absent: retries. A failed request is the caller's, who knows whether it may be repeated.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::uri::{Authority, Parts, Scheme};
use http::{HeaderValue, Request, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// In every API server's certificate, at whatever address it is.
const SERVER_NAME: &str = "kubernetes";
/// Per server; the next is tried after it.
const CONNECT: Duration = Duration::from_secs(2);
const HANDSHAKE: Duration = Duration::from_secs(5);
/// While no server answers, requests wait so long for one that does, all of them on one attempt after another: they go
/// on the moment that a server is back.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// What was sent and is not acknowledged for so long breaks the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// A silent connection is asked for a sign of life by the kernel after this, then every [`PROBE_EVERY`].
const SILENT_SECONDS: u32 = 10;
const PROBE_EVERY_SECONDS: u32 = 3;
const SERVERS_MAX: usize = 64;

/// PEM: the chain, leaf first, and its private key.
#[derive(Clone)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Why there is no connection to an API server, or never can be.
#[derive(Debug)]
pub enum RemoteError {
    /// `HOST:PORT` is neither.
    Address(String),
    Certificate(String),
    /// The server showed no certificate of the authority with this hash.
    Stranger { server: String, hash: String },
    Unreachable { server: String, cause: io::Error },
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemoteError::Address(text) => write!(f, "{text:?} is not the address of a server: expected https://HOST:PORT"),
            RemoteError::Certificate(cause) => write!(f, "certificate: {cause}"),
            RemoteError::Stranger { server, hash } => write!(
                f,
                "the server {server} does not belong to the cluster of the token: its certificate is not by the CA \
                 sha256:{hash}; check the address, or ask for a new token there (coracle token create)"
            ),
            RemoteError::Unreachable { server, cause } => write!(f, "{server}: {cause}"),
        }
    }
}

impl std::error::Error for RemoteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RemoteError::Unreachable { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// The servers of one cluster.
pub struct Remote {
    roots: RootCertStore,
    servers: Mutex<Servers>,
    /// Replaced whole with the identity; connections in use live on until they are done.
    http: ArcSwap<HttpClient<Connector, Body>>,
    tls: ArcSwap<ClientConfig>,
}

#[derive(Default)]
struct Servers {
    /// `HOST:PORT`
    all: Vec<String>,
    /// The one that answered last.
    current: usize,
}

impl Remote {
    /// `servers` are `HOST:PORT`. Without an identity only tokens tell who asks.
    pub fn new(authority_pem: &str, servers: Vec<String>, identity: Option<&Identity>) -> Result<Arc<Remote>, RemoteError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority_pem.as_bytes()) {
            let certificate = certificate.map_err(|cause| RemoteError::Certificate(cause.to_string()))?;
            roots.add(certificate).map_err(|cause| RemoteError::Certificate(cause.to_string()))?;
        }
        let tls = tls_config(&roots, identity)?;
        let remote = Arc::new_cyclic(|me| Remote {
            roots,
            servers: Mutex::new(Servers { all: servers, current: 0 }),
            http: ArcSwap::from_pointee(http_client(Connector { remote: me.clone() })),
            tls: ArcSwap::from_pointee(tls),
        });
        Ok(remote)
    }

    /// From now on requests come from this identity.
    pub fn set_identity(self: &Arc<Self>, identity: &Identity) -> Result<(), RemoteError> {
        self.tls.store(Arc::new(tls_config(&self.roots, Some(identity))?));
        self.http.store(Arc::new(http_client(Connector { remote: Arc::downgrade(self) })));
        Ok(())
    }

    /// These are all servers now. The one in use stays in use while it is among them; an empty list changes nothing.
    pub fn set_servers(&self, mut all: Vec<String>) {
        if all.is_empty() {
            return;
        }
        all.truncate(SERVERS_MAX);
        let mut servers = self.servers.lock();
        let in_use = servers.all.get(servers.current).cloned();
        let current = all.iter().position(|server| Some(server) == in_use.as_ref()).unwrap_or(0);
        *servers = Servers { all, current };
    }

    pub fn servers(&self) -> Vec<String> {
        self.servers.lock().all.clone()
    }

    /// A client that lives on through failing servers and changing certificates. `token`: for who has no certificate.
    pub fn client(self: &Arc<Self>, user_agent: &'static str, token: Option<&str>) -> Result<kube::Client, RemoteError> {
        let token = token
            .map(|token| HeaderValue::try_from(format!("Bearer {token}")))
            .transpose()
            .map_err(|_| RemoteError::Certificate("the token has characters that no token has".into()))?;
        let remote = self.clone();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let absolute = absolute(request.uri());
            *request.uri_mut() = absolute;
            request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(user_agent));
            if let Some(token) = &token {
                request.headers_mut().insert(AUTHORIZATION, token.clone());
            }
            remote.http.load().request(request)
        });
        Ok(kube::Client::new(service, "default"))
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let begun = tokio::time::Instant::now();
        let mut pause = PAUSE_FIRST;
        loop {
            match self.connect_once().await {
                // What a certificate is refused for does not pass by waiting.
                Err(cause) if begun.elapsed() + pause >= PATIENCE || is_certificate_error(&cause) => return Err(cause),
                Err(_) => tokio::time::sleep(pause).await,
                connected => return connected,
            }
            pause = (pause * 2).min(PAUSE_LONGEST);
        }
    }

    /// A connection to the first server that answers, beginning with the one that did last.
    async fn connect_once(&self) -> io::Result<TlsStream<TcpStream>> {
        let (all, current) = {
            let servers = self.servers.lock();
            (servers.all.clone(), servers.current)
        };
        let mut failures = Vec::new();
        for offset in 0..all.len() {
            let server = &all[(current + offset) % all.len()];
            match connect(server, self.tls.load_full()).await {
                Ok(stream) => {
                    let mut servers = self.servers.lock();
                    if let Some(index) = servers.all.iter().position(|known| known == server) {
                        servers.current = index;
                    }
                    return Ok(stream);
                }
                Err(cause) if is_certificate_error(&cause) && all.len() == 1 => return Err(cause),
                Err(cause) => failures.push(format!("{server}: {cause}")),
            }
        }
        Err(io::Error::other(failures.join("; ")))
    }
}

/// The PEM of the authority whose certificate (DER) has this SHA-256, as shown by the server itself: it proves to
/// have a certificate by that authority before anything is sent to it.
pub async fn authority_of(server: &str, sha256: [u8; 32]) -> Result<String, RemoteError> {
    let pinned = Arc::new(Pinned { sha256, provider: Arc::new(rustls::crypto::ring::default_provider()), found: Mutex::new(None) });
    let mut tls = ClientConfig::builder_with_provider(pinned.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|cause| RemoteError::Certificate(cause.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connected = connect(server, Arc::new(tls)).await;
    let found = pinned.found.lock().take();
    match (connected, found) {
        (Ok(_), Some(authority)) => Ok(certificate_pem(&authority)),
        (Err(cause), _) if !is_certificate_error(&cause) => Err(RemoteError::Unreachable { server: server.to_owned(), cause }),
        _ => Err(RemoteError::Stranger { server: server.to_owned(), hash: hex(&sha256) }),
    }
}

/// SHA-256 of the first certificate (DER) of a PEM text: what a join token carries.
pub fn authority_digest(authority_pem: &str) -> Result<[u8; 32], RemoteError> {
    let certificate = CertificateDer::from_pem_slice(authority_pem.as_bytes())
        .map_err(|cause| RemoteError::Certificate(cause.to_string()))?;
    Ok(Sha256::digest(&certificate).into())
}

/// [`authority_digest`] in hexadecimal digits.
pub fn authority_hash(authority_pem: &str) -> Result<String, RemoteError> {
    Ok(hex(&authority_digest(authority_pem)?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn certificate_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn is_certificate_error(cause: &io::Error) -> bool {
    let inner = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

fn tls_config(roots: &RootCertStore, identity: Option<&Identity>) -> Result<ClientConfig, RemoteError> {
    let failed = |cause: &dyn fmt::Display| RemoteError::Certificate(cause.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| failed(&cause))?
        .with_root_certificates(roots.clone());
    let mut tls = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|cause| failed(&cause))?;
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|cause| failed(&cause))?;
            builder.with_client_auth_cert(chain, key).map_err(|cause| failed(&cause))?
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

fn http_client(connector: Connector) -> HttpClient<Connector, Body> {
    HttpClient::builder(TokioExecutor::new()).timer(TokioTimer::new()).http2_only(true).build(connector)
}

fn absolute(uri: &Uri) -> Uri {
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(Authority::from_static(SERVER_NAME));
    parts.path_and_query = uri.path_and_query().cloned().or_else(|| Some(http::uri::PathAndQuery::from_static("/")));
    Uri::from_parts(parts).expect("scheme, authority and path make a URI")
}

async fn connect(server: &str, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let late = |what: &'static str| move |_| io::Error::new(io::ErrorKind::TimedOut, what);
    let tcp = tokio::time::timeout(CONNECT, TcpStream::connect(server)).await.map_err(late("no answer"))??;
    tcp.set_nodelay(true)?;
    let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&tcp, sockopt::KeepAlive, &true)?;
    setsockopt(&tcp, sockopt::TcpKeepIdle, &SILENT_SECONDS)?;
    setsockopt(&tcp, sockopt::TcpKeepInterval, &PROBE_EVERY_SECONDS)?;
    setsockopt(&tcp, sockopt::TcpUserTimeout, &unacknowledged)?;
    let name = ServerName::try_from(SERVER_NAME).expect("a valid name");
    tokio::time::timeout(HANDSHAKE, TlsConnector::from(tls).connect(name, tcp)).await.map_err(late("no TLS handshake"))?
}

#[derive(Clone)]
struct Connector {
    remote: std::sync::Weak<Remote>,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let remote = self.remote.upgrade();
        Box::pin(async move {
            let remote = remote.ok_or_else(|| io::Error::other("nobody uses this connection any more"))?;
            Ok(Stream(TokioIo::new(remote.connect().await?)))
        })
    }
}

struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().negotiated_h2()
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Trusts the authority with one hash, and only if the server's certificate is by it.
#[derive(Debug)]
struct Pinned {
    sha256: [u8; 32],
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority = others.iter().find(|other| Sha256::digest(other)[..] == self.sha256).ok_or_else(unknown)?;
        let authority = authority.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|cause| rustls::Error::General(cause.to_string()))?;
        let verified = verifier.verify_server_cert(leaf, others, name, ocsp, now)?;
        *self.found.lock() = Some(authority);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(servers: &[&str]) -> Arc<Remote> {
        Remote::new("", servers.iter().map(|text| (*text).to_owned()).collect(), None).expect("nothing to be wrong")
    }

    #[test]
    fn the_server_in_use_stays_in_use() {
        let remote = remote(&["a:1", "b:1"]);
        remote.servers.lock().current = 1;
        remote.set_servers(vec!["c:1".into(), "a:1".into(), "b:1".into()]);
        assert_eq!(remote.servers.lock().current, 2);
        remote.set_servers(vec!["c:1".into()]);
        assert_eq!(remote.servers.lock().current, 0);
        remote.set_servers(Vec::new());
        assert_eq!(remote.servers(), ["c:1"]);
    }

    #[test]
    fn paths_stay_and_the_server_is_always_the_same() {
        assert_eq!(absolute(&"/api/v1/nodes?watch=1".parse().unwrap()), "https://kubernetes/api/v1/nodes?watch=1");
    }
}
