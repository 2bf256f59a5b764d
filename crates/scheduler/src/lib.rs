//! Decides which node each pod runs on.
//!
//! Invariants: the API is the only coupling (informers in, bindings out). The decision is a pure function of the
//! cluster as it is known (`decide`, `preempt`); everything that acts is in `act` and here. A pod that was given a node
//! counts there from that moment on, so that the next decision need not wait for the API.
//!
//! Deliberately absent: a plugin framework (profiles only choose among what is here), extenders, resource claims (DRA), gang scheduling
//! and storage capacity.

mod act;
pub mod cluster;
mod config;
pub mod counts;
pub mod cycle;
pub mod decide;
mod default_spread;
pub mod filters;
pub mod node_info;
mod node_selector;
pub mod pod_info;
mod preempt;
pub mod profile;
pub mod hints;
mod queue;
pub mod repelling;
mod resources;
pub mod scores;
mod state;
pub mod storage;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use api::clock::Clock;
use client::{EventRecorder, Informers, ObjectKey, Rest};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use crate::config::ConfigError;

use crate::act::Actor;
use crate::decide::{Fairness, Outcome};
use crate::preempt::Preemption;
use crate::profile::Profile;
use crate::hints::News;
use crate::state::State;

/// Bindings and other writes that may be under way at once.
const WRITES_MAX: usize = 128;
/// Decisions in a row before other tasks get a turn.
const DECISIONS_MAX: usize = 16;

#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Pods whose `spec.schedulerName` is none of theirs are left alone.
    pub profiles: Vec<Profile>,
    /// Of the random numbers that choose among equals.
    pub seed: u64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig { profiles: vec![(*Profile::standard()).clone()], seed: 0 }
    }
}

pub struct Scheduler {
    informers: Arc<Informers>,
    shared: Arc<Shared>,
    actor: Arc<Actor>,
    seed: u64,
}

/// What informers fill and the loop reads.
pub(crate) struct Shared {
    pub state: Mutex<State>,
    /// Something in `state` may be worth a look.
    pub wake: Notify,
    /// A claim, volume or class changed.
    pub storage_changed: Notify,
}

