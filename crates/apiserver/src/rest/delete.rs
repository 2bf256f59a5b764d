//! DELETE: preconditions, grace, finalizers, propagation.
//!
//! Invariant: an object leaves the store only when it has no finalizers and no grace left.

use futures::stream::{FuturesOrdered, StreamExt as _};
use http::StatusCode;
use serde_json::{Value, json};

use super::list::filter;
use super::options::{refuse, unsupported};
use super::write::{metadata, seconds, text};
use super::{Call, Content, Operation, Reply, RequestError};
use crate::cache::{Entry, encode, set_revision};
use crate::error::ObjectName;
use crate::http::negotiate::{Media, body_media};
use crate::kinds::{Kind, Problem, ProblemReason};

/// How often a delete without preconditions is tried anew.
const ATTEMPTS: usize = 100;
/// Deletions of a collection under way at once.
const COLLECTION_PARALLEL: usize = 128;

#[derive(Default, Clone)]
struct DeleteOptions {
    grace: Option<i64>,
    propagation: Option<Propagation>,
    /// `orphanDependents`, the older way to say it.
    orphan: Option<bool>,
    uid: Option<String>,
    revision: Option<String>,
    dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// What became of the object.
enum Outcome {
    Gone(Value),
    /// It waits for its grace or its finalizers.
    Remains(Value),
}

pub async fn delete(call: &Call) -> Result<Reply, RequestError> {
    let options = read_options(call)?;
    let outcome = delete_one(call, call.name(), &options).await?;
    let (code, content) = match outcome {
        Outcome::Gone(object) if call.kind.answers_deletion_with_object => (StatusCode::OK, whole(call, object)),
        Outcome::Gone(object) => return Ok(Reply::status(StatusCode::OK, success(call, &object))),
        Outcome::Remains(object) => {
            let accepted = options.orphan == Some(false) || options.propagation == Some(Propagation::Foreground);
            (if accepted { StatusCode::ACCEPTED } else { StatusCode::OK }, whole(call, object))
        }
    };
    Ok(Reply { code, content })
}

fn whole(call: &Call, object: Value) -> Content {
    let value = super::decode::from_storage(call.kind, object);
    Content::Value { kind: call.kind, definition: call.kind.definition, value }
}

fn success(call: &Call, object: &Value) -> Value {
    let mut details = json!({"name": text(object, "name"), "kind": call.kind.plural, "uid": text(object, "uid")});
    if !call.kind.group.is_empty() {
        details["group"] = call.kind.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

pub async fn delete_collection(call: &Call) -> Result<Reply, RequestError> {
    let options = read_options(call)?;
    let filter = filter(call)?;
    call.server.cache.fresh().await?;
    let selected = call.server.cache.select(call.kind, &filter, None, 0);
    let mut items = Vec::with_capacity(selected.entries.len());
    // Side by side, so that many share one durable commit.
    let mut deleting = FuturesOrdered::new();
    let mut entries = selected.entries.iter();
    loop {
        while deleting.len() < COLLECTION_PARALLEL
            && let Some(entry) = entries.next()
        {
            deleting.push_back(delete_one(call, entry.name(), &options));
        }
        let Some(outcome) = deleting.next().await else { break };
        match outcome {
            Ok(Outcome::Gone(object) | Outcome::Remains(object)) => {
                let mut object = super::decode::from_storage(call.kind, object);
                if let Some(map) = object.as_object_mut() {
                    map.remove("kind");
                    map.remove("apiVersion");
                }
                items.push(object);
            }
            Err(RequestError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let value = json!({
        "kind": format!("{}List", call.kind.kind),
        "apiVersion": crate::cache::api_version(call.kind),
        "metadata": {"resourceVersion": selected.revision.to_string()},
        "items": items,
    });
    // The list's definition is that of its items with another name; leaked once per kind at most.
    Ok(Reply::ok(Content::Value {
        kind: crate::views::plain_kind(),
        definition: list_definition(call.kind),
        value,
    }))
}

fn list_definition(kind: &Kind) -> &'static str {
    api::schema::definition(&format!("{}List", kind.definition)).map_or("", |definition| definition.name)
}

fn read_options(call: &Call) -> Result<DeleteOptions, RequestError> {
    let body = if call.body.is_empty() {
        Value::Null
    } else {
        let definition = api::schema::definition("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
            .ok_or_else(|| RequestError::internal("no schema for DeleteOptions"))?;
        let bad = |cause: String| RequestError::BadRequest(cause);
        match body_media(&call.headers)? {
            Media::Json => api::json::decode(&call.body, definition).map_err(|cause| bad(cause.to_string()))?.value,
            Media::Yaml => {
                let (mut value, _) = api::yaml::to_json(&call.body).map_err(|cause| bad(cause.to_string()))?;
                api::json::normalise(&mut value, definition).map_err(|cause| bad(cause.to_string()))?;
                value
            }
            Media::Protobuf => api::protobuf::decode(&call.body).map_err(|cause| bad(cause.to_string()))?,
        }
    };
    parse_options(call, &body)
}

/// What the body says, and the query where the body is silent.
fn parse_options(call: &Call, body: &Value) -> Result<DeleteOptions, RequestError> {
    let kind = body.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
    if kind != "DeleteOptions" {
        return Err(RequestError::BadRequest(format!(
            "decoded object cannot be converted to DeleteOptions: {kind}"
        )));
    }
    let query = &call.query;
    let field = |name: &str| -> Option<String> {
        match body.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Null) | None => query.get(name).map(str::to_owned),
            Some(other) => Some(other.to_string()),
        }
    };
    let mut problems = Vec::new();
    let propagation = match field("propagationPolicy").as_deref() {
        None | Some("") => None,
        Some("Orphan") => Some(Propagation::Orphan),
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some(other) => {
            problems.push(unsupported(
                "propagationPolicy",
                other,
                "\"Background\", \"Foreground\", \"Orphan\"",
            ));
            None
        }
    };
    let orphan = field("orphanDependents").map(|text| text != "false");
    if propagation.is_some() && orphan.is_some() {
        problems.push(Problem {
            reason: ProblemReason::Invalid,
            field: "propagationPolicy".into(),
            detail: "Invalid value: \"\": orphanDependents and deletionPropagation cannot be both set".into(),
        });
    }
    let dry_runs: Vec<&str> = match body.get("dryRun").and_then(Value::as_array) {
        Some(list) => list.iter().filter_map(Value::as_str).collect(),
        None => query.all("dryRun").collect(),
    };
    for value in dry_runs.iter().filter(|value| **value != "All") {
        problems.push(unsupported("dryRun", value, "\"All\""));
    }
    refuse("DeleteOptions", problems)?;
    let precondition = |name: &str| {
        body.get("preconditions").and_then(|found| found.get(name)).and_then(Value::as_str).map(str::to_owned)
    };
    Ok(DeleteOptions {
        grace: field("gracePeriodSeconds").and_then(|text| text.parse().ok()),
        propagation,
        orphan,
        uid: precondition("uid"),
        revision: precondition("resourceVersion"),
        dry_run: !dry_runs.is_empty(),
    })
}

/// Deletes with options that another object carries (Eviction).
pub async fn delete_by(call: &Call, name: &str, options: Value) -> Result<(), RequestError> {
    let options = parse_options(call, &options)?;
    delete_one(call, name, &options).await.map(|_| ())
}

async fn delete_one(call: &Call, name: &str, options: &DeleteOptions) -> Result<Outcome, RequestError> {
    for _ in 0..ATTEMPTS {
        let cache = &call.server.cache;
        let entry = cache
            .get(call.kind, call.namespace(), name)
            .ok_or_else(|| RequestError::not_found(call.kind, name))?;
        if let Some(outcome) = try_delete(call, name, options, &entry).await? {
            return Ok(outcome);
        }
        if options.revision.is_some() {
            return Err(RequestError::modified(call.kind, name));
        }
    }
    Err(RequestError::modified(call.kind, name))
}

/// None: the object changed meanwhile.
async fn try_delete(
    call: &Call,
    name: &str,
    options: &DeleteOptions,
    entry: &Entry,
) -> Result<Option<Outcome>, RequestError> {
    let kind = call.store_kind;
    let server = &call.server;
    let object = entry.value();
    check_preconditions(call, name, options, &object)?;
    let mut attributes = call.attributes(Operation::Delete, name, Some(&object));
    attributes.dry_run = options.dry_run;
    server.admission.validate(&attributes, &object).await?;

    let now = call.now;
    let Some(changed) = decide(kind, &object, options, now) else {
        return Ok(Some(Outcome::Remains(object))); // Already on its way.
    };
    match changed {
        Some(mut remains) => {
            if options.dry_run {
                return Ok(Some(Outcome::Remains(remains)));
            }
            let bytes = encode(kind, &remains);
            let written = server.cache.put(kind, call.namespace(), name, bytes, entry.revision).await?;
            Ok(written.map(|revision| {
                set_revision(&mut remains, revision);
                Outcome::Remains(remains)
            }))
        }
        None => {
            if options.dry_run {
                return Ok(Some(Outcome::Gone(object)));
            }
            let along = server.along(kind, call.namespace(), name, Some(&object), None);
            let deleted = server.cache.write(kind, call.namespace(), name, None, entry.revision, along).await?;
            Ok(deleted.map(|_| Outcome::Gone(object)))
        }
    }
}

fn check_preconditions(call: &Call, name: &str, options: &DeleteOptions, object: &Value) -> Result<(), RequestError> {
    let conflict = |why: String| RequestError::Conflict { object: ObjectName::of(call.kind, name), why };
    if let Some(uid) = &options.uid
        && uid != text(object, "uid")
    {
        return Err(conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            text(object, "uid")
        )));
    }
    if let Some(revision) = &options.revision
        && revision != text(object, "resourceVersion")
    {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({revision}) does not match the ResourceVersion in record ({}). The object might have been modified",
            text(object, "resourceVersion")
        )));
    }
    Ok(())
}

