//! The forerunner of ReplicaSet.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, make};
use crate::kinds::pod_spec::{self, defaults};
use crate::kinds::printing::{self, AGE, CONTAINERS, IMAGES, NAME, integer, wide};
use crate::kinds::subresources::{STATUS, scale};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, ScalePaths, checks, lifecycle};

pub static KIND: Kind = Kind {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    definition: "io.k8s.api.core.v1.ReplicationController",
    storage: "controllers",
    subresources: &[
        scale(ScalePaths {
            spec_replicas: "spec.replicas",
            status_replicas: "status.replicas",
            selector: "spec.selector",
        }),
        STATUS,
    ],
    defaults: default_controller,
    prepare_create: |object| {
        lifecycle::first_generation(object);
        object["status"] = json!({"replicas": 0});
    },
    prepare_update: lifecycle::keep_status_and_count,
    validate,
    warnings: |new, old| pod_spec::controller_warnings(new, old, "spec.template"),
    validate_status_update: |new, _, problems| replica_status(&Cursor::root(new).at("status"), problems),
    selectable_fields: &["status.replicas"],
    field_value: |object, _| walk(object, "status.replicas").as_i64().unwrap_or(0).to_string(),
    columns: &[
        NAME,
        integer("Desired", "io.k8s.api.core.v1.ReplicationControllerSpec#replicas"),
        integer("Current", "io.k8s.api.core.v1.ReplicationControllerStatus#replicas"),
        integer("Ready", "io.k8s.api.core.v1.ReplicationControllerStatus#readyReplicas"),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "io.k8s.api.core.v1.ReplicationControllerSpec#selector"),
    ],
    cells,
    ..NAMESPACED
};

fn default_controller(object: &mut Value) {
    defaults::default_template(object, "spec.template");
    let labels = walk(object, "spec.template.metadata.labels").clone();
    let Some(map) = object.as_object_mut() else { return };
    let empty = |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(|map| map.is_empty());
    let spec = make(map, "spec");
    default(spec, "replicas", 1);
    if labels.is_null() {
        return;
    }
    if empty(spec.get("selector")) {
        spec.insert("selector".into(), labels.clone());
    }
    let metadata = make(map, "metadata");
    if empty(metadata.get("labels")) {
        metadata.insert("labels".into(), labels);
    }
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    checks::non_negative(&spec.at("minReadySeconds"), problems);
    let (selector, template) = (spec.at("selector"), spec.at("template"));
    if selector.is_empty() {
        problems.required(&selector, "");
    }
    checks::non_negative(&spec.at("replicas"), problems);
    if !template.exists() {
        problems.required(&template, "");
        return;
    }
    let labels = template.at("metadata.labels");
    if !selector.is_empty() && selector.entries().any(|(key, value)| labels.key(key).value != value.value) {
        problems.invalid(&labels, pod_spec::SELECTOR_MISMATCH);
    }
    pod_spec::validate_template(&template, problems);
    pod_spec::only_restart_always(&template, problems);
}

/// Counts of pods: none below zero, parts not above the whole.
pub fn replica_status(status: &Cursor, problems: &mut Problems) {
    for field in ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"] {
        checks::non_negative(&status.at(field), problems);
    }
    let all = status.at("replicas").int();
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        let part = status.at(field);
        if part.int() > all {
            problems.invalid_plain(&part, part.int(), "cannot be greater than status.replicas");
        }
    }
    let (ready, available) = (status.at("readyReplicas"), status.at("availableReplicas"));
    if available.int() > ready.int() {
        problems.invalid_plain(&available, available.int(), "cannot be greater than readyReplicas");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = printing::containers(walk(object, "spec.template.spec"));
    vec![
        printing::name(object),
        printing::int_at(object, "spec.replicas"),
        printing::int_at(object, "status.replicas"),
        printing::int_at(object, "status.readyReplicas"),
        printing::age(object, now),
        names,
        images,
        printing::labels(walk(object, "spec.selector")).into(),
    ]
}
