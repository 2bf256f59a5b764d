//! Binds PersistentVolumeClaims to PersistentVolumes, and tells both apart when they part.
//!
//! Invariant: a binding is written on the volume first. A claim that says it is bound to a volume which
//! does not name it back is lost, never shared.
//!
//! Deliberately absent: making volumes. A StorageClass names its provisioner, who watches for the claims
//! that are annotated here; and recycling, which is deprecated.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use parking_lot::Mutex;

use super::matching::{self, class_of_claim, is_reserved_for};
use crate::context::Context;
use crate::failure::Failure;
use crate::runner::{Controller, Next, Queue};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Claims are keyed by namespace and name, volumes by name alone.
pub(crate) struct VolumeBinder {
    context: Arc<Context>,
    recorder: EventRecorder,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    classes: Arc<Informer<StorageClass>>,
    queue: Mutex<Option<Queue>>,
}

impl VolumeBinder {
    pub fn new(context: &Arc<Context>) -> Self {
        VolumeBinder {
            context: context.clone(),
            recorder: context.recorder("persistentvolume-controller"),
            claims: context.informer(),
            volumes: context.informer(),
            classes: context.informer(),
            queue: Mutex::new(None),
        }
    }

    fn tell(&self, claim: &PersistentVolumeClaim, event_type: EventType, reason: &str, text: impl Into<String>) {
        self.recorder.event(&client::object_ref(claim), event_type, reason, text);
    }

