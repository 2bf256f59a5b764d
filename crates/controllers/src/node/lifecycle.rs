//! Watches nodes' signs of life; gives up those that are silent for too long, and taints by condition.
//!
//! Invariant: a node is driven empty only at the pace its zone allows. Deleting the pods is the taint
//! eviction controller's work; this one only writes conditions and taints.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, Patch};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::json;

use super::health::{Eviction, Heartbeat, lost_conditions, wanted_taints, wants_eviction};
use super::zones::{Zones, zone_of};
use super::{BY_NODE, index_by_node, readiness, taints};
use crate::context::Context;
use crate::failure::{Failure, ignore_not_found};
use crate::pods;
use crate::runner::{Controller, Next, Queue};

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How long to wait before asking again whether a zone may be evicted from.
const HOLD_SECONDS: i64 = 5;

pub(crate) struct NodeLifecycle {
    context: Arc<Context>,
    recorder: EventRecorder,
    nodes: Arc<Informer<Node>>,
    leases: Arc<Informer<Lease>>,
    pods: Arc<Informer<Pod>>,
    heartbeats: Mutex<HashMap<String, Heartbeat>>,
    /// When the next node of a zone may be given up.
    next_eviction: Mutex<HashMap<String, Timestamp>>,
    zones: Arc<Mutex<KnownZones>>,
    /// Whether everything seemed down when last looked at.
    all_down: Mutex<bool>,
    queue: OnceLock<Queue>,
}

/// The zones' states, until a node changes its own; and how often one has.
#[derive(Clone, Default)]
struct KnownZones {
    changes: u64,
    zones: Option<Arc<Zones>>,
}

impl NodeLifecycle {
    pub fn new(context: &Arc<Context>) -> Self {
        let pods = context.informer::<Pod>();
        index_by_node(&pods);
        NodeLifecycle {
            context: context.clone(),
            recorder: context.recorder("node-controller"),
            nodes: context.informer(),
            leases: context.informer(),
            pods,
            heartbeats: Mutex::new(HashMap::new()),
            next_eviction: Mutex::new(HashMap::new()),
            zones: Arc::default(),
            all_down: Mutex::new(false),
            queue: OnceLock::new(),
        }
    }

