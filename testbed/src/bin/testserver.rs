//! The server inside test images: says who it is over HTTP, TCP and UDP, remembers what it was told, and fails on demand.
//!
//! `testserver serve [PORT]` (HTTP; TCP and UDP one above; two above, its name for each line), `testserver liveness PORT
//! SECONDS` (well for so long, then 500), `testserver pause`, `testserver say ...` (what it was started with). Each HTTP
//! port answers gRPC health checks.
//! `testserver ask TRIES URL...` is the client: a line for each URL (`http`, `tcp` or `udp`) with all different answers,
//! over HTTP `NAME@CLIENT`, where CLIENT is the address that the server sees. `testserver talk URL...` holds one
//! conversation with each until its standard input ends: `URL NAMES ANSWERS LONGEST_PAUSE_MILLISECONDS`. `testserver
//! issuer FILE AUDIENCE` judges the service-account token in a file by what its issuer publishes.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const HEARD_MAX: usize = 1000;
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
const ASKED_AT_ONCE: usize = 4;
const TALK_PAUSE: Duration = Duration::from_millis(20);
/// Longer than TCP needs to send a lost segment again a few times.
const TALK_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    started: Option<Instant>,
    well_for: Option<Duration>,
    /// What was asked of `/write` and `/echo`, for `/read`.
    heard: Mutex<Vec<String>>,
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |at: usize, otherwise: u64| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    let port = u16::try_from(number(1, 8080)).unwrap_or(8080);
    if words.first().is_some_and(|word| word.starts_with("say")) {
        println!("[{}]", std::env::args().collect::<Vec<_>>().join(" "));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut state = State { started: Some(Instant::now()), ..State::default() };
        if words.first() == Some(&"liveness") {
            state.well_for = Some(Duration::from_secs(number(2, 10)));
        }
        let work = async {
            match words.first() {
                Some(&"pause") => std::future::pending().await,
                Some(&"names") => names(words.get(1).unwrap_or(&"0.0.0.0:53"), &words[2..]).await,
                Some(&"ask") => {
                    ask(number(1, 1), words.iter().skip(2).map(|word| (*word).to_owned()).collect()).await;
                    Ok(())
                }
                Some(&"talk") => {
                    talk(words.iter().skip(1).map(|word| (*word).to_owned()).collect()).await;
                    Ok(())
                }
                Some(&"issuer") => {
                    let word = |at: usize| words.get(at).copied().unwrap_or_default();
                    match testbed::issuer::judge(word(1), word(2)).await {
                        Ok(subject) => println!("{subject}"),
                        Err(cause) => println!("refused: {cause}"),
                    }
                    Ok(())
                }
                Some(&"serve") => {
                    tokio::try_join!(http(port, state), tcp(port + 1), udp(port + 1), talked_to(port + 2)).map(|_| ())
                }
                _ => http(port, state).await,
            }
        };
        tokio::select! {
            _ = ended.recv() => Ok(()),
            done = work => done,
        }
    })
}

fn hostname() -> String {
    std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned()
}

async fn http(port: u16, state: State) -> std::io::Result<()> {
    let listener = TcpListener::bind(("::", port)).await?;
    let state = Arc::new(state);
    loop {
        let (stream, peer) = accept(&listener).await;
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(&state, request, peer).await) }
            });
            // A client that goes away is no failure.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// With more connections than it may have open files it lets further ones wait, and does not end.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

