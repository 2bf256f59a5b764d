//! Volumes as objects: binding claims to volumes, keeping what is in use, claims that live with their pod.
//!
//! Deliberately absent: attaching and mounting. Drivers' sidecars and kubelets do that.

pub(crate) mod binder;
pub(crate) mod ephemeral;
mod matching;
pub(crate) mod protection;

use client::Informer;
use k8s_openapi::api::core::v1::{Pod, Volume};

/// The index of pods by `namespace/claim`.
pub(crate) const BY_CLAIM: &str = "claim";

pub(crate) fn index_by_claim(pods: &Informer<Pod>) {
    pods.index_by(BY_CLAIM, |pod: &Pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        claims_of(pod).into_iter().map(|claim| format!("{namespace}/{claim}")).collect()
    });
}

/// Names of the claims that a pod's volumes use.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(|volume| claim_name(pod, volume)).collect()
}

fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if volume.ephemeral.is_some() {
        return Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name));
    }
    volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone())
}
