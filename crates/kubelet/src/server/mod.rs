//! The agent's own API over HTTPS: logs, exec, attach, port forwarding, stats, metrics, health.
//!
//! Invariant: nobody is served before it is known who asks and whether they may; the API server's client
//! certificate (`system:masters`) is the usual one, others are looked up by TokenReview and SubjectAccessReview.
//! Deliberately absent: the read-only port, debugging handlers (pprof), checkpoints.

mod access;
mod cadvisor;
mod logs;
mod port_channels;
mod port_forward;
mod query;
mod remote;
mod stats;
mod watcher;
mod websocket;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use client::spdy;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use runtime::cri::StreamOptions;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use self::access::{Access, Identity};
use self::query::Query;
use self::remote::{Version, Wishes};
use self::watcher::Watcher;
use crate::agent::Agent;
use crate::certificates::Serving;
use crate::dispatch::Dispatch;
use crate::pod::spec;
use crate::pod::worker::View;
use crate::volume::local_path;

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;

/// Where the agent listens and how it knows its callers.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    /// What the server shows; it may be replaced at any time.
    pub serving: Arc<Serving>,
    /// PEM: callers' certificates are checked against it.
    pub client_ca_pem: Vec<u8>,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Answer = Response<Body>;

pub struct Server {
    agent: Arc<Agent>,
    dispatch: Arc<Dispatch>,
    access: Access,
    watcher: Option<Arc<Watcher>>,
    stats: stats::Stats,
}

impl Server {
    pub fn new(agent: Arc<Agent>, dispatch: Arc<Dispatch>) -> Server {
        let watcher = Watcher::start().inspect_err(|error| tracing::warn!(%error, "inotify: following logs will not work")).ok();
        Server {
            access: Access::new(agent.rest.clone(), agent.node_name.clone()),
            stats: stats::Stats::new(agent.clone()),
            watcher: watcher.map(Arc::new),
            agent,
            dispatch,
        }
    }

