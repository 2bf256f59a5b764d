//! How a pod is run.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::metadata::validate_labels;
use crate::kinds::pod_spec::tolerations::validate_tolerations;
use crate::kinds::pod_spec::validate_overhead;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks};

pub static KIND: Kind = Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    definition: "io.k8s.api.node.v1.RuntimeClass",
    storage: "runtimeclasses",
    validate,
    validate_update: |new, old, problems| problems.immutable(&Cursor::root(new).at("handler"), walk(old, "handler")),
    columns: &[NAME, text("Handler", "io.k8s.api.node.v1.RuntimeClass#handler"), AGE],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    checks::label(&root.at("handler"), problems);
    validate_overhead(&root.at("overhead.podFixed"), problems);
    let scheduling = root.at("scheduling");
    validate_labels(&scheduling.at("nodeSelector"), problems);
    validate_tolerations(&scheduling.at("tolerations"), problems);
    let tolerations = scheduling.at("tolerations");
    for (index, toleration) in tolerations.items().enumerate() {
        if tolerations.array()[..index].contains(toleration.value) {
            problems.duplicate(&toleration);
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printing::name(object), printing::string_at(object, "handler"), printing::age(object, now)]
}
