//! Pods leave a broken node after five minutes, unless they say otherwise.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::Kind;

const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;

pub struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && kind.group.is_empty()
            && kind.plural == "pods"
            && subresource.is_empty()
    }

    async fn mutate(&self, _attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), RequestError> {
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        let tolerations = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
        let missing: Vec<&str> =
            TAINTS.into_iter().filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let list = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            for taint in missing {
                list.push(json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
            }
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let is = |field: &str, wanted: &str| toleration[field].as_str().is_none_or(|own| own.is_empty() || own == wanted);
    is("key", taint) && is("effect", "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{World, pod};

    #[tokio::test]
    async fn only_what_is_missing_is_added() {
        let world = World::new(&[]);
        let count = async |tolerations: Value| {
            let spec = json!({"tolerations": tolerations});
            let pod = world.mutate(&DefaultTolerationSeconds, "", "pods", "a", pod(spec)).await.expect("a pod");
            pod["spec"]["tolerations"].as_array().map_or(0, Vec::len)
        };
        assert_eq!(count(json!([])).await, 2);
        assert_eq!(count(json!([{"operator": "Exists"}])).await, 1);
        assert_eq!(count(json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute"}])).await, 2);
        assert_eq!(count(json!([{"key": TAINTS[0], "effect": "NoSchedule"}])).await, 3);
    }
}
