//! Creates and changes of stored objects: admission, defaults, rules, bookkeeping, and the write itself.
//!
//! Invariant: an object is written only over the revision that it was made from. Who names a revision gets a conflict
//! when it has passed; who names none is applied anew to what is there now.

use std::sync::Arc;

use api::apply::{self, Manager};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use store::Revision;

use super::decode::{from_storage, to_storage};
use super::options::{field_manager, is_dry_run};
use super::{Call, Content, Operation, Reply, RequestError};
use crate::cache::{Entry, encode, set_revision, spliced};
use crate::error::ObjectName;
use crate::kinds::{Kind, Problem, ProblemReason, Problems, validate_metadata, validate_metadata_update};

/// How often a change that names no revision is made anew before it gives up.
const ATTEMPTS: usize = 100;
/// How often a generated name is tried.
const GENERATE_ATTEMPTS: usize = 8;
/// Bytes of a generateName prefix that survive.
const GENERATE_PREFIX_MAX: usize = 58;

/// Kinds whose updates must name a resourceVersion.
const CONDITIONAL_ONLY: &[(&str, &str)] = &[
    ("coordination.k8s.io", "leases"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "volumeattachments"),
    ("node.k8s.io", "runtimeclasses"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
];

/// What a write left behind.
pub struct Written {
    /// In storage version, without a resourceVersion of its own.
    pub bytes: Bytes,
    pub revision: Revision,
    pub created: bool,
}

impl Written {
    fn of(entry: &Entry) -> Written {
        Written { bytes: entry.stored().clone(), revision: entry.revision, created: false }
    }

    pub fn value(&self) -> Value {
        let mut value = serde_json::from_slice(&self.bytes).expect("was just encoded");
        if self.revision != 0 {
            set_revision(&mut value, self.revision);
        }
        value
    }

    /// The object in the version that was asked for.
    pub fn reply(self, call: &Call) -> Reply {
        let code = if self.created { StatusCode::CREATED } else { StatusCode::OK };
        let (kind, definition) = (call.kind, call.kind.definition);
        let content = if call.kind.conversion.is_none() && self.revision != 0 {
            Content::Object { kind, definition, json: spliced(call.store_kind, &self.bytes, self.revision) }
        } else {
            Content::Value { kind, definition, value: from_storage(call.kind, self.value()) }
        };
        Reply { code, content }
    }
}

/// `{"status":"Success"}` with code 201: what binding and eviction answer.
pub fn created_status() -> Reply {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Reply::status(StatusCode::CREATED, status)
}

/// The metadata of an object as a map, which every decoded object has.
pub fn metadata(object: &mut Value) -> &mut serde_json::Map<String, Value> {
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("was just made sure")
}

pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// Puts the namespace of the path into an object that names none.
pub fn place(call: &Call, object: &mut Value) -> Result<(), RequestError> {
    let namespace = call.namespace();
    let own = text(object, "namespace");
    if own == namespace {
        return Ok(());
    }
    if !own.is_empty() && !namespace.is_empty() {
        return Err(RequestError::BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request".into(),
        ));
    }
    let metadata = metadata(object);
    if namespace.is_empty() {
        metadata.remove("namespace");
    } else {
        metadata.insert("namespace".into(), namespace.into());
    }
    Ok(())
}

fn manager<'a>(call: &'a Call, api_version: &'a str) -> Manager<'a> {
    Manager {
        name: field_manager(&call.query, &call.headers),
        api_version,
        subresource: &call.info.subresource,
        now: call.now,
    }
}

/// Notes down who set which fields, in the version that they spoke.
fn note_manager(call: &Call, old: Option<&Value>, new: &mut Value) {
    let api_version = crate::cache::api_version(call.kind);
    let manager = manager(call, &api_version);
    if call.kind.conversion.is_none() {
        return apply::record_update(old, new, &manager, definition(call.store_kind));
    }
    let old = old.map(|old| from_storage(call.kind, old.clone()));
    let mut spoken = from_storage(call.kind, new.clone());
    apply::record_update(old.as_ref(), &mut spoken, &manager, definition(call.kind));
    match spoken["metadata"].get("managedFields") {
        Some(managers) => metadata(new).insert("managedFields".into(), managers.clone()),
        None => metadata(new).remove("managedFields"),
    };
}

fn definition(kind: &Kind) -> &'static api::schema::Definition {
    api::schema::definition(kind.definition).expect("every kind has a schema")
}

