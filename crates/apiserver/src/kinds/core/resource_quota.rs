//! Limits what a namespace may hold.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    definition: "io.k8s.api.core.v1.ResourceQuota",
    storage: "resourcequotas",
    answers_deletion_with_object: true,
    subresources: &[STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    validate,
    validate_update: |new, old, problems| {
        let root = Cursor::root(new);
        problems.immutable(&root.at("spec.scopes"), walk(old, "spec.scopes"));
    },
    columns: &[
        NAME,
        text("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
        text(
            "Limit",
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
        ),
        AGE,
    ],
    cells,
    ..NAMESPACED
};

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let hard = root.at("spec.hard");
    for (name, amount) in hard.entries() {
        validate_resource_name(&amount, name, problems);
        checks::non_negative_quantity(&amount, problems);
        let whole = !name.contains("cpu") && !name.contains("memory") && !name.contains("storage");
        if whole && checks::quantity(amount.value).is_some_and(|quantity| quantity.milli_value() % 1000 != 0) {
            problems.invalid(&amount, "must be an integer");
        }
    }
    let scopes = root.at("spec.scopes");
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.str()) {
            problems.invalid(&scopes, "unsupported scope");
        }
    }
    let has = |scope: &str| scopes.array().iter().any(|own| own == scope);
    if (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating")) {
        problems.invalid(&scopes, "conflicting scopes");
    }
}

/// A qualified name; without a group, one that the server knows.
fn validate_resource_name(at: &Cursor, name: &str, problems: &mut Problems) {
    problems.invalid_each_str(at, name, api::names::qualified_name(name));
    let known = name.contains('/')
        || name.starts_with("requests.")
        || name.starts_with("limits.")
        || name.starts_with("hugepages-")
        || name.starts_with("count/")
        || [
            "cpu",
            "memory",
            "storage",
            "ephemeral-storage",
            "pods",
            "services",
            "replicationcontrollers",
            "resourcequotas",
            "secrets",
            "configmaps",
            "persistentvolumeclaims",
            "services.nodeports",
            "services.loadbalancers",
        ]
        .contains(&name);
    if !known {
        problems.invalid_str(at, name, "must be a standard resource for quota");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in walk(object, "status.hard").as_object().into_iter().flatten() {
        let used = walk(object, "status.used").get(name).and_then(Value::as_str).unwrap_or("0");
        let list = if name.starts_with("limits.") { &mut limits } else { &mut requests };
        list.push(format!("{name}: {used}/{}", hard.as_str().unwrap_or("")));
    }
    vec![printing::name(object), requests.join(", ").into(), limits.join(", ").into(), printing::age(object, now)]
}
