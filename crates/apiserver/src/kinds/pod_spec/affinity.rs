//! Node and pod affinity.

use crate::kinds::{Cursor, Problems, checks};

pub fn validate(affinity: &Cursor, problems: &mut Problems) {
    if !affinity.exists() {
        return;
    }
    let node = affinity.at("nodeAffinity");
    let required = node.at("requiredDuringSchedulingIgnoredDuringExecution");
    if required.exists() {
        validate_node_selector(&required, problems);
    }
    for term in node.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
        validate_weight(&term.at("weight"), problems);
        // Odd label values may stand in preferences: they match nothing and harm nobody.
        validate_node_term(&term.at("preference"), true, problems);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let own = affinity.at(field);
        for term in own.at("requiredDuringSchedulingIgnoredDuringExecution").items() {
            validate_pod_term(&term, problems);
        }
        for weighted in own.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
            validate_weight(&weighted.at("weight"), problems);
            validate_pod_term(&weighted.at("podAffinityTerm"), problems);
        }
    }
}

fn validate_weight(weight: &Cursor, problems: &mut Problems) {
    if !(1..=100).contains(&weight.int()) {
        problems.invalid_plain(weight, weight.int(), "must be in the range 1-100");
    }
}

/// A `core/v1.NodeSelector`.
pub fn validate_node_selector(selector: &Cursor, problems: &mut Problems) {
    let terms = selector.at("nodeSelectorTerms");
    if terms.is_empty() {
        return problems.required(&terms, "must have at least one node selector term");
    }
    for term in terms.items() {
        validate_node_term(&term, false, problems);
    }
}

fn validate_node_term(term: &Cursor, any_value: bool, problems: &mut Problems) {
    for requirement in term.at("matchExpressions").items() {
        let (key, operator, values) = (requirement.at("key"), requirement.at("operator"), requirement.at("values"));
        match operator.str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    problems.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    problems.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    problems.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
            }
            other => problems.invalid_str(&operator, other, "not a valid selector operator"),
        }
        problems.invalid_each(&key, api::names::qualified_name(key.str()));
        if !any_value {
            for value in values.items() {
                problems.invalid_each(&value, api::names::label_value(value.str()));
            }
        }
    }
    for requirement in term.at("matchFields").items() {
        let (key, operator, values) = (requirement.at("key"), requirement.at("operator"), requirement.at("values"));
        match operator.str() {
            "In" | "NotIn" => {
                if values.len() != 1 {
                    problems.required(
                        &values,
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    );
                }
            }
            other => problems.invalid_str(&operator, other, "not a valid selector operator"),
        }
        if key.str() == "metadata.name" {
            for value in values.items() {
                checks::subdomain(&value, problems);
            }
        } else {
            problems.invalid_str(&key, key.str(), "not a valid field selector key");
        }
    }
}

fn validate_pod_term(term: &Cursor, problems: &mut Problems) {
    checks::label_selector(&term.at("labelSelector"), problems);
    checks::label_selector(&term.at("namespaceSelector"), problems);
    let namespaces = term.at("namespaces");
    let named = term.at("namespace");
    for namespace in namespaces.items() {
        problems.invalid_each_str(&named, namespace.str(), api::names::dns1123_label(namespace.str()));
    }
    validate_term_keys(term, problems);
    let key = term.at("topologyKey");
    if key.is_empty() {
        problems.required(&key, "can not be empty");
    }
    problems.invalid_each(&key, api::names::qualified_name(key.str()));
}

fn validate_term_keys(term: &Cursor, problems: &mut Problems) {
    let (matching, mismatching) = (term.at("matchLabelKeys"), term.at("mismatchLabelKeys"));
    let selector = term.at("labelSelector");
    validate_label_keys(&matching, &selector, problems);
    validate_label_keys(&mismatching, &selector, problems);
    validate_merged_keys(&matching, &selector, term, problems);
    for key in matching.items() {
        if mismatching.array().contains(key.value) {
            problems.invalid(&key, "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

/// Names of labels, for a selector that is there.
pub fn validate_label_keys(keys: &Cursor, selector: &Cursor, problems: &mut Problems) {
    if keys.is_empty() {
        return;
    }
    if !selector.exists() {
        return problems.forbidden(keys, "must not be specified when labelSelector is not set");
    }
    for key in keys.items() {
        problems.invalid_each(&key, api::names::qualified_name(key.str()));
    }
}

/// A key that has become part of the selector stands there once; twice: the user named it too. `at` is what the
/// original counts the keys below.
pub fn validate_merged_keys(keys: &Cursor, selector: &Cursor, at: &Cursor, problems: &mut Problems) {
    let mut seen: Vec<&str> = selector.at("matchLabels").entries().map(|(key, _)| key).collect();
    for expression in selector.at("matchExpressions").items() {
        let key = expression.at("key").str();
        let index = keys.array().iter().rposition(|own| own.as_str() == Some(key));
        if let Some(index) = index.filter(|_| seen.contains(&key)) {
            problems.invalid_str(&at.index(index), key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::{Value, json};

    #[test]
    fn terms() {
        let with = |affinity: Value| json!({"containers": [{"name": "c", "image": "nginx"}], "affinity": affinity});
        check(
            with(
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}),
            ),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
        );
        check(
            with(json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1", "2"]}]}]}}})),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
        );
        check(
            with(json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 0, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}]}})),
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
        );
        let term = |term: Value| with(json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}));
        const AT: &str = "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]";
        check(
            term(json!({"namespaces": ["A"]})),
            &format!(
                "{AT}.namespace: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')\n\
                 {AT}.topologyKey: Required value: can not be empty\n\
                 {AT}.topologyKey: Invalid value: \"\": name part must be non-empty\n\
                 {AT}.topologyKey: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ),
        );
        check(
            term(json!({"topologyKey": "zone", "labelSelector": {}, "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]})),
            &format!("{AT}.matchLabelKeys[0]: Invalid value: \"a\": exists in both matchLabelKeys and mismatchLabelKeys"),
        );
        check(
            term(json!({"topologyKey": "zone", "matchLabelKeys": ["a"], "mismatchLabelKeys": ["b"]})),
            &format!(
                "{AT}.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set\n\
                 {AT}.mismatchLabelKeys: Forbidden: must not be specified when labelSelector is not set"
            ),
        );
        check(
            with(json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 101, "preference": {"matchFields": [{"key": "x", "operator": "Exists"}]}}]}})),
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100\n\
             spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].operator: Invalid value: \"Exists\": not a valid selector operator\n\
             spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].key: Invalid value: \"x\": not a valid field selector key",
        );
    }
}
