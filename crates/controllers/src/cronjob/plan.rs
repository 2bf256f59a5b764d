//! What a CronJob does next. Pure: the same observation at the same time yields the same plan.

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::schedule::Schedule;
use crate::job::finished;
use crate::owners;
use crate::runner::Next;

const SCHEDULED_ANNOTATION: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth a warning.
const MISSED_MAX: usize = 100;

pub(super) struct Observed<'a> {
    pub cron_job: &'a CronJob,
    pub jobs: &'a [Arc<Job>],
}

#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub status: CronJobStatus,
    pub create: Option<(Timestamp, Job)>,
    pub delete: Vec<Arc<Job>>,
    pub events: Vec<(EventType, &'static str, String)>,
    pub next: Next,
}

pub(super) fn decide(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan {
        status: observed.cron_job.status.clone().unwrap_or_default(),
        create: None,
        delete: Vec::new(),
        events: Vec::new(),
        next: Next::Settled,
    };
    follow_jobs(observed, &mut plan);
    plan.delete = beyond_history(observed);
    let spec = observed.cron_job.spec.as_ref();
    let suspended = spec.and_then(|spec| spec.suspend).unwrap_or(false);
    if observed.cron_job.metadata.deletion_timestamp.is_none() && !suspended {
        schedule(observed, now, &mut plan);
    }
    plan
}

/// Brings `status.active` up to date with the Jobs.
fn follow_jobs(observed: &Observed<'_>, plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in observed.jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let listed = active.iter().position(|reference| reference.uid == job.metadata.uid);
        match (finished::condition(job), listed) {
            (None, None) if job.metadata.deletion_timestamp.is_none() => {
                let text = format!("Saw a job that the controller did not create or forgot: {name}");
                plan.events.push((EventType::Warning, "UnexpectedJob", text));
            }
            (Some(condition), at) => {
                if let Some(at) = at {
                    active.remove(at);
                    let text = format!("Saw completed job: {name}, condition: {}", condition.type_);
                    plan.events.push((EventType::Normal, "SawCompletedJob", text));
                }
                let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
                if condition.type_ == "Complete" && completed > plan.status.last_successful_time {
                    plan.status.last_successful_time = completed;
                }
            }
            _ => {}
        }
    }
    active.retain(|reference| {
        let there = observed.jobs.iter().any(|job| job.metadata.uid == reference.uid);
        if !there {
            let name = reference.name.as_deref().unwrap_or_default();
            plan.events.push((EventType::Normal, "MissingJob", format!("Active job went missing: {name}")));
        }
        there
    });
    plan.status.active = (!active.is_empty()).then_some(active);
}

fn beyond_history(observed: &Observed<'_>) -> Vec<Arc<Job>> {
    let spec = observed.cron_job.spec.clone().unwrap_or_default();
    let mut doomed = Vec::new();
    for (kind, limit) in [("Complete", spec.successful_jobs_history_limit.unwrap_or(3)), ("Failed", spec.failed_jobs_history_limit.unwrap_or(1))] {
        let mut done: Vec<&Arc<Job>> =
            observed.jobs.iter().filter(|job| finished::condition(job).is_some_and(|condition| condition.type_ == kind)).collect();
        let started = |job: &Job| job.status.as_ref().and_then(|status| status.start_time.clone());
        done.sort_by_key(|job| (started(job), job.metadata.name.clone()));
        let surplus = done.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        doomed.extend(done.into_iter().take(surplus).filter(|job| job.metadata.deletion_timestamp.is_none()).cloned());
    }
    doomed
}

fn schedule(observed: &Observed<'_>, now: Timestamp, plan: &mut Plan) {
    let Some(spec) = &observed.cron_job.spec else { return };
    let zone = match spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(_) => {
                let text = format!("invalid timeZone: \"{name}\": unknown time zone {name}");
                return plan.events.push((EventType::Warning, "UnknownTimeZone", text));
            }
        },
    };
    let times = match Schedule::parse(&spec.schedule) {
        Ok(times) => times,
        Err(why) => {
            let text = format!("unparseable schedule: \"{}\" : {why}", spec.schedule);
            return plan.events.push((EventType::Warning, "UnparseableSchedule", text));
        }
    };
    if let Some(next) = times.next(now, &zone) {
        let wait = next.duration_since(now).unsigned_abs();
        plan.next = Next::After(wait + Duration::from_millis(100));
    }
    let deadline = spec.starting_deadline_seconds;
    let Some(at) = due(observed, &times, &zone, deadline, now, plan) else { return };
    if deadline.is_some_and(|deadline| at.as_second() + deadline < now.as_second()) {
        let text = format!("Missed scheduled time to start a job: {}", at.strftime("%a, %d %b %Y %H:%M:%S +0000"));
        return plan.events.push((EventType::Warning, "MissSchedule", text));
    }
    let job = new_job(observed.cron_job, at, &zone);
    let active: Vec<&Arc<Job>> = observed
        .jobs
        .iter()
        .filter(|job| plan.status.active.iter().flatten().any(|reference| reference.uid == job.metadata.uid))
        .collect();
    if active.iter().any(|known| known.metadata.name == job.metadata.name) {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.events.push((EventType::Normal, "JobAlreadyActive", text.into()));
        }
        Some("Replace") => {
            plan.delete.extend(active.into_iter().cloned());
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some((at, job));
}

