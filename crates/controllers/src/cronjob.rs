//! Starts Jobs by the clock, as every CronJob says.
//!
//! Invariant: one Job per scheduled time, since its name says the time. After a pause only the latest missed
//! time is made up for.

mod plan;
mod schedule;

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, DeleteOptions, ErrorKind, EventRecorder, EventType, Informer, ObjectKey, Propagation, error_kind};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::context::Context;
use crate::failure::{Failure, error_text, is_namespace_terminating};
use crate::owners;
use crate::runner::{Controller, Next, Queue};
use plan::{Observed, Plan};

pub(crate) struct CronJobs {
    context: Arc<Context>,
    recorder: EventRecorder,
    cron_jobs: Arc<Informer<CronJob>>,
    jobs: Arc<Informer<Job>>,
}

impl CronJobs {
    pub fn new(context: &Arc<Context>) -> Self {
        CronJobs {
            context: context.clone(),
            recorder: context.recorder("cronjob-controller"),
            cron_jobs: context.informer(),
            jobs: context.informer(),
        }
    }

    async fn delete(&self, cron_job: &CronJob, job: &Job) -> Result<(), Failure> {
        let about = client::object_ref(cron_job);
        let key = ObjectKey::of(&job.metadata);
        let options = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::uid(job.metadata.uid.clone().unwrap_or_default())
        };
        match self.context.delete::<Job>(&key, &options).await {
            Ok(()) => {
                self.recorder.event(&about, EventType::Normal, "SuccessfulDelete", format!("Deleted job {}", key.name));
                Ok(())
            }
            Err(error) => {
                let text = format!("Deleted job: {}", error_text(&error));
                self.recorder.event(&about, EventType::Warning, "FailedDelete", text);
                Err(error.into())
            }
        }
    }

    async fn act(&self, cron_job: &CronJob, mut plan: Plan) -> Result<Next, Failure> {
        let about = client::object_ref(cron_job);
        for (event_type, reason, text) in plan.events {
            self.recorder.event(&about, event_type, reason, text);
        }
        for job in &plan.delete {
            self.delete(cron_job, job).await?;
        }
        if let Some((at, job)) = plan.create {
            if !owners::still_there(&self.context, cron_job).await? {
                return Ok(Next::Settled);
            }
            let name = job.metadata.name.clone().unwrap_or_default();
            let created = match self.context.create(&job).await {
                Ok(created) => {
                    self.recorder.event(&about, EventType::Normal, "SuccessfulCreate", format!("Created job {name}"));
                    Some(created)
                }
                Err(error) if is_namespace_terminating(&error) => return Ok(Next::Settled),
                // Made by an earlier round that could not say so any more.
                Err(error) if error_kind(&error) == ErrorKind::AlreadyExists => {
                    let taken: Job = self.context.rest.get(&ObjectKey::of(&job.metadata)).await?;
                    let uid = cron_job.metadata.uid.as_deref().unwrap_or_default();
                    owners::is_controlled_by(&taken.metadata, uid).then_some(taken)
                }
                Err(error) => {
                    let text = format!("Error creating job: {}", error_text(&error));
                    self.recorder.event(&about, EventType::Warning, "FailedCreate", text);
                    return Err(error.into());
                }
            };
            if let Some(created) = created {
                plan.status.last_schedule_time = Some(Time(at));
                plan::activate(&mut plan.status, &created);
            }
        }
        if cron_job.status.clone().unwrap_or_default() != plan.status {
            let mut updated = cron_job.clone();
            updated.status = Some(plan.status);
            self.context.update_status(&updated).await?;
        }
        Ok(plan.next)
    }
}

#[async_trait]
impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.cron_jobs.subscribe(move |change: &Change<CronJob>| own.add(ObjectKey::of(&change.object().metadata)));
        owners::watch_owned(&self.jobs, ("CronJob", "batch"), queue, |_| Vec::new());
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(cron_job) = self.cron_jobs.get(key) else { return Ok(Next::Settled) };
        let jobs = self.jobs.owned_by(cron_job.metadata.uid.as_deref().unwrap_or_default());
        let plan = plan::decide(&Observed { cron_job: &cron_job, jobs: &jobs }, self.context.clock.now());
        self.act(&cron_job, plan).await
    }
}
