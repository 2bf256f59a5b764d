//! Runs the pods of every Job to completion.
//!
//! Invariant: each finished pod is counted once, over crashes too. A pod carries a finalizer until it has
//! been written into the status as counted; what is noted there as uncounted becomes a count only when the
//! pod's finalizer is gone.
//!
//! ```text
//! pod ends -> its uid noted in uncountedTerminatedPods -> its finalizer removed -> counted
//! ```

mod failure_policy;
pub(crate) mod finished;
mod indexes;
mod plan;
mod pod;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::selector::LabelSelector;
use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, Patch};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use parking_lot::Mutex;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, ignore_not_found};
use crate::owners;
use crate::pods;
use crate::runner::{Controller, Next, Queue};
use plan::{Observed, Plan};

pub(crate) const TRACKING_FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const CONTROLLER: &str = "kubernetes.io/job-controller";
/// Finalizers removed at once.
const PARALLEL: usize = 50;

pub(crate) struct Jobs {
    context: Arc<Context>,
    recorder: EventRecorder,
    jobs: Arc<Informer<Job>>,
    namespaces: Arc<Informer<Namespace>>,
    pods: Arc<Informer<Pod>>,
    /// The backoff of a Job by uid: failures since the last success and when the last of them was seen.
    failures: Mutex<HashMap<String, plan::Backoff>>,
}

#[derive(PartialEq)]
enum Acted {
    Done,
    /// The namespace is on its way out.
    InVain,
}

impl Jobs {
    pub fn new(context: &Arc<Context>) -> Self {
        let pods = context.informer::<Pod>();
        owners::index_orphans(&pods);
        Jobs {
            context: context.clone(),
            recorder: context.recorder("job-controller"),
            jobs: context.informer(),
            namespaces: context.informer(),
            pods,
            failures: Mutex::new(HashMap::new()),
        }
    }

    async fn write_status(&self, job: Job, status: &JobStatus) -> Result<Job, Failure> {
        if job.status.as_ref() == Some(status) {
            return Ok(job);
        }
        let mut updated = job;
        updated.status = Some(status.clone());
        Ok(self.context.update_status(&updated).await?)
    }

    async fn release(&self, pod: &Pod) -> Result<(), Failure> {
        if !pod::is_tracked(pod) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "uid": pod.metadata.uid,
            "$deleteFromPrimitiveList/finalizers": [TRACKING_FINALIZER],
        }});
        ignore_not_found(self.context.patch::<Pod>(&ObjectKey::of(&pod.metadata), &Patch::Strategic(patch)).await)?;
        Ok(())
    }

    async fn release_all(&self, pods: &[Arc<Pod>]) -> Result<(), Failure> {
        let released = stream::iter(pods.to_vec()).map(|pod| async move { self.release(&pod).await });
        let outcomes: Vec<_> = released.buffer_unordered(PARALLEL).collect().await;
        outcomes.into_iter().collect()
    }

    /// Pods whose Job is gone or has let go of them: nobody counts them any more.
    async fn release_orphans(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let mut left = self.pods.list_namespace(&key.namespace);
        let is_left = |pod: &Pod| match owners::controller_of(&pod.metadata) {
            Some(owner) => is_job(owner) && owner.name == key.name && self.owner_is_gone(key, &owner.uid),
            None => *made_for(pod) == key.name && !self.may_be_adopted(key, pod),
        };
        left.retain(|pod| pod::is_tracked(pod) && is_left(pod));
        self.release_all(&left).await?;
        Ok(Next::Settled)
    }

    fn may_be_adopted(&self, key: &ObjectKey, pod: &Pod) -> bool {
        let job = self.jobs.get(key).filter(|job| job.metadata.deletion_timestamp.is_none());
        let adopts = |job: &Job| selector(job).is_some_and(|selector| owners::matches(&selector, &pod.metadata));
        pod.metadata.deletion_timestamp.is_none() && job.is_some_and(|job| adopts(&job))
    }

    fn namespace_ends(&self, namespace: &str) -> bool {
        let found = self.namespaces.get(&ObjectKey::cluster(namespace.to_owned()));
        found.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
    }

    fn owner_is_gone(&self, key: &ObjectKey, uid: &str) -> bool {
        self.jobs.get(key).is_none_or(|job| job.metadata.uid.as_deref() != Some(uid))
    }

    fn tell(&self, job: &Job, plan: &Plan) {
        let about = client::object_ref(job);
        for (event_type, reason, text) in &plan.events {
            self.recorder.event(&about, *event_type, reason, text.clone());
        }
    }

    async fn act(&self, job: &Job, plan: &Plan) -> Result<Acted, Failure> {
        if !plan.create.is_empty() && !owners::still_there(&self.context, job).await? {
            return Ok(Acted::InVain);
        }
        let about = client::object_ref(job);
        let created = pods::create_slow_start(&self.context, &self.recorder, &about, plan.create.clone()).await;
        match created.error {
            Some(error) => Err(error.into()),
            None if created.ended => Ok(Acted::InVain),
            None => Ok(Acted::Done),
        }
    }
}

