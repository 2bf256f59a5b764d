//! Who makes an object depend on another must be allowed to touch both.
//!
//! Off unless asked for, as in the original.

use async_trait::async_trait;
use serde_json::Value;

use crate::admission_chain::{Admission, Attributes, Operation, Question};
use crate::error::RequestError;
use crate::kinds::{Kind, registry};

pub struct OwnerReferencesPermissionEnforcement;

#[async_trait]
impl Admission for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        let mirrors_status = kind.plural == "pods" && subresource == "status";
        matches!(operation, Operation::Create | Operation::Update) && !mirrors_status
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
        let new = references(Some(object));
        let old = references(attributes.old);
        if new == old {
            return Ok(());
        }
        let forbidden = |why: &str| RequestError::forbidden(attributes.kind, attributes.name, why);
        let ask = |question: &Question<'_>| attributes.cluster.allowed(attributes.user, question);
        if attributes.operation != Operation::Create {
            let deletable = ask(&Question {
                verb: "delete",
                group: attributes.kind.group,
                version: attributes.kind.version,
                resource: attributes.kind.plural,
                namespace: attributes.namespace,
                name: attributes.name,
                ..Question::default()
            });
            if !deletable {
                return Err(forbidden("cannot set an ownerRef on a resource you can't delete: , <nil>"));
            }
        }
        for reference in newly_blocking(new, old) {
            let (group, version) = match reference["apiVersion"].as_str().unwrap_or("").split_once('/') {
                Some(pair) => pair,
                None => ("", reference["apiVersion"].as_str().unwrap_or("")),
            };
            let Some(owner) = registry::by_kind(group, version, reference["kind"].as_str().unwrap_or("")) else {
                continue; // Unknown owners are the garbage collector's affair.
            };
            let finalizable = ask(&Question {
                verb: "update",
                group,
                version,
                resource: owner.plural,
                subresource: "finalizers",
                namespace: if owner.namespaced { attributes.namespace } else { "" },
                name: reference["name"].as_str().unwrap_or(""),
            });
            if !finalizable {
                return Err(forbidden(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>",
                ));
            }
        }
        Ok(())
    }
}

fn references(object: Option<&Value>) -> &[Value] {
    object.and_then(|object| object["metadata"]["ownerReferences"].as_array()).map_or(&[], Vec::as_slice)
}

fn newly_blocking<'a>(new: &'a [Value], old: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    new.iter().filter(|reference| {
        reference["blockOwnerDeletion"] == true
            && !old.iter().any(|before| before["uid"] == reference["uid"] && before["blockOwnerDeletion"] == true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::World;
    use serde_json::json;

    #[tokio::test]
    async fn both_ends_are_asked_for() {
        let owned = json!({"metadata": {"name": "c", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "1", "blockOwnerDeletion": true}]}});
        let bare = json!({"metadata": {"name": "c"}});
        let mut world = World::new(&[]);
        let plugin = &OwnerReferencesPermissionEnforcement;
        assert_eq!(world.validate(plugin, "", "configmaps", "a", &bare, None).await, "");
        assert!(world.validate(plugin, "", "configmaps", "a", &owned, Some(&bare)).await.contains("you can't delete"));
        assert!(world.validate(plugin, "", "configmaps", "a", &owned, None).await.contains("set finalizers"));
        world.allowed = vec!["delete configmaps", "update deployments"];
        assert_eq!(world.validate(plugin, "", "configmaps", "a", &owned, Some(&bare)).await, "");
    }
}
