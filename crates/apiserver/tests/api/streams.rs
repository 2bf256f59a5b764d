//! Logs and upgraded streams, through a kubelet that echoes.

use std::sync::Arc;

use apiserver::http::tls;
use apiserver::pki::{ClientName, Identity, Pki};
use apiserver::{Config, KubeletAccess, TlsConfig};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::harness::{TestServer, config, pod};

/// Answers logs with its own path, and echoes what comes over an upgraded connection.
async fn kubelet(listener: TcpListener, config: TlsConfig) {
    let acceptor = tls::acceptor(&config).expect("TLS");
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let stream = acceptor.accept(stream).await.expect("a handshake");
        assert!(stream.get_ref().1.peer_certificates().is_some(), "the API server shows its certificate");
        let service = service_fn(|mut request: Request<hyper::body::Incoming>| async move {
            let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            if path.contains("waiting") {
                let mut refusal = Response::new(Full::new(Bytes::from("container \"waiting\" in pod \"x\" is waiting to start: ContainerCreating")));
                *refusal.status_mut() = StatusCode::BAD_REQUEST;
                return Ok::<_, std::convert::Infallible>(refusal);
            }
            if request.headers().get("upgrade").is_none() {
                return Ok(Response::new(Full::new(Bytes::from(path))));
            }
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
                stream.write_all(format!("{path}\n").as_bytes()).await.expect("writes");
                let mut buffer = [0; 5];
                stream.read_exact(&mut buffer).await.expect("reads");
                stream.write_all(&buffer).await.expect("writes");
                stream.shutdown().await.expect("closes");
            });
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert("connection", "Upgrade".parse().expect("a value"));
            answer.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
            Ok(answer)
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
    }
}

fn tls_config(pki: &Pki, identity: Identity) -> TlsConfig {
    TlsConfig {
        certificate_pem: identity.certificate_pem,
        key_pem: identity.key_pem,
        client_authority_pem: pki.authority_pem().into(),
    }
}

#[tokio::test]
async fn logs_and_exec_go_through_to_the_kubelet() {
    let directory = tempfile::tempdir().expect("a directory");
    let pki = Pki::open(directory.path(), "2026-01-01T00:00:00Z".parse().expect("a valid time")).expect("opens");
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let admin = pki.client(ClientName { file: "admin", user: "admin", groups: &["system:masters"] }).expect("issues");
    let for_kubelets = pki.client(ClientName { file: "kubelet-client", user: "kube-apiserver-kubelet-client", groups: &["system:masters"] }).expect("issues");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let node = tokio::spawn(kubelet(listener, tls_config(&pki, pki.serving("kubelet", "node", &names).expect("issues"))));

    let access = KubeletAccess { identity: for_kubelets, authority_pem: Some(pki.authority_pem().into()) };
    let server = TestServer::with(Config { kubelet: Some(access), ..config() }).await;
    server.post("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await.expect(201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    server.patch("/api/v1/nodes/n/status", "merge", status).await.expect(200);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    let mut two = pod("x");
    two["spec"]["containers"] = json!([{"name": "a", "image": "i"}, {"name": "waiting", "image": "i"}]);
    two["spec"]["nodeName"] = "n".into();
    server.post(pods, two).await.expect(201);

    let log = server.get(&format!("{pods}/x/log?container=a&follow=true&tailLines=5")).await;
    assert_eq!(String::from_utf8_lossy(&log.bytes), "/containerLogs/default/x/a?follow=true&tailLines=5");
    let refused = server.get(&format!("{pods}/x/log")).await;
    assert_eq!((refused.code, refused.message()), (400, "a container name must be specified for pod x, choose one of: [a waiting]".into()));
    let refused = server.get(&format!("{pods}/x/log?container=waiting")).await;
    assert_eq!((refused.code, refused.message()), (400, "container \"waiting\" in pod \"x\" is waiting to start: ContainerCreating".into()));
    let proxied = server.get("/api/v1/nodes/n/proxy/stats/summary?a=b").await;
    assert_eq!(String::from_utf8_lossy(&proxied.bytes), "/stats/summary?a=b");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let cancel = CancellationToken::new();
    let own = tls_config(&pki, pki.serving("apiserver", "kube-apiserver", &names).expect("issues"));
    let serving = tokio::spawn(server.server.clone().serve(listener, own, cancel.clone()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.authority_pem().as_bytes()) {
        roots.add(certificate.expect("PEM")).expect("an authority");
    }
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(admin.certificate_pem.as_bytes()).expect("PEM")],
            PrivateKeyDer::from_pem_slice(admin.key_pem.as_bytes()).expect("PEM"),
        )
        .expect("fits");
    let stream = TcpStream::connect(address).await.expect("connects");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.expect("TLS");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("h1");
    let connection = tokio::spawn(connection.with_upgrades());
    let request = Request::get(format!("{pods}/x/exec?container=a&command=ls&command=-l+a&stdin=true&stdout=1&tty=true"))
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let response = sender.send_request(request).await.expect("answers");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("upgraded"));
    stream.write_all(b"hello").await.expect("writes");
    let mut all = String::new();
    stream.read_to_string(&mut all).await.expect("reads");
    assert_eq!(all, "/exec/default/x/a?input=1&output=1&tty=1&command=ls&command=-l%20a\nhello");

    drop(stream);
    connection.abort();
    cancel.cancel();
    serving.await.expect("ends").expect("well");
    node.abort();
}
