//! A simulated node: registers itself, keeps its lease, and runs pods by a script, all in virtual time.
//!
//! Invariant: it speaks to the API server exactly as a kubelet does, and to nothing else; what it does depends on
//! the pod and the seed alone. Deliberately absent: containers, probes, volumes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use client::{Change, DeleteOptions, ErrorKind, Informer, ObjectKey, Patch, Rest, Scope, WorkQueue, error_kind, run_workers};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::script::{Step, decide};

const LEASE_EVERY: Duration = Duration::from_secs(10);
const WORKERS: usize = 8;
/// Requests of a fleet at once.
const FLEET_WORKERS: usize = 64;

#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub name: String,
    /// As in `status.capacity`: `4`, `16Gi`, `110`.
    pub cpu: String,
    pub memory: String,
    pub pods: u32,
    pub labels: BTreeMap<String, String>,
    /// Where a pod's annotations say nothing.
    pub starts_after: Duration,
    pub ready_after: Duration,
    pub stops_after: Duration,
}

impl NodeConfig {
    pub fn named(name: impl Into<String>) -> NodeConfig {
        NodeConfig {
            name: name.into(),
            cpu: "4".into(),
            memory: "16Gi".into(),
            pods: 110,
            labels: BTreeMap::new(),
            starts_after: Duration::from_millis(300),
            ready_after: Duration::from_millis(200),
            stops_after: Duration::from_millis(500),
        }
    }

    pub fn label(mut self, key: &str, value: &str) -> NodeConfig {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }
}

/// What really runs, on whichever side of a partition: by namespace and name, the pod's uid and its node.
#[derive(Default)]
pub(crate) struct Running {
    pods: Mutex<BTreeMap<ObjectKey, (String, String)>>,
    broken: Mutex<Vec<String>>,
}

impl Running {
    fn start(&self, key: &ObjectKey, uid: &str, node: &str) {
        let before = self.pods.lock().insert(key.clone(), (uid.to_owned(), node.to_owned()));
        if let Some((other, there)) = before
            && other != uid
        {
            self.broken.lock().push(format!("{key} runs twice: on {there} and on {node}"));
        }
    }

    fn stop(&self, key: &ObjectKey, node: &str) {
        let mut pods = self.pods.lock();
        if pods.get(key).is_some_and(|(_, there)| there == node) {
            pods.remove(key);
        }
    }

    /// The machine is off.
    pub fn stop_all(&self, node: &str) {
        self.pods.lock().retain(|_, (_, there)| there != node);
    }

    pub fn take_broken(&self) -> Vec<String> {
        std::mem::take(&mut *self.broken.lock())
    }
}

pub(crate) struct SimulatedNode {
    config: NodeConfig,
    rest: Rest,
    clock: Clock,
    pods: Arc<Informer<Pod>>,
    /// By UID: when each pod reached this node; what a kubelet holds in memory.
    since: Mutex<HashMap<String, Timestamp>>,
    running: Arc<Running>,
    queue: WorkQueue<ObjectKey>,
}

impl SimulatedNode {
    /// Runs until cancelled; cancelling it is how a node dies.
    pub async fn run(config: NodeConfig, client: kube::Client, clock: Clock, running: Arc<Running>, cancel: CancellationToken) {
        let scope = Scope { field_selector: Some(format!("spec.nodeName={}", config.name)), ..Scope::default() };
        let pods = Informer::<Pod>::start(&client, scope, cancel.clone());
        let node = Arc::new(SimulatedNode {
            rest: Rest::new(client),
            clock,
            pods: pods.clone(),
            since: Mutex::default(),
            running,
            queue: WorkQueue::new(),
            config,
        });
        node.register(&cancel).await;
        queue_changes(&pods, node.queue.clone());
        let worker = node.clone();
        let workers = run_workers(node.queue.clone(), WORKERS, cancel.clone(), move |key| {
            let node = worker.clone();
            async move { node.sync(&key).await }
        });
        tokio::select! {
            biased;
            () = workers => {}
            () = node.keep_lease(&cancel) => {}
        }
    }

    /// Many nodes that share one connection and what `pods` knows, for clusters whose size is the point.
    pub async fn run_fleet(
        configs: Vec<NodeConfig>,
        client: kube::Client,
        pods: Arc<Informer<Pod>>,
        clock: Clock,
        cancel: CancellationToken,
    ) {
        let (queue, running) = (WorkQueue::new(), Arc::new(Running::default()));
        let count = u32::try_from(configs.len()).unwrap_or(u32::MAX).max(1);
        let node = |config: NodeConfig| SimulatedNode {
            rest: Rest::new(client.clone()),
            clock: clock.clone(),
            pods: pods.clone(),
            since: Mutex::default(),
            running: running.clone(),
            queue: queue.clone(),
            config,
        };
        let nodes: Vec<Arc<SimulatedNode>> = configs.into_iter().map(|config| Arc::new(node(config))).collect();
        let registered = futures::stream::iter(&nodes).for_each_concurrent(FLEET_WORKERS, |node| node.register(&cancel));
        registered.await;
        tracing::info!(nodes = nodes.len(), "registered");
        for (node, index) in nodes.iter().cloned().zip(0..) {
            let cancel = cancel.clone();
            tokio::spawn(async move {
                // Not all at once.
                tokio::time::sleep(LEASE_EVERY / count * index).await;
                node.keep_lease(&cancel).await;
            });
        }
        let by_name: Arc<HashMap<String, Arc<SimulatedNode>>> =
            Arc::new(nodes.into_iter().map(|node| (node.config.name.clone(), node)).collect());
        queue_changes(&pods, queue.clone());
        run_workers(queue, FLEET_WORKERS, cancel, move |key: ObjectKey| {
            let (nodes, pods) = (by_name.clone(), pods.clone());
            async move {
                let pod = pods.get(&key);
                let name = pod.as_ref().and_then(|pod| pod.spec.as_ref()?.node_name.as_deref());
                match name.and_then(|name| nodes.get(name)) {
                    Some(node) => node.sync(&key).await,
                    None => Ok(()),
                }
            }
        })
        .await;
    }

