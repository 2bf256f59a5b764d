//! Volumes and claims in use outlive their deletion: a finalizer holds them until nobody uses them.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::Kind;

pub struct StorageObjectInUseProtection;

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && finalizer(kind).is_some()
    }

    async fn mutate(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), RequestError> {
        let Some(own) = finalizer(attributes.kind) else { return Ok(()) };
        let metadata = &mut object["metadata"];
        if !metadata["finalizers"].is_array() {
            metadata["finalizers"] = json!([]);
        }
        if let Some(list) = metadata["finalizers"].as_array_mut()
            && !list.iter().any(|finalizer| finalizer == own)
        {
            list.push(own.into());
        }
        Ok(())
    }
}

fn finalizer(kind: &Kind) -> Option<&'static str> {
    match (kind.group, kind.plural) {
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        _ => None,
    }
}
