//! CEL rules that judge requests.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::webhooks::{default_rule, validate_conditions, validate_rule};
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, each, inside, make, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, integer, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    kind: "ValidatingAdmissionPolicy",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    categories: &["api-extensions"],
    definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
    storage: "validatingadmissionpolicies",
    subresources: &[STATUS],
    defaults: |object| {
        let Some(spec) = object_at(object, "spec") else { return };
        default(spec, "failurePolicy", "Fail");
        inside(spec, "matchConstraints", default_match);
    },
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    validate,
    columns: &[
        NAME,
        integer("Validations", "Validations indicates the number of validation rules defined in this configuration"),
        text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
        AGE,
    ],
    cells,
    ..CLUSTER
};

/// Also for bindings.
pub fn default_match(constraints: &mut crate::kinds::edit::Object) {
    default(constraints, "matchPolicy", "Equivalent");
    make(constraints, "namespaceSelector");
    make(constraints, "objectSelector");
    for list in ["resourceRules", "excludeResourceRules"] {
        each(constraints, list, default_rule);
    }
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let policy = spec.at("failurePolicy");
    if policy.is_empty() {
        problems.required(&policy, "");
    } else {
        checks::one_of(&policy, &["Fail", "Ignore"], problems);
    }
    let kind = spec.at("paramKind");
    if kind.exists() {
        checks::required(&kind.at("apiVersion"), problems);
        checks::required(&kind.at("kind"), problems);
    }
    let constraints = spec.at("matchConstraints");
    if !constraints.exists() {
        problems.required(&constraints, "");
    } else {
        let rules = constraints.at("resourceRules");
        if rules.is_empty() {
            problems.required(&rules, "");
        }
        for list in ["resourceRules", "excludeResourceRules"] {
            for rule in constraints.at(list).items() {
                validate_rule(&rule, problems);
            }
        }
        checks::label_selector(&constraints.at("namespaceSelector"), problems);
        checks::label_selector(&constraints.at("objectSelector"), problems);
    }
    validate_conditions(&spec.at("matchConditions"), problems);
    if spec.at("validations").is_empty() && spec.at("auditAnnotations").is_empty() {
        problems.required(&spec.at("validations"), "validations or auditAnnotations must contain at least one item");
    }
    for validation in spec.at("validations").items() {
        let expression = validation.at("expression");
        if expression.str().trim().is_empty() {
            problems.required(&expression, "expression is not specified");
        }
        let reason = validation.at("reason");
        checks::optional_one_of(&reason, &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"], problems);
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let kind = walk(object, "spec.paramKind");
    let string = |field: &str| walk(kind, field).as_str().unwrap_or("");
    let shown = if kind.is_null() { "<unset>".into() } else { format!("{}/{}", string("apiVersion"), string("kind")) };
    vec![
        printing::name(object),
        json!(walk(object, "spec.validations").as_array().map_or(0, Vec::len)),
        shown.into(),
        printing::age(object, now),
    ]
}
