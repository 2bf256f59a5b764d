//! Carries decisions out: bindings, conditions, events, evictions.
//!
//! Invariant: whatever fails here, the pod ends up back in the queue or is seen bound or gone.

use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use client::{DeleteOptions, ErrorKind, EventRecorder, EventType, ObjectKey, Patch, Rest, error_kind};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, PodCondition};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::Shared;
use crate::pod_info::PodInfo;
use crate::hints::News;
use crate::storage::{SELECTED_NODE, VolumePlan, is_bound};

/// How long volumes may take to be bound or made for a pod that has its node.
const VOLUMES_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) struct Actor {
    pub rest: Rest,
    pub recorder: EventRecorder,
    pub clock: Clock,
    pub shared: Arc<Shared>,
    pub writes: Semaphore,
}

impl Actor {
    pub async fn bind(self: Arc<Self>, pod: Arc<PodInfo>, node: String, volumes: VolumePlan) {
        let prepared = if volumes.is_empty() { Ok(()) } else { self.bind_volumes(&pod, &node, &volumes).await };
        let bound = match prepared {
            Ok(()) => self.post_binding(&pod, &node).await,
            Err(reason) => Err(Failure { message: reason, gone: false }),
        };
        for (volume, _) in &volumes.bind {
            self.shared.state.lock().cluster.storage.promised.remove(volume);
        }
        let Err(failure) = bound else {
            let message = format!("Successfully assigned {} to {node}", pod.key);
            return self.recorder.event(&pod.reference(), EventType::Normal, "Scheduled", message);
        };
        {
            let state = &mut *self.shared.state.lock();
            let now = Instant::now();
            state.cluster.forget_assumed(&pod.uid);
            state.queue.tell(&News::PodLeft(&pod), &state.cluster, now);
            if failure.gone {
                state.queue.remove(&pod.uid);
            } else {
                state.queue.hold_back(&pod.uid, now);
            }
        }
        self.shared.wake.notify_one();
        if !failure.gone {
            tracing::warn!(pod = %pod.key, %node, reason = failure.message, "binding failed");
            self.report(&pod, "SchedulerError", &failure.message, None).await;
        }
    }