/// Creates `object`, decoded but without defaults, in the version of the call. `record`: note the fields' manager.
pub async fn create_object(call: &Call, object: Value, record: bool) -> Result<Written, RequestError> {
    let kind = call.store_kind;
    let mut object = to_storage(call.kind, kind, object);
    place(call, &mut object)?;
    if !matches!(text(&object, "resourceVersion"), "" | "0") {
        return Err(RequestError::Other {
            code: 500,
            status: Box::new(json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "resourceVersion should not be set on objects to be created", "code": 500,
            })),
        });
    }
    let generated = text(&object, "name").is_empty() && !text(&object, "generateName").is_empty();
    let map = metadata(&mut object);
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        map.remove(field);
    }
    map.insert("uid".into(), call.server.new_uid().into());
    map.insert("creationTimestamp".into(), seconds(call.now).into());
    let attempts = if generated { GENERATE_ATTEMPTS } else { 1 };
    for attempt in 1.. {
        let mut object = if attempt < attempts { object.clone() } else { std::mem::take(&mut object) };
        if generated {
            let name = generate_name(call, text(&object, "generateName"));
            metadata(&mut object).insert("name".into(), name.into());
        }
        match create_named(call, object, record).await {
            Err(RequestError::AlreadyExists { .. }) if attempt < attempts => {}
            other => return other,
        }
    }
    unreachable!("the last attempt returns")
}

async fn create_named(call: &Call, object: Value, record: bool) -> Result<Written, RequestError> {
    if !call.server.allocator.handles(call.store_kind) {
        return try_create(call, object, record).await?.ok_or_else(|| RequestError::modified(call.store_kind, call.name()));
    }
    for _ in 0..ATTEMPTS {
        if let Some(written) = try_create(call, object.clone(), record).await? {
            return Ok(written);
        }
    }
    Err(RequestError::modified(call.store_kind, text(&object, "name")))
}

/// None: what the server assigned was given to another object meanwhile.
async fn try_create(call: &Call, mut object: Value, record: bool) -> Result<Option<Written>, RequestError> {
    let kind = call.store_kind;
    let server = &call.server;
    let name = text(&object, "name").to_owned();
    server.admission.mutate(&call.attributes(Operation::Create, &name, None), &mut object).await?;
    (kind.prepare_create)(&mut object);
    let reservation = if server.allocator.handles(kind) {
        server.observe_allocations(kind);
        Some(server.allocator.create(kind, &mut object)?)
    } else {
        None
    };
    if record {
        note_manager(call, None, &mut object);
    }
    let mut problems = Problems::default();
    validate_metadata(kind, &object, &mut problems);
    (kind.validate)(&object, &mut problems);
    refuse_invalid(kind, &name, problems)?;
    for warning in (kind.warnings)(&object, None) {
        call.warnings.add(warning);
    }
    let attributes = call.attributes(Operation::Create, &name, None);
    server.admission.validate(&attributes, &object).await?;
    crate::authz::check_escalation(call, kind, &object, None)?;

    let bytes = encode(kind, &object);
    if let Some(existing) = server.cache.get(kind, call.namespace(), &name) {
        return Err(already_exists(kind, &name, Some(&existing)));
    }
    if is_dry_run(&call.query) {
        return Ok(Some(Written { bytes, revision: 0, created: true }));
    }
    let along = server.along(kind, call.namespace(), &name, None, Some(&object));
    match server.cache.write(kind, call.namespace(), &name, Some(bytes.clone()), 0, along).await? {
        Some(revision) => {
            if reservation.is_some() {
                server.observe_allocations(kind);
            }
            Ok(Some(Written { bytes, revision, created: true }))
        }
        // Not the object stood in the way but another Service that was given the same address.
        None if reservation.is_some() && server.cache.get(kind, call.namespace(), &name).is_none() => Ok(None),
        None => Err(already_exists(kind, &name, server.cache.get(kind, call.namespace(), &name).as_deref())),
    }
}

fn already_exists(kind: &Kind, name: &str, existing: Option<&Entry>) -> RequestError {
    let error = RequestError::AlreadyExists { object: ObjectName::of(kind, name) };
    let deleting = existing.is_some_and(|entry| !text(&entry.value(), "deletionTimestamp").is_empty());
    if !deleting {
        return error;
    }
    let mut status = error.status();
    status["message"] = format!("object is being deleted: {error}").into();
    RequestError::Other { code: 409, status: Box::new(status) }
}

