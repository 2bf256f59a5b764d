//! The way of every request: limits, who, whether, what, and the answer.
//!
//! Invariant: nothing is read from a body before its sender is known to be allowed; a panic costs one request.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::header::ALLOW;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::body::{Body, BoxError};
use super::negotiate;
use super::query::Query;
use super::reply::{Form, Reply, respond};
use super::request_info::RequestInfo;
use crate::admission_chain::Warnings;
use crate::authz::Asked;
use crate::error::{ObjectName, RequestError};
use crate::kinds::{Kind, Subresource, registry};
use crate::rest::{self, Call};
use crate::server::ApiServer;
use crate::user::{SYSTEM_MASTERS, User};
use crate::views::Include;
use crate::{discovery, health, metrics, openapi, resource_metrics, tokens};

pub type Incoming = UnsyncBoxBody<Bytes, BoxError>;

/// As the original.
const BODY_MAX: usize = 3 << 20;
const SHORT_REQUEST: Duration = Duration::from_secs(60);
/// Requests at work at once; the original's figures.
const READS_MAX: usize = 400;
const WRITES_MAX: usize = 200;
const LONG_RUNNING_MAX: usize = 20_000;
/// Requests that may wait for one of these places.
const WAITING_MAX: usize = 32_768;

/// Who sends.
#[derive(Clone)]
pub enum Caller {
    /// In-process: known without credentials.
    Known(Arc<User>),
    /// What the connection's certificate says.
    Connection(Option<Arc<User>>),
}

/// Places for requests, long-running ones apart from short ones.
pub struct Limits {
    reads: Semaphore,
    writes: Semaphore,
    long_running: Semaphore,
    waiting: AtomicUsize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            reads: Semaphore::new(READS_MAX),
            writes: Semaphore::new(WRITES_MAX),
            long_running: Semaphore::new(LONG_RUNNING_MAX),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Limits {
    async fn enter(&self, info: &RequestInfo) -> Option<SemaphorePermit<'_>> {
        let places = if matches!(info.verb, "get" | "list" | "head" | "options") { &self.reads } else { &self.writes };
        if let Ok(permit) = places.try_acquire() {
            return Some(permit);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let permit = tokio::time::timeout(SHORT_REQUEST, places.acquire()).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        permit.ok().and_then(Result::ok)
    }
}

fn too_many() -> RequestError {
    RequestError::TooManyRequests {
        message: "Too many requests, please try again later.".into(),
        retry_seconds: 1,
        causes: Vec::new(),
    }
}

/// Answers one request.
pub async fn handle(server: Arc<ApiServer>, request: Request<Incoming>, caller: Caller) -> Response<Body> {
    let started = Instant::now();
    let (mut parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
    let labels = metrics::Labels::of(&info);
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut form = Form { now: server.config.clock.now(), ..Form::default() };
    let long_running = info.is_long_running(&query);

    let arrived = Arrived { parts, query, info, caller, upgrade };
    let work = AssertUnwindSafe(answer(&server, arrived, body, &mut form, long_running)).catch_unwind();
    let result = if long_running {
        work.await
    } else {
        match tokio::time::timeout(SHORT_REQUEST, work).await {
            Ok(result) => result,
            Err(_) => Ok(Err(RequestError::Timeout {
                message: "request did not complete within the allotted timeout".into(),
                retry_seconds: 0,
            })),
        }
    };
    let result = result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        tracing::error!(panic = text, "a request's handler panicked");
        Err(RequestError::Internal("This request caused apiserver to panic. Look in the logs for details.".into()))
    });
    let response = respond(result, form);
    server.metrics.observe(labels, response.status(), started.elapsed());
    response
}

struct Arrived {
    parts: http::request::Parts,
    query: Query,
    info: RequestInfo,
    caller: Caller,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
}

async fn answer(
    server: &Arc<ApiServer>,
    arrived: Arrived,
    body: Incoming,
    form: &mut Form,
    long_running: bool,
) -> Result<Reply, RequestError> {
    let Arrived { parts, query, info, caller, upgrade } = arrived;
    let headers = &parts.headers;
    form.gzip = negotiate::accepts_gzip(headers);
    let user = identify(server, headers, caller).await?;
    authorize(server, &user, &info)?;

    // A permit of a long-running request covers its start; streams are bounded by connections and streams per
    // connection.
    let _place = if long_running {
        Some(server.limits.long_running.try_acquire().map_err(|_| too_many())?)
    } else if user.in_group(SYSTEM_MASTERS) {
        None // The way in for who must mend an overloaded server.
    } else {
        Some(server.limits.enter(&info).await.ok_or_else(too_many)?)
    };

    if !info.is_resource {
        return path(server, &parts.method, &info, &query, headers, form).await;
    }
    if resource_metrics::serves(server, &info.group) {
        form.output = negotiate::output(headers, &query, true)?;
        form.include = Include::of(&query)?;
        return resource_metrics::answer(server, &info, &query, form).await;
    }
    let (kind, subresource) = route(&info)?;
    let writes_kind = subresource.is_none() || !matches!(kind.verbs, crate::kinds::Verbs::Create);
    form.output = match subresource.map(|own| own.name) {
        // Their answers are streams in no negotiated form.
        Some("log" | "exec" | "attach" | "portforward" | "proxy") => negotiate::Output::default(),
        _ => negotiate::output(headers, &query, writes_kind)?,
    };
    form.include = Include::of(&query)?;
    let streams = matches!(subresource.map(|own| own.name), Some("exec" | "attach" | "portforward"));
    let body = if streams || matches!(parts.method, Method::GET | Method::HEAD) {
        Bytes::new()
    } else {
        read_body(body).await?
    };
    let store_kind = if kind.storage.is_empty() { kind } else { server.cache.shelf(kind).kind };
    let call = Call {
        server: server.clone(),
        info,
        kind,
        store_kind,
        subresource,
        method: parts.method,
        query,
        headers: parts.headers,
        body,
        user,
        warnings: Warnings::default(),
        now: form.now,
        upgrade: parking_lot::Mutex::new(upgrade),
    };
    if !kind.deprecation.is_empty() {
        call.warnings.add(kind.deprecation);
    }
    let result = rest::dispatch(&call).await;
    form.warnings = call.warnings.take();
    result
}

