//! `kubectl port-forward`: local ports whose connections end inside a pod.
//!
//! Invariant: one connection to the server carries all forwarded connections, each as a pair of SPDY streams (data and
//! error); SPDY travels inside a WebSocket where the server knows how (since 1.30), else by itself. Deliberately
//! absent: UDP, as in the original.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use client::spdy::{Connection, Stream};
use futures::{SinkExt, StreamExt};
use http::Method;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::rest::Url;
use crate::selection::{one, pod_of};
use crate::session::Session;
use crate::value::{int, list, name, name_of, namespace, text};

pub static PORT_FORWARD: Command = Command {
    name: "port-forward",
    about: "Forward one or more local ports to a pod.",
    usage: "TYPE/NAME [options] [LOCAL_PORT:]REMOTE_PORT [...[LOCAL_PORT_N:]REMOTE_PORT_N]",
    examples: "
# The same ports on both sides
kubectl port-forward pod/web 5000 6000

# A pod of a deployment, and the one behind a service's port
kubectl port-forward deployment/web 8080:80
kubectl port-forward service/web 8443:https

# On all addresses of this machine; on a local port that is free
kubectl port-forward --address 0.0.0.0 pod/web 8888:5000
kubectl port-forward pod/web :5000",
    flags: &[FLAGS],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::list("address", "Addresses to listen on, or localhost: both loopback addresses, where there are both.").default("localhost"),
    Flag::duration("pod-running-timeout", "1m0s", "How long to wait until a pod runs."),
];

const PROTOCOL: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Of one WebSocket message.
const CHUNK: usize = 32 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Port {
    local: u16,
    remote: u16,
}

async fn run(session: &Session, args: &Parsed) -> Result {
    let Some((target, wanted)) = args.args.split_first() else {
        return Err(session.usage_error("TYPE/NAME and list of ports are required for port-forward"));
    };
    if wanted.is_empty() {
        return Err(session.usage_error("TYPE/NAME and list of ports are required for port-forward"));
    }
    let info = one(session, std::slice::from_ref(target), "pods").await?;
    let pod = pod_of(session, &info, args.duration("pod-running-timeout")).await?;
    let wanted: Vec<String> = match info.resource.name.as_str() {
        "services" => {
            refuse_udp(wanted, list(&info.object, "/spec/ports"), "port", |port| service_port(&info.object, port))?;
            wanted.iter().map(|port| through_service(port, &info.object, &pod)).collect::<Result<_>>()?
        }
        _ => {
            let ports: Vec<Value> = list(&pod, "/spec/containers").iter().flat_map(|container| list(container, "/ports").to_vec()).collect();
            refuse_udp(wanted, &ports, "containerPort", |port| pod_port(&pod, port))?;
            wanted.iter().map(|port| in_pod(port, &pod)).collect::<Result<_>>()?
        }
    };
    let phase = text(&pod, "/status/phase");
    if phase != "Running" {
        fail!("unable to forward port because pod is not running. Current status={phase}");
    }
    let ports: Vec<Port> = wanted.iter().map(|port| parse(port)).collect::<Result<_>>()?;
    let addresses = addresses(&args.list("address"))?;
    let connection = connect(session, &pod).await?;
    let mut listeners = Vec::new();
    for port in &ports {
        if let Err(problem) = listen(session, port, &addresses, &mut listeners).await {
            session.complain(format!("Unable to listen on port {}: {problem}", port.local));
        }
    }
    session.flush()?;
    if listeners.is_empty() {
        let shown: Vec<String> = ports.iter().map(|port| format!("{{{} {}}}", port.local, port.remote)).collect();
        fail!("unable to listen on any of the requested ports: [{}]", shown.join(" "));
    }
    serve(session, connection, listeners).await
}

/// `8080:80`, `80`, `:80` into the local and the remote part.
fn split(port: &str) -> (&str, &str) {
    port.split_once(':').unwrap_or((port, port))
}

