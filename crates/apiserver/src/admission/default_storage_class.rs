//! A claim that names no class gets the default one.

use async_trait::async_trait;
use serde_json::Value;

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::Kind;

const GROUP: &str = "storage.k8s.io";
const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub struct DefaultStorageClass;

#[async_trait]
impl Admission for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Create
            && kind.group.is_empty()
            && kind.plural == "persistentvolumeclaims"
            && subresource.is_empty()
    }

    async fn mutate(&self, attributes: &Attributes<'_>, claim: &mut Value) -> Result<(), RequestError> {
        let annotated = claim["metadata"]["annotations"].get("volume.beta.kubernetes.io/storage-class").is_some();
        // "" asks for a volume without class.
        if annotated || !claim["spec"]["storageClassName"].is_null() {
            return Ok(());
        }
        let classes = attributes.cluster.list(GROUP, "storageclasses", "");
        let mut defaults: Vec<&Value> = classes.iter().filter(|class| is_default(class)).collect();
        // The newest, and of equals the first by name.
        defaults.sort_by(|a, b| {
            let key = |class: &Value| class["metadata"]["creationTimestamp"].as_str().unwrap_or("").to_owned();
            let name = |class: &Value| class["metadata"]["name"].as_str().unwrap_or("").to_owned();
            key(b).cmp(&key(a)).then_with(|| name(a).cmp(&name(b)))
        });
        if let Some(class) = defaults.first() {
            claim["spec"]["storageClassName"] = class["metadata"]["name"].clone();
        }
        Ok(())
    }
}

fn is_default(class: &Value) -> bool {
    DEFAULT.iter().any(|key| class["metadata"]["annotations"][*key] == "true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::World;
    use serde_json::json;

    #[tokio::test]
    async fn the_newest_default_wins() {
        let class = |name: &str, born: &str| {
            let metadata = json!({"name": name, "creationTimestamp": born, "annotations": {DEFAULT[0]: "true"}});
            (GROUP, "storageclasses", json!({"metadata": metadata}))
        };
        let world = World::new(&[class("old", "2025-01-01T00:00:00Z"), class("new", "2026-01-01T00:00:00Z")]);
        for (spec, expected) in [(json!({}), json!("new")), (json!({"storageClassName": ""}), json!(""))] {
            let claim = json!({"metadata": {"name": "c"}, "spec": spec});
            let claim = world.mutate(&DefaultStorageClass, "", "persistentvolumeclaims", "a", claim).await;
            assert_eq!(claim.expect("a claim")["spec"]["storageClassName"], expected);
        }
    }
}