    async fn sync_claim(&self, claim: &PersistentVolumeClaim) -> Result<Next, Failure> {
        let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
        let volume = volume_name.and_then(|name| self.volumes.get(&ObjectKey::cluster(name)));
        if has(&claim.metadata, BIND_COMPLETED) {
            return self.check_bound(claim, volume.as_deref()).await;
        }
        match (volume_name, volume) {
            (None, _) => self.find_volume(claim).await,
            (Some(_), None) => self.set_claim_phase(claim, "Pending").await,
            (Some(_), Some(volume)) => {
                let free = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none());
                if !free && !is_reserved_for(&volume, claim) {
                    let text = format!("volume \"{}\" already bound to a different claim.", volume.metadata.name.as_deref().unwrap_or_default());
                    self.tell(claim, EventType::Warning, "FailedBinding", text);
                    return self.set_claim_phase(claim, "Pending").await;
                }
                if let Err(why) = matching::satisfies(&volume, claim) {
                    let name = volume.metadata.name.as_deref().unwrap_or_default();
                    let text = format!("Cannot bind to requested volume \"{name}\": {why}");
                    self.tell(claim, EventType::Warning, "VolumeMismatch", text);
                    return self.set_claim_phase(claim, "Pending").await;
                }
                self.bind(claim, &volume).await
            }
        }
    }

    /// A claim that was bound stays bound to its volume or is lost.
    async fn check_bound(&self, claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) -> Result<Next, Failure> {
        let lost = |reason, text| {
            self.tell(claim, EventType::Warning, reason, text);
            self.set_claim_phase(claim, "Lost")
        };
        match volume {
            None => lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!").await,
            Some(volume) if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()) || is_reserved_for(volume, claim) => {
                self.bind(claim, volume).await
            }
            Some(_) => lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly").await,
        }
    }

    async fn find_volume(&self, claim: &PersistentVolumeClaim) -> Result<Next, Failure> {
        let Some(class_name) = class_of_claim(claim) else {
            // Made before there was a default class.
            if let Some(default) = self.default_class() {
                let mut updated = claim.clone();
                updated.spec.get_or_insert_default().storage_class_name.clone_from(&default.metadata.name);
                self.context.update(&updated).await?;
                return Ok(Next::Settled);
            }
            return self.settle_without_class(claim).await;
        };
        let class = self.classes.get(&ObjectKey::cluster(class_name));
        let waits = class.as_ref().is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        let delayed = waits && !has(&claim.metadata, SELECTED_NODE);
        if let Some(volume) = matching::best(claim, &self.volumes.list(), waits) {
            return self.bind(claim, &volume).await;
        }
        if delayed {
            let text = "waiting for first consumer to be created before binding";
            self.tell(claim, EventType::Normal, "WaitForFirstConsumer", text);
        } else if class_name.is_empty() {
            let text = "no persistent volumes available for this claim and no storage class is set";
            self.tell(claim, EventType::Normal, "FailedBinding", text);
        } else {
            match class {
                Some(class) if class.provisioner == NO_PROVISIONER => {
                    self.tell(claim, EventType::Normal, "FailedBinding", "no volume plugin matched");
                }
                Some(class) => return self.ask_provisioner(claim, &class.provisioner).await,
                None => {
                    let text = format!("storageclass.storage.k8s.io \"{class_name}\" not found");
                    self.tell(claim, EventType::Warning, "ProvisioningFailed", text);
                }
            }
        }
        self.set_claim_phase(claim, "Pending").await
    }

    async fn settle_without_class(&self, claim: &PersistentVolumeClaim) -> Result<Next, Failure> {
        if let Some(volume) = matching::best(claim, &self.volumes.list(), false) {
            return self.bind(claim, &volume).await;
        }
        let text = "no persistent volumes available for this claim and no storage class is set";
        self.tell(claim, EventType::Normal, "FailedBinding", text);
        self.set_claim_phase(claim, "Pending").await
    }

    /// Of several defaults the youngest counts.
    fn default_class(&self) -> Option<Arc<StorageClass>> {
        let mut defaults = self.classes.list();
        defaults.retain(|class| {
            class.metadata.annotations.as_ref().and_then(|all| all.get(DEFAULT_CLASS)).is_some_and(|value| value == "true")
        });
        defaults.into_iter().max_by_key(|class| class.metadata.creation_timestamp.as_ref().map(|time| time.0))
    }

    async fn ask_provisioner(&self, claim: &PersistentVolumeClaim, provisioner: &str) -> Result<Next, Failure> {
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.tell(claim, EventType::Normal, "ExternalProvisioning", text);
        let mut asked = claim.clone();
        let annotations = asked.metadata.annotations.get_or_insert_default();
        annotations.insert(PROVISIONER.into(), provisioner.into());
        annotations.insert(OLD_PROVISIONER.into(), provisioner.into());
        if asked != *claim {
            asked = self.context.update(&asked).await?;
        }
        self.set_claim_phase(&asked, "Pending").await
    }

    /// Volume first, then claim: after a crash in between the volume's word stands.
    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<Next, Failure> {
        let mut reserved = volume.clone();
        let reference = reserved.spec.get_or_insert_default().claim_ref.get_or_insert_with(ObjectReference::default);
        let by_us = reference.name.is_none();
        if reference.uid != claim.metadata.uid {
            *reference = ObjectReference { field_path: None, ..client::object_ref(claim) };
        }
        if by_us {
            annotate(&mut reserved.metadata, BOUND_BY_CONTROLLER);
        }
        if reserved != *volume {
            reserved = self.context.update(&reserved).await?;
        }
        self.set_volume_phase(&reserved, "Bound").await?;

        let mut bound = claim.clone();
        let spec = bound.spec.get_or_insert_default();
        if spec.volume_name.as_deref().unwrap_or_default().is_empty() {
            spec.volume_name.clone_from(&volume.metadata.name);
            annotate(&mut bound.metadata, BOUND_BY_CONTROLLER);
        }
        annotate(&mut bound.metadata, BIND_COMPLETED);
        if bound != *claim {
            bound = self.context.update(&bound).await?;
        }
        let status = bound_status(&bound, volume);
        if bound.status.as_ref() != Some(&status) {
            bound.status = Some(status);
            self.context.update_status(&bound).await?;
        }
        Ok(Next::Settled)
    }

    async fn sync_volume(&self, volume: &PersistentVolume) -> Result<Next, Failure> {
        let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
            self.set_volume_phase(volume, "Available").await?;
            self.wake_waiting_claims();
            return Ok(Next::Settled);
        };
        let key = ObjectKey::new(reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default());
        let claim = self.claims.get(&key);
        if reference.uid.as_deref().unwrap_or_default().is_empty() {
            self.set_volume_phase(volume, "Available").await?; // Reserved, not bound yet.
            self.wake(key);
            return Ok(Next::Settled);
        }
        match claim.filter(|claim| claim.metadata.uid == reference.uid) {
            None => self.set_volume_phase(volume, "Released").await?,
            Some(claim) => {
                let names_us = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) == volume.metadata.name.as_ref();
                if names_us && has(&claim.metadata, BIND_COMPLETED) {
                    self.set_volume_phase(volume, "Bound").await?;
                } else {
                    self.wake(key);
                }
            }
        }
        Ok(Next::Settled)
    }

    fn wake(&self, key: ObjectKey) {
        if let Some(queue) = &*self.queue.lock() {
            queue.add(key);
        }
    }

    /// A volume came free: whoever waits may have it.
    fn wake_waiting_claims(&self) {
        for claim in self.claims.list().iter().filter(|claim| !has(&claim.metadata, BIND_COMPLETED)) {
            self.wake(ObjectKey::of(&claim.metadata));
        }
    }

    async fn set_claim_phase(&self, claim: &PersistentVolumeClaim, phase: &str) -> Result<Next, Failure> {
        let mut updated = claim.clone();
        let status = updated.status.get_or_insert_default();
        if status.phase.as_deref() != Some(phase) {
            status.phase = Some(phase.to_owned());
            self.context.update_status(&updated).await?;
        }
        Ok(Next::Settled)
    }

    async fn set_volume_phase(&self, volume: &PersistentVolume, phase: &str) -> Result<(), Failure> {
        let held = volume.status.clone().unwrap_or_default();
        if held.phase.as_deref() == Some(phase) {
            return Ok(());
        }
        let mut updated = volume.clone();
        updated.status = Some(PersistentVolumeStatus {
            phase: Some(phase.to_owned()),
            last_phase_transition_time: Some(Time(self.context.now())),
            message: None,
            reason: None,
        });
        self.context.update_status(&updated).await?;
        Ok(())
    }
}

