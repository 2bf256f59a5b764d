//! Keeps claims that pods use, and volumes that claims are bound to, from going while they are in use.
//!
//! Invariant: the finalizer stands from before the object can be used until nothing uses it any more.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey, Patch};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{BY_CLAIM, claims_of, index_by_claim};
use crate::context::Context;
use crate::failure::{Failure, ignore_not_found};
use crate::runner::{Controller, Next, Queue};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

pub(crate) struct ClaimProtection {
    context: Arc<Context>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    pods: Arc<Informer<Pod>>,
}

impl ClaimProtection {
    pub fn new(context: &Arc<Context>) -> Self {
        let pods = context.informer::<Pod>();
        index_by_claim(&pods);
        ClaimProtection { context: context.clone(), claims: context.informer(), pods }
    }

    /// Asks the server: the pod that uses the claim may be newer than the cache.
    async fn is_used_live(&self, key: &ObjectKey) -> Result<bool, Failure> {
        let page: Value = self.context.rest.get_at(format!("/api/v1/namespaces/{}/pods", key.namespace)).await?;
        let pods = page["items"].as_array().into_iter().flatten().filter_map(|pod| serde_json::from_value::<Pod>(pod.clone()).ok());
        Ok(pods.into_iter().any(|pod| uses(&pod, &key.name)))
    }
}

#[async_trait]
impl Controller for ClaimProtection {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.claims.subscribe(move |change: &Change<PersistentVolumeClaim>| own.add(ObjectKey::of(&change.object().metadata)));
        let queue = queue.clone();
        self.pods.subscribe(move |change: &Change<Pod>| {
            let Change::Deleted(pod) = change else { return };
            for claim in claims_of(pod) {
                queue.add(ObjectKey::new(pod.metadata.namespace.clone().unwrap_or_default(), claim));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(claim) = self.claims.get(key) else { return Ok(Next::Settled) };
        let in_cache = self.pods.indexed(BY_CLAIM, &key.to_string()).iter().any(|pod| uses(pod, &key.name));
        let mut wanted = decide(&claim.metadata, CLAIM_FINALIZER, in_cache);
        if wanted == Some(Finalizer::Remove) && self.is_used_live(key).await? {
            wanted = None;
        }
        if let Some(patch) = patch(&claim.metadata, CLAIM_FINALIZER, wanted) {
            ignore_not_found(self.context.patch::<PersistentVolumeClaim>(key, &Patch::Merge(patch)).await)?;
        }
        Ok(Next::Settled)
    }
}

pub(crate) struct VolumeProtection {
    context: Arc<Context>,
    volumes: Arc<Informer<PersistentVolume>>,
}

impl VolumeProtection {
    pub fn new(context: &Arc<Context>) -> Self {
        VolumeProtection { context: context.clone(), volumes: context.informer() }
    }
}

#[async_trait]
impl Controller for VolumeProtection {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let queue = queue.clone();
        self.volumes.subscribe(move |change: &Change<PersistentVolume>| queue.add(ObjectKey::of(&change.object().metadata)));
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Next::Settled) };
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let wanted = decide(&volume.metadata, VOLUME_FINALIZER, bound);
        if let Some(patch) = patch(&volume.metadata, VOLUME_FINALIZER, wanted) {
            ignore_not_found(self.context.patch::<PersistentVolume>(key, &Patch::Merge(patch)).await)?;
        }
        Ok(Next::Settled)
    }
}

/// A pod that no node has taken cannot have the claim mounted.
fn uses(pod: &Pod, claim: &str) -> bool {
    let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    bound && claims_of(pod).iter().any(|used| used == claim)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finalizer {
    Add,
    Remove,
}

/// Pure.
fn decide(metadata: &ObjectMeta, finalizer: &str, used: bool) -> Option<Finalizer> {
    let has = metadata.finalizers.iter().flatten().any(|known| known == finalizer);
    match (metadata.deletion_timestamp.is_some(), has) {
        (false, false) => Some(Finalizer::Add),
        (true, true) if !used => Some(Finalizer::Remove),
        _ => None,
    }
}

fn patch(metadata: &ObjectMeta, finalizer: &str, wanted: Option<Finalizer>) -> Option<Value> {
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    match wanted? {
        Finalizer::Add => finalizers.push(finalizer.to_owned()),
        Finalizer::Remove => finalizers.retain(|known| known != finalizer),
    }
    let finalizers = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
    Some(json!({"metadata": {"resourceVersion": metadata.resource_version, "finalizers": finalizers}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn stands_until_nothing_uses_it() {
        let metadata = |deleting: bool, finalizers: &[&str]| ObjectMeta {
            deletion_timestamp: deleting.then(|| fixtures::ago(1)),
            finalizers: Some(finalizers.iter().map(|name| (*name).to_owned()).collect()),
            ..ObjectMeta::default()
        };
        assert_eq!(decide(&metadata(false, &[]), "f", false), Some(Finalizer::Add));
        assert_eq!(decide(&metadata(false, &["f"]), "f", false), None);
        assert_eq!(decide(&metadata(true, &["f"]), "f", true), None);
        assert_eq!(decide(&metadata(true, &["f"]), "f", false), Some(Finalizer::Remove));
        assert_eq!(decide(&metadata(true, &["g"]), "f", false), None);
        let removed = patch(&metadata(true, &["f"]), "f", Some(Finalizer::Remove)).unwrap();
        assert_eq!(removed["metadata"]["finalizers"], Value::Null);
    }
}