fn parse(word: &str) -> Result<Port> {
    let parts: Vec<&str> = word.split(':').collect();
    let (local, remote) = match parts.as_slice() {
        [both] => (*both, *both),
        ["", remote] => ("0", *remote),
        [local, remote] => (*local, *remote),
        _ => fail!("invalid port format '{word}'"),
    };
    let number = |side: &str, text: &str| {
        text.parse::<u16>().map_err(|error| {
            let why = if *error.kind() == std::num::IntErrorKind::PosOverflow { "value out of range" } else { "invalid syntax" };
            Error::Message(format!("error parsing {side} port '{text}': strconv.ParseUint: parsing {text:?}: {why}"))
        })
    };
    let port = Port { local: number("local", local)?, remote: number("remote", remote)? };
    if port.remote == 0 {
        fail!("remote port must be > 0");
    }
    Ok(port)
}

/// With a new remote part; a local part that was the same stays the same.
fn joined(local: &str, old_remote: &str, remote: i64) -> String {
    let remote = remote.to_string();
    let local = if local == old_remote { remote.as_str() } else { local };
    if local == remote { remote } else { format!("{local}:{remote}") }
}

fn pod_port(pod: &Value, wanted: &str) -> Result<i64> {
    if let Ok(number) = wanted.parse() {
        return Ok(number);
    }
    let mut ports = list(pod, "/spec/containers").iter().chain(sidecars(pod)).flat_map(|container| list(container, "/ports"));
    match ports.find(|port| name_of(port) == wanted) {
        Some(port) => Ok(int(port, "/containerPort")),
        None => fail!("Pod '{}' does not have a named port '{wanted}'", name(pod)),
    }
}

fn sidecars(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/spec/initContainers").iter().filter(|container| text(container, "/restartPolicy") == "Always")
}

fn in_pod(word: &str, pod: &Value) -> Result<String> {
    let (local, remote) = split(word);
    if remote.parse::<u32>().is_ok() {
        return Ok(word.to_owned());
    }
    Ok(joined(local, remote, pod_port(pod, remote)?))
}

fn service_port(service: &Value, wanted: &str) -> Result<i64> {
    if let Ok(number) = wanted.parse() {
        return Ok(number);
    }
    match list(service, "/spec/ports").iter().find(|port| name_of(port) == wanted) {
        Some(port) => Ok(int(port, "/port")),
        None => fail!("Service '{}' does not have a named port '{wanted}'", name(service)),
    }
}

fn through_service(word: &str, service: &Value, pod: &Value) -> Result<String> {
    let (local, remote) = split(word);
    let number = service_port(service, remote)?;
    // A name has no number of its own to listen on.
    let local = if local == remote { number.to_string() } else { local.to_owned() };
    let target = if text(service, "/spec/clusterIP") == "None" {
        number
    } else {
        let Some(port) = list(service, "/spec/ports").iter().find(|port| int(port, "/port") == number) else {
            fail!("Service {} does not have a service port {number}", name(service));
        };
        match &port["targetPort"] {
            Value::Number(target) if target.as_i64() != Some(0) => target.as_i64().unwrap_or(number),
            Value::String(named) => pod_port(pod, named)?,
            _ => number,
        }
    };
    Ok(if local == target.to_string() { local } else { format!("{local}:{target}") })
}

/// A port that is known, and known for UDP alone, cannot be forwarded.
fn refuse_udp(wanted: &[String], ports: &[Value], field: &str, number: impl Fn(&str) -> Result<i64>) -> Result {
    for word in wanted {
        let (_, remote) = split(word);
        let Ok(number) = number(remote) else { continue };
        let same: Vec<&Value> = ports.iter().filter(|port| port[field].as_i64() == Some(number)).collect();
        if !same.is_empty() && same.iter().all(|port| text(port, "/protocol") == "UDP") {
            fail!("UDP protocol is not supported for {remote}");
        }
    }
    Ok(())
}

/// An address to listen on; of the two that are `localhost` one is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    ip: IpAddr,
    required: bool,
}

fn addresses(words: &[String]) -> Result<Vec<Address>> {
    let mut found: Vec<Address> = Vec::new();
    let mut add = |ip: IpAddr, required: bool| match found.iter_mut().find(|known| known.ip == ip) {
        Some(known) => known.required |= required,
        None => found.push(Address { ip, required }),
    };
    for word in words {
        match word.parse::<IpAddr>() {
            _ if word == "localhost" => {
                add(Ipv4Addr::LOCALHOST.into(), false);
                add(Ipv6Addr::LOCALHOST.into(), false);
            }
            Ok(ip) => add(ip, true),
            Err(_) => fail!("{word} is not a valid IP"),
        }
    }
    if found.is_empty() {
        fail!("you must specify at least 1 address");
    }
    Ok(found)
}

