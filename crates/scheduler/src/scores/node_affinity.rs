//! Nodes that match more of the preferred node affinity, by weight.

use super::normalize;
use crate::cluster::Cluster;
use crate::node_info::NodeInfo;
use crate::node_selector::term_matches;
use crate::pod_info::PodInfo;

pub fn score(pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let affinity = pod.spec().and_then(|spec| spec.affinity.as_ref()).and_then(|affinity| affinity.node_affinity.as_ref());
    let affinities = affinity.into_iter().chain(pod.profile.added_affinity.as_ref());
    let terms = affinities.flat_map(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let terms: Vec<_> = terms.collect();
    if terms.is_empty() {
        return vec![0; nodes.len()];
    }
    let weight = |node: &&NodeInfo| {
        let matching = terms.iter().filter(|term| term_matches(&term.preference, &node.labels, &node.name));
        matching.map(|term| i64::from(term.weight)).sum()
    };
    normalize(nodes.iter().map(weight).collect(), false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn adds_up_weights() {
        let term = |weight: i32, key: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
        let preferred = json!({"preferredDuringSchedulingIgnoredDuringExecution": [term(10, "a"), term(40, "b")]});
        let pod = pod(json!({"spec": {"affinity": {"nodeAffinity": preferred}}}));
        let nodes = [json!({}), json!({"a": ""}), json!({"a": "", "b": ""})].map(|labels| node(json!({"metadata": {"labels": labels}})));
        assert_eq!(score(&pod, &Cluster::default(), &nodes.each_ref()), [0, 20, 100]);
    }
}