    /// Serves until the agent ends.
    pub async fn serve(self: Arc<Self>, config: &ServerConfig) -> std::io::Result<()> {
        let listener = TcpListener::bind(config.listen).await?;
        let acceptor = TlsAcceptor::from(access::tls_config(config)?);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
            let (stream, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (server, acceptor, cancel) = (self.clone(), acceptor.clone(), self.agent.cancel.clone());
            tokio::spawn(async move {
                let _place = place;
                let _ = stream.set_nodelay(true);
                let Ok(tls) = acceptor.accept(stream).await else { return };
                let peer = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(|leaf| access::identity_of(leaf));
                let peer = Arc::new(peer);
                let service = hyper::service::service_fn(move |request| {
                    let (server, peer) = (server.clone(), peer.clone());
                    async move { Ok::<_, Infallible>(server.handle(request, (*peer).clone()).await) }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                tokio::select! {
                    _ = cancel.cancelled() => {}
                    _ = builder.serve_connection_with_upgrades(TokioIo::new(tls), service) => {}
                }
            });
        }
    }

    async fn handle(&self, request: Request<Incoming>, peer: Option<Identity>) -> Answer {
        let path = request.uri().path().to_owned();
        let identity = match peer {
            Some(identity) => identity,
            None => match self.access.by_token(request.headers()).await {
                Some(identity) => identity,
                None => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            },
        };
        if let Err(refusal) = self.access.allow(&identity, request.method(), &path).await {
            return text(StatusCode::FORBIDDEN, refusal);
        }
        let parts: Vec<String> = path.trim_matches('/').split('/').map(api::percent::decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        match (request.method().clone(), parts.as_slice()) {
            (Method::GET, ["healthz", ..]) => text(StatusCode::OK, "ok"),
            (Method::GET, ["pods"]) => self.pods(false),
            (Method::GET, ["runningpods"]) => self.pods(true),
            (Method::GET, ["containerLogs", namespace, pod, container]) => {
                let upgrade = is_websocket(&request).then_some(request);
                self.container_logs(upgrade, [namespace, pod, container], &query).await
            }
            (Method::GET, ["stats", "summary"]) => json(&self.stats.summary(&self.dispatch.views()).await),
            (Method::GET, ["metrics", "resource"]) => metrics(self.stats.resource_metrics(&self.dispatch.views()).await),
            (Method::GET, ["metrics"]) => metrics(self.stats.own_metrics(&self.dispatch.views())),
            (Method::GET, ["metrics", "cadvisor"]) => metrics(self.stats.cadvisor_metrics(&self.dispatch.views()).await),
            // Scrapers ask for it; there is nothing of that kind to tell.
            (Method::GET, ["metrics", "probes"]) => metrics(String::new()),
            (Method::GET | Method::POST, ["exec" | "attach", namespace, pod, rest @ ..]) if matches!(rest.len(), 1 | 2) => {
                let (namespace, pod, container) = ((*namespace).to_owned(), (*pod).to_owned(), rest[rest.len() - 1].to_owned());
                let is_exec = parts[0] == "exec";
                self.remote_command(request, &namespace, &pod, &container, query, is_exec).await
            }
            (Method::POST, ["run", namespace, pod, rest @ ..]) if matches!(rest.len(), 1 | 2) => {
                self.run(namespace, pod, rest[rest.len() - 1], &query).await
            }
            (Method::GET | Method::POST, ["portForward", namespace, pod, ..]) => {
                let (namespace, pod) = ((*namespace).to_owned(), (*pod).to_owned());
                self.port_forward(request, &namespace, &pod, &query).await
            }
            // Asked by the built-in provisioner, by way of the API server.
            (Method::DELETE, ["localVolumes", name]) => self.remove_local_volume(name).await,
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    async fn remove_local_volume(&self, name: &str) -> Answer {
        let (data_dir, name) = (self.agent.data_dir.clone(), name.to_owned());
        match tokio::task::spawn_blocking(move || local_path::remove(&data_dir, &name)).await {
            Ok(Ok(true)) => text(StatusCode::OK, "removed"),
            Ok(Ok(false)) => text(StatusCode::NOT_FOUND, "no such volume on this node"),
            Ok(Err(cause)) => text(StatusCode::INTERNAL_SERVER_ERROR, cause.to_string()),
            Err(cause) => text(StatusCode::INTERNAL_SERVER_ERROR, cause.to_string()),
        }
    }

    fn pods(&self, only_running: bool) -> Answer {
        let items: Vec<serde_json::Value> = self
            .dispatch
            .views()
            .into_iter()
            .filter(|view| !only_running || !view.running.is_empty())
            .map(|view| {
                let mut pod = (*view.pod).clone();
                pod.status = Some((*view.status).clone());
                serde_json::to_value(pod).unwrap_or_default()
            })
            .collect();
        json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    /// `upgrade`: the request, when it wants a WebSocket instead of a body.
    async fn container_logs(&self, upgrade: Option<Request<Incoming>>, of: [&str; 3], query: &Query) -> Answer {
        let [namespace, pod_name, container] = of;
        let Some(view) = self.dispatch.find(namespace, pod_name) else {
            return text(StatusCode::NOT_FOUND, "pod does not exist");
        };
        if spec::container(&view.pod, container).is_none() {
            return text(StatusCode::NOT_FOUND, format!("Container {container:?} not found in Pod {pod_name:?}"));
        }
        let options = match logs::LogOptions::parse(query.pairs(), self.agent.clock.now()) {
            Ok(options) => options,
            Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
        };
        let container_id = match logs::container_of(pod_name, &view.status, container, options.previous) {
            Ok(id) => id,
            Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
        };
        let log_path = match self.agent.runtime.container_status(&container_id).await {
            Ok(status) => status.log_path,
            Err(problem) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("unable to retrieve container logs for coracle://{container_id}: {problem}")),
        };
        let reader = logs::LogReader {
            runtime: self.agent.runtime.clone(),
            watcher: self.watcher.clone(),
            container_id,
            path: self.agent.pod_log_directory(&view.pod).join(log_path),
            options,
        };
        let (sender, chunks) = mpsc::channel(logs::CHUNKS_LIMIT);
        let cancel = self.agent.cancel.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = cancel.cancelled() => {}
                done = reader.run(sender) => if let Err(error) = done {
                    tracing::debug!(%error, "reading a log");
                },
            }
        });
        if let Some(request) = upgrade {
            let Some((protocol, answer, upgraded)) = upgrade_websocket(request, &websocket::READ_PROTOCOLS) else {
                return text(StatusCode::BAD_REQUEST, "unable to upgrade: no supported subprotocol");
            };
            tokio::spawn(async move {
                let Ok(transport) = upgraded.await else { return };
                websocket::send(TokioIo::new(transport), &protocol, chunks).await;
            });
            return answer;
        }
        let stream = futures::stream::unfold(chunks, |mut chunks| async move { Some((chunks.recv().await?, chunks)) });
        let body = StreamBody::new(stream.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync();
        let mut answer = Response::new(body);
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        answer
    }

    /// A container that runs, by the names in the path.
    fn running(&self, namespace: &str, pod: &str, container: &str) -> Result<(View, String), Box<Answer>> {
        let Some(view) = self.dispatch.find(namespace, pod) else {
            return Err(Box::new(text(StatusCode::NOT_FOUND, "pod does not exist")));
        };
        match view.running.get(container).cloned() {
            Some(id) => Ok((view, id)),
            None => Err(Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")")))),
        }
    }

