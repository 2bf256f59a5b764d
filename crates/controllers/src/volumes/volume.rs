//! Phases of volumes, and what becomes of them when their claim is gone.
//!
//! Invariant: nothing is given back or deleted before the API server itself said that the claim is gone: the cache
//! alone may be behind.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, DeleteOptions, ErrorKind, EventRecorder, EventType, Informer, ObjectKey, error_kind, object_ref};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, local_path, matching, name_of, reclaim_policy, volume_name_of, volume_phase};
use crate::context::Context;
use crate::failure::Failure;
use crate::runner::{Controller, Next, Queue};

/// The index of volumes by the claim that they are promised to: `namespace/name`.
const BY_CLAIM: &str = "claim";

pub(crate) struct Volumes {
    context: Arc<Context>,
    recorder: EventRecorder,
    volumes: Arc<Informer<PersistentVolume>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
}

/// What a volume's phase ought to be, and what else is to be done.
#[derive(Debug, PartialEq)]
enum Decision {
    Phase(&'static str),
    /// The claim is gone.
    Release { reclaim: bool },
    /// The claim has got another volume: the promise is taken back.
    Unbind,
    /// The claim is the other controller's to bind.
    Leave,
    Mismatch,
}

/// Pure. `claim` is the one that the volume is promised to, if it is still there.
fn decide(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Decision {
    let promise = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(promise) = promise else { return Decision::Phase("Available") };
    if promise.uid.as_deref().unwrap_or_default().is_empty() {
        return Decision::Phase("Available"); // Promised by a user; the claim may come later.
    }
    let made_for_it = annotation(&volume.metadata, PROVISIONED_BY).is_some() && reclaim_policy(volume) == "Delete";
    let Some(claim) = claim.filter(|claim| claim.metadata.uid == promise.uid) else {
        return Decision::Release { reclaim: volume_phase(volume) != "Failed" };
    };
    match volume_name_of(claim) {
        "" if !matching::has_mode(volume, claim) => Decision::Mismatch,
        "" => Decision::Leave,
        name if name == name_of(&volume.metadata) => Decision::Phase("Bound"),
        _ if made_for_it => Decision::Release { reclaim: volume_phase(volume) != "Failed" },
        _ => Decision::Unbind,
    }
}

/// The volume as it is without its promise. What a user promised stays promised, by name.
fn unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut wanted = volume.clone();
    let by_controller = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    let Some(spec) = &mut wanted.spec else { return wanted };
    if by_controller {
        spec.claim_ref = None;
        if let Some(annotations) = &mut wanted.metadata.annotations {
            annotations.remove(BOUND_BY_CONTROLLER);
        }
    } else if let Some(promise) = &mut spec.claim_ref {
        promise.uid = None;
    }
    wanted
}

impl Volumes {
    pub fn new(context: &Arc<Context>) -> Self {
        let volumes: Arc<Informer<PersistentVolume>> = context.informer();
        volumes.index_by(BY_CLAIM, |volume: &PersistentVolume| {
            let promise = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            promise.map(|promise| format!("{}/{}", text(&promise.namespace), text(&promise.name))).into_iter().collect()
        });
        let recorder = context.recorder("persistentvolume-controller");
        Volumes { context: context.clone(), recorder, volumes, claims: context.informer() }
    }

