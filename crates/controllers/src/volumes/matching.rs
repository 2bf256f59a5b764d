//! Which volume serves a claim.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;
use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{class_of_claim, class_of_volume, is_promised, name_of, storage, volume_phase};

/// The volume that was promised to the claim, else the one with the fewest access modes, then the smallest.
/// A claim that waits for its first consumer gets only what it was promised: the scheduler chooses for it.
pub fn best<'a>(claim: &PersistentVolumeClaim, volumes: &'a [Arc<PersistentVolume>], waits: bool) -> Option<&'a Arc<PersistentVolume>> {
    let fits = volumes.iter().filter(|volume| {
        volume.metadata.deletion_timestamp.is_none() && is_large_enough(volume, claim) && has_mode(volume, claim) && serves_modes(volume, claim)
    });
    let fits: Vec<_> = fits.collect();
    if let Some(promised) = fits.iter().find(|volume| is_promised(volume, claim)) {
        return Some(promised);
    }
    if waits {
        return None;
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref()).map(LabelSelector::from_typed);
    let no_labels = BTreeMap::new();
    let selected = |volume: &PersistentVolume| match &selector {
        None => true,
        Some(selector) => {
            selector.as_ref().is_ok_and(|selector| selector.matches(volume.metadata.labels.as_ref().unwrap_or(&no_labels)))
        }
    };
    let free = fits.into_iter().filter(|volume| {
        volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
            && volume_phase(volume) == "Available"
            && class_of_volume(volume) == class_of_claim(claim)
            && same_attributes(volume, claim)
            && selected(volume)
    });
    free.min_by_key(|volume| {
        let spec = volume.spec.as_ref();
        let modes = spec.and_then(|spec| spec.access_modes.as_ref()).map_or(0, Vec::len);
        (modes, capacity(volume), name_of(&volume.metadata).to_owned())
    })
}

/// Why a claim cannot have the volume that it names, in the original's words.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if !is_large_enough(volume, claim) {
        Some("requested PV is too small")
    } else if class_of_volume(volume) != class_of_claim(claim) {
        Some("storageClassName does not match")
    } else if !same_attributes(volume, claim) {
        Some("VolumeAttributesClassName does not match")
    } else if !has_mode(volume, claim) {
        Some("incompatible volumeMode")
    } else if !serves_modes(volume, claim) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

pub fn has_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem");
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem");
    offered == wanted
}

fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn is_large_enough(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    capacity(volume) >= storage(resources.and_then(|resources| resources.requests.as_ref()))
}

fn serves_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|mode| offered.contains(mode))
}

fn same_attributes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    offered.unwrap_or_default() == wanted.unwrap_or_default()
}
