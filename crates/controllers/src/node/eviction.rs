//! Deletes pods that do not tolerate a `NoExecute` taint of their node, when their toleration runs out.
//!
//! Invariant: the deadline counts from when the taint was added or the pod came, whichever is later, as both
//! are written on the objects; so a restart neither forgets nor extends it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, DeleteOptions, EventRecorder, EventType, Informer, ObjectKey, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;

use super::{BY_NODE, disruption_target, index_by_node, taints};
use crate::context::{Context, seconds_between};
use crate::failure::{Failure, ignore_not_found};
use crate::pods;
use crate::runner::{Controller, Next, Queue};
use crate::scheduling::tolerates;

pub(crate) struct TaintEviction {
    context: Arc<Context>,
    recorder: EventRecorder,
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    /// Pods that are to go later, for their rescue to be told.
    announced: Mutex<BTreeSet<ObjectKey>>,
}

impl TaintEviction {
    pub fn new(context: &Arc<Context>) -> Self {
        let pods = context.informer::<Pod>();
        index_by_node(&pods);
        TaintEviction {
            context: context.clone(),
            recorder: context.recorder("taint-eviction-controller"),
            nodes: context.informer(),
            pods,
            announced: Mutex::new(BTreeSet::new()),
        }
    }
}

#[async_trait]
impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn workers(&self) -> usize {
        8
    }

    fn watch(&self, queue: &Queue) {
        let (pods, own) = (self.pods.clone(), queue.clone());
        self.nodes.subscribe(move |change: &Change<Node>| {
            let node = change.object();
            let had = change.old().is_some_and(|old| has_no_execute(old));
            if change.old().is_some_and(|old| taints(old) == taints(node)) || !(had || has_no_execute(node)) {
                return;
            }
            for pod in pods.indexed(BY_NODE, node.metadata.name.as_deref().unwrap_or_default()) {
                own.add(ObjectKey::of(&pod.metadata));
            }
        });
        let (nodes, queue) = (self.nodes.clone(), queue.clone());
        self.pods.subscribe(move |change: &Change<Pod>| {
            // What is gone is forgotten.
            if node_of(&nodes, change.object()).is_some_and(|node| has_no_execute(&node)) {
                queue.add(ObjectKey::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(pod) = self.pods.get(key).filter(|pod| !pods::is_terminating(pod)) else {
            self.announced.lock().remove(key);
            return Ok(Next::Settled);
        };
        let Some(node) = node_of(&self.nodes, &pod) else { return Ok(Next::Settled) };
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        let now = self.context.now();
        let seconds = match decide(taints(&node), tolerations, came(&pod), now) {
            Verdict::Stay => {
                if self.announced.lock().remove(key) {
                    let text = format!("Cancelling deletion of Pod {key}");
                    self.recorder.event(&client::object_ref(&*pod), EventType::Normal, "TaintManagerEviction", text);
                }
                return Ok(Next::Settled);
            }
            Verdict::Evict { in_seconds } => in_seconds,
        };
        if seconds > 0 {
            self.announced.lock().insert(key.clone());
            return Ok(Next::after_seconds(Some(seconds)));
        }
        self.announced.lock().remove(key);
        let text = format!("Marking for deletion Pod {key}");
        self.recorder.event(&client::object_ref(&*pod), EventType::Normal, "TaintManagerEviction", text);
        let patch = disruption_target("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", &pod, now);
        ignore_not_found(self.context.patch_status::<Pod>(key, &Patch::Strategic(patch)).await)?;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.context.delete::<Pod>(key, &DeleteOptions::uid(uid)).await?;
        Ok(Next::Settled)
    }
}

fn node_of(nodes: &Informer<Node>, pod: &Pod) -> Option<Arc<Node>> {
    let name = pod.spec.as_ref()?.node_name.as_deref()?;
    nodes.get(&ObjectKey::cluster(name))
}

fn has_no_execute(node: &Node) -> bool {
    taints(node).iter().any(|taint| taint.effect == "NoExecute")
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Stay,
    Evict { in_seconds: i64 },
}

/// When the pod was bound to its node.
fn came(pod: &Pod) -> Option<&Time> {
    let scheduled = pods::condition(pod, "PodScheduled").and_then(|condition| condition.last_transition_time.as_ref());
    scheduled.or(pod.metadata.creation_timestamp.as_ref())
}

/// Pure. `came` is when the pod was bound.
fn decide(taints: &[Taint], tolerations: &[Toleration], came: Option<&Time>, now: Timestamp) -> Verdict {
    let mut soonest: Option<i64> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        // Of several tolerations of one taint the first counts; without a limit it is for ever.
        let Some(used) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Verdict::Evict { in_seconds: 0 };
        };
        let Some(limit) = used.toleration_seconds else { continue };
        let since = taint.time_added.as_ref().max(came);
        let passed = since.map_or(0, |since| seconds_between(since, now));
        let left = (limit - passed).max(0);
        soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
    }
    match soonest {
        Some(in_seconds) => Verdict::Evict { in_seconds },
        None => Verdict::Stay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    /// Taints are `key:effect@seconds ago`, tolerations `key[:effect][=seconds]`.
    #[track_caller]
    fn check(node_taints: &str, tolerations: &str, expected: Verdict) {
        let taints: Vec<Taint> = node_taints
            .split_whitespace()
            .map(|word| {
                let (key, rest) = word.split_once(':').unwrap();
                let (effect, ago) = rest.split_once('@').unwrap_or((rest, "0"));
                let time_added = Some(fixtures::ago(ago.parse().unwrap()));
                Taint { key: key.into(), effect: effect.into(), time_added, value: None }
            })
            .collect();
        let tolerations: Vec<Toleration> = tolerations
            .split_whitespace()
            .map(|word| {
                let (word, seconds) = word.split_once('=').map_or((word, None), |(word, n)| (word, Some(n.parse().unwrap())));
                let (key, effect) = word.split_once(':').map_or((word, None), |(key, effect)| (key, Some(effect.to_owned())));
                let key = (key != "*").then(|| key.to_owned());
                Toleration { key, effect, operator: Some("Exists".into()), toleration_seconds: seconds, value: None }
            })
            .collect();
        assert_eq!(decide(&taints, &tolerations, Some(&fixtures::ago(9000)), fixtures::now()), expected);
    }

    #[test]
    fn a_pod_that_comes_later_has_its_full_time() {
        let taint = Taint { key: "a".into(), effect: "NoExecute".into(), time_added: Some(fixtures::ago(1000)), value: None };
        let toleration = Toleration { operator: Some("Exists".into()), toleration_seconds: Some(300), ..Toleration::default() };
        let verdict = decide(&[taint], &[toleration], Some(&fixtures::ago(100)), fixtures::now());
        assert_eq!(verdict, Verdict::Evict { in_seconds: 200 });
    }

    #[test]
    fn tolerations_decide_when() {
        let evict = |in_seconds| Verdict::Evict { in_seconds };
        check("a:NoSchedule", "", Verdict::Stay);
        check("a:NoExecute", "", evict(0));
        check("a:NoExecute", "a", Verdict::Stay);
        check("a:NoExecute", "*", Verdict::Stay);
        check("a:NoExecute", "a:NoSchedule", evict(0));
        check("a:NoExecute@100", "a=300", evict(200));
        check("a:NoExecute@400", "a=300", evict(0));
        check("a:NoExecute b:NoExecute@10", "a=300 b=60", evict(50));
        check("a:NoExecute b:NoExecute", "a=300", evict(0));
        check("a:NoExecute b:NoExecute", "a=300 b", evict(300));
        check("a:NoExecute", "a=0", evict(0));
        check("a:NoExecute", "a=-5", evict(0));
        check("a:NoExecute", "* a=300", Verdict::Stay); // The first that fits counts.
        check("a:NoExecute", "a=300 *", evict(300));
        check("a:NoExecute", "a:NoExecute=60 a=300", evict(60));
        check("a:PreferNoSchedule", "", Verdict::Stay);
        check("", "a=300", Verdict::Stay);
    }
}
