//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply, of objects and of their parts.

use api::apply::{self, ApplyError, Manager};
use api::patch::PatchError;
use serde_json::Value;

use super::decode::{Expected, report};
use super::options::{self, FieldValidation, refuse};
use super::write::{Change, Rules, Written, change_object, create_object, text};
use super::{Call, Reply, RequestError, status};
use crate::http::negotiate::{content_type, unsupported};
use crate::kinds::{Problem, ProblemReason};

const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json";
/// Operations in one JSON patch, as the original.
const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

pub async fn patch(call: &Call) -> Result<Reply, RequestError> {
    let validation = options::check(&call.query, "PatchOptions")?;
    if is_apply(call) {
        return server_side_apply(call, validation).await;
    }
    let patch = read(call)?;
    let expected = Expected::of(call.kind);
    let make = |current: Value| patched(call, &patch, current, expected, validation);
    let change = Change { make: &make, rules: status::rules(&call.info.subresource), record: true, options: None };
    let written = change_object(call, &change).await?;
    Ok(written.ok_or_else(|| RequestError::not_found(call.kind, call.name()))?.reply(call))
}

pub fn is_apply(call: &Call) -> bool {
    content_type(&call.headers) == "application/apply-patch+yaml"
}

/// The patch in the body.
pub fn read(call: &Call) -> Result<Patch, RequestError> {
    if call.query.get("force").is_some_and(|force| force != "false") {
        refuse("PatchOptions", vec![forbidden("force", "may not be specified for non-apply patch")])?;
    }
    let media = content_type(&call.headers);
    let parse = || -> Result<Value, RequestError> {
        serde_json::from_slice(&call.body)
            .map_err(|cause| RequestError::BadRequest(format!("error decoding patch: {cause}")))
    };
    match media {
        "application/json-patch+json" => {
            let patch = parse()?;
            let Some(operations) = patch.as_array() else {
                return Err(RequestError::BadRequest("error decoding patch: a JSON patch is a list".into()));
            };
            if operations.len() > JSON_PATCH_OPERATIONS_MAX {
                return Err(RequestError::TooManyRequests {
                    message: format!(
                        "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
                        operations.len()
                    ),
                    retry_seconds: 0,
                    causes: Vec::new(),
                });
            }
            Ok(Patch::Json(patch))
        }
        "application/merge-patch+json" => Ok(Patch::Merge(parse()?)),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic(parse()?)),
        _ => Err(unsupported(ACCEPTED)),
    }
}

/// `current` (with its resourceVersion) after the patch, checked against the schema.
pub fn patched(
    call: &Call,
    patch: &Patch,
    current: Value,
    expected: Expected,
    validation: FieldValidation,
) -> Result<Value, RequestError> {
    let revision = text(&current, "resourceVersion").to_owned();
    let mut new = match patch {
        Patch::Json(patch) => api::patch::json_patch(&current, patch).map_err(refused_patch)?,
        Patch::Merge(patch) => api::patch::merge_patch(&current, patch),
        Patch::Strategic(patch) => api::patch::strategic_merge_patch(&current, patch, expected.definition)
            .map_err(refused_patch)?,
    };
    if !new.is_object() {
        return Err(unprocessable());
    }
    let unknown = api::json::normalise(&mut new, expected.definition).map_err(|cause| {
        RequestError::Invalid {
            object: crate::error::ObjectName::new("", "", ""),
            problems: vec![Problem {
                reason: ProblemReason::Invalid,
                field: "patch".into(),
                detail: format!("Invalid value: {:?}: {cause}", String::from_utf8_lossy(&call.body)),
            }],
        }
    })?;
    report(call, unknown, expected, validation)?;
    // A patch may not change what the object is, nor drop the revision that it is made over.
    new["apiVersion"] = current["apiVersion"].clone();
    new["kind"] = current["kind"].clone();
    if !new.get("metadata").is_some_and(Value::is_object) {
        new["metadata"] = serde_json::json!({});
    }
    if text(&new, "resourceVersion") == revision && let Some(metadata) = new["metadata"].as_object_mut() {
        // Not named by the patch: it is made again if another write comes between.
        metadata.remove("resourceVersion");
    }
    Ok(new)
}

fn refused_patch(cause: PatchError) -> RequestError {
    match cause {
        PatchError::Malformed(why) => RequestError::BadRequest(why),
        PatchError::DoesNotApply(why) => {
            tracing::debug!("patch: {why}");
            unprocessable()
        }
    }
}

fn unprocessable() -> RequestError {
    RequestError::Other {
        code: 422,
        status: Box::new(serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "the server rejected our request due to an error in our request",
            "reason": "Invalid", "details": {}, "code": 422,
        })),
    }
}

fn forbidden(field: &str, why: &str) -> Problem {
    Problem { reason: ProblemReason::Forbidden, field: field.into(), detail: format!("Forbidden: {why}") }
}

