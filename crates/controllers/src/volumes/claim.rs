//! Binds claims: to the volume that they name, to the one that fits best, or to one that is made for them.
//!
//! Invariant: once `bind-completed` stands on a claim, it never gets another volume; when its volume is gone the
//! claim is `Lost`.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, object_ref};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    BETA_DEFAULT_CLASS, BETA_STORAGE_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, DEFAULT_CLASS, PODS_BY_CLAIM, SELECTED_NODE,
    STORAGE_PROVISIONER, annotate, annotation, class_of_claim, index_by_claim, is_promised, local_path, matching, name_of, volume_name_of,
    volume_phase, waits_for_consumer,
};
use crate::context::Context;
use crate::failure::{Failure, error_text};
use crate::pods;
use crate::runner::{Controller, Next, Queue};

/// The index of claims without a finished binding; its one value is `""`.
const UNBOUND: &str = "unbound";
const BY_VOLUME: &str = "volume";

pub(crate) struct Claims {
    context: Arc<Context>,
    recorder: EventRecorder,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    classes: Arc<Informer<StorageClass>>,
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
}

struct Observed<'a> {
    claim: &'a PersistentVolumeClaim,
    /// The one that the claim names.
    named: Option<Arc<PersistentVolume>>,
    volumes: &'a [Arc<PersistentVolume>],
    class: Option<&'a StorageClass>,
    default_class: Option<&'a str>,
    /// Pods that use the claim and have no node yet.
    waiting_pods: &'a [&'a str],
}

type Event = (EventType, &'static str, String);

#[derive(Debug, PartialEq)]
enum Decision {
    Bind(Arc<PersistentVolume>),
    /// The claim stays, or becomes, `Pending`.
    Wait(Option<Event>),
    Lose { reason: &'static str, message: &'static str },
    Assign { class: String },
    Provision,
    Fail(String),
}

/// Pure.
fn decide(observed: &Observed<'_>) -> Decision {
    let claim = observed.claim;
    let completed = annotation(&claim.metadata, BIND_COMPLETED).is_some();
    if completed { decide_completed(observed) } else { decide_unbound(observed) }
}

fn decide_completed(Observed { claim, named, .. }: &Observed<'_>) -> Decision {
    let lose = |reason, message| Decision::Lose { reason, message };
    if volume_name_of(claim).is_empty() {
        return lose("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = named else {
        return lose("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    let promise = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if promise.is_none_or(|promise| promise.uid == claim.metadata.uid) {
        Decision::Bind(volume.clone())
    } else {
        lose("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
    }
}

fn decide_unbound(observed: &Observed<'_>) -> Decision {
    let claim = observed.claim;
    if !volume_name_of(claim).is_empty() {
        return decide_named(observed);
    }
    let waits = waits_for_consumer(observed.class);
    if let Some(volume) = matching::best(claim, observed.volumes, waits) {
        return Decision::Bind(volume.clone());
    }
    let has_class = claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some());
    if let Some(class) = observed.default_class
        && !has_class
        && class_of_claim(claim).is_empty()
    {
        return Decision::Assign { class: class.to_owned() };
    }
    if waits && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        let event = match observed.waiting_pods {
            [] => (EventType::Normal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
            [pod] => (EventType::Normal, "WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => (EventType::Normal, "WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
        };
        return Decision::Wait(Some(event));
    }
    if class_of_claim(claim).is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return Decision::Wait(Some((EventType::Normal, "FailedBinding", message.to_owned())));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Decision::Wait(None);
    }
    Decision::Provision
}

fn decide_named(Observed { claim, named, .. }: &Observed<'_>) -> Decision {
    let Some(volume) = named else { return Decision::Wait(None) };
    let name = name_of(&volume.metadata);
    if is_promised(volume, claim) {
        return Decision::Bind(volume.clone());
    }
    let Some(promise) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return match matching::mismatch(volume, claim) {
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{name}\": {why}");
                Decision::Wait(Some((EventType::Warning, "VolumeMismatch", message)))
            }
            None => Decision::Bind(volume.clone()),
        };
    };
    if annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_none() {
        let message = format!("volume \"{name}\" already bound to a different claim.");
        return Decision::Wait(Some((EventType::Warning, "FailedBinding", message)));
    }
    let other = format!("{}/{}", promise.namespace.as_deref().unwrap_or_default(), promise.name.as_deref().unwrap_or_default());
    let key = ObjectKey::of(&claim.metadata);
    Decision::Fail(format!("invalid binding of claim \"{key}\" to volume \"{name}\": volume already claimed by \"{other}\""))
}

