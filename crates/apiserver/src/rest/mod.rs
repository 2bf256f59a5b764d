//! What a request does to objects: one `Call`, dispatched by verb and subresource, never by kind.

mod create;
pub mod decode;
mod delete;
pub mod list;
pub mod options;
mod patch;
mod pod;
mod scale;
mod status;
mod update;
pub mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serde_json::Value;

use crate::admission_chain::{Attributes, Operation, Warnings};
use crate::cache::{Entry, Filter, Start, Watch};
use crate::error::{ObjectName, RequestError};
use crate::http::query::Query;
use crate::http::reply::{Content, Reply, served_value};
use crate::http::request_info::RequestInfo;
use crate::kinds::{Kind, Subresource};
use crate::server::ApiServer;
use crate::user::User;
use crate::{proxying, reviews, tokens};

pub use write::created_status;

/// A request for a resource, with its body read.
pub struct Call {
    pub server: Arc<ApiServer>,
    pub info: RequestInfo,
    pub kind: &'static Kind,
    /// The kind whose version is stored; differs where versions share a storage.
    pub store_kind: &'static Kind,
    pub subresource: Option<&'static Subresource>,
    pub method: Method,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub user: Arc<User>,
    pub warnings: Warnings,
    pub now: Timestamp,
    /// The connection, for requests that leave HTTP.
    pub upgrade: parking_lot::Mutex<Option<hyper::upgrade::OnUpgrade>>,
}

impl Call {
    pub fn namespace(&self) -> &str {
        if self.kind.namespaced { &self.info.namespace } else { "" }
    }

    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The same request for another object.
    fn retarget(&self, kind: &'static Kind, subresource: &str, name: &str) -> Call {
        let mut info = self.info.clone();
        info.name = name.into();
        info.subresource = subresource.into();
        Call {
            server: self.server.clone(),
            info,
            kind,
            store_kind: self.server.cache.shelf(kind).kind,
            subresource: kind.subresources.iter().find(|own| own.name == subresource),
            method: self.method.clone(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            user: self.user.clone(),
            warnings: Warnings::default(),
            now: self.now,
            upgrade: parking_lot::Mutex::new(None),
        }
    }

    fn attributes<'a>(&'a self, operation: Operation, name: &'a str, old: Option<&'a Value>) -> Attributes<'a> {
        Attributes {
            operation,
            kind: self.store_kind,
            namespace: self.namespace(),
            name,
            subresource: &self.info.subresource,
            old,
            options: None,
            user: &self.user,
            dry_run: options::is_dry_run(&self.query),
            now: self.now,
            cluster: &*self.server,
            warnings: &self.warnings,
        }
    }

    /// For subresources that speak another kind: `options` is their body.
    pub fn attributes_with<'a>(&'a self, operation: Operation, options: &'a Value) -> Attributes<'a> {
        Attributes { options: Some(options), ..self.attributes(operation, self.name(), None) }
    }

    /// The object that the path names.
    pub fn current(&self) -> Result<Arc<Entry>, RequestError> {
        self.server
            .cache
            .get(self.kind, self.namespace(), self.name())
            .ok_or_else(|| RequestError::not_found(self.kind, self.name()))
    }

    /// A stored object in the version that was asked for.
    pub fn stored_content(&self, entry: &Entry) -> Content {
        match self.kind.conversion {
            None => Content::Object { kind: self.kind, definition: self.kind.definition, json: entry.served() },
            Some(_) => Content::Value {
                kind: self.kind,
                definition: self.kind.definition,
                value: served_value(self.kind, entry, entry.revision),
            },
        }
    }

    fn method_not_allowed(&self) -> RequestError {
        method_not_allowed()
    }
}

pub fn method_not_allowed() -> RequestError {
    RequestError::Other {
        code: StatusCode::METHOD_NOT_ALLOWED.as_u16(),
        status: Box::new(serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "the server does not allow this method on the requested resource",
            "reason": "MethodNotAllowed", "details": {}, "code": 405,
        })),
    }
}

/// Does what the request asks.
pub async fn dispatch(call: &Call) -> Result<Reply, RequestError> {
    let reads = matches!(call.info.verb, "get" | "list" | "watch");
    if !reads && call.server.cache.store().is_shared() {
        // What another server has acknowledged is what this write builds on.
        call.server.cache.fresh().await?;
    }
    if let Some(subresource) = call.subresource {
        return dispatch_subresource(call, subresource).await;
    }
    let verbs = call.kind.verbs.names();
    if !verbs.contains(&call.info.verb) {
        return Err(call.method_not_allowed());
    }
    // Writes to a namespaced kind name the namespace.
    let placed = !call.kind.namespaced || !call.info.namespace.is_empty();
    match call.info.verb {
        "list" => list::list(call).await,
        "watch" => list::watch(call).await,
        "create" if reviews::is_review(call.kind) => reviews::create(call).await,
        "create" if call.kind.plural == "bindings" => pod::bind(call).await,
        _ if !placed => Err(call.method_not_allowed()),
        "create" if call.info.name.is_empty() => create::create(call).await,
        "get" if call.kind.storage.is_empty() => Err(RequestError::not_found(call.kind, call.name())),
        "get" => get(call).await,
        "update" if !call.info.name.is_empty() => update::update(call).await,
        "patch" if !call.info.name.is_empty() => patch::patch(call).await,
        "delete" => delete::delete(call).await,
        "deletecollection" => delete::delete_collection(call).await,
        _ => Err(call.method_not_allowed()),
    }
}

async fn dispatch_subresource(call: &Call, subresource: &'static Subresource) -> Result<Reply, RequestError> {
    let verb = if call.info.verb == "list" { "get" } else { call.info.verb };
    // What is passed on may have any method, also one that is no verb here.
    let passed_on = subresource.name == "proxy" && verb.is_empty();
    if !passed_on && !subresource.verbs.contains(&verb) {
        return Err(call.method_not_allowed());
    }
    match (subresource.name, verb) {
        ("scale", "get") => scale::get(call, subresource).await,
        ("scale", "update") => scale::update(call, subresource).await,
        ("scale", _) => scale::patch(call, subresource).await,
        ("binding", _) => pod::bind(call).await,
        ("eviction", _) => pod::evict(call).await,
        ("token", _) => tokens::create(call).await,
        ("log", _) => proxying::pod_log(call).await,
        ("exec" | "attach" | "portforward", _) => proxying::pod_stream(call).await,
        ("proxy", _) => proxying::proxy(call).await,
        // status, finalize, approval, ephemeralcontainers, resize: parts of the object itself.
        (_, "get") => get(call).await,
        (_, "update") => status::update(call, subresource).await,
        (_, "patch") => patch::patch(call).await,
        _ => Err(call.method_not_allowed()),
    }
}

async fn get(call: &Call) -> Result<Reply, RequestError> {
    list::reach_for_read(call, call.query.get("resourceVersion")).await?;
    let entry = call.current()?;
    Ok(Reply::ok(call.stored_content(&entry)))
}

/// An object as errors name it when it is a subresource: `pods/binding "x"`.
fn subresource_name(call: &Call) -> ObjectName {
    let resource = format!("{}/{}", call.kind.plural, call.info.subresource);
    ObjectName::new(call.kind.group, &resource, call.name())
}
