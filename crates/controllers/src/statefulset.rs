//! Keeps numbered pods with stable names and storage for every StatefulSet.
//!
//! Invariant: at most one pod per ordinal. With ordered management a pod is made only when all before it
//! are available, and taken down only when all after it are gone.

mod identity;
mod plan;

use std::sync::Arc;

use api::selector::LabelSelector;
use async_trait::async_trait;
use client::{Change, DeleteOptions, ErrorKind, EventRecorder, EventType, Informer, ObjectKey, error_kind};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::context::Context;
use crate::failure::{Failure, error_text, is_namespace_terminating};
use crate::history;
use crate::owners;
use crate::pods;
use crate::runner::{Controller, Next, Queue};
use plan::{Observed, Step};

pub(crate) struct StatefulSets {
    context: Arc<Context>,
    recorder: EventRecorder,
    sets: Arc<Informer<StatefulSet>>,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    revisions: Arc<Informer<ControllerRevision>>,
}

impl StatefulSets {
    pub fn new(context: &Arc<Context>) -> Self {
        let pods = context.informer::<Pod>();
        let revisions = context.informer::<ControllerRevision>();
        owners::index_orphans(&pods);
        owners::index_orphans(&revisions);
        StatefulSets {
            context: context.clone(),
            recorder: context.recorder("statefulset-controller"),
            sets: context.informer(),
            pods,
            claims: context.informer(),
            revisions,
        }
    }

    fn tell(&self, set: &StatefulSet, event_type: EventType, reason: &str, text: String) {
        self.recorder.event(&client::object_ref(set), event_type, reason, text);
    }

    async fn act(&self, set: &StatefulSet, step: Step) -> Result<(), Failure> {
        let set_name = set.metadata.name.as_deref().unwrap_or_default();
        match step {
            Step::Create(pod) => {
                if !owners::still_there(&self.context, set).await? {
                    return Ok(());
                }
                let name = pod.metadata.name.clone().unwrap_or_default();
                if self.has_stale_claim(set, &pod) {
                    return Ok(()); // Its end is told.
                }
                self.create_claims(set, &pod).await?;
                match self.context.create(&*pod).await {
                    Ok(_) => {
                        let text = format!("create Pod {name} in StatefulSet {set_name} successful");
                        self.tell(set, EventType::Normal, "SuccessfulCreate", text);
                        Ok(())
                    }
                    Err(error) if is_namespace_terminating(&error) => Ok(()),
                    Err(error) if error_kind(&error) == ErrorKind::AlreadyExists => Err(error.into()),
                    Err(error) => {
                        let text = format!("create Pod {name} in StatefulSet {set_name} failed error: {}", error_text(&error));
                        self.tell(set, EventType::Warning, "FailedCreate", text);
                        Err(error.into())
                    }
                }
            }
            Step::Delete(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let options = DeleteOptions::uid(pod.metadata.uid.clone().unwrap_or_default());
                match self.context.delete::<Pod>(&ObjectKey::of(&pod.metadata), &options).await {
                    Ok(()) => {
                        let text = format!("delete Pod {name} in StatefulSet {set_name} successful");
                        self.tell(set, EventType::Normal, "SuccessfulDelete", text);
                        Ok(())
                    }
                    Err(error) => {
                        let text = format!("delete Pod {name} in StatefulSet {set_name} failed error: {}", error_text(&error));
                        self.tell(set, EventType::Warning, "FailedDelete", text);
                        Err(error.into())
                    }
                }
            }
            Step::Repair(pod) => {
                self.create_claims(set, &pod).await?;
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                match self.context.update(&*pod).await {
                    Ok(_) => {
                        let text = format!("update Pod {name} in StatefulSet {set_name} successful");
                        self.tell(set, EventType::Normal, "SuccessfulUpdate", text);
                        Ok(())
                    }
                    Err(error) => {
                        let text = format!("update Pod {name} in StatefulSet {set_name} failed error: {}", error_text(&error));
                        self.tell(set, EventType::Warning, "FailedUpdate", text);
                        Err(error.into())
                    }
                }
            }
            Step::Claims { pod } => self.create_claims(set, &pod).await,
            Step::OwnClaims { pod, condemned } => self.own_claims(set, &pod, condemned).await,
        }
    }

    /// Whether a claim still goes the way of an earlier pod of that name: a new pod must not get hold of it.
    fn has_stale_claim(&self, set: &StatefulSet, pod: &Pod) -> bool {
        let claims = identity::claims(set, pod);
        claims.iter().filter_map(|claim| self.claims.get(&ObjectKey::of(&claim.metadata))).any(|held| identity::is_stale(&held, pod))
    }

