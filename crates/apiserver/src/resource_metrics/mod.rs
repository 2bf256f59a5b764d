//! `metrics.k8s.io`: what nodes and pods use, for `kubectl top` and for autoscaling.
//!
//! Invariant: kubelets are read only while somebody asks; who asks first waits for two looks a second apart, because
//! a rate needs two. An APIService that names a Service for the group takes its place.
//! Deliberately absent: history, and any object in the store.

mod points;
mod scrape;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use scrape::Scraper;

use self::points::{Usage, containers_total};
use crate::admission_chain::Cluster;
use crate::cache::Entry;
use crate::error::{ObjectName, RequestError};
use crate::http::negotiate::{Media, View};
use crate::http::query::Query;
use crate::http::reply::{Content, Form, Reply};
use crate::http::request_info::RequestInfo;
use crate::kinds::{CLUSTER, Column, Kind, NAMESPACED, Verbs};
use crate::rest;
use crate::server::ApiServer;
use crate::views::{self, Include};

pub const GROUP: &str = "metrics.k8s.io";
pub const VERSION: &str = "v1beta1";

const fn quantity(name: &'static str) -> Column {
    Column { name, kind: "string", format: "quantity", priority: 0, about: "" }
}

const COLUMNS: &[Column] = &[
    Column { name: "Name", kind: "string", format: "name", priority: 0, about: "Name of the resource" },
    quantity("cpu"),
    quantity("memory"),
    Column { name: "Window", kind: "string", format: "duration", priority: 0, about: "" },
];

/// What discovery says of them. They are in no registry: nothing of them is stored or written.
pub static KINDS: [&Kind; 2] = [
    &Kind {
        group: GROUP,
        version: VERSION,
        kind: "NodeMetrics",
        plural: "nodes",
        singular: "",
        verbs: Verbs::Read,
        columns: COLUMNS,
        cells,
        ..CLUSTER
    },
    &Kind {
        group: GROUP,
        version: VERSION,
        kind: "PodMetrics",
        plural: "pods",
        singular: "",
        verbs: Verbs::Read,
        columns: COLUMNS,
        cells,
        ..NAMESPACED
    },
];

fn cells(object: &Value, _: Timestamp) -> Vec<Value> {
    let usage = containers_total(object);
    vec![
        object["metadata"]["name"].clone(),
        usage.cpu_text().into(),
        usage.memory_text().into(),
        object["window"].clone(),
    ]
}

/// Whether the request is for here: the group, unless an APIService gives it to somebody else.
pub fn serves(server: &ApiServer, group: &str) -> bool {
    let service = || server.get("apiregistration.k8s.io", "apiservices", "", "v1beta1.metrics.k8s.io");
    group == GROUP && service().is_none_or(|service| service["spec"]["service"].is_null())
}

pub async fn answer(
    server: &Arc<ApiServer>,
    info: &RequestInfo,
    query: &Query,
    form: &mut Form,
) -> Result<Reply, RequestError> {
    let kind = KINDS.iter().copied().find(|kind| kind.plural == info.resource && info.version == VERSION);
    let kind = kind.filter(|_| info.subresource.is_empty()).ok_or(RequestError::NoSuchPath)?;
    if !matches!(info.verb, "get" | "list") {
        return Err(rest::method_not_allowed());
    }
    let source = server.stored_kind("", kind.plural).ok_or(RequestError::NoSuchPath)?;
    let usages = server.usages.get(server).await?;
    let form_object = |entry: &Entry| match kind.namespaced {
        true => usages.pod(entry.namespace(), entry.name()).map(|containers| pod(entry, containers)),
        false => usages.node(entry.name()).map(|usage| node(entry, usage)),
    };
    // JSON is what everybody reads; there is no protobuf form.
    form.output.media = if form.output.media == Media::Protobuf { Media::Json } else { form.output.media };
    let metadata = json!({});
    let (objects, single) = if info.verb == "get" {
        let found = server.cache.get(source, &info.namespace, &info.name).and_then(|entry| form_object(&entry));
        let object = found.ok_or_else(|| not_found(kind, info))?;
        (vec![object], true)
    } else {
        let filter = rest::list::filter_of(source, &info.namespace, query)?;
        let selected = server.cache.select(source, &filter, None, 0);
        // Pods that do not run have no usage and drop out by themselves.
        (selected.entries.iter().filter_map(|entry| form_object(entry)).collect(), false)
    };
    let value = match std::mem::replace(&mut form.output.view, View::Whole) {
        View::Table => views::table(kind, objects, metadata, form.include, true, form.now),
        View::Partial if single => views::partial(objects.into_iter().next().unwrap_or_default()),
        View::Partial => views::partial_list(objects, metadata),
        View::Whole if single => objects.into_iter().next().unwrap_or_default(),
        View::Whole => {
            let items: Vec<Value> = objects.into_iter().map(without_type).collect();
            json!({
                "kind": format!("{}List", kind.kind), "apiVersion": format!("{GROUP}/{VERSION}"),
                "metadata": metadata, "items": items,
            })
        }
    };
    form.include = Include::Object;
    Ok(Reply::ok(Content::Value { kind: views::plain_kind(), definition: "", value }))
}

/// Items of a typed list name no type.
fn without_type(mut object: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.remove("kind");
        map.remove("apiVersion");
    }
    object
}

fn not_found(kind: &Kind, info: &RequestInfo) -> RequestError {
    let name = if kind.namespaced { format!("{}/{}", info.namespace, info.name) } else { info.name.clone() };
    RequestError::NotFound { object: ObjectName::new(GROUP, &kind.kind.to_lowercase(), &name) }
}

fn head(kind: &str, entry: &Entry, at: &Usage) -> Value {
    let object = entry.value();
    let mut metadata = json!({"name": entry.name(), "creationTimestamp": at.taken_text()});
    if !entry.namespace().is_empty() {
        metadata["namespace"] = entry.namespace().into();
    }
    if let Some(labels) = object["metadata"].get("labels") {
        metadata["labels"] = labels.clone();
    }
    json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata,
        "timestamp": at.taken_text(), "window": at.window_text(),
    })
}

fn node(entry: &Entry, usage: &Usage) -> Value {
    let mut object = head("NodeMetrics", entry, usage);
    object["usage"] = usage.value();
    object
}

fn pod(entry: &Entry, containers: &[(String, Usage)]) -> Value {
    let oldest = containers.iter().map(|(_, usage)| usage).min_by_key(|usage| usage.taken_millis);
    let mut object = head("PodMetrics", entry, oldest.unwrap_or(&Usage::default()));
    object["containers"] =
        containers.iter().map(|(name, usage)| json!({"name": name, "usage": usage.value()})).collect();
    object
}
