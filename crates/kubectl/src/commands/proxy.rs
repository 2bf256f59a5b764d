//! `kubectl proxy`: the API on a local port, without TLS and with the user's credentials.
//!
//! Invariant: a request passes only when its host and path are accepted and neither its path nor its method is
//! rejected, unless the filter is turned off. Answers and upgraded connections pass as they come; a request's body is
//! taken whole first, and has a limit. Deliberately absent: caching.

use std::convert::Infallible;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use regex::Regex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::kubeconfig::go_io;
use crate::session::Session;

pub static PROXY: Command = Command {
    name: "proxy",
    about: "Serve the Kubernetes API on a local port, with the credentials of the kubeconfig.",
    usage: "[--port=PORT] [--www=static-dir] [--www-prefix=prefix] [--api-prefix=prefix] [options]",
    examples: "
# On port 8011, with files of ./site below /static/
kubectl proxy --port=8011 --www=./site

# On a port that is free
kubectl proxy --port=0

# Below another path: localhost:8001/k8s-api/v1/pods
kubectl proxy --api-prefix=/k8s-api",
    flags: &[FLAGS],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("accept-hosts", "Hosts to serve: regular expressions.").default(r"^localhost$,^127\.0\.0\.1$,^\[::1\]$"),
    Flag::text("accept-paths", "Paths to serve: regular expressions.").default("^.*"),
    Flag::text("address", "Address to listen on.").default("127.0.0.1"),
    Flag::text("api-prefix", "Path below which the API is served.").default("/"),
    Flag::switch("append-server-path", "Put the path of the kubeconfig's server in front of every path."),
    Flag::switch("disable-filter", "Serve everything. Dangerous: web pages could use the port."),
    Flag::duration("keepalive", "0s", "How often to probe idle connections; 0 means not at all."),
    Flag::int("port", "8001", "Port to listen on; 0 means one that is free.").short('p'),
    Flag::text("reject-methods", "Methods to refuse: regular expressions.").default("^$"),
    Flag::text("reject-paths", "Paths to refuse, even accepted ones: regular expressions.").default("^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach"),
    Flag::text("unix-socket", "Socket to listen on.").short('u'),
    Flag::text("www", "Directory of files to serve.").short('w'),
    Flag::text("www-prefix", "Path below which the files are served.").short('P').default("/static/"),
];

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
/// Far more than an API server takes for an object.
const BODY_MAX: usize = 64 << 20;
/// Of a connection to the server, not of one request over a proxied connection.
const HOP_BY_HOP: [&str; 8] = ["connection", "proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"];

async fn run(session: &Session, args: &Parsed) -> Result {
    let socket = args.text("unix-socket");
    if args.int("port") != 8001 && !socket.is_empty() {
        fail!("cannot set --unix-socket and --port at the same time");
    }
    let filter = if args.is_set("disable-filter") {
        if socket.is_empty() {
            session.complain("W: Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious");
        }
        None
    } else {
        Some(Filter::of(args)?)
    };
    let prefix = with_slashes(args.text("api-prefix"));
    let files = (!args.text("www").is_empty()).then(|| (with_slashes(args.text("www-prefix")), PathBuf::from(args.text("www"))));
    let proxy = Arc::new(Proxy { client: session.client().await?.clone(), filter, prefix, files });
    if socket.is_empty() {
        if !(0..=65535).contains(&args.int("port")) {
            fail!("listen tcp: address {}: invalid port", args.int("port"));
        }
        let address = format!("{}:{}", args.text("address"), args.int("port"));
        let listener = TcpListener::bind(&address).await.map_err(|error| Error::Message(format!("listen tcp {address}: bind: {}", go_io(&error))))?;
        started(session, &listener.local_addr()?.to_string())?;
        serve(session, proxy, async || {
            let (stream, _) = listener.accept().await?;
            let _ = stream.set_nodelay(true);
            Ok(stream)
        })
        .await
    } else {
        if std::fs::symlink_metadata(socket).is_ok_and(|about| about.file_type().is_socket()) {
            // Left behind by a proxy that was killed.
            let _ = std::fs::remove_file(socket);
        }
        let listener = UnixListener::bind(socket).map_err(|error| Error::Message(format!("listen unix {socket}: bind: {}", go_io(&error))))?;
        started(session, socket)?;
        let served = serve(session, proxy, async || Ok(listener.accept().await?.0)).await;
        let _ = std::fs::remove_file(socket);
        served
    }
}

