//! How full nodes are: emptier ones are better, or fuller ones, or as a curve says.

use super::MAX;
use crate::cluster::Cluster;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::profile::StrategyKind;

pub fn score(pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let strategy = &pod.profile.strategy;
    let score = |node: &&NodeInfo| {
        let (mut sum, mut weights) = (0, 0);
        for (resource, weight) in &strategy.resources {
            let Some((taken, allocatable)) = usage(pod, node, resource) else { continue };
            sum += of_resource(&strategy.kind, taken, allocatable) * weight;
            weights += weight;
        }
        if weights == 0 { 0 } else { sum / weights }
    };
    nodes.iter().map(score).collect()
}

/// What would be taken with the pod, and what there is; None where there is nothing, or nothing is asked.
fn usage(pod: &PodInfo, node: &NodeInfo, resource: &str) -> Option<(i64, i64)> {
    let (taken, allocatable) = match resource {
        "cpu" => (node.assumed_requested.0 + pod.assumed_requests.0, node.allocatable.milli_cpu),
        "memory" => (node.assumed_requested.1 + pod.assumed_requests.1, node.allocatable.memory),
        "ephemeral-storage" => (node.requested.ephemeral_storage + pod.requests.ephemeral_storage, node.allocatable.ephemeral_storage),
        name => {
            let asked = pod.requests.extended.get(name).copied().unwrap_or(0);
            if asked == 0 {
                return None; // Who does not use it is no judge of it.
            }
            let amount = |amounts: &std::collections::BTreeMap<String, i64>| amounts.get(name).copied().unwrap_or(0);
            (amount(&node.requested.extended) + asked, amount(&node.allocatable.extended))
        }
    };
    (allocatable > 0).then_some((taken, allocatable))
}

fn of_resource(kind: &StrategyKind, taken: i64, allocatable: i64) -> i64 {
    match kind {
        StrategyKind::LeastAllocated => (allocatable - taken).max(0) * MAX / allocatable,
        StrategyKind::MostAllocated => taken.min(allocatable) * MAX / allocatable,
        StrategyKind::RequestedToCapacityRatio(shape) => {
            let utilization = if taken > allocatable { 100 } else { taken * 100 / allocatable };
            along(shape, utilization) * (MAX / 10)
        }
    }
}

/// The curve's score at a utilization; beyond its ends it is level. In hundredths of ten, as whole numbers go.
fn along(shape: &[(i64, i64)], utilization: i64) -> i64 {
    let Some(next) = shape.iter().position(|(at, _)| utilization <= *at) else {
        return shape.last().map_or(0, |(_, score)| *score);
    };
    let (at, score) = shape[next];
    match next.checked_sub(1).map(|before| shape[before]) {
        None => score,
        Some((from, first)) => first + (score - first) * (utilization - from) / (at - from),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::profile::{Profile, ScoringStrategy};
    use crate::testing::{node, pod};

    #[test]
    fn prefers_the_emptier_node() {
        let asking = |cpu: &str| pod(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "0"}}}]}}));
        let empty = node(json!({"status": {"allocatable": {"cpu": "4", "memory": "1Gi"}}}));
        let mut busy = empty.clone();
        busy.add(Arc::new(asking("2")));
        assert_eq!(score(&asking("1"), &Cluster::default(), &[&empty, &busy]), [87, 62]);
    }

    #[test]
    fn a_profile_may_prefer_the_fuller_node() {
        let node = node(json!({"status": {"allocatable": {"cpu": "4", "memory": "1Gi"}}}));
        let strategy = |kind: StrategyKind| ScoringStrategy { kind, resources: vec![("cpu".to_owned(), 1)] };
        let check = |kind: StrategyKind, cpu: &str, expected: i64| {
            let mut pod = pod(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}));
            pod.profile = Arc::new(Profile { strategy: strategy(kind), ..Profile::named("packing") });
            assert_eq!(score(&pod, &Cluster::default(), &[&node]), [expected], "{cpu}");
        };
        check(StrategyKind::LeastAllocated, "1", 75);
        check(StrategyKind::MostAllocated, "1", 25);
        check(StrategyKind::MostAllocated, "4", 100);
        let shape = vec![(0, 0), (50, 10), (100, 5)];
        check(StrategyKind::RequestedToCapacityRatio(shape.clone()), "1", 50);
        check(StrategyKind::RequestedToCapacityRatio(shape.clone()), "2", 100);
        check(StrategyKind::RequestedToCapacityRatio(shape), "4", 50);
    }
}
