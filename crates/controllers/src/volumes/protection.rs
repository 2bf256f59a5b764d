//! Claims that pods use and volumes that are bound outlive their deletion until they are let go.
//!
//! Invariant: a claim's finalizer goes only after a list from the API server showed no pod with a node that uses it.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{PODS_BY_CLAIM, claims_of_pod, ephemeral_claim_name, index_by_claim, volume_phase};
use crate::context::{Context, Object};
use crate::failure::{Failure, ignore_not_found};
use crate::pods;
use crate::runner::{Controller, Next, Queue};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Nothing,
    Add,
    Remove,
}

/// Pure.
fn decide(metadata: &ObjectMeta, finalizer: &str, in_use: bool) -> Decision {
    let held = metadata.finalizers.iter().flatten().any(|held| held == finalizer);
    match (metadata.deletion_timestamp.is_some(), held) {
        (true, true) if !in_use => Decision::Remove,
        (false, false) => Decision::Add,
        _ => Decision::Nothing,
    }
}

async fn act<K: Object>(context: &Context, object: &K, finalizer: &str, decision: &Decision) -> Result<(), Failure> {
    let mut wanted = object.clone();
    let finalizers = wanted.meta_mut().finalizers.get_or_insert_default();
    match decision {
        Decision::Nothing => return Ok(()),
        Decision::Add => finalizers.push(finalizer.to_owned()),
        Decision::Remove => finalizers.retain(|held| held != finalizer),
    }
    let written = ignore_not_found(context.rest.update(&wanted).await)?;
    // Without its last finalizer it is gone, and the answer is no news for the cache.
    if let Some(written) = written
        && *decision == Decision::Add
        && let Some(informer) = context.informers.started::<K>()
    {
        informer.observe(written);
    }
    Ok(())
}

/// Whether the pod keeps the claim from going: one without a node is not started any more.
fn uses(pod: &Pod, claim: &str) -> bool {
    let has_node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut used = volumes.map(|volume| match &volume.persistent_volume_claim {
        Some(named) => named.claim_name == claim,
        // The claim goes with the pod: they must not wait for each other.
        None => volume.ephemeral.is_some() && !is_shut_down(pod) && ephemeral_claim_name(pod, &volume.name) == claim,
    });
    has_node && used.any(|used| used)
}

/// The kubelet is done with it, or it was deleted by force.
fn is_shut_down(pod: &Pod) -> bool {
    pods::is_terminating(pod) && pod.metadata.deletion_grace_period_seconds == Some(0)
}

pub(crate) struct ClaimProtection {
    context: Arc<Context>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    pods: Arc<Informer<Pod>>,
}

impl ClaimProtection {
    pub fn new(context: &Arc<Context>) -> Self {
        let pods: Arc<Informer<Pod>> = context.informer();
        index_by_claim(&pods);
        ClaimProtection { context: context.clone(), claims: context.informer(), pods }
    }

    async fn is_used(&self, key: &ObjectKey) -> Result<bool, Failure> {
        if self.pods.indexed(PODS_BY_CLAIM, &key.to_string()).iter().any(|pod| uses(pod, &key.name)) {
            return Ok(true);
        }
        let listed: Value = self.context.rest.get_at(format!("/api/v1/namespaces/{}/pods", key.namespace)).await?;
        let pods = listed["items"].as_array().cloned().unwrap_or_default();
        let pods = pods.into_iter().filter_map(|pod| serde_json::from_value::<Pod>(pod).ok());
        Ok(pods.into_iter().any(|pod| uses(&pod, &key.name)))
    }
}

