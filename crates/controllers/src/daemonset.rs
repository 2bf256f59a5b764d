//! Runs one pod of every DaemonSet on each node that it may run on.
//!
//! Invariant: at most one pod per node, except while a surging update lets the new one become available
//! before the old one goes.

mod plan;
mod template;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::selector::LabelSelector;
use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::owners;
use crate::pods;
use crate::runner::{Controller, Next, Queue};
use plan::{Loss, Observed, Plan};

/// Failed pods of one node are replaced after a second at first, doubling to a quarter of an hour.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(15 * 60);

pub(crate) struct DaemonSets {
    context: Arc<Context>,
    recorder: EventRecorder,
    sets: Arc<Informer<DaemonSet>>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    revisions: Arc<Informer<ControllerRevision>>,
    /// By set and node: how long the last wait was and when it ends.
    backoff: Mutex<BTreeMap<(String, String), (Duration, tokio::time::Instant)>>,
}

impl DaemonSets {
    pub fn new(context: &Arc<Context>) -> Self {
        let pods = context.informer::<Pod>();
        let revisions = context.informer::<ControllerRevision>();
        owners::index_orphans(&pods);
        owners::index_orphans(&revisions);
        DaemonSets {
            context: context.clone(),
            recorder: context.recorder("daemonset-controller"),
            sets: context.informer(),
            pods,
            nodes: context.informer(),
            revisions,
            backoff: Mutex::new(BTreeMap::new()),
        }
    }

    /// Whether the failed pod on this node may be replaced now, else how long to wait.
    fn may_replace(&self, set: &DaemonSet, node: &str) -> Result<(), Duration> {
        let now = tokio::time::Instant::now();
        let key = (set.metadata.uid.clone().unwrap_or_default(), node.to_owned());
        let mut backoff = self.backoff.lock();
        // Quiet for twice the longest wait: forgotten.
        backoff.retain(|_, (_, until)| now < *until + BACKOFF_MAX * 2);
        match backoff.get(&key) {
            Some((_, until)) if now < *until => Err(*until - now),
            known => {
                let delay = known.map_or(BACKOFF_MIN, |(delay, _)| (*delay * 2).min(BACKOFF_MAX));
                backoff.insert(key, (delay, now + delay));
                Ok(())
            }
        }
    }

    async fn act(&self, set: &DaemonSet, plan: &Plan, revision: &ControllerRevision) -> Result<Next, Failure> {
        if !plan.create.is_empty() && !owners::still_there(&self.context, set).await? {
            return Ok(Next::Settled);
        }
        let about = client::object_ref(set);
        let mut next = plan.next;
        let mut doomed: Vec<Arc<Pod>> = plan.delete.clone();
        for Loss { pod, node, failed } in &plan.lost {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if !failed {
                let text = format!("Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it");
                self.recorder.event(&about, EventType::Normal, "SucceededDaemonPod", text);
                doomed.push(pod.clone());
                continue;
            }
            match self.may_replace(set, node) {
                Ok(()) => {
                    let text = format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it");
                    self.recorder.event(&about, EventType::Warning, "FailedDaemonPod", text);
                    doomed.push(pod.clone());
                }
                Err(wait) => next = next.or(Next::After(wait)),
            }
        }
        let wanted: Vec<Pod> = plan.create.iter().map(|node| template::new_pod(set, node, history::hash(revision))).collect();
        let created = pods::create_slow_start(&self.context, &self.recorder, &about, wanted).await;
        pods::delete_all(&self.context, &self.recorder, &about, &doomed).await?;
        match created.error {
            Some(error) => Err(error.into()),
            None => Ok(next),
        }
    }

    /// The hash of the revision that the pod was made from.
    fn hash_of(pod: &Pod) -> &str {
        pod.metadata.labels.as_ref().and_then(|labels| labels.get(history::POD_REVISION_LABEL)).map_or("", String::as_str)
    }
}

#[async_trait]
impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn workers(&self) -> usize {
        2
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.sets.subscribe(move |change: &Change<DaemonSet>| own.add(ObjectKey::of(&change.object().metadata)));
        let sets = self.sets.clone();
        owners::watch_owned(&self.pods, ("DaemonSet", "apps"), queue, move |pod: &Pod| {
            let sets = sets.list_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
            let may_adopt = |set: &&Arc<DaemonSet>| {
                selector(set).is_some_and(|selector| owners::matches(&selector, &pod.metadata))
            };
            sets.iter().filter(may_adopt).map(|set| ObjectKey::of(&set.metadata)).collect()
        });
        let (sets, queue) = (self.sets.clone(), queue.clone());
        self.nodes.subscribe(move |change: &Change<Node>| {
            let node = change.object();
            // Heartbeats change nothing about where daemons run.
            let spec = |node: &Node| (node.metadata.labels.clone(), node.spec.clone());
            if change.old().is_some_and(|old| spec(old) == spec(node)) {
                return;
            }
            for set in sets.list() {
                let runs = |node: &Node| plan::placement(&set, node);
                if change.old().is_none_or(|old| runs(old) != runs(node)) {
                    queue.add(ObjectKey::of(&set.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(set) = self.sets.get(key) else { return Ok(Next::Settled) };
        let (Some(selector), Some(spec)) = (selector(&set), set.spec.as_ref()) else { return Ok(Next::Settled) };
        if selector.is_empty() {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&client::object_ref(&*set), EventType::Warning, "SelectingAll", text);
            return Ok(Next::Settled);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Settled);
        }
        let candidates = owners::candidates(&self.revisions, &set.metadata);
        let mut revisions = owners::claim_all(&self.context, &*set, &selector, candidates).await?;
        let mut collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let current = history::sync(&self.context, &*set, &spec.template, &mut revisions, &mut collisions).await?;
        let candidates = owners::candidates(&self.pods, &set.metadata);
        let pods = owners::claim_all(&self.context, &*set, &selector, candidates).await?;

        let nodes = self.nodes.list();
        let now = self.context.now();
        let observed = Observed { set: &set, nodes: &nodes, pods: &pods, hash: history::hash(&current), collisions };
        let plan = plan::decide(&observed, now);
        let outcome = self.act(&set, &plan, &current).await;
        if set.status.as_ref() != Some(&plan.status) {
            let mut updated = (*set).clone();
            updated.status = Some(plan.status.clone());
            self.context.update_status(&updated).await?;
        }
        let next = outcome?;
        let is_live = |revision: &ControllerRevision| {
            history::name(revision) == history::name(&current)
                || pods.iter().any(|pod| Self::hash_of(pod) == history::hash(revision))
        };
        history::truncate(&self.context, &revisions, is_live, spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(next)
    }
}

fn selector(set: &DaemonSet) -> Option<LabelSelector> {
    LabelSelector::from_typed(&set.spec.as_ref()?.selector).ok()
}
