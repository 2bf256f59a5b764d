//! Nodes with fewer `PreferNoSchedule` taints that the pod does not tolerate.

use super::normalize;
use crate::cluster::Cluster;
use crate::filters::taint_toleration::tolerates;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub fn score(pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let intolerable = |node: &&NodeInfo| {
        let soft = node.taints().iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !tolerates(pod, taint)).count() as i64
    };
    normalize(nodes.iter().map(intolerable).collect(), true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn prefers_nodes_that_ask_nothing() {
        let taint = |key: &str| json!({"key": key, "effect": "PreferNoSchedule"});
        let none = node(json!({}));
        let one = node(json!({"spec": {"taints": [taint("a")]}}));
        let two = node(json!({"spec": {"taints": [taint("a"), taint("b")]}}));
        let cluster = Cluster::default();
        assert_eq!(score(&pod(json!({})), &cluster, &[&none, &one, &two]), [100, 50, 0]);
        let tolerant = pod(json!({"spec": {"tolerations": [{"key": "b", "operator": "Exists"}]}}));
        assert_eq!(score(&tolerant, &cluster, &[&none, &one, &two]), [100, 0, 0]);
    }
}