#[async_trait]
impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.jobs.subscribe(move |change: &Change<Job>| own.add(ObjectKey::of(&change.object().metadata)));
        let (jobs, ending) = (self.jobs.clone(), queue.clone());
        self.namespaces.subscribe(move |change: &Change<Namespace>| {
            let metadata = &change.object().metadata;
            if metadata.deletion_timestamp.is_some() {
                let jobs = jobs.list_namespace(metadata.name.as_deref().unwrap_or_default());
                jobs.iter().for_each(|job| ending.add(ObjectKey::of(&job.metadata)));
            }
        });
        let orphaned = queue.clone();
        self.pods.subscribe(move |change: &Change<Pod>| {
            let pod = change.object();
            if pod::is_tracked(pod)
                && owners::controller_of(&pod.metadata).is_none()
            {
                orphaned.add(ObjectKey::new(pod.metadata.namespace.clone().unwrap_or_default(), made_for(pod)));
            }
        });
        let jobs = self.jobs.clone();
        owners::watch_owned(&self.pods, ("Job", "batch"), queue, move |pod: &Pod| {
            let jobs = jobs.list_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
            let may_adopt = |job: &&Arc<Job>| selector(job).is_some_and(|selector| owners::matches(&selector, &pod.metadata));
            jobs.iter().filter(may_adopt).map(|job| ObjectKey::of(&job.metadata)).collect()
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        self.release_orphans(key).await?;
        let Some(job) = self.jobs.get(key) else { return Ok(Next::Settled) };
        let Some(spec) = job.spec.as_ref() else { return Ok(Next::Settled) };
        let uid = job.metadata.uid.clone().unwrap_or_default();
        if spec.managed_by.as_deref().is_some_and(|manager| manager != CONTROLLER) {
            return Ok(Next::Settled);
        }
        if finished::condition(&job).is_some() {
            self.failures.lock().remove(&uid);
            // What ended after the Job did still carries its finalizer.
            let left: Vec<_> = self.pods.owned_by(&uid).into_iter().filter(|pod| pod::is_tracked(pod)).collect();
            self.release_all(&left).await?;
            return Ok(Next::Settled);
        }
        let Some(selector) = selector(&job) else { return Ok(Next::Settled) };
        let candidates = owners::candidates(&self.pods, &job.metadata);
        let pods = owners::claim_all_with(&self.context, &*job, &selector, candidates, Some(TRACKING_FINALIZER)).await?;
        let now = self.context.now();
        let mut backoff = self.failures.lock().get(&uid).cloned().unwrap_or_default();
        let plan = plan::decide(&Observed { job: &job, pods: &pods }, &mut backoff, now);

        let about = client::object_ref(&*job);
        // What the Job no longer wants counts for nothing, so it is let go of before it begins to end.
        self.release_all(&plan.withdraw).await?;
        let withdrawn = pods::delete_all(&self.context, &self.recorder, &about, &plan.withdraw).await;
        // What ends with the Job counts, so it is let go of when that is written.
        pods::delete_all(&self.context, &self.recorder, &about, &plan.delete).await?;

        // First say what was seen, then let the pods go, then count them: in that order a crash loses nothing.
        let mut job = (*job).clone();
        job = self.write_status(job, &plan.noted).await?;
        self.failures.lock().insert(uid, backoff); // Only now: a round that is repeated must not add twice.
        self.release_all(&plan.release).await?;
        job = self.write_status(job, &plan.counted).await?;
        self.tell(&job, &plan);
        withdrawn?;
        // With a namespace that ends no pod will ever take the place of one that is kept to remember its failures, and
        // the namespace waits for that one to go; of a suspended Job, too, which makes none anyway.
        if self.act(&job, &plan).await? == Acted::InVain || self.namespace_ends(&key.namespace) {
            let mut ended = self.pods.owned_by(job.metadata.uid.as_deref().unwrap_or_default());
            ended.retain(|pod| pod::is_tracked(pod) && (pods::is_finished(pod) || pods::is_terminating(pod)));
            self.release_all(&ended).await?;
            return Ok(Next::Settled);
        }
        if plan.again {
            return Ok(Next::After(Duration::from_millis(1)));
        }
        Ok(plan.next)
    }
}

fn is_job(owner: &OwnerReference) -> bool {
    owner.kind == "Job" && owners::group_of(&owner.api_version) == "batch"
}

/// The name under which a tracked pod without owner is looked after: of the Job that it was made for, or else its own.
fn made_for(pod: &Pod) -> &str {
    let own = || pod.metadata.name.as_deref().unwrap_or_default();
    pod::job_name(pod).map_or_else(own, String::as_str)
}

fn selector(job: &Job) -> Option<LabelSelector> {
    LabelSelector::from_typed(job.spec.as_ref()?.selector.as_ref()?).ok()
}

fn warning(reason: &str, text: String) -> (EventType, String, String) {
    (EventType::Warning, reason.to_owned(), text)
}

fn normal(reason: &str, text: &str) -> (EventType, String, String) {
    (EventType::Normal, reason.to_owned(), text.to_owned())
}