pub fn refuse_invalid(kind: &Kind, name: &str, problems: Problems) -> Result<(), RequestError> {
    if problems.list.is_empty() { Ok(()) } else { Err(RequestError::invalid(kind, name, problems)) }
}

/// A time as objects hold it: whole seconds, UTC.
pub fn seconds(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn generate_name(call: &Call, prefix: &str) -> String {
    let end = prefix.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= GENERATE_PREFIX_MAX);
    let mut name = prefix[..end.last().unwrap_or(0)].to_owned();
    call.server.append_random_suffix(&mut name);
    name
}

type Make<'a> = dyn Fn(Value) -> Result<Value, RequestError> + Send + Sync + 'a;
type Prepare<'a> = dyn Fn(&mut Value, &Value) + Send + Sync + 'a;

/// What of an object a change is about: which rules hold for it.
pub enum Rules<'a> {
    Whole,
    Status,
    /// Something else, which keeps the rest by itself.
    Part(&'a Prepare<'a>),
}

/// A change of an existing object.
pub struct Change<'a> {
    /// From the current object (in the call's version, with its resourceVersion) to the new one.
    pub make: &'a Make<'a>,
    pub rules: Rules<'a>,
    /// Note the fields' manager; server-side apply has done so itself.
    pub record: bool,
    /// The body of a subresource that speaks another kind, for admission.
    pub options: Option<&'a Value>,
}

/// Makes the change, again if another write came between and the new object names no revision. None: nothing there.
pub async fn change_object(call: &Call, change: &Change<'_>) -> Result<Option<Written>, RequestError> {
    for _ in 0..ATTEMPTS {
        let Some(entry) = call.server.cache.get(call.kind, call.namespace(), call.name()) else { return Ok(None) };
        if let Some(written) = try_change(call, change, &entry).await? {
            return Ok(Some(written));
        }
    }
    Err(RequestError::modified(call.kind, call.name()))
}

/// None: the object changed meanwhile and the change may be tried again.
async fn try_change(call: &Call, change: &Change<'_>, entry: &Arc<Entry>) -> Result<Option<Written>, RequestError> {
    let kind = call.store_kind;
    let server = &call.server;
    let name = call.name();
    let old = entry.value();
    let made = (change.make)(from_storage(call.kind, old.clone()))?;
    let mut new = to_storage(call.kind, kind, made);
    place(call, &mut new)?;
    check_name(&new, name)?;
    let conditional = check_preconditions(call, change, &mut new, &old, entry)?;
    keep_server_metadata(&mut new, &old);

    let mut attributes = call.attributes(Operation::Update, name, Some(&old));
    attributes.options = change.options;
    server.admission.mutate(&attributes, &mut new).await?;
    match change.rules {
        Rules::Whole => (kind.prepare_update)(&mut new, &old),
        Rules::Status => (kind.prepare_status_update)(&mut new, &old),
        Rules::Part(prepare) => prepare(&mut new, &old),
    }
    // Statuses do not hold what the server hands out.
    let allocates = matches!(change.rules, Rules::Whole) && server.allocator.handles(kind);
    let reservation = if allocates {
        server.observe_allocations(kind);
        Some(server.allocator.update(kind, &mut new, &old)?)
    } else {
        None
    };
    if change.record {
        note_manager(call, Some(&old), &mut new);
    }
    let mut problems = Problems::default();
    validate_metadata_update(kind, &new, &old, &mut problems);
    match change.rules {
        Rules::Whole => {
            (kind.validate)(&new, &mut problems);
            (kind.validate_update)(&new, &old, &mut problems);
        }
        Rules::Status => (kind.validate_status_update)(&new, &old, &mut problems),
        Rules::Part(_) => {
            (kind.validate)(&new, &mut problems);
            (kind.validate_part_update)(&call.info.subresource, &new, &old, &mut problems);
        }
    }
    refuse_invalid(kind, name, problems)?;
    if call.info.subresource.is_empty() {
        for warning in (kind.warnings)(&new, Some(&old)) {
            call.warnings.add(warning);
        }
    }
    server.admission.validate(&attributes, &new).await?;
    crate::authz::check_escalation(call, kind, &new, Some(&old))?;

    if is_same(&mut new, &old) {
        return Ok(Some(Written::of(entry)));
    }
    let bytes = encode(kind, &new);
    let delete = super::delete::ends_with_update(kind, &new, &old);
    if is_dry_run(&call.query) {
        return Ok(Some(Written { bytes, revision: entry.revision, created: false }));
    }
    let along = server.along(kind, call.namespace(), name, Some(&old), (!delete).then_some(&new));
    let stays = (!delete).then(|| bytes.clone());
    match server.cache.write(kind, call.namespace(), name, stays, entry.revision, along).await? {
        Some(revision) => {
            if reservation.is_some() {
                server.observe_allocations(kind);
            }
            Ok(Some(Written { bytes, revision, created: false }))
        }
        None if conditional => Err(RequestError::modified(call.kind, name)),
        None => Ok(None),
    }
}