async fn answer(state: &State, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let path = request.uri().path().to_owned();
    if path == "/grpc.health.v1.Health/Check" {
        return serving();
    }
    let mut code = StatusCode::OK;
    let text = match path.as_str() {
        "/" | "/hostname" => hostname(),
        "/healthz" => {
            let age = state.started.map(|started| started.elapsed()).unwrap_or_default();
            if state.well_for.is_some_and(|well_for| age > well_for) {
                code = StatusCode::INTERNAL_SERVER_ERROR;
                format!("error: {}", age.as_secs_f64())
            } else {
                "ok".into()
            }
        }
        "/clientip" => peer.to_string(),
        "/seen" => format!("{}@{}", hostname(), peer.ip().to_canonical()),
        "/env" => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        "/header" => {
            let name = query.trim_start_matches("key=");
            request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        }
        "/echo" | "/write" => {
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let text = format!("{query}{}", String::from_utf8_lossy(&body));
            if let Ok(mut heard) = state.heard.lock()
                && heard.len() < HEARD_MAX
            {
                heard.push(text.clone());
            }
            text.trim_start_matches("msg=").to_owned()
        }
        "/read" => state.heard.lock().map(|heard| heard.join("\n")).unwrap_or_default(),
        "/dial" => dial(&query).await,
        "/exit" => std::process::exit(query.trim_start_matches("code=").parse().unwrap_or(0)),
        _ => {
            code = StatusCode::NOT_FOUND;
            format!("no {path}")
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = code;
    response
}

/// `protocol=udp&host=10.0.0.1&port=8081&tries=3`: what the address answers, a line for each try.
async fn dial(query: &str) -> String {
    let of = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    let address = format!("{}:{}", of("host"), of("port"));
    let mut lines = Vec::new();
    for _ in 0..of("tries").parse().unwrap_or(1_u32) {
        lines.push(attempt(of("protocol"), &address, "/").await);
    }
    lines.join("\n")
}

/// What the address says, or why it says nothing.
async fn attempt(protocol: &str, address: &str, path: &str) -> String {
    let attempt = async {
        match protocol {
            "udp" => ask_udp(address).await,
            "http" => ask_tcp(address, &format!("GET {path} HTTP/1.0\r\n\r\n")).await,
            _ => ask_tcp(address, "").await,
        }
    };
    match tokio::time::timeout(DIAL_TIMEOUT, attempt).await {
        Ok(Ok(text)) => text.lines().last().unwrap_or_default().to_owned(),
        Ok(Err(cause)) => format!("error: {:?}", cause.kind()),
        Err(_) => "error: TimedOut".into(),
    }
}

/// All of them side by side, in the order given.
async fn ask(tries: u64, urls: Vec<String>) {
    let asked = urls.into_iter().map(|url| async move {
        let (protocol, address) = url.split_once("://").unwrap_or(("tcp", &url));
        let attempts = (0..tries).map(|_| attempt(protocol, address, "/seen"));
        let answers: BTreeSet<String> = futures::stream::iter(attempts).buffered(ASKED_AT_ONCE).collect().await;
        format!("{url} {}", answers.into_iter().collect::<Vec<_>>().join(","))
    });
    for line in futures::future::join_all(asked).await {
        println!("{line}");
    }
}

async fn ask_tcp(address: &str, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn ask_udp(address: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(address).await?;
    socket.send(b"hostname").await?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).await?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// One connection, or one UDP socket, for all of its questions.
enum Line {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl Line {
    async fn open(url: &str) -> std::io::Result<Line> {
        let (protocol, address) = url.split_once("://").unwrap_or(("tcp", url));
        if protocol != "udp" {
            return Ok(Line::Tcp(BufReader::new(TcpStream::connect(address).await?)));
        }
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(address).await?;
        Ok(Line::Udp(socket))
    }

    async fn ask(&mut self) -> std::io::Result<String> {
        let mut answer = String::new();
        match self {
            Line::Tcp(stream) => {
                stream.get_mut().write_all(b"hostname\n").await?;
                if stream.read_line(&mut answer).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            Line::Udp(socket) => {
                let mut buffer = [0; 2048];
                socket.send(b"hostname").await?;
                let length = socket.recv(&mut buffer).await?;
                answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        }
        Ok(answer.trim().to_owned())
    }
}

async fn talk(urls: Vec<String>) {
    let (hold, held) = tokio::sync::watch::channel(());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(hold);
    });
    let talks = urls.into_iter().map(|url| {
        let mut held = held.clone();
        async move {
            let (mut names, mut answers, mut longest) = (BTreeSet::new(), 0, Duration::ZERO);
            let talk = async {
                let mut line = Line::open(&url).await?;
                loop {
                    let asked = Instant::now();
                    names.insert(tokio::time::timeout(TALK_TIMEOUT, line.ask()).await??);
                    answers += 1;
                    longest = longest.max(asked.elapsed());
                    tokio::time::sleep(TALK_PAUSE).await;
                }
            };
            let outcome: std::io::Result<()> = tokio::select! {
                _ = held.changed() => Ok(()),
                broken = talk => broken,
            };
            let names = match outcome {
                Ok(()) => names.into_iter().collect::<Vec<_>>().join(","),
                Err(cause) => format!("error:{:?}", cause.kind()),
            };
            format!("{url} {names} {answers} {}", longest.as_millis())
        }
    });
    for line in futures::future::join_all(talks).await {
        println!("{line}");
    }
}

/// The other side of a conversation over TCP.
async fn talked_to(port: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind(("::", port)).await?;
    loop {
        let (stream, _) = accept(&listener).await;
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
                let answer = hostname() + "\n";
                if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
}

/// `HealthCheckResponse { status: SERVING }`, with the trailers that gRPC wants.
fn serving() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let message = Bytes::from_static(&[0, 0, 0, 0, 2, 0x08, 0x01]);
    let frames = futures::stream::iter([Frame::data(message), Frame::trailers(trailers)]).map(Ok);
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

async fn tcp(port: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind(("::", port)).await?;
    loop {
        let (mut stream, _) = accept(&listener).await;
        // Whoever hangs up early misses the name.
        let _ = stream.write_all(hostname().as_bytes()).await;
    }
}

async fn udp(port: u16) -> std::io::Result<()> {
    let socket = UdpSocket::bind(("::", port)).await?;
    let mut buffer = [0; 2048];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        let text = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
        let reply = match text.strip_prefix("echo ") {
            Some(message) => message.to_owned(),
            None => hostname(),
        };
        let _ = socket.send_to(reply.as_bytes(), peer).await;
    }
}

/// Answers questions about these names; all others do not exist.
async fn names(listen: &str, known: &[&str]) -> std::io::Result<()> {
    let socket = UdpSocket::bind(listen).await?;
    let mut buffer = [0; 2048];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        let Some(answer) = name_answer(&buffer[..length], known) else { continue };
        let _ = socket.send_to(&answer, peer).await;
    }
}

/// After a header of 12 bytes: labels, each after its length, and the type.
fn name_answer(packet: &[u8], known: &[&str]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while *packet.get(at)? != 0 {
        let length = usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(packet.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let (name, question) = (labels.join("."), packet.get(12..at + 5)?);
    let address: Option<std::net::Ipv4Addr> = known
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .find(|(known, _)| *known == name)
        .and_then(|(_, address)| address.parse().ok());
    let wants_address = question[question.len() - 4..] == [0, 1, 0, 1];
    let shown = address.filter(|_| wants_address);
    let code = if address.is_some() { 0x80 } else { 0x83 };
    let mut answer = [&packet[..2], &[0x81, code, 0, 1, 0, u8::from(shown.is_some()), 0, 0, 0, 0], question].concat();
    if let Some(address) = shown {
        // The name of the question, an address for a minute.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
