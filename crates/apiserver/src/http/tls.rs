//! Connections: TLS, client certificates, HTTP/1.1 and HTTP/2 on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::service::{Caller, handle};
use crate::authn::x509;
use crate::server::ApiServer;

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
const CONNECTIONS_MAX: usize = 16_384;
/// Requests and watches over one HTTP/2 connection.
const STREAMS_MAX: u32 = 1_000;
/// How long open requests may take when the server ends.
const GRACE: Duration = Duration::from_secs(2);
/// After a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the server shows itself, and whose client certificates it believes.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub certificate_pem: String,
    pub key_pem: String,
    /// Authorities of client certificates; a client need not show one.
    pub client_authority_pem: String,
}

pub fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, String> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.client_authority_pem.as_bytes()) {
        roots.add(certificate.map_err(|cause| cause.to_string())?).map_err(|cause| cause.to_string())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|cause| cause.to_string())?;
    let chain = CertificateDer::pem_slice_iter(config.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| cause.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(config.key_pem.as_bytes()).map_err(|cause| cause.to_string())?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| cause.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|cause| cause.to_string())?;
    // As Go's servers: of two that are strong enough the cheaper, whatever order the client has.
    server.ignore_client_order = has_aes_instructions();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// Without them another cipher is cheaper, and the client's order tells.
fn has_aes_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Accepts until `cancel`.
pub async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            place = places.clone().acquire_owned() => place.expect("never closed"),
        };
        let accepted = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(server.clone(), (stream, peer), acceptor.clone(), cancel.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(cause) => {
                tracing::warn!("accepting a connection: {cause}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(server: Arc<ApiServer>, (stream, peer): (TcpStream, SocketAddr), acceptor: TlsAcceptor, cancel: CancellationToken) {
    let _ = stream.set_nodelay(true); // Without it answers are merely later.
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(cause)) => {
            tracing::debug!("TLS handshake: {cause}");
            return;
        }
        Err(_) => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let user = certificate.and_then(|certificate| x509::user(certificate)).map(Arc::new);
    let expires = certificate.filter(|_| user.is_some()).and_then(|certificate| x509::expiry(certificate));
    let service = service_fn(move |request: Request<Incoming>| {
        if let Some(expires) = expires {
            server.metrics.certificate(server.config.clock.now(), expires);
        }
        let (server, caller) = (server.clone(), Caller::Connection { peer: peer.ip(), certificate: user.clone() });
        async move {
            let mut request = request;
            let upgrade = hyper::upgrade::on(&mut request);
            let mut request = request.map(ApiServer::boxed);
            request.extensions_mut().insert(upgrade);
            Ok::<_, std::convert::Infallible>(handle(server, request, caller).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(cause) = result {
        tracing::debug!("connection: {cause}");
    }
}
