//! The Node object: registered at start, its status reported on change and every five minutes, its lease renewed.
//!
//! Invariant: a Node that somebody deleted stays deleted until the agent is started again, as in the original: only
//! at its start does a node come by itself.
//!
//! Periodic work of this module: the lease and a look at the node's own condition, every 10 s.

pub mod machine;
pub mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Change, ErrorKind, EventRecorder, EventType, Informer, ObjectKey, Patch, Rest, Scope, error_kind};
use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use parking_lot::RwLock;
use runtime::cri::{ImageService, RuntimeService};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::machine::Machine;
use self::status::Observed;

const LOOK_EVERY: Duration = Duration::from_secs(10);
const REPORT_EVERY: SignedDuration = SignedDuration::from_secs(300);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// What the node says of itself that does not change while it runs.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub name: String,
    pub ips: Vec<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub taints: Vec<k8s_openapi::api::core::v1::Taint>,
    pub pod_cidr: Option<String>,
    pub port: u16,
    pub lease_duration: Duration,
    pub max_pods: i64,
    pub system_reserved_cpu_millis: i64,
    pub system_reserved_memory_bytes: i64,
}

pub struct NodeAgent {
    pub identity: Identity,
    pub machine: Machine,
    pub rest: Rest,
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    pub recorder: EventRecorder,
    pub clock: api::clock::Clock,
    /// The object as last seen, for admission.
    pub current: RwLock<Option<Arc<Node>>>,
    /// Something that the status tells of has changed, e.g. the list of images.
    pub changed: Arc<Notify>,
    pub pressure: RwLock<status::Pressure>,
    /// Somebody deleted the Node.
    pub deleted: AtomicBool,
}

impl NodeAgent {
    pub async fn run(self: &Arc<Self>, cancel: CancellationToken) {
        tokio::select! {
            _ = cancel.cancelled() => {}
            _ = self.live(&cancel) => {}
        }
    }

