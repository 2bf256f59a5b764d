//! Nodes with more CPU and memory left.

use super::MAX;
use crate::cluster::Cluster;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub fn score(pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let left = |allocatable: i64, taken: i64| {
        let free = (allocatable - taken).max(0) * MAX;
        (allocatable > 0).then(|| free / allocatable)
    };
    let score = |node: &&NodeInfo| {
        let parts = [
            left(node.allocatable.milli_cpu, node.assumed_requested.0 + pod.assumed_requests.0),
            left(node.allocatable.memory, node.assumed_requested.1 + pod.assumed_requests.1),
        ];
        let known = parts.iter().flatten().count() as i64;
        if known == 0 { 0 } else { parts.iter().flatten().sum::<i64>() / known }
    };
    nodes.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn prefers_the_emptier_node() {
        let asking = |cpu: &str| pod(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "0"}}}]}}));
        let empty = node(json!({"status": {"allocatable": {"cpu": "4", "memory": "1Gi"}}}));
        let mut busy = empty.clone();
        busy.add(Arc::new(asking("2")));
        assert_eq!(score(&asking("1"), &Cluster::default(), &[&empty, &busy]), [87, 62]);
    }
}
