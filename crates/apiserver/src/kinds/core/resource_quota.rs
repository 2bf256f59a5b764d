//! Limits what a namespace may hold.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::pod_spec::containers::{COUNTED, is_extended, resource_name};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::problems::IMMUTABLE;
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
        let scopes = root.at("spec.scopes");
        let sorted = |list: &Value| {
            let mut names: Vec<String> = list.as_array().into_iter().flatten().map(Value::to_string).collect();
            names.sort();
            names.dedup();
            names
        };
        // In whatever order.
        if sorted(scopes.value) != sorted(walk(old, "spec.scopes")) {
            problems.invalid(&scopes, IMMUTABLE);
        }
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
    let spec = root.at("spec");
    validate_amounts(&spec.at("hard"), problems);
    let scopes = spec.at("scopes");
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.str()) {
            problems.invalid(&scopes, "unsupported scope");
        }
        validate_scope(&spec, scope.str(), &scopes, problems);
    }
    validate_conflicts(scopes.array().iter().filter_map(Value::as_str), &scopes, problems);
    let selector = spec.at("scopeSelector");
    let named = selector.at("matchExpressions");
    for requirement in named.items() {
        validate_requirement(&spec, &requirement, &named.with(selector.value), problems);
    }
    let selected = named.array().iter().filter_map(|own| walk(own, "scopeName").as_str());
    // The original shows the other list here.
    validate_conflicts(selected, &named.with(scopes.value), problems);
    for field in ["hard", "used"] {
        validate_amounts(&root.at("status").at(field), problems);
    }
}

fn validate_amounts(amounts: &Cursor, problems: &mut Problems) {
    for (name, amount) in amounts.entries() {
        resource_name(&amount, name, problems);
        if !name.contains('/') && !is_standard(name) {
            problems.invalid_str(&amount, name, "must be a standard resource for quota");
        }
        checks::non_negative_quantity(&amount, problems);
        let whole = COUNTED.contains(&name) || is_extended(name);
        if whole && checks::quantity(amount.value).is_some_and(|quantity| quantity.milli_value() % 1000 != 0) {
            problems.invalid(&amount, "must be an integer");
        }
    }
}

/// Resources without a group that quotas know.
fn is_standard(name: &str) -> bool {
    COMPUTE.contains(&name)
        || COUNTED.contains(&name)
        || matches!(name, "ephemeral-storage" | "requests.ephemeral-storage" | "limits.ephemeral-storage" | "requests.storage")
        || name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-")
}

const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// Some scopes are about pods, and not about all that pods use.
fn validate_scope(spec: &Cursor, scope: &str, at: &Cursor, problems: &mut Problems) {
    for (name, _) in spec.at("hard").entries() {
        let fits = match scope {
            "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
                name == "pods" || COMPUTE.contains(&name)
            }
            "BestEffort" => name == "pods",
            "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
            _ => true,
        };
        if is_standard(name) && !fits {
            problems.invalid(at, "unsupported scope applied to resource");
        }
    }
}

fn validate_conflicts<'s>(scopes: impl Iterator<Item = &'s str>, at: &Cursor, problems: &mut Problems) {
    let scopes: Vec<&str> = scopes.collect();
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            problems.invalid(at, "conflicting scopes");
        }
    }
}

/// `at`: the list's path, with the whole selector as its value.
fn validate_requirement(spec: &Cursor, requirement: &Cursor, at: &Cursor, problems: &mut Problems) {
    let (scope, operator, values) = (requirement.at("scopeName"), requirement.at("operator"), requirement.at("values"));
    if !SCOPES.contains(&scope.str()) {
        problems.invalid_str(&at.at("scopeName"), scope.str(), "unsupported scope");
    }
    validate_scope(spec, scope.str(), at, problems);
    let plain = !matches!(scope.str(), "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope.str());
    if plain && operator.str() != "Exists" {
        problems.invalid_str(
            &at.at("operator"),
            operator.str(),
            "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
        );
    }
    match operator.str() {
        "In" | "NotIn" => {
            if values.is_empty() {
                problems.required(
                    &at.at("values"),
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                );
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                problems.invalid(
                    &at.at("values").with(values.value),
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                );
            }
        }
        other => problems.invalid_str(&at.at("operator"), other, "not a valid selector operator"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_update};
    use serde_json::json;

    #[test]
    fn problems() {
        let hard = |name: &str, amount: &str| json!({"spec": {"hard": {name: amount}}});
        for name in ["cpu", "requests.storage", "count/deployments.apps", "requests.example.org/gpu", "services.nodeports"] {
            check(&KIND, hard(name, "3"), "");
        }
        check(
            &KIND,
            hard("gpu", "3"),
            "spec.hard[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified\n\
             spec.hard[gpu]: Invalid value: \"gpu\": must be a standard resource for quota",
        );
        check(&KIND, hard("storage", "3"), "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota");
        check(&KIND, hard("pods", "1500m"), "spec.hard[pods]: Invalid value: \"1500m\": must be an integer");
        check(&KIND, hard("count/jobs.batch", "1500m"), "spec.hard[count/jobs.batch]: Invalid value: \"1500m\": must be an integer");
        check(&KIND, hard("cpu", "-1"), "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0");
    }

    #[test]
    fn scopes() {
        let scoped = |name: &str, scopes: Value| json!({"spec": {"hard": {name: "3"}, "scopes": scopes}});
        check(&KIND, scoped("pods", json!(["BestEffort"])), "");
        check(
            &KIND,
            scoped("cpu", json!(["BestEffort"])),
            "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
        );
        check(&KIND, scoped("pods", json!(["Odd"])), "spec.scopes: Invalid value: [\"Odd\"]: unsupported scope");
        check(
            &KIND,
            scoped("pods", json!(["Terminating", "NotTerminating"])),
            "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
        );
        check_update(&KIND, scoped("pods", json!(["Terminating"])), scoped("pods", json!(["Terminating"])), "");
        check_update(
            &KIND,
            scoped("pods", json!(["Terminating"])),
            scoped("pods", json!(["BestEffort"])),
            "spec.scopes: Invalid value: [\"Terminating\"]: field is immutable",
        );
    }

    #[test]
    fn selectors() {
        let selected = |scope: &str, operator: &str, values: &[&str]| {
            let requirement = json!({"scopeName": scope, "operator": operator, "values": values});
            json!({"spec": {"hard": {"pods": "3"}, "scopeSelector": {"matchExpressions": [requirement]}}})
        };
        check(&KIND, selected("PriorityClass", "In", &["high"]), "");
        check(&KIND, selected("Terminating", "Exists", &[]), "");
        check(
            &KIND,
            selected("Terminating", "In", &["x"]),
            "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
        );
        check(
            &KIND,
            selected("PriorityClass", "In", &[]),
            "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        );
        check(
            &KIND,
            selected("PriorityClass", "Exists", &["high"]),
            "spec.scopeSelector.matchExpressions.values: Invalid value: [\"high\"]: must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        );
        check(
            &KIND,
            selected("PriorityClass", "Near", &[]),
            "spec.scopeSelector.matchExpressions.operator: Invalid value: \"Near\": not a valid selector operator",
        );
        check(
            &KIND,
            selected("Odd", "Exists", &[]),
            "spec.scopeSelector.matchExpressions.scopeName: Invalid value: \"Odd\": unsupported scope",
        );
    }
}
