//! An Ingress that names no class gets the default one.

use async_trait::async_trait;
use serde_json::Value;

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::Kind;

const GROUP: &str = "networking.k8s.io";
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

pub struct DefaultIngressClass;

#[async_trait]
impl Admission for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Create && kind.group == GROUP && kind.plural == "ingresses" && subresource.is_empty()
    }

    async fn mutate(&self, attributes: &Attributes<'_>, ingress: &mut Value) -> Result<(), RequestError> {
        let annotated = ingress["metadata"]["annotations"].get("kubernetes.io/ingress.class").is_some();
        if annotated || !ingress["spec"]["ingressClassName"].is_null() {
            return Ok(());
        }
        let classes = attributes.cluster.list(GROUP, "ingressclasses", "");
        let defaults = classes.iter().filter(|class| class["metadata"]["annotations"][DEFAULT] == "true");
        // The newest, and of equals the first by name.
        let newest = defaults.max_by(|a, b| {
            let born = |class: &Value| class["metadata"]["creationTimestamp"].as_str().unwrap_or("").to_owned();
            let name = |class: &Value| class["metadata"]["name"].as_str().unwrap_or("").to_owned();
            born(a).cmp(&born(b)).then_with(|| name(b).cmp(&name(a)))
        });
        if let Some(class) = newest {
            ingress["spec"]["ingressClassName"] = class["metadata"]["name"].clone();
        }
        Ok(())
    }
}