struct Listening {
    listener: TcpListener,
    port: Port,
}

async fn listen(session: &Session, port: &Port, addresses: &[Address], into: &mut Vec<Listening>) -> Result<(), String> {
    let mut port = *port;
    let mut problems = Vec::new();
    let (mut failed, mut optional, mut heard) = (false, false, false);
    for address in addresses {
        optional |= !address.required;
        match TcpListener::bind(SocketAddr::new(address.ip, port.local)).await {
            Ok(listener) => {
                let at = listener.local_addr().map_err(|error| error.to_string())?;
                // Chosen by the kernel once, then the same on every address.
                port.local = at.port();
                session.say(format!("Forwarding from {at} -> {}", port.remote)).map_err(|error| error.message())?;
                heard |= !address.required;
                into.push(Listening { listener, port });
            }
            Err(error) => {
                failed |= address.required;
                let family = if address.ip.is_ipv4() { "tcp4" } else { "tcp6" };
                let at = SocketAddr::new(address.ip, port.local);
                problems.push(format!("unable to create listener: Error listen {family} {at}: bind: {}", crate::kubeconfig::go_io(&error)));
            }
        }
    }
    if failed || optional && !heard {
        return Err(format!("Listeners failed to create with the following errors: [{}]", problems.join(" ")));
    }
    Ok(())
}

async fn connect(session: &Session, pod: &Value) -> Result<Connection> {
    let url = Url::new(format!("/api/v1/namespaces/{}/pods/{}/portforward", namespace(pod), name(pod)));
    let tunnelled = tunnel(session, &url).await;
    let refused = match tunnelled {
        Ok(stream) => return Ok(Connection::connect(stream)),
        Err(error @ Error::Unreachable(_)) => return Err(error),
        Err(error) => error,
    };
    let headers = [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", PROTOCOL)];
    match session.upgrade(Method::POST, &url, &headers).await {
        Ok(upgraded) => Ok(Connection::connect(TokioIo::new(upgraded))),
        Err(error) => {
            // The first refusal tells more when the server knows no SPDY at all.
            let said = if matches!(error, Error::Status(_)) { error } else { refused };
            fail!("error upgrading connection: {}", said.bare())
        }
    }
}

/// SPDY inside a WebSocket, whose messages are cut anywhere: a stream of bytes.
async fn tunnel(session: &Session, url: &Url) -> Result<DuplexStream> {
    let key = tokio_tungstenite::tungstenite::handshake::client::generate_key();
    let headers = [("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", key.as_str()), ("sec-websocket-protocol", TUNNEL)];
    let upgraded = session.upgrade(Method::GET, url, &headers).await?;
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    let (near, far) = tokio::io::duplex(2 * CHUNK);
    let (mut to_server, mut from_server) = socket.split();
    let (mut output, mut input) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = from_server.next().await {
            match message {
                Message::Binary(data) => {
                    if input.write_all(&data).await.is_err() {
                        return;
                    }
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = input.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = output.read(&mut buffer).await {
            if to_server.send(Message::binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                return;
            }
        }
        let _ = to_server.close().await;
    });
    Ok(near)
}

/// Until the user interrupts, the server goes, or the pod refuses a connection: the original gives up then, too.
async fn serve(session: &Session, connection: Connection, listeners: Vec<Listening>) -> Result {
    let mut interrupted = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let gone = connection.gone();
    let next_request = Cell::new(0_u64);
    let connection = Rc::new(connection);
    let (refused, mut refusals) = tokio::sync::mpsc::channel::<()>(1);
    let accepting = futures::future::join_all(listeners.iter().map(|listening| {
        let (connection, refused, next_request) = (&connection, &refused, &next_request);
        async move {
            let mut handled = futures::stream::FuturesUnordered::new();
            loop {
                tokio::select! {
                    accepted = listening.listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let request = next_request.replace(next_request.get() + 1);
                        handled.push(async move {
                            if forward(session, connection, stream, listening.port, request).await.is_err() {
                                let _ = refused.try_send(());
                            }
                        });
                    }
                    Some(()) = handled.next() => {}
                }
            }
        }
    }));
    tokio::select! {
        _ = accepting => Ok(()),
        _ = interrupted.recv() => Ok(()),
        _ = gone.cancelled() => Err(Error::Message("lost connection to pod".to_owned())),
        _ = refusals.recv() => Err(Error::Message("lost connection to pod".to_owned())),
    }
}

/// One accepted connection. An error is the pod's; it has been shown.
async fn forward(session: &Session, connection: &Connection, local: TcpStream, port: Port, request: u64) -> Result<(), ()> {
    let _ = session.say(format!("Handling connection for {}", port.local)).and_then(|()| session.flush());
    let headers = |kind: &str| {
        [("streamtype", kind.to_owned()), ("port", port.remote.to_string()), ("requestid", request.to_string())]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec()
    };
    let (Some(mut error), Some(data)) = (connection.open(headers("error")).await, connection.open(headers("data")).await) else {
        complain(session, &format!("error creating error stream for port {} -> {}: connection closed", port.local, port.remote));
        return Err(());
    };
    error.sink.finish().await;
    let said = async {
        let mut said = Vec::new();
        while let Some(data) = error.data.recv().await {
            said.extend_from_slice(&data);
        }
        String::from_utf8_lossy(&said).into_owned()
    };
    let ((), said) = tokio::join!(copy(local, data), said);
    if said.is_empty() {
        return Ok(());
    }
    complain(session, &format!("an error occurred forwarding {} -> {}: {said}", port.local, port.remote));
    Err(())
}

/// As the original's log has it.
fn complain(session: &Session, problem: &str) {
    let now = jiff::Zoned::now();
    let process = std::process::id();
    session.complain(format!("E{} {process:7} portforward.go:424] \"Unhandled Error\" err={problem:?}", now.strftime("%m%d %H:%M:%S%.6f")));
}

/// Until the remote side has said all; the end of what the local side says is passed on.
async fn copy(local: TcpStream, mut remote: Stream) {
    let _ = local.set_nodelay(true);
    let (mut from_local, mut to_local) = local.into_split();
    let up = upload(&mut from_local, &remote.sink);
    let down = download(&mut remote.data, &mut to_local);
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut down => {}
        () = &mut up => down.await,
    }
    remote.sink.finish().await;
}

