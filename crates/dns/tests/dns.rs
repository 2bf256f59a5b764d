//! The server over real sockets, with a pretended API server and a pretended name server.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::Informers;
use dns::{DnsConfig, DnsServer, StubDomain, Upstreams};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use http::{Request, Response};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

/// Lists one namespace and two Services; watches say nothing.
async fn api(request: Request<Body>) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    if request.uri().query().unwrap_or_default().contains("watch") {
        let silence = futures::stream::pending::<Result<http_body::Frame<Bytes>, Infallible>>();
        return Ok(Response::new(http_body_util::StreamBody::new(silence).boxed_unsync()));
    }
    let metadata = |name: &str| json!({"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"});
    let items = match request.uri().path() {
        "/api/v1/namespaces" => json!([{"metadata": {"name": "default", "uid": "d", "resourceVersion": "1"}}]),
        "/api/v1/services" => json!([
            {"metadata": metadata("web"), "spec": {"clusterIP": "10.43.0.5"}},
            {"metadata": metadata("out"), "spec": {"type": "ExternalName", "externalName": "example.com"}}
        ]),
        _ => json!([]),
    };
    let list = json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string();
    Ok(Response::new(http_body_util::Full::new(Bytes::from(list)).boxed_unsync()))
}

/// Answers every question with 9.9.9.9 and counts them.
async fn upstream(questions: Arc<AtomicUsize>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            questions.fetch_add(1, Ordering::SeqCst);
            let mut reply = Message::from_vec(&buffer[..length]).unwrap();
            reply.metadata.message_type = MessageType::Response;
            let name = reply.queries[0].name().clone();
            if name.to_string().starts_with("nosuch.") {
                reply.metadata.response_code = ResponseCode::NXDomain;
                socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
                continue;
            }
            reply.answers.push(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(9, 9, 9, 9)))));
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

async fn ask_udp(server: SocketAddr, name: &str) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question(name), server).await.unwrap();
    let mut buffer = [0; 1500];
    let received = tokio::time::timeout(Duration::from_secs(6), socket.recv(&mut buffer)).await;
    show(&buffer[..received.expect("an answer in time").unwrap()])
}

async fn ask_tcp(server: SocketAddr, name: &str) -> String {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let question = question(name);
    stream.write_u16(question.len() as u16).await.unwrap();
    stream.write_all(&question).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.unwrap();
    show(&buffer)
}

fn show(reply: &[u8]) -> String {
    let reply = Message::from_vec(reply).unwrap();
    assert_eq!(reply.metadata.id, 4711);
    if reply.metadata.response_code != ResponseCode::NoError {
        return format!("{:?}", reply.metadata.response_code);
    }
    reply.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(" ")
}

async fn start(upstreams: Vec<SocketAddr>, stub: Vec<SocketAddr>) -> (SocketAddr, CancellationToken) {
    let cancel = CancellationToken::new();
    let informers = Informers::new(client::in_process(tower::service_fn(api)), cancel.clone());
    let config = DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        domain: "cluster.local".to_owned(),
        upstreams: Upstreams::Fixed(upstreams),
        stub_domains: vec![StubDomain { domain: Name::from_ascii("corp.example.").unwrap(), servers: stub }],
    };
    let bound = DnsServer::new(config, informers.clone()).bind().await.unwrap();
    let address = bound.addresses()[0];
    tokio::spawn(bound.serve(cancel.clone()));
    tokio::task::yield_now().await;
    informers.synced().await;
    (address, cancel)
}

#[tokio::test]
async fn answers_by_udp_and_tcp() {
    let (server, cancel) = start(Vec::new(), Vec::new()).await;
    assert_eq!(ask_udp(server, "web.default.svc.cluster.local.").await, "10.43.0.5");
    assert_eq!(ask_tcp(server, "web.default.svc.cluster.local.").await, "10.43.0.5");
    assert_eq!(ask_udp(server, "example.com.default.svc.cluster.local.").await, "NXDomain");
    assert_eq!(ask_udp(server, "example.com.").await, "ServFail"); // At once: there is nobody to ask.
    cancel.cancel();
}

#[tokio::test]
async fn asks_others_once_and_remembers() {
    let questions = Arc::new(AtomicUsize::new(0));
    let other = upstream(questions.clone()).await;
    // The first server is not there: the next one is asked.
    let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let (server, cancel) = start(vec![nobody, other], Vec::new()).await;
    assert_eq!(ask_udp(server, "example.com.").await, "9.9.9.9");
    assert_eq!(ask_udp(server, "EXAMPLE.com.").await, "9.9.9.9");
    assert_eq!(ask_tcp(server, "example.com.").await, "9.9.9.9");
    assert_eq!(ask_udp(server, "out.default.svc.cluster.local.").await, "example.com. 9.9.9.9");
    assert_eq!(questions.load(Ordering::SeqCst), 1);
    cancel.cancel();
}

#[tokio::test]
async fn a_search_takes_one_question() {
    let (questions, stub_questions) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (other, stub) = (upstream(questions.clone()).await, upstream(stub_questions.clone()).await);
    let (server, cancel) = start(vec![other], vec![stub]).await;
    assert_eq!(ask_udp(server, "example.com.default.svc.cluster.local.").await, "example.com. 9.9.9.9");
    assert_eq!(ask_tcp(server, "Example.com.default.svc.cluster.local.").await, "Example.com. 9.9.9.9");
    assert_eq!(questions.load(Ordering::SeqCst), 1, "the answer is remembered");
    assert_eq!(ask_udp(server, "nosuch.example.com.default.svc.cluster.local.").await, "NXDomain");
    assert_eq!(ask_udp(server, "nosuch.default.svc.cluster.local.").await, "NXDomain");
    assert_eq!(questions.load(Ordering::SeqCst), 2, "a Service that does not exist is nobody else's business");
    assert_eq!(ask_udp(server, "git.corp.example.default.svc.cluster.local.").await, "git.corp.example. 9.9.9.9");
    assert_eq!(ask_udp(server, "git.corp.example.").await, "9.9.9.9");
    assert_eq!((questions.load(Ordering::SeqCst), stub_questions.load(Ordering::SeqCst)), (2, 1), "a domain's own server");
    cancel.cancel();
}

/// Whoever is not there is not waited for longer than a client would.
#[tokio::test]
async fn a_search_ends_soon_where_nobody_answers() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (server, cancel) = start(vec![silent.local_addr().unwrap()], Vec::new()).await;
    let started = std::time::Instant::now();
    assert_eq!(ask_udp(server, "example.com.default.svc.cluster.local.").await, "NXDomain");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    cancel.cancel();
}

#[tokio::test]
async fn survives_what_is_thrown_at_it() {
    let (server, cancel) = start(Vec::new(), Vec::new()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in 0..200usize {
        let garbage: Vec<u8> = (0..length).map(|at| (at * 37 + length * 11) as u8).collect();
        socket.send_to(&garbage, server).await.unwrap();
    }
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(&[0, 5, 1, 2, 3, 4, 5, 0xff, 0xff]).await.unwrap();
    assert_eq!(ask_udp(server, "web.default.svc.cluster.local.").await, "10.43.0.5");
    cancel.cancel();
}