    async fn live(self: &Arc<Self>, cancel: &CancellationToken) {
        self.event(EventType::Normal, "Starting", "Starting kubelet.");
        let mut delay = RETRY_FIRST;
        while let Err(error) = self.register().await {
            tracing::warn!(%error, "registering the node");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_LONGEST);
        }
        self.watch(cancel);
        tokio::join!(self.keep_lease(), self.keep_status());
    }

    /// What others do to the Node: they take it for dead, or delete it.
    fn watch(self: &Arc<Self>, cancel: &CancellationToken) {
        let scope = Scope { field_selector: Some(format!("metadata.name={}", self.identity.name)), ..Scope::default() };
        let informer = Informer::<Node>::start(self.rest.client(), scope, cancel.child_token());
        let me = self.clone();
        informer.subscribe(move |change: &Change<Node>| match change {
            Change::Deleted(_) => me.note_deletion(),
            change => {
                let seen = change.object();
                let version = |node: &Node| node.metadata.resource_version.as_ref().and_then(|text| text.parse::<u64>().ok());
                let mut current = me.current.write();
                if current.as_ref().is_some_and(|current| version(current) < version(seen)) {
                    *current = Some(seen.clone());
                    me.changed.notify_one();
                }
            }
        });
    }

    fn note_deletion(&self) {
        tracing::error!("node {} was deleted; start the agent again to bring it back", self.identity.name);
        self.deleted.store(true, Ordering::Relaxed);
        *self.current.write() = None;
        self.changed.notify_one();
    }

    /// Returns once the Node exists and its status has been written.
    async fn register(&self) -> Result<(), client::Error> {
        let key = ObjectKey::cluster(self.identity.name.clone());
        let fresh = status::new_node(&self.identity);
        let node = match self.rest.create::<Node>(&fresh).await {
            Err(error) if error_kind(&error) == ErrorKind::AlreadyExists => {
                let labels = json!({"metadata": {"labels": fresh.metadata.labels}});
                self.rest.patch::<Node>(&key, &Patch::Merge(labels), "").await?
            }
            answer => answer?,
        };
        let observed = self.observe().await;
        self.report(&node, &observed).await
    }

    async fn observe(&self) -> Observed {
        let version = self.runtime.version().await.map(|version| format!("{}://{}", version.runtime_name, version.runtime_version));
        let not_ready = match self.runtime.status().await {
            Ok(reason) => reason,
            Err(error) => Some(format!("container runtime is down: {error}")),
        };
        Observed {
            runtime_version: version.unwrap_or_default(),
            not_ready,
            images: self.images.list_images().await.unwrap_or_default(),
            pressure: self.pressure.read().clone(),
        }
    }

    async fn report(&self, node: &Node, observed: &Observed) -> Result<(), client::Error> {
        let status = status::node_status(&self.identity, &self.machine, observed, node.status.as_ref(), self.clock.now());
        let patch = json!({"status": status});
        let key = ObjectKey::cluster(self.identity.name.clone());
        let written: Node = self.rest.patch(&key, &Patch::Strategic(patch), "status").await?;
        self.tell_transitions(node, &written);
        *self.current.write() = Some(Arc::new(written));
        Ok(())
    }

    /// An event for each condition that has changed, as `kubectl describe node` shows them.
    fn tell_transitions(&self, before: &Node, after: &Node) {
        for (type_, status) in status::in_order(after) {
            if status::conditions_of(before).get(&type_) == Some(&status) {
                continue;
            }
            if let Some(reason) = status::transition_event(&type_, &status) {
                self.event(EventType::Normal, reason, &format!("Node {} status is now: {reason}", self.identity.name));
            }
        }
    }

    async fn keep_status(&self) {
        let mut reported_at = self.clock.now();
        let mut last: Option<Value> = None;
        while !self.deleted.load(Ordering::Relaxed) {
            tokio::select! {
                _ = self.changed.notified() => {}
                _ = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let observed = self.observe().await;
            let Some(node) = self.current.read().clone() else { continue };
            let now = self.clock.now();
            let status = status::node_status(&self.identity, &self.machine, &observed, node.status.as_ref(), now);
            let essence = status::without_heartbeat(&status);
            let due = now.duration_since(reported_at) >= REPORT_EVERY;
            let changed = last.as_ref().map_or_else(
                || node.status.as_ref().map(status::without_heartbeat) != Some(essence.clone()),
                |last| *last != essence,
            ) || node.status.as_ref().is_none_or(|written| !status::tells(written, &status));
            if !due && !changed {
                continue;
            }
            match self.report(&node, &observed).await {
                Ok(()) => {
                    reported_at = now;
                    last = Some(essence);
                }
                Err(error) if error_kind(&error) == ErrorKind::NotFound => {
                    self.note_deletion();
                }
                Err(error) => tracing::warn!(%error, "reporting the node's status"),
            }
        }
    }

    async fn keep_lease(&self) {
        let mut held = None;
        let mut delay = RETRY_FIRST;
        while !self.deleted.load(Ordering::Relaxed) {
            let wait = match self.renew(held.take()).await {
                Ok(lease) => {
                    held = Some(lease);
                    delay = RETRY_FIRST;
                    self.identity.lease_duration / 4
                }
                Err(error) => {
                    tracing::debug!(%error, "renewing the node's lease");
                    delay = (delay * 2).min(RETRY_LONGEST);
                    delay
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// `held` is the lease as it was last written: one request renews it. Without it, it is looked up or made.
    async fn renew(&self, held: Option<Lease>) -> Result<Lease, client::Error> {
        let key = ObjectKey::new("kube-node-lease", self.identity.name.clone());
        let found = match held {
            Some(lease) => Some(lease),
            None => match self.rest.get::<Lease>(&key).await {
                Err(error) if error_kind(&error) == ErrorKind::NotFound => None,
                answer => Some(answer?),
            },
        };
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.name.clone()),
            lease_duration_seconds: i32::try_from(self.identity.lease_duration.as_secs()).ok(),
            renew_time: Some(MicroTime(self.clock.now())),
            ..LeaseSpec::default()
        };
        if let Some(mut lease) = found {
            lease.spec = Some(spec);
            return self.rest.update(&lease).await;
        }
        if self.deleted.load(Ordering::Relaxed) {
            return Err(client::Error::Service("the node was deleted".into()));
        }
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.identity.name.clone(),
            uid: self.current.read().as_ref().and_then(|node| node.metadata.uid.clone()).unwrap_or_default(),
            ..OwnerReference::default()
        };
        let metadata = ObjectMeta {
            name: Some(key.name),
            namespace: Some(key.namespace),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        self.rest.create(&Lease { metadata, spec: Some(spec) }).await
    }

    pub fn event(&self, type_: EventType, reason: &str, message: &str) {
        // The original gives the name as UID, and so `kubectl describe node` finds its events.
        let reference = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.identity.name.clone()),
            uid: Some(self.identity.name.clone()),
            ..ObjectReference::default()
        };
        self.recorder.event(&reference, type_, reason, message);
    }
}
