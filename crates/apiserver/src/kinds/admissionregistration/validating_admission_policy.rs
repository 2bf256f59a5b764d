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
        validate_param_kind(&kind, problems);
    }
    let constraints = spec.at("matchConstraints");
    if !constraints.exists() {
        problems.required(&constraints, "");
    } else {
        validate_match(&constraints, problems);
        let rules = constraints.at("resourceRules");
        if rules.is_empty() {
            problems.required(&rules, "");
        }
    }
    validate_conditions(&spec.at("matchConditions"), problems);
    for variable in spec.at("variables").items() {
        validate_variable(&variable, problems);
    }
    let (validations, annotations) = (spec.at("validations"), spec.at("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for list in [&validations, &annotations] {
            problems.required(list, "validations or auditAnnotations must contain at least one item");
        }
    }
    for validation in validations.items() {
        validate_validation(&validation, problems);
    }
    validate_annotations(&annotations, root.at("metadata.name").str(), problems);
}

/// `group/version`
fn validate_param_kind(param: &Cursor, problems: &mut Problems) {
    let (version_at, kind) = (param.at("apiVersion"), param.at("kind"));
    let text = version_at.str();
    let joined = |at: &Cursor, value: &str, before: &str, faults: Vec<String>, problems: &mut Problems| {
        if !faults.is_empty() {
            problems.invalid_str(at, value, &format!("{before}{}", faults.join(",")));
        }
    };
    if checks::required(&version_at, problems) {
        let (group, version) = text.split_once('/').unwrap_or(("", text));
        if version.contains('/') {
            problems.invalid(&version_at, &format!("unexpected GroupVersion string: {text}"));
        } else {
            if !group.is_empty() {
                joined(&version_at, group, "", api::names::dns1123_subdomain(group), problems);
            }
            if version.is_empty() {
                problems.invalid(&version_at, "version must be specified");
            } else {
                joined(&version_at, version, "", api::names::dns1035_label(version), problems);
            }
        }
    }
    if checks::required(&kind, problems) {
        let faults = api::names::dns1035_label(&kind.str().to_lowercase());
        joined(&kind, kind.str(), "may have mixed case, but should otherwise match: ", faults, problems);
    }
}