fn check_name(new: &Value, name: &str) -> Result<(), RequestError> {
    let own = text(new, "name");
    if own == name {
        return Ok(());
    }
    Err(RequestError::BadRequest(if own.is_empty() {
        format!("the name of the object ({name} based on URL) was undeterminable: name must be provided")
    } else {
        format!("the name of the object ({own}) does not match the name on the URL ({name})")
    }))
}

/// Whether the new object holds to one revision.
fn check_preconditions(
    call: &Call,
    change: &Change<'_>,
    new: &mut Value,
    old: &Value,
    entry: &Entry,
) -> Result<bool, RequestError> {
    let name = call.name();
    let uid = text(new, "uid");
    if !uid.is_empty() && uid != text(old, "uid") {
        return Err(RequestError::Conflict {
            object: ObjectName::of(call.kind, name),
            why: format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", text(old, "uid")),
        });
    }
    let revision = text(new, "resourceVersion");
    if matches!(revision, "" | "0") {
        // Only whole PUTs can lack it: a patch that names no revision is made again over the newest.
        let whole = matches!(change.rules, Rules::Whole) && call.info.verb == "update";
        if whole && CONDITIONAL_ONLY.contains(&(call.kind.group, call.kind.plural)) {
            let mut problems = Problems::default();
            problems.list.push(Problem {
                reason: ProblemReason::Invalid,
                field: "metadata.resourceVersion".into(),
                detail: "Invalid value: 0: must be specified for an update".into(),
            });
            return Err(RequestError::invalid(call.kind, name, problems));
        }
        set_revision(new, entry.revision);
        return Ok(false);
    }
    if revision.parse() != Ok(entry.revision) {
        if revision.parse::<u64>().is_err() {
            let mut problems = Problems::default();
            problems.list.push(Problem {
                reason: ProblemReason::Invalid,
                field: "metadata.resourceVersion".into(),
                detail: format!("Invalid value: {revision:?}: strconv.ParseUint: parsing {revision:?}: invalid syntax"),
            });
            return Err(RequestError::invalid(call.kind, name, problems));
        }
        return Err(RequestError::modified(call.kind, name));
    }
    Ok(true)
}

/// What the server set once stays when a client leaves it out.
fn keep_server_metadata(new: &mut Value, old: &Value) {
    let map = metadata(new);
    map.remove("selfLink");
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if let (None | Some(Value::Null), Some(kept)) = (map.get(field), old["metadata"].get(field)) {
            map.insert(field.into(), kept.clone());
        }
    }
    match old["metadata"].get("generation") {
        Some(generation) => map.insert("generation".into(), generation.clone()),
        None => map.remove("generation"),
    };
}

/// Equal but for the times in managedFields; then those are put back, too.
fn is_same(new: &mut Value, old: &Value) -> bool {
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else { return false };
    let rest = |map: &serde_json::Map<String, Value>| map.len() - usize::from(map.contains_key("metadata"));
    if rest(a) != rest(b) || a.iter().any(|(key, value)| key != "metadata" && b.get(key) != Some(value)) {
        return false;
    }
    let (Some(a), Some(b)) = (a["metadata"].as_object(), b["metadata"].as_object()) else { return false };
    a.len() == b.len()
        && a.iter().all(|(key, value)| match b.get(key) {
            Some(other) if key == "managedFields" => same_managers(value, other),
            other => other == Some(value),
        })
}

fn same_managers(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return a == b };
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            ["manager", "operation", "apiVersion", "subresource", "fieldsType", "fieldsV1"]
                .iter()
                .all(|field| a.get(field) == b.get(field))
        })
}