/// The kind and subresource of a path.
fn route(info: &RequestInfo) -> Result<(&'static Kind, Option<&'static Subresource>), RequestError> {
    let kind = registry::by_plural(&info.group, &info.version, &info.resource).ok_or(RequestError::NoSuchPath)?;
    if !kind.namespaced && !info.namespace.is_empty() && kind.plural != "namespaces" {
        return Err(RequestError::NoSuchPath);
    }
    if info.subresource.is_empty() {
        return Ok((kind, None));
    }
    match kind.subresources.iter().find(|own| own.name == info.subresource) {
        Some(subresource) if info.tail.is_empty() || subresource.name == "proxy" => Ok((kind, Some(subresource))),
        _ => Err(RequestError::NoSuchPath),
    }
}

pub async fn read_body(body: Incoming) -> Result<Bytes, RequestError> {
    let mut body = body;
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|cause| RequestError::BadRequest(format!("error reading the request's body: {cause}")))?;
        let Ok(piece) = frame.into_data() else { continue };
        len += piece.len();
        if len > BODY_MAX {
            return Err(RequestError::TooLarge(BODY_MAX));
        }
        pieces.push(piece);
    }
    Ok(match pieces.len() {
        0 | 1 => pieces.pop().unwrap_or_default(),
        _ => pieces.concat().into(),
    })
}

async fn identify(server: &Arc<ApiServer>, headers: &HeaderMap, caller: Caller) -> Result<Arc<User>, RequestError> {
    let user = match caller {
        Caller::Known(user) => user,
        Caller::Connection(certificate) => server.authenticator.authenticate(server, headers, certificate)?,
    };
    crate::authn::impersonate(server, user, headers)
}

fn authorize(server: &ApiServer, user: &User, info: &RequestInfo) -> Result<(), RequestError> {
    let asked = Asked::of(info);
    let decision = server.authorizer.allows(user, &asked);
    if decision.is_allowed() {
        return Ok(());
    }
    let mut why = asked.refusal(user);
    if !decision.reason().is_empty() {
        why = format!("{why}: {}", decision.reason());
    }
    if !info.is_resource {
        return Err(RequestError::Forbidden { object: ObjectName::new("", "", ""), why });
    }
    let object = ObjectName::new(&info.group, &info.resource, &info.name);
    Err(RequestError::Forbidden { object, why })
}

/// What is no resource.
async fn path(
    server: &Arc<ApiServer>,
    method: &Method,
    info: &RequestInfo,
    query: &Query,
    headers: &HeaderMap,
    form: &mut Form,
) -> Result<Reply, RequestError> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return Ok(Reply::ok(super::reply::Content::Response(response)));
    }
    let path = info.path.as_str();
    let trimmed = path.trim_end_matches('/');
    match trimmed {
        "/version" => Ok(discovery::version()),
        "/metrics" => Ok(server.metrics.print(server)),
        "/openapi/v2" => openapi::v2(server, headers),
        "/.well-known/openid-configuration" => Ok(tokens::openid_configuration(server)),
        "/openid/v1/jwks" => Ok(tokens::key_set(server)),
        "" => Ok(discovery::paths()),
        _ if trimmed == "/openapi/v3" || trimmed.starts_with("/openapi/v3/") => {
            openapi::v3(server, &trimmed["/openapi/v3".len()..], headers)
        }
        _ if ["/healthz", "/livez", "/readyz"].iter().any(|root| {
            trimmed.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }) =>
        {
            health::check(server, trimmed, query).await
        }
        _ if trimmed == "/api" || trimmed == "/apis" || trimmed.starts_with("/api/") || trimmed.starts_with("/apis/") => {
            discovery::document(server, trimmed, headers, query, form)
        }
        _ => Err(RequestError::NoSuchPath),
    }
}

/// The whole server as a service for clients in this process.
#[derive(Clone)]
pub struct InProcess {
    server: Arc<ApiServer>,
    user: Arc<User>,
}

impl InProcess {
    pub fn new(server: Arc<ApiServer>, user: User) -> Self {
        InProcess { server, user: Arc::new(user) }
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(ApiServer::boxed);
        let (server, caller) = (self.server.clone(), Caller::Known(self.user.clone()));
        Box::pin(async move { Ok(handle(server, request, caller).await) })
    }
}

