//! Nodes whose resources would be taken to a like part, so that none is left over without the others.

use super::MAX;
use crate::cluster::Cluster;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resources::Resources;

pub fn score(pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let resources: Vec<&str> = pod.profile.balanced.iter().map(String::as_str).collect();
    if resources.iter().all(|name| amount(&pod.requests, name) == 0) {
        return vec![0; nodes.len()]; // It takes nothing out of balance.
    }
    let score = |node: &&NodeInfo| {
        let parts = resources
            .iter()
            .filter(|name| matches!(**name, "cpu" | "memory" | "ephemeral-storage") || amount(&pod.requests, name) > 0)
            .filter_map(|name| {
                let (taken, allocatable) = (amount(&node.requested, name) + amount(&pod.requests, name), amount(&node.allocatable, name));
                (allocatable > 0).then(|| (taken as f64 / allocatable as f64).min(1.0))
            });
        ((1.0 - deviation(parts)) * MAX as f64) as i64
    };
    nodes.iter().map(score).collect()
}

/// Asked for every node: the usual two resources need no list.
fn deviation(mut parts: impl Iterator<Item = f64>) -> f64 {
    match (parts.next(), parts.next(), parts.next()) {
        (Some(one), Some(other), None) => (one - other).abs() / 2.0,
        (Some(first), Some(second), Some(third)) => {
            let many: Vec<f64> = [first, second, third].into_iter().chain(parts).collect();
            let mean = many.iter().sum::<f64>() / many.len() as f64;
            (many.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / many.len() as f64).sqrt()
        }
        _ => 0.0,
    }
}

fn amount(of: &Resources, name: &str) -> i64 {
    match name {
        "cpu" => of.milli_cpu,
        "memory" => of.memory,
        "ephemeral-storage" => of.ephemeral_storage,
        name => of.extended.get(name).copied().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn prefers_like_parts() {
        let asking = pod(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}}));
        let shaped = |cpu: &str, memory: &str| node(json!({"status": {"allocatable": {"cpu": cpu, "memory": memory}}}));
        let nodes = [shaped("2", "2Gi"), shaped("1", "2Gi"), shaped("1", "100Gi")];
        assert_eq!(score(&asking, &Cluster::default(), &nodes.each_ref()), [100, 75, 50]);
    }
}