/// Server-side apply.
async fn server_side_apply(call: &Call, validation: FieldValidation) -> Result<Reply, RequestError> {
    let expected = Expected::of(call.kind);
    let config = read_configuration(call, expected, validation)?;
    if let Some(written) = apply_existing(call, &config, status::rules(&call.info.subresource)).await? {
        return Ok(written.reply(call));
    }
    if !call.info.subresource.is_empty() {
        return Err(RequestError::not_found(call.kind, call.name()));
    }
    if !matches!(text(&config, "resourceVersion"), "" | "0") {
        return Err(RequestError::modified(call.kind, call.name()));
    }
    if !text(&config, "uid").is_empty() {
        return Err(RequestError::Conflict {
            object: crate::error::ObjectName::of(call.kind, call.name()),
            why: format!("uid mismatch: the provided object specified uid {}, and no existing object was found", text(&config, "uid")),
        });
    }
    let api_version = crate::cache::api_version(call.kind);
    let object = apply::apply(None, &config, &applier(call, &api_version), call.query.flag("force"), expected.definition)
        .map_err(refused)?;
    match create_object(call, object, false).await {
        // Somebody else was faster: apply to what they made.
        Err(RequestError::AlreadyExists { .. }) => {
            let written = apply_existing(call, &config, status::rules(&call.info.subresource)).await?;
            Ok(written.ok_or_else(|| RequestError::not_found(call.kind, call.name()))?.reply(call))
        }
        other => Ok(other?.reply(call)),
    }
}

fn applier<'a>(call: &'a Call, api_version: &'a str) -> Manager<'a> {
    // It is there: reading the configuration has seen to it.
    let name = call.query.get("fieldManager").unwrap_or("");
    Manager { name, api_version, subresource: &call.info.subresource, now: call.now }
}

/// Applies a configuration of the call's kind. None: there is nothing to apply it to.
pub async fn apply_existing(call: &Call, config: &Value, rules: Rules<'_>) -> Result<Option<Written>, RequestError> {
    let api_version = crate::cache::api_version(call.kind);
    let manager = applier(call, &api_version);
    let definition = Expected::of(call.kind).definition;
    let make = |current: Value| {
        let mut new = apply::apply(Some(&current), config, &manager, call.query.flag("force"), definition).map_err(refused)?;
        // The revision of the configuration, where it has one, is the condition.
        let condition = text(config, "resourceVersion").to_owned();
        let metadata = super::write::metadata(&mut new);
        metadata.remove("resourceVersion");
        if !condition.is_empty() {
            metadata.insert("resourceVersion".into(), condition.into());
        }
        Ok(new)
    };
    change_object(call, &Change { make: &make, rules, record: false, options: None }).await
}

/// The configuration in the body of an apply.
pub fn read_configuration(
    call: &Call,
    expected: Expected,
    validation: FieldValidation,
) -> Result<Value, RequestError> {
    if call.query.get("fieldManager").is_none() {
        let problem = Problem {
            reason: ProblemReason::Required,
            field: "fieldManager".into(),
            detail: "Required value: is required for apply patch".into(),
        };
        refuse("PatchOptions", vec![problem])?;
    }
    let (mut config, mut problems) = api::yaml::to_json(&call.body)
        .map_err(|cause| RequestError::BadRequest(format!("error decoding YAML: {cause}")))?;
    let wanted = expected.api_version();
    for (field, wanted) in [("kind", expected.kind), ("apiVersion", wanted.as_str())] {
        match config.get(field).and_then(Value::as_str) {
            None | Some("") => {
                return Err(RequestError::BadRequest(format!(
                    "error converting YAML to JSON: Object '{}' is missing in the object",
                    if field == "kind" { "Kind" } else { field }
                )));
            }
            Some(own) if own != wanted => {
                return Err(RequestError::BadRequest(format!(
                    "the {field} in the data ({own}) does not match the expected {field} ({wanted})"
                )));
            }
            Some(_) => {}
        }
    }
    let said = config.clone();
    let unknown = api::json::normalise(&mut config, expected.definition)
        .map_err(|cause| RequestError::BadRequest(cause.to_string()))?;
    // What is written even when empty would be applied, and owned, without having been said.
    keep_what_was_said(&mut config, &said);
    problems.extend(unknown);
    report(call, problems, expected, validation)?;
    if config["metadata"].get("managedFields").is_some_and(|managers| !managers.as_array().is_none_or(Vec::is_empty)) {
        return Err(RequestError::BadRequest("metadata.managedFields must be nil".into()));
    }
    let own = text(&config, "name");
    if own.is_empty() {
        config["metadata"]["name"] = call.name().into();
    } else if own != call.name() {
        return Err(RequestError::BadRequest(format!(
            "the name of the object ({own}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    super::write::place(call, &mut config)?;
    take_out_what_is_reset(call, &mut config);
    Ok(config)
}

/// Takes out the fields that `said` does not have.
fn keep_what_was_said(config: &mut Value, said: &Value) {
    match (config, said) {
        (Value::Object(fields), Value::Object(said)) => {
            fields.retain(|name, _| said.contains_key(name));
            fields.iter_mut().for_each(|(name, value)| keep_what_was_said(value, &said[name]));
        }
        (Value::Array(items), Value::Array(said)) if items.len() == said.len() => {
            items.iter_mut().zip(said).for_each(|(item, said)| keep_what_was_said(item, said));
        }
        _ => {}
    }
}

fn refused(cause: ApplyError) -> RequestError {
    let message = cause.to_string();
    match cause {
        ApplyError::Conflicts(conflicts) => {
            let cause = |conflict: apply::Conflict| (format!("conflict with {}", conflict.manager), conflict.field);
            RequestError::ApplyConflict { message, causes: conflicts.into_iter().map(cause).collect() }
        }
        ApplyError::Invalid(_) => RequestError::Internal(message),
    }
}

/// What this way of writing does not take is not applied, and so not owned.
fn take_out_what_is_reset(call: &Call, config: &mut Value) {
    let Some(map) = config.as_object_mut() else { return };
    match call.info.subresource.as_str() {
        "" if call.kind.subresources.iter().any(|own| own.name == "status") => {
            map.remove("status");
        }
        "status" => map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        _ => {}
    }
}
