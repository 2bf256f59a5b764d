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
    if observed.cron_job.metadata.deletion_timestamp.is_none() {
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
        done.sort_by_key(|job| (started(job).is_none(), started(job), job.metadata.name.clone()));
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
    if spec.suspend == Some(true) {
        return;
    }
    let times = match Schedule::parse(&spec.schedule) {
        Ok(times) => times,
        Err(why) => {
            let text = format!("unparseable schedule: \"{}\" : {why}", spec.schedule);
            return plan.events.push((EventType::Warning, "UnparseableSchedule", text));
        }
    };
    let Some(next) = times.next(now, &zone) else {
        // Of a time that never comes the original finds the first two, and that they are the same.
        let text = format!("invalid schedule: {} : time difference between two schedules is less than 1 second", spec.schedule);
        return plan.events.push((EventType::Warning, "InvalidSchedule", text));
    };
    plan.next = Next::After(next.duration_since(now).unsigned_abs() + Duration::from_millis(100));
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

    /// Minutely unless told otherwise; `created=SECONDS ago`, `last=SECONDS ago`, `deadline=N`, `keep=SUCCESSFUL/FAILED`,
    /// `at=SCHEDULE` with `_` for spaces, a policy, `suspend`, `deleting`.
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
                "keep" => {
                    let (successful, failed) = value.split_once('/').unwrap();
                    spec.successful_jobs_history_limit = successful.parse().ok();
                    spec.failed_jobs_history_limit = failed.parse().ok();
                }
                "at" => spec.schedule = value.replace('_', " "),
                "suspend" => spec.suspend = Some(true),
                "zone" => spec.time_zone = Some(value.into()),
                "deleting" => cron_job.metadata.deletion_timestamp = Some(fixtures::ago(1)),
                policy => spec.concurrency_policy = Some(policy.into()),
            }
        }
        cron_job.spec = Some(spec);
        cron_job.status = Some(status);
        cron_job
    }

    /// Jobs are `name`, running; `name:Complete@SECONDS`, ended, with when it started (or `-`) and, after a slash, when it
    /// completed. They are listed as active unless they end with `!`; `name?` is listed and not there. The time is noon, plus
    /// `seconds`.
    fn plan(text: &str, jobs: &str, seconds: i64) -> Plan {
        let mut cron_job = cron_job(text);
        let mut there = Vec::new();
        for word in jobs.split_whitespace() {
            let (word, listed) = word.strip_suffix('!').map_or((word, true), |word| (word, false));
            let (name, state) = word.split_once(':').unwrap_or((word, ""));
            let mut job = Job::default();
            job.metadata.name = Some(name.trim_end_matches('?').into());
            job.metadata.uid = job.metadata.name.clone();
            if let Some((kind, times)) = state.split_once('@') {
                let condition = JobCondition { type_: kind.into(), status: "True".into(), ..JobCondition::default() };
                let (started, completed) = times.split_once('/').unwrap_or((times, "-"));
                let time = |text: &str| -> Option<Time> { text.parse().ok().map(fixtures::ago) };
                job.status = Some(JobStatus {
                    conditions: Some(vec![condition]),
                    start_time: time(started),
                    completion_time: time(completed),
                    ..JobStatus::default()
                });
            }
            if listed {
                activate(cron_job.status.as_mut().unwrap(), &job);
            }
            if !name.ends_with('?') {
                there.push(Arc::new(job));
            }
        }
        let now = fixtures::now() + jiff::SignedDuration::from_secs(seconds);
        decide(&Observed { cron_job: &cron_job, jobs: &there }, now)
    }

    /// Deletions, creations with how long ago they were due, and events.
    #[track_caller]
    fn check(text: &str, jobs: &str, expected: &str) {
        let plan = plan(text, jobs, 0);
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
        check("created=600 at=30_*_*_*_*", "", ""); // Not due since it was made.
        check("created=7200 at=30_*_*_*_*", "", "+1800");
        check("created=7200 last=1800 at=30_*_*_*_*", "", "");
        check("created=6060", "", "+0 TooManyMissedTimes");
        check("created=5990", "", "+0"); // A hundred are not too many.
        check("created=90000 deadline=30", "", "+0");
        check("created=90000 deadline=6060", "", "+0 TooManyMissedTimes");
        check("created=600 suspend", "", "");
        check("created=600 deleting", "", "");
        check("created=600 zone=Nowhere/None", "", "UnknownTimeZone");
        check("created=600 suspend zone=Nowhere/None", "", "UnknownTimeZone");
        check("created=600 at=every_minute", "", "UnparseableSchedule");
        check("created=600 at=0_0_30_2_*", "", "InvalidSchedule");
        check("created=90000 at=0_14_*_*_* zone=Europe/Paris", "", "+82800"); // One hour east of here.
    }

    #[test]
    fn what_comes_too_late_is_left_out() {
        check("created=7200 at=30_*_*_*_* deadline=3600", "", "+1800");
        check("created=7200 at=30_*_*_*_* deadline=1801", "", "+1800");
        check("created=7200 at=30_*_*_*_* deadline=1799", "", "");
    }

    #[test]
    fn minds_what_still_runs() {
        check("created=60 Allow", "old", "+0");
        check("created=60 Forbid", "old", "JobAlreadyActive");
        check("created=60 Forbid", "old:Complete@50", "+0 SawCompletedJob");
        check("created=60 Forbid", "old?", "+0 MissingJob");
        check("created=60 Replace", "old older", "-old -older +0");
        check("created=60 Replace", "old:Failed@50", "+0 SawCompletedJob");
        check("created=60", "own!", "+0 UnexpectedJob"); // Made by hand, or forgotten.
        check("created=60", "own:Complete@50!", "+0");
        check("created=60 Allow", &format!("c-{}", fixtures::now().as_second() / 60), ""); // It is the one.
    }

    #[test]
    fn keeps_a_history() {
        let many = "a:Complete@500! b:Complete@400! c:Complete@300! d:Complete@200! e:Failed@100! f:Failed@50!";
        check("created=600 last=0", many, "-a -e");
        check("created=600 last=0 keep=1/0", many, "-a -b -c -e -f");
        check("created=600 last=0 keep=9/9", many, "");
        check("created=600 suspend keep=0/9", many, "-a -b -c -d");
        check("created=600 last=0 keep=1/1", "b:Complete@50! a:Complete@50! c:Complete@-!", "-a -b"); // By name; the unstarted last.
    }

    #[test]
    fn the_status_follows_the_jobs() {
        #[track_caller]
        fn check(jobs: &str, active: &str, succeeded: Option<i64>) {
            let status = plan("created=600 last=0", jobs, 0).status;
            let names: Vec<String> = status.active.iter().flatten().filter_map(|reference| reference.name.clone()).collect();
            assert_eq!((names.join(" ").as_str(), status.last_successful_time), (active, succeeded.map(fixtures::ago)));
        }
        check("a b", "a b", None);
        check("a:Complete@50/20 b", "b", Some(20));
        check("a:Complete@50/20 b:Complete@90/80", "", Some(20));
        check("a:Complete@50/20! b:Failed@10", "", Some(20)); // Known or not.
        check("a?", "", None);
        check("a!", "", None); // It is not taken in.
    }

    #[test]
    fn says_what_is_the_matter() {
        #[track_caller]
        fn check(text: &str, jobs: &str, expected: &str) {
            let events = plan(text, jobs, 0).events;
            let told: Vec<String> = events.iter().map(|(kind, reason, text)| format!("{kind:?} {reason}: {text}")).collect();
            assert_eq!(told, [expected]);
        }
        check("created=60 Forbid", "old", "Normal JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid");
        check("last=0", "old:Complete@9", "Normal SawCompletedJob: Saw completed job: old, condition: Complete");
        check("last=0", "old?", "Normal MissingJob: Active job went missing: old");
        check("last=0", "own!", "Warning UnexpectedJob: Saw a job that the controller did not create or forgot: own");
        check("created=60 zone=X/Y", "", "Warning UnknownTimeZone: invalid timeZone: \"X/Y\": unknown time zone X/Y");
        check("created=60 at=x_*_*_*_*", "", "Warning UnparseableSchedule: unparseable schedule: \"x * * * *\" : failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax");
        check("created=99999", "", "Warning TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew");
    }

    #[test]
    fn wakes_for_the_next_time() {
        #[track_caller]
        fn check(text: &str, seconds: i64, expected_millis: Option<u64>) {
            let expected = expected_millis.map_or(Next::Settled, |millis| Next::After(Duration::from_millis(millis)));
            assert_eq!(plan(text, "", seconds).next, expected);
        }
        check("last=0", 0, Some(60_100));
        check("last=0", 59, Some(1_100));
        check("last=0 at=30_*_*_*_*", 0, Some(1_800_100));
        check("last=0 suspend", 0, None);
    }

    #[test]
    fn a_job_tells_its_time() {
        let (at, job) = plan("created=60 zone=America/New_York", "", 0).create.unwrap();
        assert_eq!(job.metadata.name, Some(format!("c-{}", at.as_second() / 60)));
        assert_eq!(job.metadata.annotations.unwrap()[SCHEDULED_ANNOTATION], "2026-03-01T07:00:00-05:00");
        let (_, job) = plan("created=60", "", 0).create.unwrap();
        assert_eq!(job.metadata.annotations.unwrap()[SCHEDULED_ANNOTATION], "2026-03-01T12:00:00Z");
    }
}
