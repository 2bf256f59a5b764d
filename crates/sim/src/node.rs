//! A simulated node: registers itself, keeps its lease, and runs pods by a script, all in virtual time.
//!
//! Invariant: it speaks to the API server exactly as a kubelet does, and to nothing else; what it does depends on
//! the pod and the seed alone. Deliberately absent: containers, probes, volumes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use client::{Change, DeleteOptions, ErrorKind, Informer, ObjectKey, Patch, Rest, Scope, WorkQueue, error_kind, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const LEASE_EVERY: Duration = Duration::from_secs(10);
const WORKERS: usize = 8;
/// On a pod: milliseconds from binding to Running, and from Running to Ready.
pub const STARTS_AFTER: &str = "sim.coracle/starts-after-ms";
pub const READY_AFTER: &str = "sim.coracle/ready-after-ms";
/// On a pod: milliseconds after Running at which its containers end, and with which code.
pub const ENDS_AFTER: &str = "sim.coracle/ends-after-ms";
pub const EXIT_CODE: &str = "sim.coracle/exit-code";

#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub name: String,
    /// As in `status.capacity`: `4`, `16Gi`, `110`.
    pub cpu: String,
    pub memory: String,
    pub pods: u32,
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
            starts_after: Duration::from_millis(300),
            ready_after: Duration::from_millis(200),
            stops_after: Duration::from_millis(500),
        }
    }
}

pub struct SimulatedNode {
    config: NodeConfig,
    rest: Rest,
    clock: Clock,
    pods: Arc<Informer<Pod>>,
    /// When each pod reached this node, by UID; what a kubelet holds in memory.
    since: Mutex<HashMap<String, Timestamp>>,
    queue: WorkQueue<ObjectKey>,
}

impl SimulatedNode {
    /// Runs until cancelled; cancelling it is how a node dies.
    pub async fn run(config: NodeConfig, client: kube::Client, clock: Clock, cancel: CancellationToken) {
        let scope = Scope { field_selector: Some(format!("spec.nodeName={}", config.name)), ..Scope::default() };
        let pods = Informer::<Pod>::start(&client, scope, cancel.clone());
        let node = Arc::new(SimulatedNode {
            rest: Rest::new(client),
            clock,
            pods: pods.clone(),
            since: Mutex::default(),
            queue: WorkQueue::new(),
            config,
        });
        node.register(&cancel).await;
        let queue = node.queue.clone();
        pods.subscribe(move |change| {
            let (Change::Added(pod) | Change::Updated { new: pod, .. } | Change::Deleted(pod)) = change;
            queue.add(ObjectKey::of(&pod.metadata));
        });
        let worker = node.clone();
        let workers = run_workers(node.queue.clone(), WORKERS, cancel.clone(), move |key| {
            let node = worker.clone();
            async move { node.sync(&key).await }
        });
        tokio::select! {
            () = workers => {}
            () = node.keep_lease(&cancel) => {}
        }
    }

    async fn register(&self, cancel: &CancellationToken) {
        let name = &self.config.name;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        }}});
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
        while !cancel.is_cancelled() {
            let now = self.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
            let renewal = Patch::Merge(json!({"spec": {"renewTime": now}}));
            let renewed = self.rest.patch_at::<Value>(path.clone(), &renewal).await;
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
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let now = self.clock.now();
        let since = *self.since.lock().entry(uid.clone()).or_insert(now);
        match decide(&self.config, &pod, since, now) {
            Step::Wait(duration) => self.queue.add_after(key.clone(), duration),
            Step::Idle => {}
            Step::Report { status, again } => {
                let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
                match self.rest.patch::<Pod>(key, &patch, "status").await {
                    Err(cause) if error_kind(&cause) == ErrorKind::NotFound => {}
                    Err(cause) => return Err(cause),
                    Ok(_) => {}
                }
                if let Some(duration) = again {
                    self.queue.add_after(key.clone(), duration);
                }
            }
            Step::Delete => {
                self.since.lock().remove(&uid);
                let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(uid) };
                self.rest.delete::<Pod>(key, &options).await?;
            }
        }
        Ok(())
    }

    fn now(&self) -> String {
        stamp(self.clock.now())
    }
}

/// What the node does next about one pod.
#[derive(Debug, PartialEq)]
enum Step {
    Idle,
    Wait(Duration),
    Report { status: Value, again: Option<Duration> },
    Delete,
}