/// Also for bindings.
pub fn validate_match(constraints: &Cursor, problems: &mut Problems) {
    let policy = constraints.at("matchPolicy");
    if !policy.exists() {
        problems.required(&policy, "");
    } else {
        checks::one_of(&policy, &["Equivalent", "Exact"], problems);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = constraints.at(field);
        if !selector.exists() {
            problems.required(&selector, "");
        } else {
            checks::label_selector(&selector, problems);
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in constraints.at(list).items() {
            let names = rule.at("resourceNames");
            for (index, name) in names.items().enumerate() {
                problems.invalid_each(&name, checks::path_segment_name(name.str()));
                if names.array()[..index].contains(name.value) {
                    problems.duplicate(&name);
                }
            }
            validate_rule(&rule, problems);
        }
    }
}

fn validate_variable(variable: &Cursor, problems: &mut Problems) {
    let (name, expression) = (variable.at("name"), variable.at("expression"));
    if name.str().trim().is_empty() {
        problems.required(&name, "name is not specified");
    } else if !is_identifier(name.str()) {
        problems.invalid(&name, "name is not a valid CEL identifier");
    }
    if expression.str().trim().is_empty() {
        problems.required(&expression, "expression is not specified");
    }
}

fn is_identifier(name: &str) -> bool {
    /// What CEL keeps for itself.
    const RESERVED: &[&str] = &[
        "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
        "namespace", "null", "package", "return", "true", "var", "void", "while",
    ];
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !RESERVED.contains(&name)
}

fn validate_validation(validation: &Cursor, problems: &mut Problems) {
    let expression = validation.at("expression");
    if expression.str().trim().is_empty() {
        problems.required(&expression, "expression is not specified");
    }
    let blank = |at: &Cursor| !at.is_empty() && at.str().trim().is_empty();
    let (told_by, message) = (validation.at("messageExpression"), validation.at("message"));
    if blank(&told_by) {
        problems.invalid(&told_by, "must be non-empty if specified");
    }
    if blank(&message) {
        problems.invalid(&message, "message must be non-empty if specified");
    } else if message.str().trim().contains(['\n', '\r']) {
        problems.invalid(&message, "message must not contain line breaks");
    }
    let reason = validation.at("reason");
    checks::optional_one_of(&reason, &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"], problems);
}

fn validate_annotations(annotations: &Cursor, policy: &str, problems: &mut Problems) {
    const ANNOTATIONS_MAX: usize = 20;
    const EXPRESSION_MAX: usize = 5 << 10;
    if annotations.len() > ANNOTATIONS_MAX {
        problems.invalid(annotations, &format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations"));
    }
    let mut keys: Vec<&str> = Vec::new();
    for annotation in annotations.items() {
        let (key, value) = (annotation.at("key"), annotation.at("valueExpression"));
        if policy.is_empty() {
            problems.invalid_str(&key, key.str(), "requires metadata.name be non-empty");
        } else {
            let whole = format!("{policy}/{}", key.str());
            problems.invalid_each_str(&key, &whole, api::names::qualified_name(&whole));
        }
        match value.str().trim() {
            "" => problems.required(&value, "valueExpression is not specified"),
            text if text.len() > EXPRESSION_MAX => {
                problems.required(&value, &format!("must not exceed {EXPRESSION_MAX} bytes in length"));
            }
            _ => {}
        }
        if keys.contains(&key.str()) {
            problems.duplicate_str(&key, key.str());
        }
        keys.push(key.str());
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

#[cfg(test)]
mod tests {
    use super::KIND;
    use crate::kinds::testing::check_defaulted;
    use serde_json::{Value, json};

    fn with(field: &str, value: Value) -> Value {
        let mut spec = json!({"matchConstraints": {"resourceRules":
                [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]},
            "validations": [{"expression": "true"}]});
        spec[field] = value;
        json!({"metadata": {"name": "a"}, "spec": spec})
    }

    #[test]
    fn rules_of_policies() {
        for (field, value, expected) in [
            ("variables", json!([{"name": "a", "expression": "1"}]), ""),
            (
                "variables",
                json!([{"name": "a-b", "expression": "1"}, {"name": "if"}]),
                "spec.variables[0].name: Invalid value: \"a-b\": name is not a valid CEL identifier\n\
                 spec.variables[1].name: Invalid value: \"if\": name is not a valid CEL identifier\n\
                 spec.variables[1].expression: Required value: expression is not specified",
            ),
            (
                "validations",
                json!([]),
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item\n\
                 spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ),
            (
                "validations",
                json!([{"expression": " ", "messageExpression": " ", "message": "a\nb"}, {"expression": "true", "message": " "}]),
                "spec.validations[0].expression: Required value: expression is not specified\n\
                 spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified\n\
                 spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks\n\
                 spec.validations[1].message: Invalid value: \" \": message must be non-empty if specified",
            ),
            (
                "paramKind",
                json!({"apiVersion": "a/b/c", "kind": "ConfigMap"}),
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            ),
            (
                "paramKind",
                json!({"apiVersion": "apps/"}),
                "spec.paramKind.apiVersion: Invalid value: \"apps/\": version must be specified\n\
                 spec.paramKind.kind: Required value",
            ),
            (
                "matchConstraints",
                json!({}),
                "spec.matchConstraints.resourceRules: Required value",
            ),
            (
                "auditAnnotations",
                json!([{"key": "k", "valueExpression": "'x'"}, {"key": "k"}]),
                "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified\n\
                 spec.auditAnnotations[1].key: Duplicate value: \"k\"",
            ),
        ] {
            check_defaulted(&KIND, with(field, value), expected);
        }
    }
}
