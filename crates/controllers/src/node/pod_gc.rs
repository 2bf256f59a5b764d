//! Removes pods that nobody else will: of nodes that are gone, of nodes declared out of service, never
//! scheduled but deleted, and finished ones beyond a threshold.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, DeleteOptions, ErrorKind, Informer, ObjectKey, Patch, error_kind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{BY_NODE, disruption_target, index_by_node, readiness, taints};
use crate::context::{Context, seconds_between};
use crate::failure::{Failure, ignore_not_found};
use crate::pods;
use crate::runner::{Controller, Next, Queue};

/// A node may be registered anew within this time, with its pods still running.
const QUARANTINE_SECONDS: i64 = 40;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The key that stands for all finished pods; no pod has an empty name.
const FINISHED: &str = "";

pub(crate) struct PodGc {
    context: Arc<Context>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
}

/// Why a pod is garbage.
#[derive(Debug, PartialEq)]
enum Garbage {
    /// Its node does not exist, if a live lookup agrees.
    Orphaned,
    Unscheduled,
    OutOfService,
}

impl PodGc {
    pub fn new(context: &Arc<Context>) -> Self {
        let pods = context.informer::<Pod>();
        index_by_node(&pods);
        PodGc { context: context.clone(), pods, nodes: context.informer() }
    }