    fn tell(&self, node: &str, uid: Option<&str>, reason: &str, what: &str) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.into()),
            uid: uid.map(str::to_owned),
            ..ObjectReference::default()
        };
        self.recorder.event(&about, EventType::Normal, reason, format!("Node {node} {what}"));
    }

    /// Notes the signs of life; says until when the node is taken to live.
    fn beat(&self, node: &Node, name: &str, now: Timestamp) -> Timestamp {
        let lease = self.leases.get(&ObjectKey::new(LEASE_NAMESPACE, name));
        let renewed = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
        let mut heartbeats = self.heartbeats.lock();
        let known = heartbeats.get(name);
        let is_new = known.is_none();
        let heartbeat = Heartbeat::next(known, node, renewed, now);
        let grace = self.context.settings.node_monitor_grace_period;
        let deadline = heartbeat.deadline(jiff::SignedDuration::try_from(grace).unwrap_or(jiff::SignedDuration::MAX));
        heartbeats.insert(name.to_owned(), heartbeat);
        drop(heartbeats);
        if is_new {
            let what = format!("event: Registered Node {name} in Controller");
            self.tell(name, node.metadata.uid.as_deref(), "RegisteredNode", &what);
        }
        deadline
    }

    /// The zones as they are now. When all went down, or no longer are, every node has to be looked at.
    fn zones(&self, now: Timestamp) -> Arc<Zones> {
        let KnownZones { changes, zones } = self.zones.lock().clone();
        let zones = zones.unwrap_or_else(|| {
            let zones = Arc::new(Zones::of(self.nodes.list().iter().map(|node| &**node)));
            let mut known = self.zones.lock();
            if known.changes == changes {
                known.zones = Some(zones.clone());
            }
            zones
        });
        let were_down = std::mem::replace(&mut *self.all_down.lock(), zones.all_down());
        if were_down != zones.all_down() {
            if were_down {
                self.heartbeats.lock().values_mut().for_each(|heartbeat| heartbeat.excuse(now));
                self.next_eviction.lock().clear();
            }
            if let Some(queue) = self.queue.get() {
                self.nodes.list().iter().for_each(|node| queue.add(ObjectKey::of(&node.metadata)));
            }
        }
        zones
    }

    /// Whether this node may be given up now, else how many seconds to wait.
    fn may_evict(&self, node: &Node, zones: &Zones, now: Timestamp) -> Result<(), i64> {
        let zone = zone_of(node);
        let Some(interval) = zones.eviction_interval(&zone) else { return Err(HOLD_SECONDS) };
        let mut next = self.next_eviction.lock();
        match next.get(&zone) {
            Some(at) if now < *at => Err(at.as_second() - now.as_second()),
            _ => {
                next.insert(zone, now + jiff::SignedDuration::from_secs(interval));
                Ok(())
            }
        }
    }

    async fn write_taints(&self, node: &Node, eviction: Eviction, now: Timestamp) -> Result<(), Failure> {
        let wanted = wanted_taints(node, eviction, now);
        if wanted == taints(node) {
            return Ok(());
        }
        let taints = if wanted.is_empty() { serde_json::Value::Null } else { json!(wanted) };
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        self.context.patch::<Node>(&ObjectKey::of(&node.metadata), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Nobody on the node will tell it of its pods, so it is done here: Services must not send traffic there.
    async fn mark_pods_not_ready(&self, node: &str, now: Timestamp) -> Result<(), Failure> {
        let mut ready = self.pods.indexed(BY_NODE, node);
        ready.retain(|pod| pods::is_ready(pod));
        let marks = ready.iter().map(|pod| async {
            let condition = PodCondition {
                type_: "Ready".into(),
                status: "False".into(),
                last_transition_time: Some(Time(now)),
                ..PodCondition::default()
            };
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            let outcome = self.context.patch_status::<Pod>(&ObjectKey::of(&pod.metadata), &Patch::Strategic(patch)).await;
            self.recorder.event(&client::object_ref(&**pod), EventType::Warning, "NodeNotReady", "Node is not ready");
            ignore_not_found(outcome)
        });
        Failure::of_all(join_all(marks).await)?;
        Ok(())
    }
}

#[async_trait]
impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn workers(&self) -> usize {
        8
    }

    fn watch(&self, queue: &Queue) {
        self.queue.get_or_init(|| queue.clone());
        let (own, zones) = (queue.clone(), self.zones.clone());
        self.nodes.subscribe(move |change: &Change<Node>| {
            let node = change.object();
            let state = |node: &Node| (readiness(node).to_owned(), node.metadata.labels.clone());
            if matches!(change, Change::Deleted(_)) || change.old().is_none_or(|old| state(old) != state(node)) {
                let mut known = zones.lock();
                known.changes += 1;
                known.zones = None;
            }
            own.add(ObjectKey::of(&node.metadata));
        });
        let queue = queue.clone();
        self.leases.subscribe(move |change: &Change<Lease>| {
            let metadata = &change.object().metadata;
            if metadata.namespace.as_deref() == Some(LEASE_NAMESPACE) {
                queue.add(ObjectKey::cluster(metadata.name.clone().unwrap_or_default()));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let name = key.name.as_str();
        let Some(node) = self.nodes.get(key) else {
            if self.heartbeats.lock().remove(name).is_some() {
                self.tell(name, None, "RemovingNode", &format!("event: Removing Node {name} from Controller"));
            }
            return Ok(Next::Settled);
        };
        let now = self.context.now();
        let deadline = self.beat(&node, name, now);
        let mut node = (*node).clone();
        if now > deadline
            && let Some(conditions) = lost_conditions(&node, now)
        {
            let was_ready = readiness(&node) == "True";
            node.status.get_or_insert_default().conditions = Some(conditions);
            node = self.context.update_status(&node).await?;
            if was_ready {
                self.tell(name, node.metadata.uid.as_deref(), "NodeNotReady", "status is now: NodeNotReady");
            }
        }
        // A kubelet that says itself that its node is not ready goes on telling of its pods.
        if readiness(&node) == "Unknown" {
            self.mark_pods_not_ready(name, now).await?;
        }
        let zones = self.zones(now);
        let (eviction, retry) = match wants_eviction(&node).then(|| self.may_evict(&node, &zones, now)) {
            Some(Ok(())) => (Eviction::Begin, Next::Settled),
            Some(Err(seconds)) => (Eviction::GoOn, Next::after_seconds(Some(seconds.max(1)))),
            None if zones.all_down() => (Eviction::TakeBack, Next::Settled),
            None => (Eviction::GoOn, Next::Settled),
        };
        self.write_taints(&node, eviction, now).await?;
        let silent = readiness(&node) == "Unknown";
        let next = if silent { Next::Settled } else { Next::after_seconds(Some(deadline.as_second() - now.as_second() + 1)) };
        Ok(next.or(retry))
    }
}
