//! Preferred pod affinity and anti-affinity, the pod's own and that of pods already there.

use std::collections::HashMap;

use super::MAX;
use crate::cluster::Cluster;
use crate::filters::pod_affinity::namespaces;
use crate::node_info::NodeInfo;
use crate::pod_info::{AffinityTerm, PodInfo};

pub fn score(pod: &PodInfo, cluster: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    if pod.preferred_affinity.is_empty() && pod.preferred_anti_affinity.is_empty() && cluster.weighing.is_empty() {
        return vec![0; nodes.len()];
    }
    let mut places: HashMap<(&str, &str), i64> = HashMap::new();
    let own = pod.preferred_affinity.iter().map(|(weight, term)| (*weight, term));
    let own = own.chain(pod.preferred_anti_affinity.iter().map(|(weight, term)| (-weight, term)));
    for (weight, term) in own {
        for namespace in namespaces(term, cluster) {
            cluster.count(&namespace, &term.selector).for_each(|node, count| {
                if let Some(node) = cluster.node(node) {
                    add(&mut places, term, node, weight * count.all);
                }
            });
        }
    }
    // A pod without wishes of its own may be told to heed no wish but what is required near it.
    let heeds_none = pod.profile.ignore_preferred_terms_of_existing_pods && pod.preferred_affinity.is_empty() && pod.preferred_anti_affinity.is_empty();
    for uid in cluster.weighing.iter().filter(|_| !heeds_none) {
        let Some((other, Some(node))) = cluster.placed(uid) else { continue };
        let required = other.required_affinity.iter().map(|term| (pod.profile.hard_pod_affinity_weight, term));
        let drawn = other.preferred_affinity.iter().map(|(weight, term)| (*weight, term));
        let pushed = other.preferred_anti_affinity.iter().map(|(weight, term)| (-weight, term));
        for (weight, term) in required.chain(drawn).chain(pushed).filter(|(_, term)| term.matches(pod, &cluster.namespaces)) {
            add(&mut places, term, node, weight);
        }
    }
    let sum = |node: &&NodeInfo| {
        let here = places.iter().filter(|((key, value), _)| node.labels.get(*key).is_some_and(|label| label == value));
        here.map(|(_, weight)| *weight).sum::<i64>()
    };
    let sums: Vec<i64> = nodes.iter().map(sum).collect();
    let (least, most) = (sums.iter().min().copied().unwrap_or(0), sums.iter().max().copied().unwrap_or(0));
    let stretch = |sum: i64| if most == least { 0 } else { MAX * (sum - least) / (most - least) };
    sums.into_iter().map(stretch).collect()
}

fn add<'a>(places: &mut HashMap<(&'a str, &'a str), i64>, term: &'a AffinityTerm, node: &'a NodeInfo, weight: i64) {
    if let Some(value) = node.labels.get(&term.topology_key) {
        *places.entry((&term.topology_key, value)).or_insert(0) += weight;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{cluster, place, pod};

    fn preferring(kind: &str) -> Value {
        let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}});
        json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "podAffinityTerm": term}]}}}})
    }

    #[test]
    fn weighs_own_wishes() {
        let cluster = cluster("a1[zone=a] a2[zone=a] b1[zone=b] x1", "a1:2 b1:1", "app=db");
        let nodes: Vec<&NodeInfo> = cluster.nodes().iter().collect();
        assert_eq!(score(&pod(preferring("podAffinity")), &cluster, &nodes), [100, 100, 50, 0]);
        assert_eq!(score(&pod(preferring("podAntiAffinity")), &cluster, &nodes), [0, 0, 50, 100]);
        assert_eq!(score(&pod(json!({})), &cluster, &nodes), [0, 0, 0, 0]);
    }

    #[test]
    fn weighs_wishes_of_those_already_there() {
        let mut cluster = cluster("a1[zone=a] b1[zone=b]", "", "");
        let mut friend = preferring("podAffinity");
        friend["metadata"] = json!({"name": "friend"});
        place(&mut cluster, friend, "b1");
        let nodes: Vec<&NodeInfo> = cluster.nodes().iter().collect();
        assert_eq!(score(&pod(json!({"metadata": {"labels": {"app": "db"}}})), &cluster, &nodes), [0, 100]);
    }
}