    async fn remove(&self, pod: &Pod, why: &Garbage) -> Result<(), Failure> {
        let key = ObjectKey::of(&pod.metadata);
        if !pods::is_finished(pod) {
            let mut patch = match why {
                Garbage::Orphaned => {
                    disruption_target("DeletionByPodGC", "PodGC: node no longer exists", pod, self.context.now())
                }
                Garbage::Unscheduled | Garbage::OutOfService => json!({"status": {}}),
            };
            patch["status"]["phase"] = json!("Failed");
            ignore_not_found(self.context.patch_status::<Pod>(&key, &Patch::Strategic(patch)).await)?;
        }
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(pod.metadata.uid.clone().unwrap_or_default()) };
        self.context.delete::<Pod>(&key, &options).await?;
        Ok(())
    }

    async fn remove_finished(&self) -> Result<(), Failure> {
        let threshold = self.context.settings.terminated_pod_threshold;
        let mut finished: Vec<Arc<Pod>> = self.pods.list();
        finished.retain(|pod| pods::is_finished(pod));
        for pod in surplus(finished, threshold) {
            let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(pod.metadata.uid.clone().unwrap_or_default()) };
            self.context.delete::<Pod>(&ObjectKey::of(&pod.metadata), &options).await?;
        }
        Ok(())
    }

    async fn node_is_gone(&self, name: &str) -> Result<bool, Failure> {
        match self.context.rest.get_at::<Value>(format!("/api/v1/nodes/{name}")).await {
            Ok(_) => Ok(false),
            Err(error) if error_kind(&error) == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn workers(&self) -> usize {
        4
    }

    fn watch(&self, queue: &Queue) {
        let (own, nodes) = (queue.clone(), self.nodes.clone());
        self.pods.subscribe(move |change: &Change<Pod>| {
            if matches!(change, Change::Deleted(_)) {
                return;
            }
            let pod = change.object();
            if pods::is_finished(pod) && change.old().is_none_or(|old| !pods::is_finished(old)) {
                own.add_after(ObjectKey::cluster(FINISHED), Duration::from_secs(20));
            }
            let node = node_name(pod).and_then(|name| nodes.get(&ObjectKey::cluster(name)));
            if decide(pod, node.as_deref(), nodes.has_synced()).is_some() {
                own.add(ObjectKey::of(&pod.metadata));
            }
        });
        let (queue, pods) = (queue.clone(), self.pods.clone());
        self.nodes.subscribe(move |change: &Change<Node>| {
            let node = change.object();
            let delay = match change {
                Change::Deleted(_) => Duration::from_secs(QUARANTINE_SECONDS as u64),
                _ if is_out_of_service(node) => Duration::ZERO,
                _ => return,
            };
            for pod in pods.indexed(BY_NODE, node.metadata.name.as_deref().unwrap_or_default()) {
                queue.add_after(ObjectKey::of(&pod.metadata), delay);
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        if key.name == FINISHED {
            self.remove_finished().await?;
            return Ok(Next::Settled);
        }
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Settled) };
        let node = node_name(&pod).and_then(|name| self.nodes.get(&ObjectKey::cluster(name)));
        let Some(why) = decide(&pod, node.as_deref(), true) else { return Ok(Next::Settled) };
        if why == Garbage::Orphaned {
            if let Some(left) = quarantine_left(&pod, self.context.now()) {
                return Ok(Next::after_seconds(Some(left)));
            }
            if !self.node_is_gone(node_name(&pod).unwrap_or_default()).await? {
                return Ok(Next::Settled);
            }
        }
        self.remove(&pod, &why).await?;
        Ok(Next::Settled)
    }
}

/// Pure. `nodes_known` is false until the nodes were listed: then absence means nothing.
fn decide(pod: &Pod, node: Option<&Node>, nodes_known: bool) -> Option<Garbage> {
    match (node_name(pod), node) {
        (None, _) => pods::is_terminating(pod).then_some(Garbage::Unscheduled),
        (Some(_), None) => nodes_known.then_some(Garbage::Orphaned),
        (Some(_), Some(node)) => (pods::is_terminating(pod) && is_out_of_service(node)).then_some(Garbage::OutOfService),
    }
}

/// Which finished pods are too many.
fn surplus(mut finished: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    let count = if threshold == 0 { 0 } else { finished.len().saturating_sub(threshold) };
    finished.sort_by_key(|pod| (!is_evicted(pod), pod.metadata.creation_timestamp.as_ref().map(|time| time.0)));
    finished.truncate(count);
    finished
}

/// A pod younger than the quarantine may have been bound to a node that is just being registered.
fn quarantine_left(pod: &Pod, now: Timestamp) -> Option<i64> {
    let created = pod.metadata.creation_timestamp.as_ref()?;
    let left = QUARANTINE_SECONDS - seconds_between(created, now);
    (left > 0).then_some(left)
}

fn is_out_of_service(node: &Node) -> bool {
    readiness(node) != "True" && taints(node).iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

fn is_evicted(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted")
}

fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSpec, NodeStatus, Taint};

    /// The node is `none`, `ready`, `unready`, or `out` of service, and then `out+ready` says that it is ready all the same.
    #[track_caller]
    fn check(pod: &str, node: &str, expected: Option<Garbage>) {
        let taint = Taint { key: OUT_OF_SERVICE.into(), effect: "NoExecute".into(), ..Taint::default() };
        let taints = node.starts_with("out").then(|| vec![taint]);
        let status = if node.ends_with("+ready") || node == "ready" { "True" } else { "Unknown" };
        let ready = NodeCondition { type_: "Ready".into(), status: status.into(), ..NodeCondition::default() };
        let found = Node {
            spec: Some(NodeSpec { taints, ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(vec![ready]), ..NodeStatus::default() }),
            ..Node::default()
        };
        assert_eq!(decide(&fixtures::pod(pod), (node != "none").then_some(&found), true), expected);
    }

    #[test]
    fn knows_garbage() {
        //    pod                       node      garbage
        check("a:node=n", "ready", None);
        check("a:node=n,failed", "ready", None); // Not by itself; only when there are too many.
        check("a:node=n", "none", Some(Garbage::Orphaned));
        check("a:node=n,succeeded", "none", Some(Garbage::Orphaned));
        check("a:node=n,deleting", "none", Some(Garbage::Orphaned));
        check("a:deleting", "none", Some(Garbage::Unscheduled));
        check("a:pending", "none", None);
        check("a:node=n,deleting", "unready", None); // It may yet come back.
        check("a:node=n,deleting", "out", Some(Garbage::OutOfService));
        check("a:node=n,deleting", "out+ready", None); // It is in service, whatever is said.
        check("a:node=n", "out", None); // Not before somebody deletes it.
        // As long as nodes are not known, absence means nothing.
        assert_eq!(decide(&fixtures::pod("a:node=n"), None, false), None);
    }

    #[test]
    fn a_young_pod_waits_for_its_node() {
        assert_eq!(quarantine_left(&fixtures::pod("a:age=10"), fixtures::now()), Some(30));
        assert_eq!(quarantine_left(&fixtures::pod("a:age=40"), fixtures::now()), None);
    }

    #[test]
    fn the_evicted_and_the_oldest_go_first() {
        let mut pods = fixtures::pods("old:age=900,failed new:age=5,succeeded evicted:age=50,failed");
        Arc::make_mut(&mut pods[2]).status.as_mut().unwrap().reason = Some("Evicted".into());
        let names: Vec<String> = surplus(pods, 1).iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["evicted", "old"]);
        assert!(surplus(fixtures::pods("a:failed"), 1).is_empty());
        assert!(surplus(fixtures::pods("a:failed b:failed"), 0).is_empty()); // Zero keeps all.
    }
}
