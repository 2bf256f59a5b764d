//! The real front door, over loopback: TLS, certificates, tokens, HTTP/1.1 and HTTP/2.

use std::sync::Arc;

use apiserver::pki::{ClientName, Pki};
use apiserver::{StaticToken, TlsConfig};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::harness::{TestServer, config};

#[tokio::test]
async fn clients_are_told_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    let now = "2026-01-01T00:00:00Z".parse().expect("a valid time");
    let pki = Pki::open(directory.path(), now).expect("opens");
    let serving = pki.serving("apiserver", "kube-apiserver", &["localhost".into()]).expect("issues");
    let admin = pki.client(ClientName { file: "admin", user: "admin", groups: &["system:masters"] }).expect("issues");
    let token = StaticToken { token: "secret".into(), user: "alice".into(), uid: "1".into(), groups: vec![] };
    let server = TestServer::with(apiserver::Config { static_tokens: vec![token], ..config() }).await.server;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let cancel = CancellationToken::new();
    let tls = TlsConfig {
        certificate_pem: serving.certificate_pem,
        key_pem: serving.key_pem,
        client_authority_pem: pki.authority_pem().into(),
    };
    let serving = tokio::spawn(server.serve(listener, tls, cancel.clone()));

    let check = async |identity: Option<&apiserver::pki::Identity>, token: &str, h2: bool, expected: u16| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pki.authority_pem().as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("an authority");
        }
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut client = match identity {
            Some(identity) => {
                let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).expect("PEM")];
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("fits")
            }
            None => builder.with_no_client_auth(),
        };
        client.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let stream = TcpStream::connect(address).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.expect("TLS");
        let mut request = Request::builder().uri("https://localhost/api/v1/namespaces/default/configmaps");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.header("host", "localhost").body(Empty::<Bytes>::new()).expect("a request");
        let response = if h2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
            tokio::spawn(connection);
            sender.send_request(request).await.expect("answers")
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("h1");
            tokio::spawn(connection);
            sender.send_request(request).await.expect("answers")
        };
        let code = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(code, StatusCode::from_u16(expected).expect("a code"), "{}", String::from_utf8_lossy(&body));
    };
    check(Some(&admin), "", true, 200).await;
    check(Some(&admin), "", false, 200).await;
    check(None, "", true, 403).await;
    check(None, "secret", false, 403).await;
    check(None, "wrong", false, 401).await;
    cancel.cancel();
    serving.await.expect("ends").expect("well");
}