    async fn register(&self, cancel: &CancellationToken) {
        let name = &self.config.name;
        let mut labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"});
        for (key, value) in &self.config.labels {
            labels[key] = json!(value);
        }
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        while !cancel.is_cancelled() {
            match self.rest.post_at::<Value>("/api/v1/nodes".into(), &node).await {
                Err(cause) if error_kind(&cause) != ErrorKind::AlreadyExists => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                _ => break,
            }
        }
        self.report(cancel).await;
    }

    /// Posts capacity and conditions until it succeeds.
    async fn report(&self, cancel: &CancellationToken) {
        let now = self.now();
        let capacity = json!({"cpu": self.config.cpu, "memory": self.config.memory, "pods": self.config.pods.to_string()});
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": reason,
                "lastHeartbeatTime": now, "lastTransitionTime": now})
        };
        let status = json!({"status": {
            "capacity": capacity, "allocatable": capacity,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "nodeInfo": {"kubeletVersion": "v1.35.0", "operatingSystem": "linux", "architecture": "amd64",
                "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "sim",
                "containerRuntimeVersion": "sim://1", "kubeProxyVersion": ""},
        }});
        let key = ObjectKey::cluster(&self.config.name);
        while !cancel.is_cancelled() {
            if self.rest.patch::<Node>(&key, &Patch::Strategic(status.clone()), "status").await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn keep_lease(&self, cancel: &CancellationToken) {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", self.config.name);
        let lease = |now: String| {
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": self.config.name, "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": self.config.name, "leaseDurationSeconds": 40, "renewTime": now}})
        };
        let mut missed = false;
        while !cancel.is_cancelled() {
            let now = self.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
            let renewal = Patch::Merge(json!({"spec": {"renewTime": now}}));
            let renewed = self.rest.patch_at::<Value>(path.clone(), &renewal).await;
            let lost = renewed.is_err();
            if missed && !lost {
                // Others may have given it up meanwhile.
                self.report(cancel).await;
            }
            missed = lost;
            if let Err(cause) = renewed
                && error_kind(&cause) == ErrorKind::NotFound
            {
                let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases".to_string();
                if let Err(cause) = self.rest.post_at::<Value>(path, &lease(now)).await {
                    tracing::warn!(node = self.config.name, %cause, "the lease is tried again at the next beat");
                }
            }
            tokio::time::sleep(LEASE_EVERY).await;
        }
    }

    async fn sync(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        let Some(pod) = self.pods.get(key) else {
            self.running.stop(key, &self.config.name);
            return Ok(());
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let now = self.clock.now();
        let since = *self.since.lock().entry(uid.clone()).or_insert(now);
        match decide(&self.config, &pod, since, now) {
            Step::Wait(duration) => self.queue.add_after(key.clone(), duration),
            Step::Idle => {}
            Step::Report { status, again } => {
                match status["phase"] == "Running" {
                    true => self.running.start(key, &uid, &self.config.name),
                    false => self.running.stop(key, &self.config.name),
                }
                let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
                match self.rest.patch::<Pod>(key, &patch, "status").await {
                    // Gone, or the name is another pod's by now: the watch will tell.
                    Err(cause) if matches!(error_kind(&cause), ErrorKind::NotFound | ErrorKind::Conflict) => return Ok(()),
                    Err(cause) => return Err(cause),
                    // A kubelet knows what it has told, however late its watch is.
                    Ok(told) => self.pods.observe(told),
                }
                if let Some(duration) = again {
                    self.queue.add_after(key.clone(), duration);
                }
            }
            Step::Delete => {
                self.running.stop(key, &self.config.name);
                let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(uid.clone()) };
                match self.rest.delete::<Pod>(key, &options).await {
                    Err(cause) if !matches!(error_kind(&cause), ErrorKind::NotFound | ErrorKind::Conflict) => return Err(cause),
                    _ => drop(self.since.lock().remove(&uid)),
                }
            }
        }
        Ok(())
    }

    fn now(&self) -> String {
        stamp(self.clock.now())
    }
}

fn queue_changes(pods: &Informer<Pod>, queue: WorkQueue<ObjectKey>) {
    pods.subscribe(move |change: &Change<Pod>| {
        let pod = change.object();
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            queue.add(ObjectKey::of(&pod.metadata));
        }
    });
}

pub(crate) fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
