//! The way of every request: limits, who, whether, what, and the answer.
//!
//! Invariant: nothing is read from a body before its sender is known to be allowed; a panic costs one request.

use std::future::Future;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::body::{Body, BoxError};
use super::negotiate;
use super::query::{Query, go_duration};
use super::reply::{Content, Form, Reply, respond};
use super::request_info::RequestInfo;
use crate::admission_chain::Warnings;
use crate::audit::{Record, Seen};
use crate::authz::{Asked, Decision};
use crate::error::{ObjectName, RequestError};
use crate::flow::{FlowNames, Refused};
use crate::kinds::{Kind, Subresource, registry};
use crate::rest::{self, Call};
use crate::server::ApiServer;
use crate::user::User;
use crate::views::Include;
use crate::{discovery, health, metrics, openapi, resource_metrics, tokens};

pub type Incoming = UnsyncBoxBody<Bytes, BoxError>;

/// As the original.
const BODY_MAX: usize = 3 << 20;
const SHORT_REQUEST: Duration = Duration::from_secs(60);
/// Logs that are followed, exec and the like.
pub const LONG_RUNNING_MAX: usize = 20_000;
/// What a client is told to wait while the server ends.
const SHUTDOWN_RETRY_SECONDS: u32 = 5;

/// Who sends.
#[derive(Clone)]
pub enum Caller {
    /// In-process: known without credentials.
    Known(Arc<User>),
    /// Where from, and what the connection's certificate says.
    Connection { peer: IpAddr, certificate: Option<Arc<User>> },
}

fn too_many() -> RequestError {
    RequestError::TooManyRequests {
        message: "Too many requests, please try again later.".into(),
        retry_seconds: 1,
        causes: Vec::new(),
    }
}

/// The same for who has not even been asked what it wants: the original says this in plain text.
fn turned_away(text: &'static str, seconds: u32) -> Reply {
    let mut response = Response::new(Body::full(format!("{text}\n")));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RETRY_AFTER, seconds.into());
    Reply::ok(Content::Response(response))
}

/// What a request leaves behind on its way.
struct Trail {
    id: String,
    record: Option<Record>,
    flow: Option<FlowNames>,
}

/// Answers one request.
pub async fn handle(server: Arc<ApiServer>, request: Request<Incoming>, caller: Caller) -> Response<Body> {
    let started = Instant::now();
    let (mut parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
    let labels = metrics::Labels::of(&info, &query);
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut form = Form { now: server.config.clock.now(), ..Form::default() };
    let long_running = info.is_long_running(&query);
    let mut trail = Trail { id: audit_id(&server, &parts.headers), record: None, flow: None };
    let running = long_running.then(|| server.metrics.long_running(labels));

    let (result, panicked) = match timeout(&query, long_running) {
        Err(error) => (Err(error), false),
        Ok(limit) => {
            let arrived = Arrived { parts, query, info, caller, upgrade };
            let work = AssertUnwindSafe(answer(&server, arrived, body, &mut form, &mut trail, long_running)).catch_unwind();
            let result = match limit {
                None => work.await,
                Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                    Ok(Err(RequestError::Timeout {
                        message: "request did not complete within the allotted timeout".into(),
                        retry_seconds: 0,
                    }))
                }),
            };
            match result {
                Ok(result) => (result, false),
                Err(panic) => (Err(panicked_with(&*panic)), true),
            }
        }
    };
    let mut response = respond(result, form);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&trail.id) {
        headers.insert(AUDIT_ID, id);
    }
    if let Some(flow) = trail.flow {
        headers.insert(FLOW_SCHEMA_UID, flow.schema_uid);
        headers.insert(PRIORITY_LEVEL_UID, flow.level_uid);
    }
    if let Some(record) = trail.record {
        response = record.finish(response, long_running, panicked).await;
    }
    let size = http_body::Body::size_hint(response.body()).exact();
    server.metrics.observe(labels, response.status(), started.elapsed(), size);
    match running {
        Some(running) => response.map(|body| body.holding(running)),
        None => response,
    }
}

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const FLOW_SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// The longest identifier that a client may give its request.
const AUDIT_ID_MAX: usize = 64;

/// The request's name in logs: as the client says, or a new one.
fn audit_id(server: &ApiServer, headers: &HeaderMap) -> String {
    let given = headers.get(AUDIT_ID).and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
    match given {
        Some(id) => id.chars().take(AUDIT_ID_MAX).collect(),
        None => server.new_uid(),
    }
}

/// How long a request may take; None: as long as it likes.
fn timeout(query: &Query, long_running: bool) -> Result<Option<Duration>, RequestError> {
    if long_running {
        return Ok(None);
    }
    let Some(text) = query.get("timeout") else { return Ok(Some(SHORT_REQUEST)) };
    let wanted = go_duration(text)
        .map_err(|cause| RequestError::BadRequest(format!("invalid timeout specified in the request URL - {cause}")))?;
    Ok(Some(if wanted.is_zero() { SHORT_REQUEST } else { wanted.min(SHORT_REQUEST) }))
}