/// None: nothing to do, it waits already. Some(None): it goes. Some(Some): it stays, like this.
fn decide(kind: &Kind, object: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Option<Option<Value>> {
    let mut new = object.clone();
    if kind.plural == "namespaces" && kind.group.is_empty() {
        return decide_namespace(object, new, options, now);
    }
    let deleting = !text(object, "deletionTimestamp").is_empty();
    let mut graceful = false;
    if let Some(default_grace) = kind.graceful_seconds {
        let asked = options.grace.map(|grace| if grace < 0 { 1 } else { grace });
        if deleting {
            let granted = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
            if let Some(granted) = granted {
                match asked {
                    // Only less can be asked for.
                    Some(asked) if asked < granted => {
                        let end = parse_time(text(object, "deletionTimestamp")).unwrap_or(now);
                        let end = end - jiff::SignedDuration::from_secs(granted - asked);
                        set_deletion(&mut new, end, asked);
                        graceful = asked > 0;
                        if asked > 0 || has_finalizers(&new) {
                            update_finalizers(kind, &mut new, options);
                            return Some(Some(new));
                        }
                    }
                    _ if granted > 0 => return None,
                    _ => {}
                }
            }
        } else {
            // What never ran, or has ended, needs no grace.
            let own = default_grace(object);
            let grace = if own == 0 { 0 } else { asked.unwrap_or(own).max(0) };
            set_deletion(&mut new, now + jiff::SignedDuration::from_secs(grace), grace);
            bump_generation(&mut new);
            graceful = grace > 0;
        }
    }
    update_finalizers(kind, &mut new, options);
    if has_finalizers(&new) {
        if !graceful && text(&new, "deletionTimestamp").is_empty() {
            set_deletion(&mut new, now, 0);
            bump_generation(&mut new);
        }
        return if new == *object { None } else { Some(Some(new)) };
    }
    Some(graceful.then_some(new))
}

/// A namespace turns Terminating first, and goes when its contents are gone.
fn decide_namespace(
    object: &Value,
    mut new: Value,
    options: &DeleteOptions,
    now: jiff::Timestamp,
) -> Option<Option<Value>> {
    let held = object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if text(object, "deletionTimestamp").is_empty() {
        set_deletion_timestamp(&mut new, now);
        new["status"]["phase"] = "Terminating".into();
        apply_finalizers(&mut new, wanted_finalizers(None, options));
        return Some(Some(new));
    }
    if held || has_finalizers(object) { None } else { Some(None) }
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

fn set_deletion(object: &mut Value, end: jiff::Timestamp, grace: i64) {
    set_deletion_timestamp(object, end);
    metadata(object).insert("deletionGracePeriodSeconds".into(), grace.into());
}

fn set_deletion_timestamp(object: &mut Value, end: jiff::Timestamp) {
    metadata(object).insert("deletionTimestamp".into(), seconds(end).into());
}

fn bump_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|generation| *generation > 0) {
        metadata(object).insert("generation".into(), (generation + 1).into());
    }
}

