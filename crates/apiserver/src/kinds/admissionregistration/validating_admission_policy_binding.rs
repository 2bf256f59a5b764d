//! Where a policy applies.

use jiff::Timestamp;
use serde_json::Value;

use super::validating_admission_policy::{default_match, validate_match};
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
        let (name, selector) = (reference.at("name"), reference.at("selector"));
        const EXCLUSIVE: &str = "name and selector are mutually exclusive";
        if !name.is_empty() {
            problems.invalid_each(&name, checks::path_segment_name(name.str()));
            if selector.exists() {
                problems.forbidden(&name, EXCLUSIVE);
            }
        }
        if selector.exists() {
            checks::label_selector(&selector, problems);
            if !name.is_empty() {
                problems.forbidden(&selector, EXCLUSIVE);
            }
        }
        if name.is_empty() && !selector.exists() {
            problems.required(&reference, "one of name or selector must be specified");
        }
        let action = reference.at("parameterNotFoundAction");
        if action.is_empty() {
            problems.required(&action, "");
        } else {
            checks::one_of(&action, &["Allow", "Deny"], problems);
        }
    }
    let matched = spec.at("matchResources");
    if matched.exists() {
        validate_match(&matched, problems);
    }
    let actions = spec.at("validationActions");
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
    if actions.is_empty() {
        problems.required(&actions, "at least one validation action is required");
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

#[cfg(test)]
mod tests {
    use super::KIND;
    use crate::kinds::testing::check_defaulted;
    use serde_json::json;

    #[test]
    fn rules_of_bindings() {
        check_defaulted(
            &KIND,
            json!({"spec": {"policyName": "a", "paramRef": {"name": "b", "selector": {}, "parameterNotFoundAction": "Deny"},
                "validationActions": ["Deny", "Deny"]}}),
            "spec.paramRef.name: Forbidden: name and selector are mutually exclusive\n\
             spec.paramRef.selector: Forbidden: name and selector are mutually exclusive\n\
             spec.validationActions[1]: Duplicate value: \"Deny\"",
        );
        check_defaulted(
            &KIND,
            json!({"spec": {"policyName": "a", "paramRef": {"parameterNotFoundAction": "Deny"}}}),
            "spec.paramRef: Required value: one of name or selector must be specified\n\
             spec.validationActions: Required value: at least one validation action is required",
        );
    }
}
