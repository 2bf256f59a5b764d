//! What was applied by the client becomes the server's to merge: ownership of fields goes over to the new manager.
//!
//! Invariant: only entries of managers that wrote the annotation of client-side apply are changed, and only while the
//! object is the one that was looked at. That annotation gets an owner of its own, so that one can go back.
//! Deliberately absent: failing; an object that could not be migrated is applied all the same, and tried again next time.

use serde_json::{Map, Value, json};

use super::create::LAST_APPLIED;
use crate::error::{Error, Result};
use crate::rest::{APPLY_PATCH, JSON_PATCH, Url};
use crate::selection::Info;
use crate::session::Session;
use crate::value::{list, text};

/// How often somebody else may change the object meanwhile.
const ATTEMPTS_MAX: usize = 5;
const SERVER_SIDE: &str = "kubectl";
const ANNOTATION_OWNER: &str = "kubectl-last-applied";

/// Whether anything was migrated: then the configuration wants to be applied once more. `url` has the query of the apply.
pub async fn migrate(session: &Session, info: &mut Info, manager: &str, url: &Url) -> bool {
    if let Err(error) = keep_annotation(session, info, manager, url).await {
        warn(session, "failed to migrate kubectl.kubernetes.io/last-applied-configuration for Server-Side Apply", &error);
        return false;
    }
    upgrade(session, info, manager, url).await.unwrap_or_else(|error| {
        warn(session, "server rejected managed fields migration to Server-Side Apply", &error);
        false
    })
}

pub fn warn(session: &Session, what: &str, error: &Error) {
    session.complain(format!("Warning: {what}. This is non-fatal and will be retried next time you apply. Error: {}", error.bare()));
}

/// The annotation would go with the fields of its old owner.
async fn keep_annotation(session: &Session, info: &mut Info, manager: &str, url: &Url) -> Result {
    let Some(annotation) = info.object["metadata"]["annotations"].get(LAST_APPLIED).cloned() else { return Ok(()) };
    if manager != SERVER_SIDE || !owners(&info.object, "Apply").is_empty() {
        return Ok(());
    }
    let mut metadata = json!({"name": info.name, "annotations": {LAST_APPLIED: annotation}});
    if !info.namespace.is_empty() {
        metadata["namespace"] = info.namespace.clone().into();
    }
    let only = json!({"apiVersion": info.resource.api_version(), "kind": info.resource.kind, "metadata": metadata});
    info.object = session.patch(info.url().with_filled("dryRun", &url.value("dryRun")).with("fieldManager", ANNOTATION_OWNER), APPLY_PATCH, &only).await?;
    Ok(())
}

async fn upgrade(session: &Session, info: &mut Info, manager: &str, url: &Url) -> Result<bool> {
    let old = owners(&info.object, "Update");
    for attempt in 1.. {
        let entries = list(&info.object, "/metadata/managedFields");
        let upgraded = old.iter().fold(entries.to_vec(), |entries, old| upgraded(entries, old, manager));
        if upgraded == entries {
            return Ok(false);
        }
        let patch = json!([
            {"op": "replace", "path": "/metadata/managedFields", "value": upgraded},
            // Replaced rather than tested: the server then answers with a conflict when the object is another by now.
            {"op": "replace", "path": "/metadata/resourceVersion", "value": text(&info.object, "/metadata/resourceVersion")},
        ]);
        let url = info.url().with_filled("dryRun", &url.value("dryRun")).with("fieldManager", manager);
        match session.patch(url, JSON_PATCH, &patch).await {
            Ok(object) => {
                info.object = object;
                return Ok(true);
            }
            Err(error) if error.is_reason("Conflict") && attempt < ATTEMPTS_MAX => info.object = session.get(info.url()).await?,
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The managers that wrote the annotation by such an operation.
fn owners(object: &Value, operation: &str) -> Vec<String> {
    let wrote = |entry: &&Value| {
        text(entry, "/operation") == operation && entry["fieldsV1"]["f:metadata"]["f:annotations"].get(format!("f:{LAST_APPLIED}")).is_some()
    };
    let mut names: Vec<String> = list(object, "/metadata/managedFields").iter().filter(wrote).map(|entry| text(entry, "/manager").to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

fn is_entry(entry: &Value, manager: &str, operation: &str) -> bool {
    text(entry, "/manager") == manager && text(entry, "/operation") == operation && text(entry, "/subresource").is_empty()
}

/// The entries with what `old` owns by updates given to `new`, which applies.
fn upgraded(mut entries: Vec<Value>, old: &str, new: &str) -> Vec<Value> {
    let at = match entries.iter().position(|entry| is_entry(entry, new, "Apply")) {
        Some(at) => at,
        None => {
            let Some(at) = entries.iter().position(|entry| is_entry(entry, old, "Update")) else { return entries };
            entries[at]["operation"] = "Apply".into();
            entries[at]["manager"] = new.into();
            at
        }
    };
    let version = text(&entries[at], "/apiVersion").to_owned();
    let same = |entry: &&Value| is_entry(entry, old, "Update") && text(entry, "/apiVersion") == version;
    if let Some(fields) = entries.iter().find(same).map(|entry| entry["fieldsV1"].clone()) {
        union(&mut entries[at]["fieldsV1"], &fields);
    }
    entries.retain(|entry| !is_entry(entry, old, "Update"));
    entries
}

/// Both sets of fields in one. An empty object is a field itself; beside its own fields it is written as `.`.
fn union(into: &mut Value, other: &Value) {
    let (Value::Object(into), Value::Object(other)) = (into, other) else { return };
    let is_field = |fields: &Map<String, Value>| fields.is_empty();
    if is_field(into) != is_field(other) {
        into.insert(".".to_owned(), json!({}));
    }
    for (name, fields) in other {
        match into.get_mut(name) {
            Some(known) => union(known, fields),
            None => drop(into.insert(name.clone(), fields.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entries: Value, expected: Value) {
        let entries = entries.as_array().expect("a list").clone();
        assert_eq!(Value::from(upgraded(entries, "old", "kubectl")), expected);
    }

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields})
    }

    #[test]
    fn fields_go_over() {
        let (data, more) = (json!({"f:data": {"f:a": {}}}), json!({"f:data": {".": {}, "f:b": {}}}));
        let both = json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}});
        check(json!([entry("old", "Update", data.clone())]), json!([entry("kubectl", "Apply", data.clone())]));
        check(json!([entry("kubectl", "Apply", data.clone()), entry("old", "Update", more)]), json!([entry("kubectl", "Apply", both)]));
        check(json!([entry("other", "Update", data.clone())]), json!([entry("other", "Update", data.clone())]));
        let status = json!({"manager": "old", "operation": "Update", "subresource": "status", "apiVersion": "v1", "fieldsV1": {}});
        check(json!([entry("kubectl", "Apply", data.clone()), status]), json!([entry("kubectl", "Apply", data.clone()), status]));
        check(
            json!([entry("kubectl", "Apply", json!({"f:x": {}})), entry("old", "Update", json!({"f:x": {"f:y": {}}}))]),
            json!([entry("kubectl", "Apply", json!({"f:x": {".": {}, "f:y": {}}}))]),
        );
    }
}
