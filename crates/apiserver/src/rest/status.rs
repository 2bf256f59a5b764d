//! PUT of a part of an object: status, finalize, approval, ephemeralcontainers, resize.
//!
//! Deliberately absent: patches of these, which `patch` makes with the same rules.

use serde_json::{Value, json};

use super::decode::{Expected, body};
use super::write::{Change, Rules, change_object};
use super::{Call, Reply, RequestError, options};
use crate::kinds::Subresource;

pub async fn update(call: &Call, subresource: &Subresource) -> Result<Reply, RequestError> {
    let validation = options::check(&call.query, "UpdateOptions")?;
    let object = body(call, Expected::of(call.kind), validation)?;
    let make = |_: Value| Ok(object.clone());
    let change = Change { make: &make, rules: rules(subresource.name), record: true, options: None };
    let written = change_object(call, &change).await?;
    Ok(written.ok_or_else(|| RequestError::not_found(call.kind, call.name()))?.reply(call))
}

/// The rules by which a part is written; the whole object under an empty name.
pub fn rules(subresource: &str) -> Rules<'static> {
    match subresource {
        "" => Rules::Whole,
        "finalize" => Rules::Part(&crate::kinds::prepare_finalize),
        "approval" => Rules::Part(&keep_all_but_conditions),
        "ephemeralcontainers" => Rules::Part(&|new, old| {
            keep_all_but(new, old, "/spec/ephemeralContainers");
            count_spec_change(new, old);
        }),
        "resize" => Rules::Part(&|new, old| {
            keep_all_but_resources(new, old);
            count_spec_change(new, old);
        }),
        _ => Rules::Status,
    }
}

/// Approval is conditions; metadata may come along.
fn keep_all_but_conditions(new: &mut Value, old: &Value) {
    let conditions = new.pointer("/status/conditions").cloned();
    for field in ["spec", "status"] {
        new[field] = old.get(field).cloned().unwrap_or_else(|| json!({}));
    }
    match conditions {
        Some(conditions) => new["status"]["conditions"] = conditions,
        None => {
            new["status"].as_object_mut().map(|status| status.remove("conditions"));
        }
    }
}

/// The old object with one field of the new one; managedFields, too, so that the writer is noted.
fn keep_all_but(new: &mut Value, old: &Value, pointer: &str) {
    let taken = new.pointer(pointer).cloned();
    let mut kept = old.clone();
    let (parent, field) = pointer.rsplit_once('/').expect("a path of two steps");
    if kept.pointer(parent).is_none() {
        kept[parent.trim_start_matches('/')] = json!({});
    }
    if let Some(map) = kept.pointer_mut(parent).and_then(Value::as_object_mut) {
        match taken {
            Some(value) => map.insert(field.into(), value),
            None => map.remove(field),
        };
    }
    adopt(new, kept);
}

/// Takes resources and resize policies of the containers. Where others came, went or changed places, nothing is kept:
/// the rules refuse that.
fn keep_all_but_resources(new: &mut Value, old: &Value) {
    let names = |pod: &Value, list: &str| -> Vec<Value> {
        pod["spec"][list].as_array().into_iter().flatten().map(|container| container["name"].clone()).collect()
    };
    if ["containers", "initContainers"].iter().any(|list| names(new, list) != names(old, list)) {
        return;
    }
    let mut kept = old.clone();
    for list in ["containers", "initContainers"] {
        let wanted = new["spec"][list].as_array().cloned().unwrap_or_default();
        for container in kept["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(other) = wanted.iter().find(|other| other["name"] == container["name"]) else { continue };
            for field in ["resources", "resizePolicy"] {
                let Some(map) = container.as_object_mut() else { continue };
                match other.get(field) {
                    Some(value) => map.insert(field.into(), value.clone()),
                    None => map.remove(field),
                };
            }
        }
    }
    adopt(new, kept);
}

fn adopt(new: &mut Value, mut kept: Value) {
    if let (Some(managers), Some(metadata)) =
        (new["metadata"].get("managedFields"), kept["metadata"].as_object_mut())
    {
        metadata.insert("managedFields".into(), managers.clone());
    }
    *new = kept;
}

fn count_spec_change(new: &mut Value, old: &Value) {
    if new["spec"] != old["spec"]
        && let Some(generation) = old["metadata"]["generation"].as_i64()
    {
        new["metadata"]["generation"] = (generation + 1).into();
    }
}
