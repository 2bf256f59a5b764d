//! Where a policy applies.

use jiff::Timestamp;
use serde_json::Value;

use super::validating_admission_policy::default_match;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{inside, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    kind: "ValidatingAdmissionPolicyBinding",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    categories: &["api-extensions"],
    definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    storage: "validatingadmissionpolicybindings",
    defaults: |object| {
        if let Some(spec) = object_at(object, "spec") {
            inside(spec, "matchResources", default_match);
        }
    },
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update: |new, old| lifecycle::count_generation(new, old, &["spec"]),
    validate,
    columns: &[
        NAME,
        text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
        text("ParamRef", "ParamRef indicates the param resource which sets the configration param"),
        AGE,
    ],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let policy = spec.at("policyName");
    if checks::required(&policy, problems) {
        checks::subdomain(&policy, problems);
    }
    let reference = spec.at("paramRef");
    if reference.exists() {
        if reference.at("name").is_empty() == !reference.at("selector").exists() {
            problems.required(&reference.at("name"), "one of name or selector must be specified");
        }
        let action = reference.at("parameterNotFoundAction");
        if action.is_empty() {
            problems.required(&action, "");
        } else {
            checks::one_of(&action, &["Allow", "Deny"], problems);
        }
    }
    let actions = spec.at("validationActions");
    if actions.is_empty() {
        problems.required(&actions, "");
    }
    for (index, action) in actions.items().enumerate() {
        checks::one_of(&action, &["Audit", "Deny", "Warn"], problems);
        if actions.array()[..index].contains(action.value) {
            problems.duplicate(&action);
        }
    }
    let has = |wanted: &str| actions.array().iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        problems.invalid(
            &actions,
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        );
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference = walk(object, "spec.paramRef");
    let string = |field: &str| walk(reference, field).as_str().unwrap_or("");
    let shown = match (string("namespace"), string("name")) {
        ("", "") if walk(reference, "selector").is_null() => "<unset>".to_owned(),
        ("", "") => printing::selector(walk(reference, "selector")),
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        printing::name(object),
        printing::string_at(object, "spec.policyName"),
        shown.into(),
        printing::age(object, now),
    ]
}
