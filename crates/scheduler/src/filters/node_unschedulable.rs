//! A cordoned node takes only pods that tolerate that.

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use super::{Filter, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub fn check(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    if !node.is_cordoned() {
        return Ok(());
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    match tolerates(pod, &taint) {
        true => Ok(()),
        false => Err(Rejection::final_one(Filter::NodeUnschedulable, "node(s) were unschedulable")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{node, outcome, pod};

    #[test]
    fn keeps_off_cordoned_nodes() {
        let cordoned = node(json!({"spec": {"unschedulable": true}}));
        assert_eq!(outcome(check(&pod(json!({})), &node(json!({})))), "");
        assert_eq!(outcome(check(&pod(json!({})), &cordoned)), "node(s) were unschedulable");
        let tolerant = pod(json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}}));
        assert_eq!(outcome(check(&tolerant, &cordoned)), "");
    }
}
