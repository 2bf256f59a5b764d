//! The real front door, over loopback: TLS, certificates, tokens, HTTP/1.1 and HTTP/2; and how it closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::pki::{ClientName, Identity, Pki};
use apiserver::{StartError, StaticToken, TlsConfig};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{TestServer, config, config_map};

struct Door {
    server: TestServer,
    pki: Pki,
    admin: Identity,
    address: SocketAddr,
    cancel: CancellationToken,
    serving: JoinHandle<Result<(), StartError>>,
    _directory: tempfile::TempDir,
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    async fn get(&mut self, path: &str, token: &str) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::builder().uri(format!("https://localhost{path}")).header("host", "localhost");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        match self {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }
}

impl Door {
    async fn open() -> Door {
        let directory = tempfile::tempdir().expect("a directory");
        let now = "2026-01-01T00:00:00Z".parse().expect("a valid time");
        let pki = Pki::open(directory.path(), now).expect("opens");
        let serving = pki.serving("apiserver", "kube-apiserver", &["localhost".into()]).expect("issues");
        let admin = pki.client(ClientName { file: "admin", user: "admin", groups: &["system:masters"] }).expect("issues");
        let token = StaticToken { token: "secret".into(), user: "alice".into(), uid: "1".into(), groups: vec![] };
        let cancel = CancellationToken::new();
        let config = apiserver::Config { static_tokens: vec![token], cancel: cancel.clone(), ..config() };
        let server = TestServer::with(config).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let tls = TlsConfig {
            certificate_pem: serving.certificate_pem,
            key_pem: serving.key_pem,
            client_authority_pem: pki.authority_pem().into(),
        };
        let serving = tokio::spawn(server.server.clone().serve(listener, tls, cancel.clone()));
        Door { server, pki, admin, address, cancel, serving, _directory: directory }
    }

    async fn connect(&self, identity: Option<&Identity>, h2: bool) -> Sender {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.pki.authority_pem().as_bytes()) {
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
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.expect("TLS");
        let stream = TokioIo::new(stream);
        if h2 {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("h2");
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.expect("h1");
            tokio::spawn(connection);
            Sender::Http1(sender)
        }
    }

    async fn close(self) {
        self.cancel.cancel();
        self.serving.await.expect("ends").expect("well");
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn clients_are_told_apart() {
    let door = Door::open().await;
    let check = async |identity: Option<&Identity>, token: &str, h2: bool, expected: u16| {
        let response = door.connect(identity, h2).await.get(MAPS, token).await.expect("answers");
        let code = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(code, StatusCode::from_u16(expected).expect("a code"), "{}", String::from_utf8_lossy(&body));
    };
    check(Some(&door.admin), "", true, 200).await;
    check(Some(&door.admin), "", false, 200).await;
    check(None, "", true, 403).await;
    check(None, "secret", false, 403).await;
    check(None, "wrong", false, 401).await;
    let metrics = door.server.get("/metrics").await;
    let line = "apiserver_client_certificate_expiration_seconds_count{} 2";
    assert!(String::from_utf8_lossy(&metrics.bytes).contains(line));
    door.close().await;
}

#[tokio::test]
async fn watches_end_whole_when_the_server_does() {
    for h2 in [false, true] {
        let door = Door::open().await;
        let mut sender = door.connect(Some(&door.admin), h2).await;
        let watch = sender.get(&format!("{MAPS}?watch=1"), "").await.expect("answers");
        assert_eq!(watch.status(), 200);
        let body = tokio::spawn(watch.into_body().collect());
        door.server.post(MAPS, config_map("a")).await.expect(201);
        let metrics = door.server.get("/metrics").await;
        let line = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} 1";
        assert!(String::from_utf8_lossy(&metrics.bytes).contains(line));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ready = door.server.server.clone();
        door.close().await;
        // Not cut off: the last event, and then the end of the stream.
        let bytes = tokio::time::timeout(Duration::from_secs(5), body).await.expect("ends").expect("no panic");
        let bytes = bytes.expect("a whole body").to_bytes();
        assert!(bytes.ends_with(b"}\n") && String::from_utf8_lossy(&bytes).contains("\"ADDED\""));
        let probe = ready.in_process("admin", &["system:masters"]);
        assert_eq!(crate::harness::send(probe, "GET /readyz", "", "").await.code, 500);
    }
}