async fn upload(from: &mut (impl AsyncRead + Unpin), sink: &client::spdy::Sink) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !sink.write(Bytes::copy_from_slice(&buffer[..count])).await {
            return;
        }
    }
    sink.finish().await;
}

async fn download(from: &mut tokio::sync::mpsc::Receiver<Bytes>, to: &mut (impl AsyncWrite + Unpin)) {
    while let Some(data) = from.recv().await {
        if to.write_all(&data).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_read_as_the_original_does() {
        let check = |word: &str, expected: &str| {
            let shown = parse(word).map_or_else(|error| error.bare(), |port| format!("{} {}", port.local, port.remote));
            assert_eq!(shown, expected);
        };
        check("80", "80 80");
        check("8080:80", "8080 80");
        check(":80", "0 80");
        check("1:2:3", "invalid port format '1:2:3'");
        check("x:80", "error parsing local port 'x': strconv.ParseUint: parsing \"x\": invalid syntax");
        check("80:99999", "error parsing remote port '99999': strconv.ParseUint: parsing \"99999\": value out of range");
        check("80:0", "remote port must be > 0");
    }

    #[test]
    fn services_lead_to_their_pods_ports() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let service = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
        let plain = service(json!({"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 9000}, {"port": 82}]}));
        let check = |service: &Value, word: &str, expected: &str| {
            assert_eq!(through_service(word, service, &pod).unwrap_or_else(|error| error.bare()), expected);
        };
        check(&plain, "80", "80:8080");
        check(&plain, "http", "80:8080");
        check(&plain, "5000:81", "5000:9000");
        check(&plain, "9000:81", "9000");
        check(&plain, ":82", ":82");
        check(&plain, "83", "Service s does not have a service port 83");
        check(&plain, "nope", "Service 's' does not have a named port 'nope'");
        check(&service(json!({"clusterIP": "None"})), "7:8", "7:8");
        assert_eq!(in_pod("web", &pod).ok().as_deref(), Some("8080"));
        assert_eq!(in_pod(":web", &pod).ok().as_deref(), Some(":8080"));
        assert_eq!(in_pod("nope", &pod).unwrap_err().bare(), "Pod 'p' does not have a named port 'nope'");
    }
}