    async fn post_binding(&self, pod: &PodInfo, node: &str) -> Result<(), Failure> {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.key.name, "namespace": pod.key.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let _permit = self.writes.acquire().await;
        match self.rest.post::<Pod>(&pod.key, "binding", &binding).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let gone = error_kind(&error) == ErrorKind::NotFound;
                Err(Failure { message: format!("running Bind plugin \"DefaultBinder\": {error}"), gone })
            }
        }
    }

    /// Promises volumes to claims or asks for them to be made, and waits until all are there.
    async fn bind_volumes(&self, pod: &PodInfo, node: &str, volumes: &VolumePlan) -> Result<(), String> {
        for (volume, claim) in &volumes.bind {
            let uid = self.shared.state.lock().cluster.storage.claims.get(claim).and_then(|claim| claim.metadata.uid.clone());
            let reference = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace, "name": claim.name, "uid": uid,
            });
            let patch = json!({
                "metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
                "spec": {"claimRef": reference},
            });
            let written = self.rest.patch::<PersistentVolume>(&ObjectKey::cluster(volume), &Patch::Merge(patch), "").await;
            written.map_err(|error| format!("running PreBind plugin \"VolumeBinding\": {error}"))?;
        }
        for claim in &volumes.provision {
            let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
            let written = self.rest.patch::<PersistentVolumeClaim>(claim, &Patch::Merge(patch), "").await;
            written.map_err(|error| format!("running PreBind plugin \"VolumeBinding\": {error}"))?;
        }
        let all_bound = async {
            loop {
                let changed = self.shared.storage_changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let bound = {
                    let storage = &self.shared.state.lock().cluster.storage;
                    pod.claims.iter().all(|name| {
                        let claim = storage.claims.get(&ObjectKey::new(&pod.key.namespace, name));
                        // The kubelet goes by the phase, which is written last.
                        let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.clone());
                        claim.is_some_and(|claim| is_bound(claim) && phase(claim).as_deref() == Some("Bound"))
                    })
                };
                if bound {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(VOLUMES_TIMEOUT, all_bound).await;
        waited.map_err(|_| "running PreBind plugin \"VolumeBinding\": binding volumes: context deadline exceeded".to_owned())
    }

    /// Tells why the pod has no node, and makes room for it if that was decided.
    /// `displaced`: those who waited for the same node and are less important.
    pub async fn report_unschedulable(
        self: Arc<Self>,
        pod: Arc<PodInfo>,
        message: String,
        eviction: Option<(String, Vec<Arc<PodInfo>>)>,
        displaced: Vec<Arc<PodInfo>>,
    ) {
        tracing::debug!(pod = %pod.key, message, "no node fits");
        let nominated = eviction.as_ref().map(|(node, _)| node.as_str());
        self.report(&pod, "Unschedulable", &message, nominated).await;
        for victim in eviction.iter().flat_map(|(_, victims)| victims).filter(|victim| !victim.terminating) {
            self.evict(&pod, victim, nominated.unwrap_or_default()).await;
        }
        for other in displaced {
            if let Err(error) = self.patch_status(&other, json!({"nominatedNodeName": null})).await
                && error_kind(&error) != ErrorKind::NotFound
            {
                tracing::warn!(pod = %other.key, %error, "cannot take a nomination back");
            }
        }
    }

    async fn evict(&self, pod: &PodInfo, victim: &PodInfo, node: &str) {
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": format!("{}: preempting to accommodate a higher priority pod", pod.profile.scheduler_name),
            "lastTransitionTime": self.now(),
            "observedGeneration": victim.generation,
        });
        if let Err(error) = self.patch_status(victim, json!({"conditions": [condition]})).await {
            return tracing::warn!(pod = %victim.key, %error, "cannot mark a pod as to be preempted");
        }
        let deleted = self.rest.delete::<Pod>(&victim.key, &DeleteOptions::uid(&victim.uid)).await;
        match deleted {
            Ok(_) => {
                let message = format!("Preempted by pod {} on node {node}", pod.uid);
                self.recorder.event(&victim.reference(), EventType::Normal, "Preempted", message);
            }
            Err(error) if error_kind(&error) == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(pod = %victim.key, %error, "cannot preempt a pod"),
        }
    }

    async fn report(&self, pod: &PodInfo, reason: &str, message: &str, nominated: Option<&str>) {
        self.recorder.event(&pod.reference(), EventType::Warning, "FailedScheduling", message);
        let Some(status) = self.status_patch(pod, reason, message, nominated) else { return };
        if let Err(error) = self.patch_status(pod, status).await
            && error_kind(&error) != ErrorKind::NotFound
        {
            tracing::warn!(pod = %pod.key, %error, "cannot write why a pod has no node");
        }
    }

    /// `None` if the pod says so already.
    fn status_patch(&self, pod: &PodInfo, reason: &str, message: &str, nominated: Option<&str>) -> Option<Value> {
        let status = pod.status();
        let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let before: Option<&PodCondition> = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
        let nominated_before = status.and_then(|status| status.nominated_node_name.as_deref());
        let told = before.is_some_and(|before| {
            before.status == "False" && before.reason.as_deref() == Some(reason) && before.message.as_deref() == Some(message)
        });
        if told && nominated.is_none_or(|node| nominated_before == Some(node)) {
            return None;
        }
        let since = before.filter(|before| before.status == "False").and_then(|before| before.last_transition_time.clone());
        let since = since.map_or_else(|| self.now(), |since| json!(since));
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": since,
            "observedGeneration": pod.generation,
        });
        let mut patch = json!({"conditions": [condition]});
        if let Some(node) = nominated {
            patch["nominatedNodeName"] = json!(node);
        }
        Some(patch)
    }

    async fn patch_status(&self, pod: &PodInfo, status: Value) -> Result<(), client::Error> {
        let _permit = self.writes.acquire().await;
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
        self.rest.patch::<Pod>(&pod.key, &patch, "status").await.map(|_| ())
    }

    fn now(&self) -> Value {
        json!(self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }
}

struct Failure {
    message: String,
    /// The pod is no more.
    gone: bool,
}
