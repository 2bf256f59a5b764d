//! A new node takes no pods before it is known to be ready.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::Kind;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub struct TaintNodesByCondition;

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Create && kind.group.is_empty() && kind.plural == "nodes" && subresource.is_empty()
    }

    async fn mutate(&self, _attributes: &Attributes<'_>, node: &mut Value) -> Result<(), RequestError> {
        let known = node["spec"]["taints"].as_array().is_some_and(|taints| {
            taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule")
        });
        if !known {
            if !node["spec"]["taints"].is_array() {
                node["spec"]["taints"] = json!([]);
            }
            if let Some(taints) = node["spec"]["taints"].as_array_mut() {
                taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::World;

    #[tokio::test]
    async fn tainted_once() {
        let world = World::new(&[]);
        let taints = json!([{"key": NOT_READY, "effect": "NoSchedule"}]);
        for spec in [json!({}), json!({"taints": taints})] {
            let node = json!({"metadata": {"name": "n"}, "spec": spec});
            let node = world.mutate(&TaintNodesByCondition, "", "nodes", "", node).await.expect("a node");
            assert_eq!(node["spec"]["taints"], taints);
        }
    }
}