#[async_trait]
impl Controller for ClaimProtection {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.claims.subscribe(move |change: &Change<PersistentVolumeClaim>| {
            let metadata = &change.object().metadata;
            if !matches!(change, Change::Deleted(_)) && decide(metadata, CLAIM_FINALIZER, false) != Decision::Nothing {
                own.add(ObjectKey::of(metadata));
            }
        });
        let (claims, queue) = (self.claims.clone(), queue.clone());
        self.pods.subscribe(move |change: &Change<Pod>| {
            let pod = change.object();
            if !matches!(change, Change::Deleted(_)) && !pods::is_finished(pod) && !is_shut_down(pod) {
                return;
            }
            for name in claims_of_pod(pod) {
                let key = ObjectKey::new(pod.metadata.namespace.clone().unwrap_or_default(), name);
                if claims.get(&key).is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                    queue.add(key);
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(claim) = self.claims.get(key) else { return Ok(Next::Settled) };
        let mut decision = decide(&claim.metadata, CLAIM_FINALIZER, false);
        if decision == Decision::Remove {
            decision = decide(&claim.metadata, CLAIM_FINALIZER, self.is_used(key).await?);
        }
        act(&self.context, &*claim, CLAIM_FINALIZER, &decision).await?;
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

fn decide_volume(volume: &PersistentVolume) -> Decision {
    decide(&volume.metadata, VOLUME_FINALIZER, volume_phase(volume) == "Bound")
}

#[async_trait]
impl Controller for VolumeProtection {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    fn watch(&self, queue: &Queue) {
        let queue = queue.clone();
        self.volumes.subscribe(move |change: &Change<PersistentVolume>| {
            if !matches!(change, Change::Deleted(_)) && decide_volume(change.object()) != Decision::Nothing {
                queue.add(ObjectKey::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        if let Some(volume) = self.volumes.get(key) {
            act(&self.context, &*volume, VOLUME_FINALIZER, &decide_volume(&volume)).await?;
        }
        Ok(Next::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[track_caller]
    fn check(deleting: bool, finalizers: &[&str], in_use: bool, expected: Decision) {
        let mut metadata = ObjectMeta { finalizers: Some(finalizers.iter().map(|&it| it.into()).collect()), ..ObjectMeta::default() };
        metadata.deletion_timestamp = deleting.then(|| fixtures::ago(1));
        assert_eq!(decide(&metadata, CLAIM_FINALIZER, in_use), expected);
    }

    #[test]
    fn finalizers_come_and_go() {
        check(false, &[], false, Decision::Add);
        check(false, &[CLAIM_FINALIZER], false, Decision::Nothing);
        check(true, &[CLAIM_FINALIZER], true, Decision::Nothing);
        check(true, &[CLAIM_FINALIZER, "x/y"], false, Decision::Remove);
        check(true, &["x/y"], false, Decision::Nothing);
    }

    #[test]
    fn only_pods_with_a_node_hold_a_claim() {
        #[track_caller]
        fn check(pod: &str, grace: Option<i64>, claim: &str, expected: bool) {
            let volumes = serde_json::json!([{"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "tmp", "ephemeral": {}}]);
            let mut pod = fixtures::pod(pod);
            pod.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes).unwrap();
            pod.metadata.deletion_grace_period_seconds = grace;
            assert_eq!(uses(&pod, claim), expected);
        }
        //    pod             grace    claim    used
        check("p", None, "data", false);
        check("p:node=n", None, "data", true);
        check("p:node=n", None, "other", false);
        check("p:node=n", None, "p-tmp", true); // Of an ephemeral volume.
        check("p:node=n,succeeded", None, "data", true); // The kubelet may still be at it.
        check("p:node=n,deleting", Some(30), "p-tmp", true);
        check("p:node=n,deleting", Some(0), "p-tmp", false); // They must not wait for each other.
        check("p:node=n,deleting", Some(0), "data", true);
    }

    #[test]
    fn bound_volumes_stay() {
        #[track_caller]
        fn check(phase: &str, deleting: bool, expected: Decision) {
            let mut volume: PersistentVolume =
                serde_json::from_value(serde_json::json!({"metadata": {"finalizers": [VOLUME_FINALIZER]}, "status": {"phase": phase}})).unwrap();
            volume.metadata.deletion_timestamp = deleting.then(|| fixtures::ago(1));
            assert_eq!(decide_volume(&volume), expected);
        }
        check("Bound", true, Decision::Nothing);
        check("Available", true, Decision::Remove);
        check("Released", true, Decision::Remove);
        check("Failed", true, Decision::Remove);
        check("Bound", false, Decision::Nothing);
    }
}