/// Pure: follows from the pod, when it came, and the time.
fn decide(config: &NodeConfig, pod: &Pod, since: Timestamp, now: Timestamp) -> Step {
    let present = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if let Some(deletion) = &pod.metadata.deletion_timestamp {
        // The deletion timestamp already includes the grace period; the containers end sooner if they may.
        let grace = Duration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0).unsigned_abs());
        let asked = deletion.0.saturating_sub(jiff::SignedDuration::try_from(grace).unwrap_or_default()).unwrap_or(now);
        return match left(asked, config.stops_after.min(grace), now) {
            Some(rest) => Step::Wait(rest),
            None => Step::Delete,
        };
    }
    if present == "Succeeded" || present == "Failed" {
        return Step::Idle;
    }
    let starts = annotated(pod, STARTS_AFTER).unwrap_or(config.starts_after);
    if let Some(rest) = left(since, starts, now) {
        return Step::Wait(rest);
    }
    let ends = annotated(pod, ENDS_AFTER).map(|it| starts + it);
    if let Some(ends) = ends
        && left(since, ends, now).is_none()
    {
        let code = pod.metadata.annotations.as_ref().and_then(|it| it.get(EXIT_CODE)?.parse().ok()).unwrap_or(0);
        return Step::Report { status: ended(pod, code, now), again: None };
    }
    let ready_at = starts + annotated(pod, READY_AFTER).unwrap_or(config.ready_after);
    let until_ready = left(since, ready_at, now);
    let next = [until_ready, ends.and_then(|ends| left(since, ends, now))].into_iter().flatten().min();
    let is_ready = until_ready.is_none();
    if present == "Running" && reported_ready(pod) == is_ready {
        return next.map_or(Step::Idle, Step::Wait);
    }
    Step::Report { status: running(pod, is_ready, now), again: next }
}

fn annotated(pod: &Pod, name: &str) -> Option<Duration> {
    let text = pod.metadata.annotations.as_ref()?.get(name)?;
    text.parse().ok().map(Duration::from_millis)
}

/// What remains of `duration` since `start`; None when it is over.
fn left(start: Timestamp, duration: Duration, now: Timestamp) -> Option<Duration> {
    let passed = Duration::try_from(now.duration_since(start)).unwrap_or_default();
    duration.checked_sub(passed).filter(|rest| !rest.is_zero())
}

fn reported_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}

fn running(pod: &Pod, ready: bool, now: Timestamp) -> Value {
    let state = json!({"running": {"startedAt": stamp(now)}});
    status(pod, "Running", ready, &state, now)
}

fn ended(pod: &Pod, code: i32, now: Timestamp) -> Value {
    let reason = if code == 0 { "Completed" } else { "Error" };
    let state = json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": stamp(now), "finishedAt": stamp(now)}});
    status(pod, if code == 0 { "Succeeded" } else { "Failed" }, false, &state, now)
}

fn status(pod: &Pod, phase: &str, ready: bool, state: &Value, now: Timestamp) -> Value {
    let flag = if ready { "True" } else { "False" };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": stamp(now)});
    json!({
        "phase": phase,
        "startTime": stamp(now),
        "hostIP": "10.0.0.1",
        "podIP": pod_ip(&uid),
        "podIPs": [{"ip": pod_ip(&uid)}],
        "conditions": [
            condition("Initialized", "True"), condition("Ready", flag), condition("ContainersReady", flag),
            condition("PodScheduled", "True"),
        ],
        "containerStatuses": containers.map(|container| json!({
            "name": container.name, "image": container.image, "imageID": "", "ready": ready, "restartCount": 0,
            "started": ready, "state": state,
        })).collect::<Vec<_>>(),
    })
}

/// Distinct enough, and the same for the same pod.
fn pod_ip(uid: &str) -> String {
    let hash = api::hash::fnv32a(uid.as_bytes()).to_be_bytes();
    format!("10.{}.{}.{}", hash[0], hash[1], hash[2].max(2))
}

fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pod: Value, after_ms: i64, expected: &str) {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let now = start + jiff::SignedDuration::from_millis(after_ms);
        let found = match decide(&NodeConfig::named("n"), &pod, start, now) {
            Step::Idle => "idle".to_string(),
            Step::Wait(duration) => format!("wait {}", duration.as_millis()),
            Step::Delete => "delete".to_string(),
            Step::Report { status, again } => format!(
                "{} ready={} again={}",
                status["phase"].as_str().unwrap_or_default(),
                status["conditions"][1]["status"].as_str().unwrap_or_default(),
                again.map_or(0, |it| it.as_millis()),
            ),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_pod_runs_by_its_script() {
        let pod = || json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c"}]}});
        let with = |annotations: Value| {
            let mut pod = pod();
            pod["metadata"]["annotations"] = annotations;
            pod
        };
        check(pod(), 0, "wait 300");
        check(pod(), 300, "Running ready=False again=200");
        check(pod(), 500, "Running ready=True again=0");
        check(with(json!({STARTS_AFTER: "0", READY_AFTER: "0"})), 0, "Running ready=True again=0");
        check(with(json!({ENDS_AFTER: "100"})), 400, "Succeeded ready=False again=0");
        check(with(json!({ENDS_AFTER: "100", EXIT_CODE: "3"})), 400, "Failed ready=False again=0");
        let mut deleted = pod();
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
        deleted["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        check(deleted.clone(), 100, "wait 400");
        check(deleted, 500, "delete");
    }
}
