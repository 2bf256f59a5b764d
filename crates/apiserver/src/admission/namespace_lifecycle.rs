//! Nothing is born into a namespace that does not exist or is going, and some namespaces never go.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::{ObjectName, RequestError};
use crate::kinds::Kind;

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub struct NamespaceLifecycle;

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        match operation {
            Operation::Create | Operation::Update => kind.namespaced && kind.plural != "localsubjectaccessreviews",
            Operation::Delete => kind.group.is_empty() && kind.plural == "namespaces" && subresource.is_empty(),
            Operation::Connect => false,
        }
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _object: &mut Value) -> Result<(), RequestError> {
        let namespace = attributes.namespace;
        let Some(found) = attributes.cluster.get("", "namespaces", "", namespace) else {
            return Err(RequestError::NotFound { object: ObjectName::new("", "namespaces", namespace) });
        };
        let terminating = found["status"]["phase"] == "Terminating";
        if attributes.operation == Operation::Create && terminating {
            return Err(being_terminated(attributes));
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, _object: &Value) -> Result<(), RequestError> {
        if attributes.operation == Operation::Delete && IMMORTAL.contains(&attributes.name) {
            return Err(RequestError::forbidden(attributes.kind, attributes.name, "this namespace may not be deleted"));
        }
        Ok(())
    }
}

/// Controllers know it by its cause and stop trying.
fn being_terminated(attributes: &Attributes<'_>) -> RequestError {
    let namespace = attributes.namespace;
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = RequestError::forbidden(attributes.kind, attributes.name, why).status();
    status["details"]["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": format!("namespace {namespace} is being terminated"),
        "field": "metadata.namespace",
    }]);
    RequestError::Other { code: 403, status: Box::new(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{World, pod};

    #[tokio::test]
    async fn only_living_namespaces_take_children() {
        let world = World::new(&[
            ("", "namespaces", json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}})),
            ("", "namespaces", json!({"metadata": {"name": "b"}, "status": {"phase": "Terminating"}})),
        ]);
        let check = async |namespace: &str, expected: &str| {
            let result = world.mutate(&NamespaceLifecycle, "", "pods", namespace, pod(json!({}))).await;
            assert_eq!(result.err().unwrap_or_default(), expected);
        };
        check("a", "").await;
        check("x", "namespaces \"x\" not found").await;
        check(
            "b",
            "pods \"p\" is forbidden: unable to create new content in namespace b because it is being terminated",
        )
        .await;
    }
}