    async fn remote_command(
        &self,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: Query,
        is_exec: bool,
    ) -> Answer {
        let (_, id) = match self.running(namespace, pod, container) {
            Ok(found) => found,
            Err(answer) => return *answer,
        };
        let wishes = Wishes {
            stdin: query.is_set("input") || query.is_set("stdin"),
            stdout: query.is_set("output") || query.is_set("stdout"),
            stderr: query.is_set("error") || query.is_set("stderr"),
            tty: query.is_set("tty"),
        };
        if !wishes.stdin && !wishes.stdout && !wishes.stderr {
            return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
        }
        let command = query.all("command");
        let runtime = self.agent.runtime.clone();
        let options =
            StreamOptions { stdin: wishes.stdin, stdout: wishes.stdout, stderr: wishes.stderr && !wishes.tty, tty: wishes.tty };
        let what = if is_exec { "executing command in container" } else { "attaching to container" };
        let open = async move {
            if is_exec { runtime.exec(&id, command, options).await } else { runtime.attach(&id, options).await }
        };

        if is_websocket(&request) {
            let Some((protocol, answer, upgraded)) = upgrade_websocket(request, &websocket::REMOTE_PROTOCOLS) else {
                return text(StatusCode::BAD_REQUEST, "unable to upgrade: no supported subprotocol");
            };
            tokio::spawn(async move {
                let Ok(transport) = upgraded.await else { return };
                let channels = websocket::accept(TokioIo::new(transport), &protocol, wishes).await;
                let (streams, finish) = channels.split();
                remote::join(open.await, streams, what, is_exec).await;
                finish.await;
            });
            return answer;
        }
        const PROTOCOLS: [&str; 5] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
        let Some((protocol, answer, upgraded)) = upgrade_spdy(request, &PROTOCOLS) else {
            return text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request");
        };
        tokio::spawn(async move {
            let Ok(transport) = upgraded.await else { return };
            let mut connection = spdy::Connection::accept(TokioIo::new(transport));
            let version = if protocol.starts_with("v5") || protocol.starts_with("v4") { Version::Status } else { Version::Text };
            let with_resize = !matches!(protocol.as_str(), "channel.k8s.io" | "v2.channel.k8s.io" | "");
            let gone = connection.gone();
            match remote::spdy_streams(&mut connection, wishes, version, with_resize, gone).await {
                Ok(streams) => remote::join(open.await, streams, what, is_exec).await,
                Err(problem) => tracing::debug!(problem, "a remote command's streams"),
            }
            connection.close().await;
        });
        answer
    }