    /// Makes the claims that the pod's volumes name and that are not there.
    async fn create_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Failure> {
        for claim in identity::claims(set, pod) {
            let key = ObjectKey::of(&claim.metadata);
            if let Some(held) = self.claims.get(&key) {
                if held.metadata.deletion_timestamp.is_some() {
                    return Err(Failure::Other(format!("pvc {} is being deleted", key.name)));
                }
                continue;
            }
            let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
            let set_name = set.metadata.name.as_deref().unwrap_or_default();
            match self.context.create(&claim).await {
                Ok(_) => {
                    let text = format!("create Claim {} Pod {pod_name} in StatefulSet {set_name} success", key.name);
                    self.tell(set, EventType::Normal, "SuccessfulCreate", text);
                }
                Err(error) if error_kind(&error) == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let why = error_text(&error);
                    let text = format!("create Claim {} for Pod {pod_name} in StatefulSet {set_name} failed error: {why}", key.name);
                    self.tell(set, EventType::Warning, "FailedCreate", text);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// The retention policy says who takes the claims along: the set, the pod, or nobody.
    async fn own_claims(&self, set: &StatefulSet, pod: &Pod, condemned: bool) -> Result<(), Failure> {
        for claim in identity::claims(set, pod) {
            let Some(held) = self.claims.get(&ObjectKey::of(&claim.metadata)) else { continue };
            if let Some(updated) = identity::owned_as_policy_says(set, pod, &held, condemned) {
                self.context.update(&updated).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.sets.subscribe(move |change: &Change<StatefulSet>| own.add(ObjectKey::of(&change.object().metadata)));
        let sets = self.sets.clone();
        owners::watch_owned(&self.pods, ("StatefulSet", "apps"), queue, move |pod: &Pod| {
            let sets = sets.list_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
            let may_adopt = |set: &&Arc<StatefulSet>| {
                selector(set).is_some_and(|selector| owners::matches(&selector, &pod.metadata))
                    && identity::ordinal(set, pod).is_some()
            };
            sets.iter().filter(may_adopt).map(|set| ObjectKey::of(&set.metadata)).collect()
        });
        // A claim that was in the way may be gone now.
        let (sets, queue) = (self.sets.clone(), queue.clone());
        self.claims.subscribe(move |change: &Change<PersistentVolumeClaim>| {
            let Change::Deleted(claim) = change else { return };
            for set in sets.list_namespace(claim.metadata.namespace.as_deref().unwrap_or_default()) {
                if set.spec.as_ref().is_some_and(|spec| spec.volume_claim_templates.is_some()) {
                    queue.add(ObjectKey::of(&set.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(set) = self.sets.get(key) else { return Ok(Next::Settled) };
        let (Some(selector), Some(spec)) = (selector(&set), set.spec.as_ref()) else { return Ok(Next::Settled) };
        let mut candidates = owners::candidates(&self.pods, &set.metadata);
        candidates.retain(|pod| identity::ordinal(&set, pod).is_some());
        let pods = owners::claim_all(&self.context, &*set, &selector, candidates).await?;
        let candidates = owners::candidates(&self.revisions, &set.metadata);
        let mut revisions = owners::claim_all(&self.context, &*set, &selector, candidates).await?;

        let old = set.status.clone().unwrap_or_default();
        let mut collisions = old.collision_count.unwrap_or(0);
        let update = history::sync(&self.context, &*set, &spec.template, &mut revisions, &mut collisions).await?;
        let named = |revision: &&Arc<ControllerRevision>| Some(history::name(revision)) == old.current_revision.as_deref();
        let current = revisions.iter().find(named).unwrap_or(&update).clone();

        let now = self.context.now();
        let current_template = history::template_of(&current).unwrap_or_else(|| spec.template.clone());
        let observed = Observed {
            set: &set,
            pods: &pods,
            current: history::name(&current),
            current_template: &current_template,
            update: history::name(&update),
            collisions,
        };
        let plan = plan::decide(&observed, now);
        let mut failure = None;
        for batch in plan.batches {
            let outcomes = join_all(batch.into_iter().map(|step| self.act(&set, step))).await;
            failure = outcomes.into_iter().find_map(Result::err);
            if failure.is_some() {
                break;
            }
        }
        if set.status.as_ref() != Some(&plan.status) {
            let mut updated = (*set).clone();
            updated.status = Some(plan.status);
            self.context.update_status(&updated).await?;
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        let is_live = |revision: &ControllerRevision| {
            let name = history::name(revision);
            name == history::name(&current)
                || name == history::name(&update)
                || pods.iter().any(|pod| identity::revision_of(pod) == name)
        };
        history::truncate(&self.context, &revisions, is_live, spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(plan.next)
    }
}

fn selector(set: &StatefulSet) -> Option<LabelSelector> {
    LabelSelector::from_typed(&set.spec.as_ref()?.selector).ok()
}

fn is_healthy(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod) && !pods::is_terminating(pod)
}
