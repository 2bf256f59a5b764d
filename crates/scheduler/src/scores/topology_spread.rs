//! Soft topology spread constraints, the pod's own or those by default: places with fewer matching pods.

use std::collections::HashMap;

use super::MAX;
use crate::cluster::Cluster;
use crate::counts::Counted;
use crate::filters::topology_spread::is_domain;
use crate::node_info::NodeInfo;
use crate::pod_info::{PodInfo, SpreadConstraint};

const HOSTNAME: &str = "kubernetes.io/hostname";

pub fn score(pod: &PodInfo, cluster: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let constraints = soft_constraints(pod, cluster);
    if constraints.is_empty() {
        return vec![0; nodes.len()];
    }
    // By default a node without a zone is still spread over by name; not so if a profile says what the default is.
    let all_keys = !pod.spread.is_empty() || pod.profile.default_constraints.is_some();
    let ignored = |node: &NodeInfo| all_keys && constraints.iter().any(|constraint| !node.labels.contains_key(&constraint.topology_key));
    let counts: Vec<Counts<'_>> = constraints.iter().map(|constraint| count(pod, constraint, cluster, nodes, &ignored)).collect();
    let crowd = |node: &&NodeInfo| {
        if ignored(node) {
            return None;
        }
        let parts = constraints.iter().zip(&counts).filter_map(|(constraint, counts)| {
            let place = node.labels.get(&constraint.topology_key)?;
            let here = counts.at(node, place);
            Some(here as f64 * counts.weight + (constraint.max_skew - 1) as f64)
        });
        Some(parts.sum::<f64>().round() as i64)
    };
    let crowds: Vec<Option<i64>> = nodes.iter().map(crowd).collect();
    let (least, most) = (crowds.iter().flatten().min().copied().unwrap_or(0), crowds.iter().flatten().max().copied().unwrap_or(0));
    let score = |crowd: Option<i64>| match crowd {
        None => 0,
        Some(_) if most == 0 => MAX,
        Some(crowd) => MAX * (most + least - crowd) / most,
    };
    crowds.into_iter().map(score).collect()
}

/// The pod's own, or if it has none at all those of its Service or owner.
pub fn soft_constraints(pod: &PodInfo, cluster: &Cluster) -> Vec<SpreadConstraint> {
    if pod.spread.is_empty() {
        return cluster.default_selectors.constraints(pod).into_iter().filter(|constraint| !constraint.hard).collect();
    }
    pod.spread.iter().filter(|constraint| !constraint.hard).cloned().collect()
}

struct Counts<'a> {
    /// Its selector has no requirements.
    counts_nobody: bool,
    matching: Counted<'a>,
    /// Matching pods by place; `None` if each node is a place of its own.
    places: Option<HashMap<&'a str, i64>>,
    /// Lets a few large places count for as much as many small ones.
    weight: f64,
}

impl Counts<'_> {
    fn at(&self, node: &NodeInfo, place: &str) -> i64 {
        match &self.places {
            None if self.counts_nobody => 0,
            None => self.matching.at(&node.name).live,
            Some(places) => places.get(place).copied().unwrap_or(0),
        }
    }
}

fn count<'a>(
    pod: &PodInfo,
    constraint: &SpreadConstraint,
    cluster: &'a Cluster,
    nodes: &[&'a NodeInfo],
    ignored: &dyn Fn(&NodeInfo) -> bool,
) -> Counts<'a> {
    let matching = cluster.count(&pod.key.namespace, &constraint.selector);
    let counts_nobody = constraint.selector.is_everything();
    let offered = nodes.iter().filter(|node| !ignored(node));
    if constraint.topology_key == HOSTNAME {
        let weight = ((offered.count() + 2) as f64).ln();
        return Counts { counts_nobody, matching, places: None, weight };
    }
    let place = |node: &'a NodeInfo| node.labels.get(&constraint.topology_key).map(String::as_str);
    let mut places: HashMap<&str, i64> = offered.filter_map(|node| place(node)).map(|place| (place, 0)).collect();
    let by_place = cluster.places(&pod.key.namespace, &constraint.selector, &constraint.topology_key);
    let all_count = pod.spread.is_empty() && !constraint.honor_taints && !(constraint.honor_affinity && pod.is_particular());
    if let Some(counted) = by_place.filter(|_| all_count && !counts_nobody) {
        for (place, total) in &mut places {
            *total = counted.get(*place).map_or(0, |count| count.live);
        }
    } else if !places.is_empty() && !counts_nobody {
        matching.for_each(|name, count| {
            let node = cluster.node(name).filter(|node| !ignored(node) && is_domain(pod, constraint, node));
            if let Some(total) = node.and_then(place).and_then(|place| places.get_mut(place)) {
                *total += count.live;
            }
        });
    }
    let weight = ((places.len() + 2) as f64).ln();
    Counts { counts_nobody, matching, places: Some(places), weight }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, pod};

    #[track_caller]
    fn check(key: &str, pods: &str, expected: &[i64]) {
        let constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}});
        let wanted = pod(json!({"metadata": {"labels": {"app": "web"}}, "spec": {"topologySpreadConstraints": [constraint]}}));
        let cluster = cluster("a1[zone=a] a2[zone=a] b1[zone=b] x1", pods, "app=web");
        let nodes: Vec<&NodeInfo> = cluster.nodes().iter().collect();
        assert_eq!(score(&wanted, &cluster, &nodes), expected, "{key} {pods}");
    }

    #[test]
    fn prefers_emptier_places() {
        check("zone", "", &[100, 100, 100, 0]);
        check("zone", "a1:2", &[0, 0, 100, 0]);
        check("zone", "a1:1 a2:1 b1:1", &[33, 33, 100, 0]);
        check("kubernetes.io/hostname", "a1:4 a2:2", &[0, 42, 100, 100]);
    }

    #[test]
    fn spreads_a_services_pods_by_default() {
        let mut cluster = cluster("n1 n2", "n1:1", "app=web");
        let selector = [("app".to_owned(), "web".to_owned())].into();
        cluster.default_selectors.services.entry("default".into()).or_default().insert("web".into(), selector);
        let nodes: Vec<&NodeInfo> = cluster.nodes().iter().collect();
        let web = pod(json!({"metadata": {"labels": {"app": "web"}}}));
        let scores = score(&web, &cluster, &nodes);
        assert!(scores[0] < scores[1], "{scores:?}");
        assert_eq!(score(&pod(json!({})), &cluster, &nodes), [0, 0]);
    }
}