fn panicked_with(panic: &(dyn std::any::Any + Send)) -> RequestError {
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default();
    tracing::error!(panic = text, "a request's handler panicked");
    RequestError::Internal("This request caused apiserver to panic. Look in the logs for details.".into())
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
    trail: &mut Trail,
    long_running: bool,
) -> Result<Reply, RequestError> {
    let Arrived { parts, query, info, caller, upgrade } = arrived;
    let headers = &parts.headers;
    form.gzip = negotiate::accepts_gzip(headers);
    let peer = match &caller {
        Caller::Known(_) => None,
        Caller::Connection { peer, .. } => Some(*peer),
    };
    if peer.is_some() && server.config.cancel.is_cancelled() && !is_probe(&info) {
        let mut reply = turned_away("The apiserver is shutting down, please try again later.", SHUTDOWN_RETRY_SECONDS);
        if let Content::Response(response) = &mut reply.content
            && parts.version < http::Version::HTTP_2
        {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        return Ok(reply);
    }
    let identified = identify(server, headers, caller);
    if let Some(auditor) = &server.auditor {
        let nobody = User::default();
        let user = identified.as_deref().unwrap_or(&nobody);
        let seen = Seen { id: &trail.id, received: form.now, uri: &parts.uri, headers, peer, user, info: &info };
        trail.record = auditor.begin(seen).await;
    }
    let own = identified?;
    let user = crate::authn::impersonate(server, own.clone(), headers)?;
    if let Some(record) = trail.record.as_mut().filter(|_| !Arc::ptr_eq(&own, &user)) {
        record.impersonates(&user);
    }

    // A place covers a long-running request's start: streams are bounded by connections and streams per connection.
    let _place = if long_running && info.verb != "watch" {
        (Some(server.long_running.try_acquire().map_err(|_| too_many())?), None)
    } else {
        match server.flow.enter(&user, &info, &query, &mut trail.flow).await {
            Ok(place) => (None, Some(place)),
            Err(Refused) => return Ok(turned_away("Too many requests, please try again later.", 1)),
        }
    };
    let allowed = authorize(server, &user, &info);
    if let Some(record) = &mut trail.record {
        record.decided(allowed.is_ok(), allowed.as_deref().unwrap_or(""));
    }
    allowed?;

    if !info.is_resource {
        return path(server, &parts.method, &info, &query, headers, form).await;
    }
    if resource_metrics::serves(server, &info.group) {
        form.output = negotiate::output(headers, &query, true)?;
        form.include = Include::of(&query)?;
        return resource_metrics::answer(server, &info, &query, form).await;
    }
    let (kind, subresource) = route(&info)?;
    // What is only created, and never read again, has no metadata to show.
    let shown = !matches!(kind.verbs, crate::kinds::Verbs::Create)
        && !matches!(subresource.map(|own| own.name), Some("binding" | "eviction" | "token"));
    form.output = match subresource.map(|own| own.name) {
        // Their answers are streams in no negotiated form.
        Some("log" | "exec" | "attach" | "portforward" | "proxy") => negotiate::Output::default(),
        _ => negotiate::output(headers, &query, shown)?,
    };
    form.include = Include::of(&query)?;
    let streams = matches!(subresource.map(|own| own.name), Some("exec" | "attach" | "portforward"));
    let body = if streams || matches!(parts.method, Method::GET | Method::HEAD) {
        Bytes::new()
    } else {
        read_body(body).await?
    };
    if let Some(record) = &mut trail.record {
        record.body(&body);
    }
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
    if let Some(record) = &mut trail.record {
        call.warnings.take_notes().iter().for_each(|(key, value)| record.annotate(key, value));
    }
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

fn identify(server: &Arc<ApiServer>, headers: &HeaderMap, caller: Caller) -> Result<Arc<User>, RequestError> {
    match caller {
        Caller::Known(user) => Ok(user),
        Caller::Connection { certificate, .. } => server.authenticator.authenticate(server, headers, certificate),
    }
}

/// What load balancers and monitors ask, to the last.
fn is_probe(info: &RequestInfo) -> bool {
    let root = info.path.trim_start_matches('/').split('/').next().unwrap_or("");
    !info.is_resource && matches!(root, "healthz" | "livez" | "readyz" | "metrics")
}

/// Ok says why it is allowed.
fn authorize(server: &ApiServer, user: &User, info: &RequestInfo) -> Result<String, RequestError> {
    let asked = Asked::of(info);
    let decision = match server.authorizer.allows(user, &asked) {
        Decision::Allowed { reason } => return Ok(reason),
        decision @ Decision::NoOpinion { .. } => decision,
    };
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
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(Reply::ok(Content::Response(response)));
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

