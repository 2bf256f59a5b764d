//! Persistent volumes: claims are bound to volumes or have some made, volumes are taken back, and nothing
//! is deleted under a pod that uses it.
//!
//! Invariant: a volume and a claim are bound when each names the other; the volume is written first, so that a
//! crash in between leaves a promise that the next round keeps.
//!
//! Deliberately absent: attaching and detaching, resizing, recycling, and the in-tree cloud provisioners;
//! other provisioners and their deleters work beside this by the usual annotations.

pub(crate) mod claim;
pub(crate) mod ephemeral;
pub(crate) mod local_path;
mod matching;
pub(crate) mod protection;
pub(crate) mod volume;

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const BETA_DEFAULT_CLASS: &str = "storageclass.beta.kubernetes.io/is-default-class";

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn annotate(metadata: &mut ObjectMeta, name: &str, value: &str) {
    metadata.annotations.get_or_insert_default().insert(name.to_owned(), value.to_owned());
}

fn name_of(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// Empty when the claim has none.
fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let named = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, BETA_CLASS).or(named).unwrap_or_default()
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let named = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, BETA_CLASS).or(named).unwrap_or_default()
}

fn volume_name_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn reclaim_policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

fn storage(amounts: Option<&BTreeMap<String, Text>>) -> Quantity {
    let amount = amounts.and_then(|amounts| amounts.get("storage"));
    amount.and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or_default()
}

fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

/// Whether the volume was promised to this claim, by name at least: a promise that a user made knows no uid.
fn is_promised(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(promise) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    promise.name == claim.metadata.name
        && promise.namespace == claim.metadata.namespace
        && promise.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
}

/// The name of the claim that belongs to an ephemeral volume of a pod.
fn ephemeral_claim_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", name_of(&pod.metadata))
}

/// The claims of a pod's volumes, by name, those of ephemeral volumes included.
fn claims_of_pod(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(ephemeral_claim_name(pod, &volume.name)),
        (None, None) => None,
    });
    names.collect()
}

/// The index of pods by the claims that they use: `namespace/claim`.
const PODS_BY_CLAIM: &str = "claims";

fn index_by_claim(pods: &client::Informer<Pod>) {
    pods.index_by(PODS_BY_CLAIM, |pod: &Pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        claims_of_pod(pod).into_iter().map(|claim| format!("{namespace}/{claim}")).collect()
    });
}
