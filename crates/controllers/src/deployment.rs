//! Rolls every Deployment from its old ReplicaSets to the one that has its template.
//!
//! Invariant: the sets together never want more pods than `replicas + maxSurge`, and no set is scaled down
//! while fewer than `replicas - maxUnavailable` pods would stay available. Pods are never touched, only sets.
//!
//! Deliberately absent: rollback as an API. `kubectl rollout undo` patches the template, which makes an old
//! set the new one again.

mod members;
mod plan;
mod progress;
mod revision;
mod rolling;

use std::sync::Arc;

use api::selector::LabelSelector;
use async_trait::async_trait;
use client::{Change, DeleteOptions, ErrorKind, EventRecorder, EventType, Informer, ObjectKey, error_kind};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::context::Context;
use crate::failure::{Failure, error_text, is_namespace_terminating};
use crate::owners;
use crate::pods;
use crate::runner::{Controller, Next, Queue};
use plan::{Observed, Plan, Step};

pub(crate) struct Deployments {
    context: Arc<Context>,
    recorder: EventRecorder,
    deployments: Arc<Informer<Deployment>>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
}

impl Deployments {
    pub fn new(context: &Arc<Context>) -> Self {
        let sets = context.informer::<ReplicaSet>();
        owners::index_orphans(&sets);
        Deployments {
            context: context.clone(),
            recorder: context.recorder("deployment-controller"),
            deployments: context.informer(),
            sets,
            pods: context.informer(),
        }
    }

    async fn act(&self, deployment: &Deployment, plan: Plan) -> Result<Next, Failure> {
        let about = client::object_ref(deployment);
        let event = |message: String| self.recorder.event(&about, EventType::Normal, "ScalingReplicaSet", message);
        let mut status = plan.status;
        for step in plan.steps {
            match step {
                Step::Create(set) => {
                    if !owners::still_there(&self.context, deployment).await? {
                        return Ok(Next::Settled);
                    }
                    let name = set.metadata.name.clone().unwrap_or_default();
                    match self.context.create(&set).await {
                        Ok(created) => {
                            let replicas = created.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                            if replicas > 0 {
                                event(format!("Scaled up replica set {name} from 0 to {replicas}"));
                            }
                        }
                        Err(error) if error_kind(&error) == ErrorKind::AlreadyExists => {
                            self.resolve_collision(deployment, &set, status).await?;
                            return Ok(Next::After(std::time::Duration::ZERO));
                        }
                        Err(error) if is_namespace_terminating(&error) => return Ok(Next::Settled),
                        Err(error) => {
                            let text = progress::set_create_failed(&mut status, deployment, &name, &error_text(&error), self.context.now());
                            self.recorder.event(&about, EventType::Warning, progress::CREATE_ERROR, text);
                            self.write_status(deployment, status).await?;
                            return Err(error.into());
                        }
                    }
                }
                Step::Update { set, from } => {
                    let to = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                    let updated = self.context.update(&set).await?;
                    if from != to {
                        let direction = if to > from { "up" } else { "down" };
                        let name = updated.metadata.name.as_deref().unwrap_or_default();
                        event(format!("Scaled {direction} replica set {name} from {from} to {to}"));
                    }
                }
                Step::Delete(set) => {
                    let uid = set.metadata.uid.clone().unwrap_or_default();
                    self.context.delete::<ReplicaSet>(&ObjectKey::of(&set.metadata), &DeleteOptions::uid(uid)).await?;
                }
                Step::Revision(revision) => {
                    // By way of the status: an annotation written to the object itself would count as a generation.
                    let mut annotated = self.newest(deployment);
                    let annotations = annotated.metadata.annotations.get_or_insert_default();
                    annotations.insert(revision::REVISION.to_owned(), revision);
                    self.context.update_status(&annotated).await?;
                }
            }
        }
        self.write_status(deployment, status).await?;
        Ok(plan.next)
    }

    async fn write_status(&self, deployment: &Deployment, status: k8s_openapi::api::apps::v1::DeploymentStatus) -> Result<(), Failure> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut updated = self.newest(deployment);
        if updated.metadata.generation != deployment.metadata.generation {
            return Ok(()); // The spec has moved on; so will the next round, which is queued already.
        }
        updated.status = Some(status);
        self.context.update_status(&updated).await?;
        Ok(())
    }

    /// As it is in the cache: the revision may just have been written, and the conflict would be our own.
    fn newest(&self, deployment: &Deployment) -> Deployment {
        let newest = self.deployments.get(&ObjectKey::of(&deployment.metadata));
        let newest = newest.filter(|newest| newest.metadata.uid == deployment.metadata.uid);
        newest.map_or_else(|| deployment.clone(), |newest| (*newest).clone())
    }

    /// The name is taken: by our own set, seen late, or by another template with the same hash.
    async fn resolve_collision(&self, deployment: &Deployment, wanted: &ReplicaSet, mut status: k8s_openapi::api::apps::v1::DeploymentStatus) -> Result<(), Failure> {
        let taken: ReplicaSet = self.context.rest.get(&ObjectKey::of(&wanted.metadata)).await?;
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let ours = owners::is_controlled_by(&taken.metadata, uid);
        if ours && revision::same_template(deployment, &taken) {
            self.sets.observe(taken);
            return Ok(());
        }
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.write_status(deployment, status).await
    }
}

#[async_trait]
impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.deployments.subscribe(move |change: &Change<Deployment>| own.add(ObjectKey::of(&change.object().metadata)));
        let deployments = self.deployments.clone();
        owners::watch_owned(&self.sets, ("Deployment", "apps"), queue, move |set: &ReplicaSet| {
            let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
            let may_adopt = |deployment: &&Arc<Deployment>| {
                selector(deployment).is_some_and(|selector| owners::matches(&selector, &set.metadata))
            };
            let deployments = deployments.list_namespace(namespace);
            deployments.iter().filter(may_adopt).map(|deployment| ObjectKey::of(&deployment.metadata)).collect()
        });
        // Recreate waits for the last old pod to be gone.
        let (sets, deployments, queue) = (self.sets.clone(), self.deployments.clone(), queue.clone());
        self.pods.subscribe(move |change: &Change<Pod>| {
            let Change::Deleted(pod) = change else { return };
            let Some(owner) = owners::controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet") else { return };
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let Some(set) = sets.get(&ObjectKey::new(namespace.clone(), owner.name.clone())) else { return };
            let Some(owner) = owners::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") else { return };
            let key = ObjectKey::new(namespace, owner.name.clone());
            if deployments.get(&key).is_some_and(|deployment| plan::is_recreate(&deployment)) {
                queue.add(key);
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Next::Settled) };
        let Some(selector) = selector(&deployment) else { return Ok(Next::Settled) };
        if selector.is_empty() {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&client::object_ref(&*deployment), EventType::Warning, "SelectingAll", text);
            return Ok(Next::Settled);
        }
        let candidates = owners::candidates(&self.sets, &deployment.metadata);
        let sets = owners::claim_all(&self.context, &*deployment, &selector, candidates).await?;
        let plan = {
            let runs_pods = |set: &ReplicaSet| {
                let pods = self.pods.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
                pods.iter().any(|pod| !pods::is_finished(pod))
            };
            let observed = Observed { deployment: &deployment, sets: &sets, runs_pods: &runs_pods };
            plan::decide(&observed, self.context.now())
        };
        self.act(&deployment, plan).await
    }
}

fn selector(deployment: &Deployment) -> Option<LabelSelector> {
    LabelSelector::from_typed(&deployment.spec.as_ref()?.selector).ok()
}