fn started(session: &Session, at: &str) -> Result {
    session.say(format!("Starting to serve on {at}"))?;
    session.flush()
}

/// `/prefix/`
fn with_slashes(path: &str) -> String {
    let inner = path.trim_matches('/');
    if inner.is_empty() { "/".to_owned() } else { format!("/{inner}/") }
}

async fn serve<S, A>(_session: &Session, proxy: Arc<Proxy>, mut accept: A) -> Result
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: AsyncFnMut() -> std::io::Result<S>,
{
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let mut interrupted = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let stream = tokio::select! {
            stream = accept() => stream?,
            _ = interrupted.recv() => return Err(Error::Exit(130)),
            _ = terminated.recv() => return Err(Error::Exit(143)),
        };
        let proxy = proxy.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = hyper::service::service_fn(move |request| {
                let proxy = proxy.clone();
                async move { Ok::<_, Infallible>(proxy.answer(request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

struct Proxy {
    client: kube::Client,
    filter: Option<Filter>,
    prefix: String,
    files: Option<(String, PathBuf)>,
}

type Answer = Response<Body>;

fn plain(status: StatusCode, message: &str) -> Answer {
    let body = Body::from(format!("{message}\n").into_bytes());
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

impl Proxy {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if self.filter.as_ref().is_some_and(|filter| !filter.accepts(request.method().as_str(), &path, without_port(host))) {
            return plain(StatusCode::FORBIDDEN, "Forbidden");
        }
        if let Some((prefix, directory)) = &self.files
            && let Some(rest) = path.strip_prefix(prefix.as_str())
        {
            return file(directory, rest, &path);
        }
        let whole = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Some(rest) = whole.strip_prefix(self.prefix.as_str()) else { return plain(StatusCode::NOT_FOUND, "404 page not found") };
        let target = format!("/{rest}");
        self.forward(request, &target).await.unwrap_or_else(|problem| plain(StatusCode::BAD_GATEWAY, &problem))
    }

    async fn forward(&self, mut request: Request<Incoming>, target: &str) -> Result<Answer, String> {
        let upgrade = request.headers().get(header::UPGRADE).cloned();
        let near = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, BODY_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large")),
        };
        let mut outgoing = Request::new(Body::from(body.to_vec()));
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = target.parse().map_err(|error| format!("{error}"))?;
        *outgoing.headers_mut() = passed_on(&parts.headers);
        outgoing.headers_mut().remove(header::HOST);
        if let Some(upgrade) = upgrade {
            outgoing.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
            outgoing.headers_mut().insert(header::UPGRADE, upgrade);
        }
        let mut answer = self.client.send(outgoing).await.map_err(|error| crate::rest::chain(&error))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(near) = near
        {
            let far = hyper::upgrade::on(&mut answer);
            tokio::spawn(async move {
                let (Ok(near), Ok(far)) = tokio::join!(near, far) else { return };
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
            });
            let mut switched = Response::new(Body::empty());
            *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *switched.headers_mut() = answer.headers().clone();
            return Ok(switched);
        }
        let (mut parts, body) = answer.into_parts();
        parts.headers = passed_on(&parts.headers);
        Ok(Response::from_parts(parts, body))
    }
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        passed.remove(name);
    }
    for name in HOP_BY_HOP {
        passed.remove(name);
    }
    passed
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

struct Filter {
    accept_hosts: Vec<Regex>,
    accept_paths: Vec<Regex>,
    reject_methods: Vec<Regex>,
    reject_paths: Vec<Regex>,
}

impl Filter {
    fn of(args: &Parsed) -> Result<Self> {
        let all = |flag: &str| -> Result<Vec<Regex>> {
            let one = |text: &str| Regex::new(text).map_err(|error| Error::Message(format!("error parsing regexp: {error}")));
            args.text(flag).split(',').map(one).collect()
        };
        Ok(Filter {
            accept_hosts: all("accept-hosts")?,
            accept_paths: all("accept-paths")?,
            reject_methods: all("reject-methods")?,
            reject_paths: all("reject-paths")?,
        })
    }

    fn accepts(&self, method: &str, path: &str, host: &str) -> bool {
        let any = |list: &[Regex], text: &str| list.iter().any(|one| one.is_match(text));
        !any(&self.reject_paths, path) && !any(&self.reject_methods, method) && any(&self.accept_paths, path) && any(&self.accept_hosts, host)
    }
}

/// A file below `directory`; for a directory its index or its names.
fn file(directory: &Path, rest: &str, path: &str) -> Answer {
    let decoded = api::percent::decode(rest);
    if Path::new(&decoded).components().any(|part| matches!(part, std::path::Component::ParentDir | std::path::Component::RootDir)) {
        return plain(StatusCode::BAD_REQUEST, "invalid URL path");
    }
    let mut target = directory.join(&decoded);
    if target.is_dir() {
        if !path.ends_with('/') {
            let mut moved = plain(StatusCode::MOVED_PERMANENTLY, "");
            if let Ok(location) = http::HeaderValue::try_from(format!("{path}/")) {
                moved.headers_mut().insert(header::LOCATION, location);
            }
            return moved;
        }
        let index = target.join("index.html");
        if !index.is_file() {
            return names(&target);
        }
        target = index;
    }
    match std::fs::read(&target) {
        Ok(content) => typed(content, content_type(&target)),
        Err(_) => plain(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn typed(content: Vec<u8>, kind: &'static str) -> Answer {
    let mut answer = Response::new(Body::from(content));
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}

fn names(directory: &Path) -> Answer {
    let Ok(entries) = std::fs::read_dir(directory) else { return plain(StatusCode::NOT_FOUND, "404 page not found") };
    let mut names: Vec<String> = entries
        .filter_map(std::result::Result::ok)
        .map(|entry| format!("{}{}", entry.file_name().to_string_lossy(), if entry.path().is_dir() { "/" } else { "" }))
        .collect();
    names.sort();
    let escaped = |name: &str| name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    let lines: String = names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>\n", escaped(name))).collect();
    typed(format!("<!doctype html>\n<pre>\n{lines}</pre>\n").into_bytes(), "text/html; charset=utf-8")
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|ending| ending.to_str()).unwrap_or_default() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "wasm" => "application/wasm",
        "xml" => "text/xml; charset=utf-8",
        "txt" | "md" | "yaml" | "yml" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_keeps_exec_and_strangers_out() {
        let filter = Filter::of(&crate::flags::parse(FLAGS, &[], true).unwrap()).unwrap();
        let check = |method: &str, path: &str, host: &str, expected: bool| assert_eq!(filter.accepts(method, path, without_port(host)), expected, "{path} {host}");
        check("GET", "/api/v1/pods", "localhost:8001", true);
        check("POST", "/api/v1/pods", "127.0.0.1", true);
        check("GET", "/api/v1/pods", "[::1]:8001", true);
        check("GET", "/api/v1/pods", "evil.example:8001", false);
        check("POST", "/api/v1/namespaces/a/pods/b/exec", "localhost", false);
        check("GET", "/api/v1/namespaces/a/pods/b/attach", "localhost", false);
    }

    #[test]
    fn files_stay_below_their_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.html"), "hello").unwrap();
        let check = |rest: &str, status: u16| assert_eq!(file(directory.path(), rest, &format!("/static/{rest}")).status().as_u16(), status, "{rest}");
        check("a.html", 200);
        check("", 200);
        check("none", 404);
        check("../a.html", 400);
        check("%2e%2e/a.html", 400);
    }
}