/// The volume as it is when it belongs to the claim, its status aside.
fn promised_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut wanted = volume.clone();
    if !is_promised(volume, claim) {
        annotate(&mut wanted.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    let spec = wanted.spec.get_or_insert_default();
    if spec.claim_ref.as_ref().is_none_or(|promise| promise.uid != claim.metadata.uid || promise.name != claim.metadata.name) {
        spec.claim_ref = Some(object_ref(claim));
    }
    wanted
}

/// The claim as it is when it has the volume, its status aside.
fn bound_to(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut wanted = claim.clone();
    if volume_name_of(claim) != name_of(&volume.metadata) {
        wanted.spec.get_or_insert_default().volume_name = volume.metadata.name.clone();
        annotate(&mut wanted.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    if annotation(&claim.metadata, BIND_COMPLETED).is_none() {
        annotate(&mut wanted.metadata, BIND_COMPLETED, "yes");
    }
    wanted
}

fn status_when_bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaimStatus {
    let mut status = claim.status.clone().unwrap_or_default();
    let spec = volume.spec.as_ref();
    status.phase = Some("Bound".into());
    status.access_modes = spec.and_then(|spec| spec.access_modes.clone());
    status.capacity = spec.and_then(|spec| spec.capacity.clone());
    status
}

/// The class that new claims without one get: the youngest of those marked so, then the first by name.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let marked = |class: &&Arc<StorageClass>| {
        [DEFAULT_CLASS, BETA_DEFAULT_CLASS].iter().any(|mark| annotation(&class.metadata, mark) == Some("true"))
    };
    let age = |class: &Arc<StorageClass>| class.metadata.creation_timestamp.as_ref().map(|time| -time.0.as_second());
    let first = classes.iter().filter(marked).min_by_key(|class| (age(class), name_of(&class.metadata).to_owned()));
    first.map(|class| name_of(&class.metadata).to_owned())
}

impl Claims {
    pub fn new(context: &Arc<Context>) -> Self {
        let (claims, pods): (Arc<Informer<PersistentVolumeClaim>>, Arc<Informer<Pod>>) = (context.informer(), context.informer());
        claims.index_by(UNBOUND, |claim: &PersistentVolumeClaim| {
            annotation(&claim.metadata, BIND_COMPLETED).is_none().then(String::new).into_iter().collect()
        });
        claims.index_by(BY_VOLUME, |claim: &PersistentVolumeClaim| vec![volume_name_of(claim).to_owned()]);
        index_by_claim(&pods);
        Claims {
            context: context.clone(),
            recorder: context.recorder("persistentvolume-controller"),
            claims,
            volumes: context.informer(),
            classes: context.informer(),
            nodes: context.informer(),
            pods,
        }
    }

    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), Failure> {
        let mut wanted = promised_to(volume, claim);
        if wanted != *volume {
            wanted = self.context.update(&wanted).await?;
        }
        if volume_phase(&wanted) != "Bound" {
            let last_phase_transition_time = Some(Time(self.context.now()));
            let phase = Some("Bound".into());
            wanted.status = Some(PersistentVolumeStatus { phase, last_phase_transition_time, ..PersistentVolumeStatus::default() });
            wanted = self.context.update_status(&wanted).await?;
        }
        let mut bound = bound_to(claim, &wanted);
        if bound != *claim {
            bound = self.context.update(&bound).await?;
        }
        let status = status_when_bound(&bound, &wanted);
        if bound.status.as_ref() != Some(&status) {
            bound.status = Some(status);
            self.context.update_status(&bound).await?;
        }
        Ok(())
    }

    /// Writes the phase of a claim that has no volume.
    async fn set_phase(&self, claim: &PersistentVolumeClaim, phase: &str) -> Result<bool, Failure> {
        let mut status = claim.status.clone().unwrap_or_default();
        status.phase = Some(phase.into());
        status.access_modes = None;
        status.capacity = None;
        if claim.status.as_ref() == Some(&status) {
            return Ok(false);
        }
        let mut wanted = claim.clone();
        wanted.status = Some(status);
        self.context.update_status(&wanted).await?;
        Ok(true)
    }

    async fn provision(&self, claim: &PersistentVolumeClaim) -> Result<(), Failure> {
        let warn = |text: String| self.recorder.event(&object_ref(claim), EventType::Warning, "ProvisioningFailed", text);
        let name = class_of_claim(claim);
        let Some(class) = self.classes.get(&ObjectKey::cluster(name)) else {
            warn(format!("storageclass.storage.k8s.io \"{name}\" not found"));
            return Ok(());
        };
        let provisioner = &class.provisioner;
        let mut claim = claim.clone();
        if [STORAGE_PROVISIONER, BETA_STORAGE_PROVISIONER].iter().any(|name| annotation(&claim.metadata, name) != Some(provisioner)) {
            annotate(&mut claim.metadata, STORAGE_PROVISIONER, provisioner);
            annotate(&mut claim.metadata, BETA_STORAGE_PROVISIONER, provisioner);
            claim = self.context.update(&claim).await?;
        }
        let root = self.context.settings.local_paths.as_ref().filter(|_| provisioner == local_path::PROVISIONER);
        let Some(local_paths) = root else {
            if provisioner.starts_with("kubernetes.io/") {
                warn(format!("no volume plugin matched name: {provisioner}"));
            } else {
                let text = format!(
                    "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
                );
                self.recorder.event(&object_ref(&claim), EventType::Normal, "ExternalProvisioning", text);
            }
            return Ok(());
        };
        let selected = annotation(&claim.metadata, SELECTED_NODE).map(str::to_owned);
        let node = selected.as_ref().and_then(|name| self.nodes.get(&ObjectKey::cluster(name)));
        if selected.is_some() && node.is_none() {
            // The node is gone: the scheduler chooses again.
            claim.metadata.annotations.get_or_insert_default().remove(SELECTED_NODE);
            self.context.update(&claim).await?;
            return Ok(());
        }
        let volume = match local_path::volume_for(&claim, &class, node.as_deref(), &local_paths.root) {
            Ok(volume) => volume,
            Err(why) => {
                warn(why);
                return Ok(());
            }
        };
        match self.context.create(&volume).await {
            Err(error) if client::error_kind(&error) == client::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => {
                warn(format!("Error creating provisioned PV object for claim {}: {}. Deleting the volume.", ObjectKey::of(&claim.metadata), error_text(&error)));
                Err(error.into())
            }
            Ok(made) => {
                let text = format!("Successfully provisioned volume {} using {provisioner}", name_of(&made.metadata));
                self.recorder.event(&object_ref(&claim), EventType::Normal, "ProvisioningSucceeded", text);
                self.bind(&claim, &made).await
            }
        }
    }
}

