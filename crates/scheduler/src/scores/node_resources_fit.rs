//! How full nodes are: emptier ones are better, or fuller ones, or as a curve says.

use super::MAX;
use crate::cluster::Cluster;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::profile::StrategyKind;

pub fn score(pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let strategy = &pod.profile.strategy;
    let by_curve = matches!(strategy.kind, StrategyKind::RequestedToCapacityRatio(_));
    let score = |node: &&NodeInfo| {
        let (mut sum, mut weights) = (0, 0);
        for (resource, weight) in &strategy.resources {
            let Some((taken, allocatable)) = usage(pod, node, resource) else { continue };
            let score = of_resource(&strategy.kind, taken, allocatable);
            // On a curve what scores nothing has no say; so it is in the original.
            if score > 0 || !by_curve {
                sum += score * weight;
                weights += weight;
            }
        }
        match (weights, by_curve) {
            (0, _) => 0,
            (_, true) => (sum as f64 / weights as f64).round() as i64,
            (_, false) => sum / weights,
        }
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
            along(shape, utilization)
        }
    }
}

/// The curve's score at a utilization, of 100 where the curve says 10; beyond its ends it is level.
fn along(shape: &[(i64, i64)], utilization: i64) -> i64 {
    const SCALE: i64 = MAX / 10;
    let Some(next) = shape.iter().position(|(at, _)| utilization <= *at) else {
        return shape.last().map_or(0, |(_, score)| score * SCALE);
    };
    let (at, score) = shape[next];
    match next.checked_sub(1).map(|before| shape[before]) {
        None => score * SCALE,
        Some((from, first)) => first * SCALE + (score - first) * SCALE * (utilization - from) / (at - from),
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

    /// Nodes and pods as `cpu/memory`, in thousandths and bytes; pods that are there already after their node.
    #[track_caller]
    fn check_table(kind: &StrategyKind, resources: &[(&str, i64)], wanted: &str, nodes: &[&str], expected: &[i64]) {
        let amounts = |text: &str| {
            let (cpu, memory) = text.split_once('/').unwrap();
            json!({"cpu": format!("{cpu}m"), "memory": memory})
        };
        let asking = |name: usize, text: &str| pod(json!({"metadata": {"name": name.to_string()}, "spec": {"containers": [{"name": "c", "resources": {"requests": amounts(text)}}]}}));
        let nodes: Vec<NodeInfo> = nodes
            .iter()
            .map(|text| {
                let mut words = text.split_whitespace();
                let mut node = node(json!({"status": {"allocatable": amounts(words.next().unwrap())}}));
                words.enumerate().for_each(|(name, word)| node.add(Arc::new(asking(name, word))));
                node
            })
            .collect();
        let mut pod = asking(99, wanted);
        let resources = resources.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        pod.profile = Arc::new(Profile { strategy: ScoringStrategy { kind: kind.clone(), resources }, ..Profile::named("table") });
        assert_eq!(score(&pod, &Cluster::default(), &nodes.iter().collect::<Vec<_>>()), expected, "{wanted} on {nodes:?}", nodes = nodes.len());
    }

    #[test]
    fn least_and_most_allocated() {
        let both: &[(&str, i64)] = &[("cpu", 1), ("memory", 1)];
        let (least, most) = (StrategyKind::LeastAllocated, StrategyKind::MostAllocated);
        //                                  pod           nodes, with what is there                              scores
        check_table(&least, both, "0/0", &["4000/10000", "4000/10000"], &[100, 100]);
        check_table(&least, both, "3000/5000", &["4000/10000", "6000/10000"], &[37, 50]);
        check_table(&least, both, "0/0", &["10000/20000 3000/0 3000/0", "10000/20000 3000/0 3000/5000"], &[70, 57]);
        check_table(&least, both, "3000/5000", &["10000/20000 3000/0", "10000/20000 3000/5000"], &[57, 45]);
        check_table(&least, both, "3000/5000", &["10000/20000 3000/0", "10000/50000 3000/5000"], &[57, 60]);
        check_table(&least, both, "3000/5000", &["4000/10000 3000/0", "4000/10000 3000/5000"], &[25, 0]); // More than there is.
        check_table(&least, both, "0/0", &["0/0 3000/0", "0/0 3000/5000"], &[0, 0]);
        check_table(&least, &[("cpu", 1), ("memory", 2)], "3000/5000", &["4000/10000", "6000/10000"], &[41, 50]);
        check_table(&most, both, "0/0", &["4000/10000", "4000/10000"], &[0, 0]);
        check_table(&most, both, "3000/5000", &["4000/10000", "6000/10000"], &[62, 50]);
        check_table(&most, both, "0/0", &["10000/20000 3000/0 3000/0", "10000/20000 3000/0 3000/5000"], &[30, 42]);
        check_table(&most, both, "3000/5000", &["10000/20000 3000/0", "10000/20000 3000/5000"], &[42, 55]);
        check_table(&most, both, "5000/10000", &["4000/10000", "10000/8000"], &[100, 75]); // More than there is counts as all.
        check_table(&most, &[("cpu", 1), ("memory", 2)], "3000/5000", &["4000/10000", "6000/10000"], &[58, 50]);
    }

    #[test]
    fn along_a_curve() {
        let (both, cpu): (&[(&str, i64)], &[(&str, i64)]) = (&[("cpu", 1), ("memory", 1)], &[("cpu", 1)]);
        let falling = StrategyKind::RequestedToCapacityRatio(vec![(0, 10), (100, 0)]);
        let rising = StrategyKind::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]);
        check_table(&falling, both, "0/0", &["4000/10000", "4000/10000"], &[100, 100]);
        check_table(&falling, both, "3000/5000", &["4000/10000", "6000/10000"], &[38, 50]); // Rounded, not cut off.
        check_table(&falling, both, "0/0", &["4000/10000 3000/5000", "6000/10000 3000/5000"], &[38, 50]);
        check_table(&rising, cpu, "1000/0", &["4000/10000", "8000/10000"], &[25, 12]); // Steps of one, not of ten.
        check_table(&rising, both, "1000/0", &["4000/10000"], &[25]); // Memory scores nothing and has no say.
        let humped = StrategyKind::RequestedToCapacityRatio(vec![(20, 2), (50, 10), (80, 4)]);
        check_table(&humped, cpu, "100/0", &["1000/1", "400/1", "200/1", "125/1", "100/1"], &[20, 33, 100, 40, 40]);
        check_table(&humped, cpu, "200/0", &["100/1"], &[40]); // More than there is.
    }
}
