//! Keeps a number of equal pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::deployment::validate_selector_and_template;
use crate::kinds::core::replication_controller::replica_status;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, object as object_at};
use crate::kinds::pod_spec::{self, defaults};
use crate::kinds::printing::{self, AGE, CONTAINERS, IMAGES, NAME, integer, wide};
use crate::kinds::subresources::{STATUS, scale};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, ScalePaths, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    definition: "io.k8s.api.apps.v1.ReplicaSet",
    storage: "replicasets",
    subresources: &[
        scale(ScalePaths {
            spec_replicas: "spec.replicas",
            status_replicas: "status.replicas",
            selector: "spec.selector",
        }),
        STATUS,
    ],
    defaults: |object| {
        defaults::default_template(object, "spec.template");
        if let Some(spec) = object_at(object, "spec") {
            default(spec, "replicas", 1);
        }
    },
    prepare_create: |object| {
        lifecycle::first_generation(object);
        object["status"] = json!({"replicas": 0});
    },
    prepare_update: lifecycle::keep_status_and_count,
    validate,
    validate_update: |new, old, problems| {
        problems.immutable(&Cursor::root(new).at("spec.selector"), walk(old, "spec.selector"));
    },
    validate_status_update: |new, _, problems| replica_status(&Cursor::root(new).at("status"), problems),
    warnings: |new, old| pod_spec::controller_warnings(new, old, "spec.template"),
    selectable_fields: &["status.replicas"],
    field_value: |object, _| walk(object, "status.replicas").as_i64().unwrap_or(0).to_string(),
    columns: &[
        NAME,
        integer("Desired", "io.k8s.api.apps.v1.ReplicaSetSpec#replicas"),
        integer("Current", "io.k8s.api.apps.v1.ReplicaSetStatus#replicas"),
        integer("Ready", "io.k8s.api.apps.v1.ReplicaSetStatus#readyReplicas"),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "io.k8s.api.apps.v1.ReplicaSetSpec#selector"),
    ],
    cells,
    ..NAMESPACED
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    checks::non_negative(&spec.at("replicas"), problems);
    checks::non_negative(&spec.at("minReadySeconds"), problems);
    validate_selector_and_template(&spec, "empty selector is invalid for deployment", problems);
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
        printing::selector(walk(object, "spec.selector")).into(),
    ]
}