#[async_trait]
impl Controller for Claims {
    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }

    /// One, so that two claims do not reach for the same volume.
    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.claims.subscribe(move |change: &Change<PersistentVolumeClaim>| own.add(ObjectKey::of(&change.object().metadata)));
        let (claims, own) = (self.claims.clone(), queue.clone());
        let wake = move |index: &str, value: &str| {
            for claim in claims.indexed(index, value) {
                own.add(ObjectKey::of(&claim.metadata));
            }
        };
        let (wake_all, own) = (wake.clone(), queue.clone());
        self.volumes.subscribe(move |change: &Change<PersistentVolume>| {
            let volume = change.object();
            wake_all(BY_VOLUME, name_of(&volume.metadata));
            match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
                Some(promise) => own.add(ObjectKey::new(promise.namespace.clone().unwrap_or_default(), promise.name.clone().unwrap_or_default())),
                None if volume_phase(volume) == "Available" => wake_all(UNBOUND, ""),
                None => {}
            }
        });
        self.classes.subscribe(move |change: &Change<StorageClass>| {
            if !matches!(change, Change::Deleted(_)) {
                wake(UNBOUND, "");
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(claim) = self.claims.get(key) else { return Ok(Next::Settled) };
        let named = Some(volume_name_of(&claim)).filter(|name| !name.is_empty()).and_then(|name| self.volumes.get(&ObjectKey::cluster(name)));
        let completed = annotation(&claim.metadata, BIND_COMPLETED).is_some();
        let volumes = if completed { Vec::new() } else { self.volumes.list() };
        let class = self.classes.get(&ObjectKey::cluster(class_of_claim(&claim)));
        let default = default_class(&self.classes.list());
        let pods = self.pods.indexed(PODS_BY_CLAIM, &key.to_string());
        let waits = |pod: &&Arc<Pod>| !pods::is_finished(pod) && pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
        let mut waiting: Vec<&str> = pods.iter().filter(waits).map(|pod| name_of(&pod.metadata)).collect();
        waiting.sort_unstable();
        let observed = Observed {
            claim: &claim,
            named,
            volumes: &volumes,
            class: class.as_deref(),
            default_class: default.as_deref(),
            waiting_pods: &waiting,
        };
        match decide(&observed) {
            Decision::Bind(volume) => self.bind(&claim, &volume).await?,
            Decision::Wait(event) => {
                if let Some((kind, reason, message)) = event {
                    self.recorder.event(&object_ref(&*claim), kind, reason, message);
                }
                self.set_phase(&claim, "Pending").await?;
            }
            Decision::Lose { reason, message } => {
                if self.set_phase(&claim, "Lost").await? {
                    self.recorder.event(&object_ref(&*claim), EventType::Warning, reason, message);
                }
            }
            Decision::Assign { class } => {
                let mut wanted = (*claim).clone();
                wanted.spec.get_or_insert_default().storage_class_name = Some(class);
                self.context.update(&wanted).await?;
            }
            Decision::Provision => self.provision(&claim).await?,
            Decision::Fail(why) => return Err(Failure::Other(why)),
        }
        Ok(Next::Settled)
    }
}

#[cfg(test)]
mod tests;
