//! Deletes Jobs some time after they have finished, as `ttlSecondsAfterFinished` says.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, DeleteOptions, Informer, ObjectKey, Propagation};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::context::{Context, seconds_between};
use crate::failure::{Failure, ignore_not_found};
use crate::job::finished;
use crate::runner::{Controller, Next, Queue};

pub(crate) struct TtlAfterFinished {
    context: Arc<Context>,
    jobs: Arc<Informer<Job>>,
}

impl TtlAfterFinished {
    pub fn new(context: &Arc<Context>) -> Self {
        TtlAfterFinished { context: context.clone(), jobs: context.informer() }
    }
}

#[async_trait]
impl Controller for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn watch(&self, queue: &Queue) {
        let queue = queue.clone();
        self.jobs.subscribe(move |change: &Change<Job>| {
            if seconds_left(change.object(), Timestamp::MIN).is_some() {
                queue.add(ObjectKey::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(job) = self.jobs.get(key) else { return Ok(Next::Settled) };
        match seconds_left(&job, self.context.now()) {
            None => return Ok(Next::Settled),
            Some(left) if left > 0 => return Ok(Next::after_seconds(Some(left))),
            Some(_) => {}
        }
        // The time to live may have been raised since: ask the server before it is too late.
        let Some(fresh) = ignore_not_found(self.context.rest.get::<Job>(key).await)? else { return Ok(Next::Settled) };
        if fresh.metadata.uid != job.metadata.uid || seconds_left(&fresh, self.context.now()).is_none_or(|left| left > 0) {
            return Ok(Next::Settled);
        }
        let options = DeleteOptions {
            propagation: Some(Propagation::Foreground),
            resource_version: fresh.metadata.resource_version,
            ..DeleteOptions::uid(fresh.metadata.uid.unwrap_or_default())
        };
        self.context.delete::<Job>(key, &options).await?;
        Ok(Next::Settled)
    }
}

/// Pure. `None` when the Job stays for good, is running, or is being deleted already.
fn seconds_left(job: &Job, now: Timestamp) -> Option<i64> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finished = finished::condition(job)?.last_transition_time.as_ref()?;
    job.metadata.deletion_timestamp.is_none().then(|| i64::from(ttl) - seconds_between(finished, now))
}
