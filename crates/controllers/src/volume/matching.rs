//! Which volume suits a claim best. Pure.

use std::sync::Arc;

use api::quantity::Quantity;
use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::owners;

/// The class a claim asks for: `None` is "whatever is the default", empty is "none".
pub(super) fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    const OLD: &str = "volume.beta.kubernetes.io/storage-class";
    let annotated = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(OLD));
    annotated.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

/// Whether the volume is reserved for this very claim.
pub(super) fn is_reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let same_uid = reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref());
    reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace && same_uid
}

/// A volume reserved for the claim, or else the smallest that satisfies it.
pub(super) fn best(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], delayed: bool) -> Option<Arc<PersistentVolume>> {
    let suits = |volume: &&Arc<PersistentVolume>| satisfies(volume, claim).is_ok();
    if let Some(reserved) = volumes.iter().filter(suits).find(|volume| is_reserved_for(volume, claim)) {
        return Some(reserved.clone());
    }
    if delayed {
        return None; // The scheduler chooses, once it is known where the pod goes.
    }
    let free = |volume: &&Arc<PersistentVolume>| {
        let available = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available");
        available && volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()) && volume.metadata.deletion_timestamp.is_none()
    };
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(LabelSelector::from_typed).transpose().ok()?;
    let selected = |volume: &&Arc<PersistentVolume>| selector.as_ref().is_none_or(|selector| owners::matches(selector, &volume.metadata));
    let same_class = |volume: &&Arc<PersistentVolume>| class_of_volume(volume) == class_of_claim(claim).unwrap_or_default();
    let candidates = volumes.iter().filter(free).filter(selected).filter(same_class).filter(suits);
    candidates.min_by(|a, b| capacity(a).cmp(&capacity(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))).cloned()
}

fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    Quantity::parse(&volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?.0).ok()
}

/// The error is the sentence for the event.
pub(super) fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), &'static str> {
    let (Some(offered), Some(wanted)) = (&volume.spec, &claim.spec) else { return Err("requested PV is too small") };
    let request = wanted.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    let request = request.and_then(|quantity| Quantity::parse(&quantity.0).ok());
    if request > capacity(volume) {
        return Err("requested PV is too small");
    }
    if class_of_volume(volume) != class_of_claim(claim).unwrap_or_default() {
        return Err("storageClassName does not match");
    }
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    if mode(&offered.volume_mode) != mode(&wanted.volume_mode) {
        return Err("incompatible volumeMode");
    }
    let attributes = |name: &Option<String>| name.clone().unwrap_or_default();
    if attributes(&offered.volume_attributes_class_name) != attributes(&wanted.volume_attributes_class_name) {
        return Err("VolumeAttributesClassName does not match");
    }
    let has = |mode: &String| offered.access_modes.iter().flatten().any(|offered| offered == mode);
    if !wanted.access_modes.iter().flatten().all(has) {
        return Err("incompatible accessMode");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `name:size[:class[:mode[:claim]]]`.
    fn volumes(text: &str) -> Vec<Arc<PersistentVolume>> {
        text.split_whitespace()
            .map(|word| {
                let parts: Vec<&str> = word.split(':').collect();
                let part = |at: usize| parts.get(at).copied().unwrap_or_default();
                let mode = if part(3).is_empty() { "ReadWriteOnce" } else { part(3) };
                let mut volume = json!({
                    "metadata": {"name": part(0)},
                    "spec": {"capacity": {"storage": part(1)}, "storageClassName": part(2), "accessModes": [mode]},
                    "status": {"phase": "Available"},
                });
                if !part(4).is_empty() {
                    volume["spec"]["claimRef"] = json!({"name": part(4), "namespace": "ns"});
                }
                Arc::new(serde_json::from_value(volume).unwrap())
            })
            .collect()
    }

    #[track_caller]
    fn check(size: &str, class: &str, offered: &str, expected: Option<&str>) {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
            "spec": {"resources": {"requests": {"storage": size}}, "storageClassName": class, "accessModes": ["ReadWriteOnce"]},
        }))
        .unwrap();
        let found = best(&claim, &volumes(offered), false);
        assert_eq!(found.as_ref().and_then(|volume| volume.metadata.name.as_deref()), expected);
    }

    #[test]
    fn the_smallest_that_suits() {
        check("5Gi", "", "a:10Gi b:6Gi c:1Gi", Some("b"));
        check("5Gi", "fast", "a:10Gi b:6Gi:fast", Some("b"));
        check("5Gi", "", "a:5Gi::ReadOnlyMany", None);
        check("5Gi", "", "a:6Gi b:20Gi:::c", Some("b")); // Reserved for it.
        check("5Gi", "", "a:6Gi:::other", None);
        check("5Gi", "", "a:1Gi:::c", None);
    }
}