/// The latest time that has come and was not served yet.
fn due(observed: &Observed<'_>, times: &Schedule, zone: &TimeZone, deadline: Option<i64>, now: Timestamp, plan: &mut Plan) -> Option<Timestamp> {
    let created = observed.cron_job.metadata.creation_timestamp.as_ref();
    let last = observed.cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let mut earliest = last.or(created)?.0;
    if let Some(deadline) = deadline {
        let window = now.checked_sub(jiff::SignedDuration::from_secs(deadline)).unwrap_or(earliest);
        earliest = earliest.max(window);
    }
    let latest = times.latest(earliest, now, zone)?;
    let missed = std::iter::successors(times.next(earliest, zone), |at| times.next(*at, zone));
    if missed.take_while(|at| *at <= now).take(MISSED_MAX + 1).count() > MISSED_MAX {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push((EventType::Warning, "TooManyMissedTimes", text.into()));
    }
    Some(latest)
}

fn new_job(cron_job: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = cron_job.spec.as_ref().map(|spec| spec.job_template.clone()).unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    let stamp = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    annotations.insert(SCHEDULED_ANNOTATION.into(), stamp.replace("+00:00", "Z"));
    let name = cron_job.metadata.name.as_deref().unwrap_or_default();
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", at.as_second() / 60)),
            namespace: cron_job.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_reference(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

pub(super) fn activate(status: &mut CronJobStatus, job: &Job) {
    let active = status.active.get_or_insert_default();
    if !active.iter().any(|reference| reference.uid == job.metadata.uid) {
        active.push(ObjectReference { field_path: None, ..client::object_ref(job) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use k8s_openapi::api::batch::v1::{CronJobSpec, JobCondition, JobStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    /// Minutely unless told otherwise; `created=SECONDS ago`, `last=SECONDS ago`, `deadline=N`, a policy, `suspend`.
    fn cron_job(text: &str) -> CronJob {
        let mut cron_job = CronJob::default();
        let mut spec = CronJobSpec { schedule: "* * * * *".into(), ..CronJobSpec::default() };
        let mut status = CronJobStatus::default();
        cron_job.metadata.name = Some("c".into());
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, "0"));
            match name {
                "created" => cron_job.metadata.creation_timestamp = Some(fixtures::ago(value.parse().unwrap())),
                "last" => status.last_schedule_time = Some(fixtures::ago(value.parse().unwrap())),
                "deadline" => spec.starting_deadline_seconds = value.parse().ok(),
                "suspend" => spec.suspend = Some(true),
                "zone" => spec.time_zone = Some(value.into()),
                policy => spec.concurrency_policy = Some(policy.into()),
            }
        }
        cron_job.spec = Some(spec);
        cron_job.status = Some(status);
        cron_job
    }

    /// Jobs are `name`, running and known, or `name:Complete@started ago`.
    #[track_caller]
    fn check(text: &str, jobs: &str, expected: &str) {
        let mut cron_job = cron_job(text);
        let jobs: Vec<Arc<Job>> = jobs
            .split_whitespace()
            .map(|word| {
                let (name, state) = word.split_once(':').unwrap_or((word, ""));
                let mut job = Job::default();
                job.metadata.name = Some(name.into());
                job.metadata.uid = Some(name.into());
                if let Some((kind, ago)) = state.split_once('@') {
                    let condition = JobCondition { type_: kind.into(), status: "True".into(), ..JobCondition::default() };
                    let start_time: Option<Time> = Some(fixtures::ago(ago.parse().unwrap()));
                    job.status = Some(JobStatus { conditions: Some(vec![condition]), start_time, ..JobStatus::default() });
                } else {
                    activate(cron_job.status.as_mut().unwrap(), &job);
                }
                Arc::new(job)
            })
            .collect();
        let plan = decide(&Observed { cron_job: &cron_job, jobs: &jobs }, fixtures::now());
        let mut steps: Vec<String> = plan.delete.iter().map(|job| format!("-{}", job.metadata.name.as_deref().unwrap())).collect();
        steps.extend(plan.create.iter().map(|(at, _)| format!("+{}", fixtures::now().as_second() - at.as_second())));
        steps.extend(plan.events.iter().map(|(_, reason, _)| (*reason).to_owned()));
        assert_eq!(steps.join(" "), expected);
    }

    #[test]
    fn serves_the_latest_time_that_is_due() {
        check("created=10", "", "+0"); // It is exactly noon.
        check("created=600 last=60", "", "+0");
        check("created=600 last=0", "", "");
        check("created=600 last=300", "", "+0"); // Four were missed; the latest is made up for.
        check("created=90000", "", "+0 TooManyMissedTimes");
        check("created=90000 deadline=30", "", "+0");
        check("created=600 suspend", "", "");
        check("created=600 zone=Nowhere/None", "", "UnknownTimeZone");
    }

    #[test]
    fn minds_what_still_runs() {
        check("created=60 Allow", "old", "+0");
        check("created=60 Forbid", "old", "JobAlreadyActive");
        check("created=60 Replace", "old", "-old +0");
    }

    #[test]
    fn keeps_a_history() {
        let many = "a:Complete@500 b:Complete@400 c:Complete@300 d:Complete@200 e:Failed@100 f:Failed@50";
        check("created=600 last=0", many, "-a -e");
    }
}
