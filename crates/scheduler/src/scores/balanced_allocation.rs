//! Nodes whose CPU and memory would be taken to a like part, so that neither is left over without the other.

use super::MAX;
use crate::cluster::Cluster;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub fn score(pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    if pod.requests.milli_cpu == 0 && pod.requests.memory == 0 {
        return vec![0; nodes.len()]; // It takes nothing out of balance.
    }
    let part = |taken: i64, allocatable: i64| (allocatable > 0).then(|| (taken as f64 / allocatable as f64).min(1.0));
    let score = |node: &&NodeInfo| {
        let cpu = part(node.requested.milli_cpu + pod.requests.milli_cpu, node.allocatable.milli_cpu);
        let memory = part(node.requested.memory + pod.requests.memory, node.allocatable.memory);
        let deviation = match (cpu, memory) {
            (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
            _ => 0.0,
        };
        ((1.0 - deviation) * MAX as f64) as i64
    };
    nodes.iter().map(score).collect()
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