    /// The claim that the volume is promised to. Only the API server is believed when it says that there is none.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>, Failure> {
        let promise = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let Some(promise) = promise else { return Ok(None) };
        let key = ObjectKey::new(promise.namespace.clone().unwrap_or_default(), promise.name.clone().unwrap_or_default());
        let is_it = |claim: &PersistentVolumeClaim| claim.metadata.uid == promise.uid;
        if let Some(held) = self.claims.get(&key)
            && is_it(&held)
        {
            return Ok(Some(held));
        }
        match self.context.rest.get::<PersistentVolumeClaim>(&key).await {
            Ok(claim) => Ok(Some(Arc::new(claim)).filter(|claim| is_it(claim))),
            Err(error) if error_kind(&error) == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn set_phase(&self, volume: &PersistentVolume, phase: &str, message: &str) -> Result<PersistentVolume, Failure> {
        let held = volume.status.clone().unwrap_or_default();
        if held.phase.as_deref() == Some(phase) && held.message.as_deref().unwrap_or_default() == message {
            return Ok(volume.clone());
        }
        let mut wanted = volume.clone();
        let changed = held.phase.as_deref() != Some(phase);
        wanted.status = Some(PersistentVolumeStatus {
            phase: Some(phase.into()),
            message: (!message.is_empty()).then(|| message.into()),
            reason: None,
            last_phase_transition_time: if changed { Some(Time(self.context.now())) } else { held.last_phase_transition_time },
        });
        Ok(self.context.update_status(&wanted).await?)
    }

    async fn fail(&self, volume: &PersistentVolume, reason: &str, message: String) -> Result<(), Failure> {
        self.recorder.event(&object_ref(volume), EventType::Warning, reason, message.clone());
        self.set_phase(volume, "Failed", &message).await?;
        Ok(())
    }

    async fn reclaim(&self, volume: &PersistentVolume) -> Result<(), Failure> {
        match reclaim_policy(volume) {
            "Retain" => Ok(()),
            "Delete" => self.delete(volume).await,
            "Recycle" => self.fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!".into()).await,
            _ => self.fail(volume, "VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".into()).await,
        }
    }

    async fn delete(&self, volume: &PersistentVolume) -> Result<(), Failure> {
        let name = name_of(&volume.metadata);
        match (annotation(&volume.metadata, PROVISIONED_BY), &self.context.settings.local_paths) {
            (Some(local_path::PROVISIONER), Some(local_paths)) => {
                if let Err(why) = local_path::remove(local_paths, volume).await {
                    return self.fail(volume, "VolumeFailedDelete", why).await;
                }
                let options = DeleteOptions::uid(volume.metadata.uid.clone().unwrap_or_default());
                self.context.delete::<PersistentVolume>(&ObjectKey::cluster(name), &options).await?;
                Ok(())
            }
            // Its own deleter takes care of it.
            (Some(_), _) => Ok(()),
            (None, _) if volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some()) => Ok(()),
            (None, _) => {
                let why = format!("error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched");
                self.fail(volume, "VolumeFailedDelete", why).await
            }
        }
    }
}

#[async_trait]
impl Controller for Volumes {
    fn name(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn workers(&self) -> usize {
        2
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.volumes.subscribe(move |change: &Change<PersistentVolume>| {
            if !matches!(change, Change::Deleted(_)) {
                own.add(ObjectKey::of(&change.object().metadata));
            }
        });
        let (volumes, queue) = (self.volumes.clone(), queue.clone());
        self.claims.subscribe(move |change: &Change<PersistentVolumeClaim>| {
            for claim in [Some(change.object()), change.old()].into_iter().flatten() {
                let name = volume_name_of(claim);
                if !name.is_empty() {
                    queue.add(ObjectKey::cluster(name));
                }
            }
            for volume in volumes.indexed(BY_CLAIM, &ObjectKey::of(&change.object().metadata).to_string()) {
                queue.add(ObjectKey::of(&volume.metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Next::Settled) };
        let claim = self.claim_of(&volume).await?;
        match decide(&volume, claim.as_deref()) {
            Decision::Phase(phase) => {
                self.set_phase(&volume, phase, "").await?;
            }
            Decision::Release { reclaim } => {
                let mut released = (*volume).clone();
                if !matches!(volume_phase(&volume), "Released" | "Failed") {
                    released = self.set_phase(&volume, "Released", "").await?;
                }
                if reclaim && released.metadata.deletion_timestamp.is_none() {
                    self.reclaim(&released).await?;
                }
            }
            Decision::Unbind => {
                let written = self.context.update(&unbound(&volume)).await?;
                self.set_phase(&written, "Available", "").await?;
            }
            Decision::Leave => {}
            Decision::Mismatch => {
                let claim_name = claim.as_ref().map(|claim| name_of(&claim.metadata)).unwrap_or_default();
                let text = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{claim_name}\" due to incompatible volumeMode."
                );
                self.recorder.event(&object_ref(&*volume), EventType::Warning, "VolumeMismatch", text);
                let name = name_of(&volume.metadata);
                let text = format!("Cannot bind PersistentVolume \"{name}\" to requested PersistentVolumeClaim due to incompatible volumeMode.");
                if let Some(claim) = &claim {
                    self.recorder.event(&object_ref(&**claim), EventType::Warning, "VolumeMismatch", text);
                }
            }
        }
        Ok(Next::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(spec: Value, phase: &str, provisioned: bool, claim_volume: Option<&str>, expected: &str) {
        let annotations = if provisioned { json!({PROVISIONED_BY: local_path::PROVISIONER}) } else { json!({}) };
        let volume = json!({"metadata": {"name": "pv", "annotations": annotations}, "spec": spec, "status": {"phase": phase}});
        let volume = serde_json::from_value(volume).unwrap();
        let claim = claim_volume.map(|name| json!({"metadata": {"name": "data", "namespace": "ns", "uid": "u1"}, "spec": {"volumeName": name}}));
        let claim: Option<PersistentVolumeClaim> = claim.map(|claim| serde_json::from_value(claim).unwrap());
        assert_eq!(format!("{:?}", decide(&volume, claim.as_ref())), expected);
    }

    #[test]
    fn phases() {
        let promised = |uid: &str, policy: &str| json!({"claimRef": {"name": "data", "namespace": "ns", "uid": uid}, "persistentVolumeReclaimPolicy": policy});
        check(json!({}), "Pending", false, None, "Phase(\"Available\")");
        check(promised("", "Retain"), "Pending", false, None, "Phase(\"Available\")");
        check(promised("u1", "Retain"), "Available", false, Some(""), "Leave");
        check(promised("u1", "Retain"), "Available", false, Some("pv"), "Phase(\"Bound\")");
        check(promised("u1", "Retain"), "Bound", false, None, "Release { reclaim: true }");
        check(promised("u0", "Retain"), "Bound", false, Some("pv"), "Release { reclaim: true }");
        check(promised("u1", "Delete"), "Failed", false, None, "Release { reclaim: false }");
        check(promised("u1", "Retain"), "Bound", false, Some("other"), "Unbind");
        check(promised("u1", "Delete"), "Bound", true, Some("other"), "Release { reclaim: true }");
        check(promised("u1", "Delete"), "Failed", true, Some("other"), "Release { reclaim: false }");
        check(promised("u1", "Retain"), "Bound", true, Some("other"), "Unbind"); // What is to be kept is not thrown away.
        check(promised("u1", "Delete"), "Released", false, None, "Release { reclaim: true }");
        check(promised("u0", "Retain"), "Available", false, Some(""), "Release { reclaim: true }"); // Its namesake is another.
        check(promised("", "Retain"), "Available", false, Some(""), "Phase(\"Available\")");
        let block = json!({"claimRef": {"name": "data", "namespace": "ns", "uid": "u1"}, "volumeMode": "Block"});
        check(block, "Available", false, Some(""), "Mismatch");
    }

    #[test]
    fn what_a_user_promised_stays_promised() {
        let promise = json!({"claimRef": {"name": "data", "namespace": "ns", "uid": "u1"}});
        let mut volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": promise})).unwrap();
        let left = unbound(&volume).spec.unwrap().claim_ref.unwrap();
        assert_eq!((left.name.as_deref(), left.uid), (Some("data"), None));
        super::super::annotate(&mut volume.metadata, BOUND_BY_CONTROLLER, "yes");
        assert_eq!(unbound(&volume).spec.unwrap().claim_ref, None);
    }
}