#[async_trait]
impl Controller for VolumeBinder {
    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }

    /// Two at once could give one volume to two claims.
    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        *self.queue.lock() = Some(queue.clone());
        let own = queue.clone();
        self.claims.subscribe(move |change: &Change<PersistentVolumeClaim>| {
            let claim = change.object();
            own.add(ObjectKey::of(&claim.metadata));
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
            if let (Change::Deleted(_), Some(volume)) = (change, volume) {
                own.add(ObjectKey::cluster(volume));
            }
        });
        let own = queue.clone();
        self.volumes.subscribe(move |change: &Change<PersistentVolume>| {
            let volume = change.object();
            own.add(ObjectKey::of(&volume.metadata));
            if let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
                own.add(ObjectKey::new(reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default()));
            }
        });
        let (claims, queue) = (self.claims.clone(), queue.clone());
        self.classes.subscribe(move |_: &Change<StorageClass>| {
            for claim in claims.list().iter().filter(|claim| !has(&claim.metadata, BIND_COMPLETED)) {
                queue.add(ObjectKey::of(&claim.metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        if key.namespace.is_empty() {
            return match self.volumes.get(key) {
                Some(volume) => self.sync_volume(&volume).await,
                None => Ok(Next::Settled),
            };
        }
        match self.claims.get(key) {
            Some(claim) => self.sync_claim(&claim).await,
            None => Ok(Next::Settled),
        }
    }
}

fn bound_status(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaimStatus {
    let spec = volume.spec.clone().unwrap_or_default();
    let mut status = claim.status.clone().unwrap_or_default();
    let first = status.phase.as_deref() != Some("Bound");
    status.phase = Some("Bound".into());
    status.access_modes = spec.access_modes;
    // Afterwards the capacity is the resizer's to tell.
    if first || status.capacity.is_none() {
        status.capacity = spec.capacity;
    }
    status.current_volume_attributes_class_name = spec.volume_attributes_class_name;
    status
}

fn has(metadata: &ObjectMeta, annotation: &str) -> bool {
    metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(annotation))
}

fn annotate(metadata: &mut ObjectMeta, annotation: &str) {
    metadata.annotations.get_or_insert_default().insert(annotation.into(), "yes".into());
}