fn parse_time(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok()
}

/// The finalizer by which the garbage collector learns what to do with dependents: None leaves what is there.
fn wanted_finalizers(kind: Option<&Kind>, options: &DeleteOptions) -> Option<Option<&'static str>> {
    match (options.propagation, options.orphan) {
        (Some(Propagation::Orphan), _) | (None, Some(true)) => Some(Some("orphan")),
        (Some(Propagation::Foreground), _) => Some(Some("foregroundDeletion")),
        (Some(Propagation::Background), _) | (None, Some(false)) => Some(None),
        // For old clients' sake these two orphan by default.
        (None, None) => match kind.map(|kind| (kind.group, kind.plural)) {
            Some(("", "replicationcontrollers") | ("batch", "jobs")) => Some(Some("orphan")),
            _ => None,
        },
    }
}

fn update_finalizers(kind: &Kind, object: &mut Value, options: &DeleteOptions) {
    let explicit = options.propagation.is_some() || options.orphan.is_some();
    let present = object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| list.iter().any(|own| own == "orphan" || own == "foregroundDeletion"));
    if explicit || !present {
        apply_finalizers(object, wanted_finalizers(Some(kind), options));
    }
}

fn apply_finalizers(object: &mut Value, wanted: Option<Option<&str>>) {
    let Some(wanted) = wanted else { return };
    let metadata = metadata(object);
    let mut list: Vec<Value> = metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    list.retain(|own| own != "orphan" && own != "foregroundDeletion");
    list.extend(wanted.map(Value::from));
    if list.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), list.into());
    }
}

/// Whether an update takes away the last thing that held an object which is being deleted.
pub fn ends_with_update(kind: &Kind, new: &Value, old: &Value) -> bool {
    if text(new, "deletionTimestamp").is_empty() || has_finalizers(new) {
        return false;
    }
    if kind.plural == "namespaces" && kind.group.is_empty() {
        return new.pointer("/spec/finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty);
    }
    let no_grace = |object: &Value| object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0;
    no_grace(new) && no_grace(old)
}

