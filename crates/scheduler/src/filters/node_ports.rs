//! A host port is taken once per address and protocol.

use super::{Filter, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub fn check(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    match pod.host_ports.iter().all(|port| node.has_port_free(port)) {
        true => Ok(()),
        false => Err(Rejection::resolvable(Filter::NodePorts, "node(s) didn't have free ports for the requested pod ports")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{node, pod};

    fn with_port(port: Value) -> PodInfo {
        pod(json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}}))
    }

    #[track_caller]
    fn check_pair(taken: Value, wanted: Value, free: bool) {
        let mut node = node(json!({}));
        node.add(Arc::new(with_port(taken.clone())));
        assert_eq!(check(&with_port(wanted.clone()), &node).is_ok(), free, "{taken} {wanted}");
    }

    #[test]
    fn sidecars_have_ports_too() {
        let with = |policy: Value| pod(json!({"spec": {"initContainers": [{"name": "i", "restartPolicy": policy, "ports": [{"containerPort": 1, "hostPort": 80}]}]}}));
        let mut node = node(json!({}));
        node.add(Arc::new(with(json!("Always"))));
        assert!(check(&with_port(json!({"containerPort": 1, "hostPort": 80})), &node).is_err());
        assert!(check(&with(json!("Always")), &node).is_err());
        assert!(check(&with(Value::Null), &node).is_ok()); // An init container is gone before it matters.
    }

    #[test]
    fn two_pods_do_not_share_a_port() {
        let port = |number: i32| json!({"containerPort": 1, "hostPort": number});
        check_pair(port(80), port(80), false);
        check_pair(port(80), port(81), true);
        check_pair(port(80), json!({"containerPort": 80}), true);
        check_pair(port(80), json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"}), true);
        check_pair(port(80), json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"}), false);
        let at = |ip: &str| json!({"containerPort": 1, "hostPort": 80, "hostIP": ip});
        check_pair(at("10.0.0.1"), at("10.0.0.2"), true);
        check_pair(at("10.0.0.1"), at("0.0.0.0"), false);
        check_pair(at("0.0.0.0"), at("127.0.0.1"), false);
        check_pair(at("::"), at("127.0.0.1"), true); // The original takes it for an address like any other.
        check_pair(at("::"), port(80), false);
        check_pair(json!({"containerPort": 1, "hostPort": 80, "protocol": "TCP"}), port(80), false);
        check_pair(json!({"containerPort": 1, "hostPort": 80, "protocol": "SCTP"}), json!({"containerPort": 2, "hostPort": 80, "protocol": "SCTP"}), false);
        check_pair(json!({"containerPort": 80}), port(80), true);
    }
}