impl Scheduler {
    pub fn new(client: kube::Client, informers: Arc<Informers>, recorder: EventRecorder, clock: Clock, config: SchedulerConfig) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(config.profiles.into_iter().map(Arc::new).collect())),
            wake: Notify::new(),
            storage_changed: Notify::new(),
        });
        let actor = Arc::new(Actor {
            rest: Rest::new(client),
            recorder,
            clock,
            shared: shared.clone(),
            writes: Semaphore::new(WRITES_MAX),
        });
        Scheduler { informers, shared, actor, seed: config.seed }
    }

    /// Runs until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let synced = async {
            self.subscribe().await;
        };
        tokio::select! {
            biased;
            _ = synced => {}
            _ = cancel.cancelled() => return,
        }
        tracing::info!("scheduling");
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut next_start = 0;
        loop {
            let mut decisions = 0;
            while decisions < DECISIONS_MAX && self.decide_one(&mut random, &mut next_start) {
                decisions += 1;
            }
            if decisions == DECISIONS_MAX {
                if cancel.is_cancelled() {
                    return;
                }
                tokio::task::yield_now().await;
                continue;
            }
            let deadline = self.shared.state.lock().queue.next_deadline();
            let due = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.shared.wake.notified() => {}
                _ = due => {}
                _ = cancel.cancelled() => return,
            }
        }
    }

    /// Decides about the next pod and sends what follows on its way; false if none waits.
    fn decide_one(&self, random: &mut StdRng, next_start: &mut usize) -> bool {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        let State { cluster, queue, budgets, .. } = &mut *state;
        let Some(pod) = queue.pop(now) else { return false };
        decide::prepare(&pod, cluster);
        let mut below = |bound: usize| random.random_range(0..bound);
        match decide::decide(&pod, cluster, Fairness { next_start, below: &mut below }) {
            Outcome::Chosen { node, volumes } => {
                cluster.place(pod.clone(), &node, true);
                for (volume, claim) in &volumes.bind {
                    cluster.storage.promised.insert(volume.clone(), claim.clone());
                }
                drop(state);
                tokio::spawn(self.actor.clone().bind(pod, node, volumes));
            }
            Outcome::Unfit(diagnosis) => {
                let budgets: Vec<_> = budgets.values().cloned().collect();
                let start = random.random_range(0..usize::MAX);
                let (message, eviction) = match preempt::preempt(&pod, cluster, &diagnosis, &budgets, start) {
                    Preemption::Evict { node, victims } => (diagnosis.message(""), Some((node, victims))),
                    Preemption::UnderWay(reason) => (diagnosis.message(&reason), None),
                    Preemption::Useless(reason) => {
                        cluster.unnominate(&pod.uid);
                        (diagnosis.message(&reason), None)
                    }
                };
                let mut displaced = Vec::new();
                if let Some((node, _)) = &eviction {
                    displaced = cluster.unnominate_below(node, pod.priority);
                    cluster.nominate(pod.clone(), node);
                }
                for other in &displaced {
                    queue.wake(&other.uid, now);
                }
                queue.wait(&pod.uid, diagnosis.filters, now);
                drop(state);
                tokio::spawn(self.actor.clone().report_unschedulable(pod, message, eviction, displaced));
            }
        }
        true
    }

    /// Fills the state from the informers, and keeps it so.
    async fn subscribe(&self) {
        let informers = &self.informers;
        let nodes = informers.of::<Node>();
        let pods = informers.of::<Pod>();
        let namespaces = informers.of::<Namespace>();
        let services = informers.of::<Service>();
        let replica_sets = informers.of::<ReplicaSet>();
        let stateful_sets = informers.of::<StatefulSet>();
        let replication_controllers = informers.of::<ReplicationController>();
        let claims = informers.of::<PersistentVolumeClaim>();
        let volumes = informers.of::<PersistentVolume>();
        let classes = informers.of::<StorageClass>();
        let budgets = informers.of::<PodDisruptionBudget>();
        let csi_nodes = informers.of::<CSINode>();
        let attachments = informers.of::<VolumeAttachment>();
        tokio::join!(nodes.synced(), pods.synced(), namespaces.synced(), services.synced(), replica_sets.synced());
        tokio::join!(stateful_sets.synced(), replication_controllers.synced(), claims.synced(), volumes.synced());
        tokio::join!(classes.synced(), budgets.synced(), csi_nodes.synced(), attachments.synced());

        let on = |shared: &Arc<Shared>| shared.clone();
        let shared = on(&self.shared);
        namespaces.subscribe(move |change| {
            let namespace = change.object();
            let name = namespace.metadata.name.clone().unwrap_or_default();
            let state = &mut *shared.state.lock();
            match change {
                client::Change::Deleted(_) => state.cluster.namespaces.remove(&name),
                _ => state.cluster.namespaces.insert(name, namespace.metadata.labels.clone().unwrap_or_default()),
            };
            state.queue.tell(&News::NamespaceChanged, &state.cluster, Instant::now());
            shared.wake.notify_one();
        });
        let shared = on(&self.shared);
        services.subscribe(move |change| {
            let key = ObjectKey::of(&change.object().metadata);
            let selectors = &mut shared.state.lock().cluster.default_selectors.services;
            let in_namespace = selectors.entry(key.namespace).or_default();
            let selector = change.object().spec.as_ref().and_then(|spec| spec.selector.clone());
            match (change, selector) {
                (client::Change::Deleted(_), _) | (_, None) => in_namespace.remove(&key.name),
                (_, Some(selector)) => in_namespace.insert(key.name, selector),
            };
        });
        let shared = on(&self.shared);
        replica_sets.subscribe(move |change| {
            let selector = change.object().spec.as_ref().map(|spec| spec.selector.clone());
            shared.owner_changed("ReplicaSet", &change.object().metadata, change, selector);
        });
        let shared = on(&self.shared);
        stateful_sets.subscribe(move |change| {
            let selector = change.object().spec.as_ref().map(|spec| spec.selector.clone());
            shared.owner_changed("StatefulSet", &change.object().metadata, change, selector);
        });
        let shared = on(&self.shared);
        replication_controllers.subscribe(move |change| {
            let labels = change.object().spec.as_ref().and_then(|spec| spec.selector.clone());
            let selector = labels.map(|labels| meta::LabelSelector { match_labels: Some(labels), ..Default::default() });
            shared.owner_changed("ReplicationController", &change.object().metadata, change, selector);
        });
        let shared = on(&self.shared);
        classes.subscribe(move |change| {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            let object = change.object().clone();
            let news = News::Class { old: change.old().map(|old| &**old), new: change.object() };
            shared.storage_changed(change, news, |storage| match change {
                client::Change::Deleted(_) => drop(storage.classes.remove(&name)),
                _ => drop(storage.classes.insert(name, object)),
            });
        });
        let shared = on(&self.shared);
        volumes.subscribe(move |change| {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            let object = change.object().clone();
            let news = News::Volume { old: change.old().map(|old| &**old), new: change.object() };
            shared.storage_changed(change, news, |storage| match change {
                client::Change::Deleted(_) => drop(storage.volumes.remove(&name)),
                _ => drop(storage.volumes.insert(name, object)),
            });
        });
        let shared = on(&self.shared);
        claims.subscribe(move |change| {
            let key = ObjectKey::of(&change.object().metadata);
            let object = change.object().clone();
            shared.storage_changed(change, News::Claim(change.object()), |storage| match change {
                client::Change::Deleted(_) => drop(storage.claims.remove(&key)),
                _ => drop(storage.claims.insert(key, object)),
            });
        });
        let shared = on(&self.shared);
        csi_nodes.subscribe(move |change| {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            shared.storage_changed(change, News::AttachmentRoom, |storage| match change {
                client::Change::Deleted(_) => drop(storage.limits.remove(&name)),
                _ => storage.set_csi_node(change.object()),
            });
        });
        let shared = on(&self.shared);
        attachments.subscribe(move |change| {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            let state = &mut *shared.state.lock();
            match change {
                client::Change::Deleted(_) => {
                    state.cluster.storage.attachments.remove(&name);
                    state.queue.tell(&News::AttachmentRoom, &state.cluster, Instant::now());
                    shared.wake.notify_one();
                }
                _ => drop(state.cluster.storage.attachments.insert(name, change.object().clone())),
            }
        });
        let shared = on(&self.shared);
        budgets.subscribe(move |change| {
            let key = ObjectKey::of(&change.object().metadata);
            let budgets = &mut shared.state.lock().budgets;
            match change {
                client::Change::Deleted(_) => budgets.remove(&key),
                _ => budgets.insert(key, change.object().clone()),
            };
        });
        // Nodes before pods, so that the first pods find them.
        let shared = on(&self.shared);
        nodes.subscribe(move |change| {
            shared.state.lock().node_changed(change, Instant::now());
            shared.wake.notify_one();
        });
        let shared = on(&self.shared);
        pods.subscribe(move |change| {
            shared.state.lock().pod_changed(change, Instant::now());
            shared.wake.notify_one();
        });
    }
}

impl Shared {
    fn owner_changed<K>(&self, kind: &'static str, metadata: &meta::ObjectMeta, change: &client::Change<K>, selector: Option<meta::LabelSelector>) {
        let key = (kind, ObjectKey::of(metadata));
        let owners = &mut self.state.lock().cluster.default_selectors.owners;
        match (change, selector) {
            (client::Change::Deleted(_), _) | (_, None) => owners.remove(&key),
            (_, Some(selector)) => owners.insert(key, selector),
        };
    }

    /// What goes helps no pod.
    fn storage_changed<K>(&self, change: &client::Change<K>, news: News<'_>, record: impl FnOnce(&mut storage::Storage)) {
        let state = &mut *self.state.lock();
        record(&mut state.cluster.storage);
        if !matches!(change, client::Change::Deleted(_)) {
            state.queue.tell(&news, &state.cluster, Instant::now());
        }
        self.wake.notify_one();
        self.storage_changed.notify_waiters();
    }
}