    async fn run(&self, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
        let (_, id) = match self.running(namespace, pod, container) {
            Ok(found) => found,
            Err(answer) => return *answer,
        };
        let command = query.first("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
        match self.agent.runtime.exec_sync(&id, command, 0).await {
            Ok(done) => {
                let mut output = done.stdout;
                output.extend(done.stderr);
                text(StatusCode::OK, output)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    async fn port_forward(&self, request: Request<Incoming>, namespace: &str, pod: &str, query: &Query) -> Answer {
        let Some(view) = self.dispatch.find(namespace, pod) else {
            return text(StatusCode::NOT_FOUND, "pod does not exist");
        };
        let Some(sandbox_id) = view.sandbox_id.filter(|_| !view.over) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("unable to do port forwarding: pod {pod:?} has no running sandbox"));
        };
        let (runtime, name) = (self.agent.runtime.clone(), spec::full_name(&view.pod));
        if is_websocket(&request) {
            let [binary, text_only] = port_channels::PROTOCOLS;
            let supported = [port_forward::TUNNEL_PROTOCOL, binary, text_only];
            let Some((protocol, answer, upgraded)) = upgrade_websocket(request, &supported) else {
                return text(StatusCode::BAD_REQUEST, format!("unable to upgrade: over WebSocket one of {} is spoken", supported.join(", ")));
            };
            let ports = match protocol == port_forward::TUNNEL_PROTOCOL {
                true => Vec::new(),
                false => match port_channels::ports(&query.all("port")) {
                    Ok(ports) => ports,
                    Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
                },
            };
            tokio::spawn(async move {
                let Ok(transport) = upgraded.await else { return };
                if protocol != port_forward::TUNNEL_PROTOCOL {
                    port_channels::serve(TokioIo::new(transport), &protocol, ports, runtime, sandbox_id, name).await;
                    return;
                }
                let stream = websocket::ByteStream::accept(TokioIo::new(transport)).await;
                port_forward::serve(spdy::Connection::accept(stream), runtime, sandbox_id, name).await;
            });
            return answer;
        }
        let Some((_, answer, upgraded)) = upgrade_spdy(request, &[port_forward::PROTOCOL]) else {
            return text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request");
        };
        tokio::spawn(async move {
            let Ok(transport) = upgraded.await else { return };
            port_forward::serve(spdy::Connection::accept(TokioIo::new(transport)), runtime, sandbox_id, name).await;
        });
        answer
    }
}

fn header_text<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

fn is_websocket(request: &Request<Incoming>) -> bool {
    header_text(request, "upgrade").is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

/// The chosen subprotocol, the 101 answer, and the connection to come.
fn upgrade_websocket(mut request: Request<Incoming>, supported: &[&str]) -> Option<(String, Answer, hyper::upgrade::OnUpgrade)> {
    let key = request.headers().get("sec-websocket-key")?.clone();
    let offered: Vec<String> = request
        .headers()
        .get_all("sec-websocket-protocol")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .collect();
    // Without an offer, the unnamed protocol, where there is one.
    let chosen = if offered.is_empty() {
        supported.iter().find(|protocol| protocol.is_empty()).map(|protocol| (*protocol).to_owned())?
    } else {
        supported.iter().find(|protocol| offered.iter().any(|offer| offer == *protocol)).map(|protocol| (*protocol).to_owned())?
    };
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    let mut answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-accept", accept);
    if !chosen.is_empty() {
        answer = answer.header("sec-websocket-protocol", &chosen);
    }
    Some((chosen, answer.body(empty()).ok()?, upgraded))
}

fn upgrade_spdy(mut request: Request<Incoming>, supported: &[&str]) -> Option<(String, Answer, hyper::upgrade::OnUpgrade)> {
    let asked = header_text(&request, "upgrade").is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("SPDY/3.1"));
    if !asked {
        return None;
    }
    let offered: Vec<String> = request
        .headers()
        .get_all("x-stream-protocol-version")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .collect();
    // The oldest clients name none.
    let chosen = supported.iter().find(|protocol| offered.iter().any(|offer| offer == *protocol)).map(|protocol| (*protocol).to_owned());
    let chosen = if offered.is_empty() { supported.last().map(|protocol| (*protocol).to_owned()) } else { chosen }?;
    let upgraded = hyper::upgrade::on(&mut request);
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header("x-stream-protocol-version", &chosen)
        .body(empty())
        .ok()?;
    Some((chosen, answer, upgraded))
}

fn empty() -> Body {
    full(Bytes::new())
}

fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into()).map_err(|never| match never {}).boxed_unsync()
}

fn text(status: StatusCode, data: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", data)
}

fn json(value: &serde_json::Value) -> Answer {
    typed(StatusCode::OK, "application/json", value.to_string())
}

fn metrics(text: String) -> Answer {
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

fn typed(status: StatusCode, content_type: &'static str, data: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(full(data));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}
