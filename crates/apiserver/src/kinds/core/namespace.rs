//! A room for names.
//!
//! Invariant: it is gone only when nothing holds it: neither `spec.finalizers` nor `metadata.finalizers`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default_text, make};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, Subresource, Verbs, lifecycle};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub static KIND: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    definition: "io.k8s.api.core.v1.Namespace",
    storage: "namespaces",
    verbs: Verbs::WithoutDeleteCollection,
    subresources: &[Subresource { name: "finalize", speaks: None, verbs: &["update"], scale: None }, STATUS],
    name_problems: api::names::dns1123_label,
    defaults,
    prepare_create,
    prepare_update: |new, old| {
        lifecycle::keep_status(new, old);
        keep_finalizers(new, old);
    },
    prepare_status_update: lifecycle::only_status,
    validate_status_update,
    selectable_fields: &["status.phase"],
    columns: &[NAME, text("Status", "The status of the namespace"), AGE],
    cells,
    ..CLUSTER
};

fn defaults(object: &mut Value) {
    let name = walk(object, "metadata.name").as_str().unwrap_or("").to_owned();
    let Some(map) = object.as_object_mut() else { return };
    if !name.is_empty() {
        let labels = make(make(map, "metadata"), "labels");
        if labels.get(NAME_LABEL).and_then(Value::as_str) != Some(&name) {
            labels.insert(NAME_LABEL.into(), name.into());
        }
    }
    default_text(make(map, "status"), "phase", "Active");
}

fn prepare_create(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    map.insert("status".into(), json!({"phase": "Active"}));
    let finalizers = make(map, "spec").entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|finalizer| finalizer == "kubernetes")
    {
        list.push("kubernetes".into());
    }
}

/// Only the `finalize` subresource edits them.
fn keep_finalizers(new: &mut Value, old: &Value) {
    let kept = walk(old, "spec.finalizers").clone();
    if let Some(map) = new.as_object_mut() {
        let spec = make(map, "spec");
        if kept.is_null() {
            spec.remove("finalizers")
        } else {
            spec.insert("finalizers".into(), kept)
        };
    }
}

fn validate_status_update(new: &Value, _old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let phase = root.at("status.phase");
    if root.at("metadata.deletionTimestamp").exists() {
        if phase.str() != "Terminating" {
            problems.invalid(&phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
        }
    } else if phase.str() != "Active" {
        problems.invalid(&phase, "may only be 'Active' if `deletionTimestamp` is empty");
    }
}

/// What `finalize` takes: the finalizers, and nothing else of the spec.
pub fn prepare_finalize(new: &mut Value, old: &Value) {
    let finalizers = walk(new, "spec.finalizers").clone();
    let metadata = new.get("metadata").cloned();
    *new = old.clone();
    let Some(map) = new.as_object_mut() else { return };
    if let Some(metadata) = metadata {
        map.insert("metadata".into(), metadata);
    }
    let spec = make(map, "spec");
    if finalizers.is_null() {
        spec.remove("finalizers")
    } else {
        spec.insert("finalizers".into(), finalizers)
    };
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printing::name(object), printing::string_at(object, "status.phase"), printing::age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::check_row;

    #[test]
    fn born_active_and_labelled() {
        let mut namespace = json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}});
        defaults(&mut namespace);
        prepare_create(&mut namespace);
        assert_eq!(
            namespace,
            json!({
                "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            })
        );
        check_row(&KIND, namespace, "2026-01-01T00:00:00Z", "a | Active | <unknown>");
    }

    #[test]
    fn finalizers_are_kept() {
        let old =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let mut new = json!({"metadata": {"name": "a", "labels": {}}, "spec": {}});
        (KIND.prepare_update)(&mut new, &old);
        assert_eq!(new["spec"], old["spec"]);
        let mut new = json!({"metadata": {"name": "a"}, "spec": {}, "status": {"phase": "Gone"}});
        prepare_finalize(&mut new, &old);
        assert_eq!(new, json!({"metadata": {"name": "a"}, "spec": {}, "status": {"phase": "Active"}}));
    }
}
