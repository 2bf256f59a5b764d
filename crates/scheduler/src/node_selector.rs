//! Node selectors and node affinity: which nodes a pod names by their labels.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::node_info::NodeInfo;

/// Whether `spec.nodeSelector` and the required node affinity allow the node.
pub fn required_matches(spec: &PodSpec, node: &NodeInfo) -> bool {
    let by_labels = spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    by_labels && required_of(spec).is_none_or(|selector| matches(selector, &node.labels, &node.name))
}

/// Any of the terms suffices; a term without requirements matches nothing.
pub fn matches(selector: &NodeSelector, labels: &BTreeMap<String, String>, name: &str) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, labels, name))
}

pub fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|requirement| holds(requirement, labels.get(&requirement.key).map(String::as_str)))
        && fields.iter().all(|requirement| requirement.key == "metadata.name" && holds(requirement, Some(name)))
}

/// The nodes that the required affinity names one by one, if it does so in every term; a DaemonSet's pods do.
pub fn named_nodes(spec: &PodSpec) -> Option<BTreeSet<&str>> {
    let mut names = BTreeSet::new();
    for term in &required_of(spec)?.node_selector_terms {
        let fields = term.match_fields.iter().flatten();
        let mut named = fields.filter(|field| field.key == "metadata.name" && field.operator == "In").map(|field| {
            field.values.iter().flatten().map(String::as_str).collect::<BTreeSet<_>>()
        });
        let first = named.next()?;
        names.extend(named.fold(first, |names, more| names.intersection(&more).copied().collect()));
    }
    Some(names)
}

fn required_of(spec: &PodSpec) -> Option<&NodeSelector> {
    spec.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|wanted| wanted == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = |holds: fn(&i64, &i64) -> bool| {
        let bound = values.first().and_then(|bound| number(bound));
        matches!((value.and_then(number), bound), (Some(value), Some(bound)) if holds(&value, &bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(i64::gt),
        "Lt" => compared(i64::lt),
        _ => false,
    }
}
