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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};

    /// The condition is `TYPE=STATUS@SECONDS ago`.
    #[track_caller]
    fn check(ttl: Option<i32>, condition: &str, deleting: bool, expected: Option<i64>) {
        let conditions = condition.split_whitespace().map(|word| {
            let (type_, rest) = word.split_once('=').unwrap();
            let (status, ago) = rest.split_once('@').unwrap();
            let last_transition_time = Some(fixtures::ago(ago.parse().unwrap()));
            JobCondition { type_: type_.into(), status: status.into(), last_transition_time, ..JobCondition::default() }
        });
        let status = JobStatus { conditions: Some(conditions.collect()), ..JobStatus::default() };
        let spec = JobSpec { ttl_seconds_after_finished: ttl, ..JobSpec::default() };
        let mut job = Job { spec: Some(spec), status: Some(status), ..Job::default() };
        job.metadata.deletion_timestamp = deleting.then(|| fixtures::ago(1));
        assert_eq!(seconds_left(&job, fixtures::now()), expected);
    }

    #[test]
    fn a_finished_job_has_its_time() {
        //    ttl       condition               deleting  seconds left
        check(None, "Complete=True@50", false, None);
        check(Some(10), "", false, None);
        check(Some(10), "Complete=False@50", false, None);
        check(Some(10), "Suspended=True@50 FailureTarget=True@50", false, None); // Its pods are still ending.
        check(Some(0), "Complete=True@0", false, Some(0));
        check(Some(10), "Complete=True@4", false, Some(6));
        check(Some(10), "Failed=True@15", false, Some(-5));
        check(Some(10), "SuccessCriteriaMet=True@99 Complete=True@4", false, Some(6));
        check(Some(10), "Complete=True@50", true, None);
    }
}
