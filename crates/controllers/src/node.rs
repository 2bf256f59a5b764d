//! What concerns nodes: whether they live, what their failure means for pods, and their share of addresses.

pub(crate) mod eviction;
mod health;
pub(crate) mod ipam;
pub(crate) mod lifecycle;
pub(crate) mod pod_gc;
pub(crate) mod ttl;
mod zones;

use client::Informer;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use serde_json::{Value, json};

/// The index of pods by the node they are bound to.
pub(crate) const BY_NODE: &str = "node";

pub(crate) fn index_by_node(pods: &Informer<Pod>) {
    pods.index_by(BY_NODE, |pod: &Pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        node.filter(|node| !node.is_empty()).into_iter().collect()
    });
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// `True`, `False` or `Unknown`; empty when the node never told.
pub(crate) fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("", |condition| condition.status.as_str())
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// A patch of a pod's status that says why it is about to be deleted.
pub(crate) fn disruption_target(reason: &str, message: &str, pod: &Pod, now: Timestamp) -> Value {
    json!({"status": {"conditions": [PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now)),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }]}})
}
