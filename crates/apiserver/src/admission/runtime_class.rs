//! A pod of a runtime class carries the class's overhead and goes where the class runs.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::Kind;

pub struct RuntimeClass;

#[async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Create && kind.group.is_empty() && kind.plural == "pods" && subresource.is_empty()
    }

    async fn mutate(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), RequestError> {
        let forbidden = |why: String| RequestError::forbidden(attributes.kind, attributes.name, why);
        let overhead_given = pod["spec"].get("overhead").filter(|overhead| !overhead.is_null()).cloned();
        let Some(name) = pod["spec"]["runtimeClassName"].as_str().map(str::to_owned) else {
            return match overhead_given {
                Some(_) => Err(forbidden(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into(),
                )),
                None => Ok(()),
            };
        };
        let Some(class) = attributes.cluster.get("node.k8s.io", "runtimeclasses", "", &name) else {
            return Err(forbidden(format!("pod rejected: RuntimeClass \"{name}\" not found")));
        };
        let overhead = class["overhead"]["podFixed"].clone();
        match overhead_given {
            Some(_) if overhead.is_null() => {
                return Err(forbidden(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into(),
                ));
            }
            Some(given) if given != overhead => {
                return Err(forbidden(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into(),
                ));
            }
            _ if !overhead.is_null() => pod["spec"]["overhead"] = overhead,
            _ => {}
        }
        schedule(&class["scheduling"], pod).map_err(forbidden)
    }
}

fn schedule(scheduling: &Value, pod: &mut Value) -> Result<(), String> {
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let selector = &mut pod["spec"]["nodeSelector"];
        match selector.get(key) {
            Some(own) if own != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or(""),
                    own.as_str().unwrap_or("")
                ));
            }
            Some(_) => {}
            None => selector[key] = value.clone(),
        }
    }
    for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
        let own = &mut pod["spec"]["tolerations"];
        if !own.is_array() {
            *own = json!([]);
        }
        if let Some(list) = own.as_array_mut()
            && !list.contains(toleration)
        {
            list.push(toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{World, pod};

    #[tokio::test]
    async fn overhead_comes_from_the_class() {
        let class = json!({"metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}}});
        let world = World::new(&[("node.k8s.io", "runtimeclasses", class)]);
        let made = world.mutate(&RuntimeClass, "", "pods", "a", pod(json!({"runtimeClassName": "vm"}))).await;
        assert_eq!(
            made.expect("a pod")["spec"],
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "100m"}, "nodeSelector": {"vm": "yes"}})
        );
        let refused = world.mutate(&RuntimeClass, "", "pods", "a", pod(json!({"runtimeClassName": "x"}))).await;
        assert_eq!(
            refused.expect_err("no class"),
            "pods \"p\" is forbidden: pod rejected: RuntimeClass \"x\" not found"
        );
    }
}
