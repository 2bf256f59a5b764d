//! What a Job does next. Pure but for `Backoff`, which is handed in: the same observation yields the same plan.

mod counting;
mod verdict;

use std::sync::Arc;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::indexes::{self, Indexes};
use super::{normal, pod, warning};
use crate::pods;
use crate::replicaset::ranking;
use crate::runner::Next;
use counting::Counting;
use verdict::Interim;

/// Pods made or deleted in one round, and pods counted in one round.
const BURST_MAX: usize = 500;
const BACKOFF_MIN_SECONDS: i64 = 10;
const BACKOFF_MAX_SECONDS: i64 = 600;

pub(super) struct Observed<'a> {
    pub job: &'a Job,
    pub pods: &'a [Arc<Pod>],
}

#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// Not wanted any more: let go of first, so that they count for nothing, then deleted.
    pub withdraw: Vec<Arc<Pod>>,
    /// To be deleted because the Job is over; they still count.
    pub delete: Vec<Arc<Pod>>,
    /// The status with newly finished pods noted, to be written before their finalizers go.
    pub noted: JobStatus,
    pub release: Vec<Arc<Pod>>,
    /// The status with all released pods counted.
    pub counted: JobStatus,
    pub create: Vec<Pod>,
    pub events: Vec<(EventType, String, String)>,
    pub next: Next,
    /// More pods ended than one round may count.
    pub again: bool,
}

/// Failures in a row, and when the last of them happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    fn note(&mut self, ended: &[(Timestamp, bool)]) {
        let mut ended = ended.to_vec();
        ended.sort();
        for (at, succeeded) in ended {
            if succeeded {
                *self = Backoff::default();
            } else {
                self.failures += 1;
                self.last = self.last.max(Some(at));
            }
        }
    }

    fn seconds_left(&self, now: Timestamp) -> i64 {
        self.last.map_or(0, |last| delay_seconds(self.failures) - (now.as_second() - last.as_second()))
    }
}

fn delay_seconds(failures: u32) -> i64 {
    match failures.checked_sub(1) {
        None => 0,
        Some(doublings) => (BACKOFF_MIN_SECONDS << doublings.min(20)).min(BACKOFF_MAX_SECONDS),
    }
}

/// The Job with its pods sorted out.
struct View<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    active: Vec<&'a Arc<Pod>>,
    /// On their way out and not ended yet.
    terminating: Vec<&'a Arc<Pod>>,
    now: Timestamp,
}

impl<'a> View<'a> {
    fn new(observed: &Observed<'a>, spec: &'a JobSpec, now: Timestamp) -> Self {
        let pods = observed.pods;
        let active = pods.iter().filter(|pod| pods::is_active(pod)).collect();
        let terminating = pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod)).collect();
        View { job: observed.job, spec, pods, active, terminating, now }
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(i32::MAX)
    }

    /// Of an indexed Job only pods of its indexes count.
    fn has_valid_index(&self, pod: &Pod) -> bool {
        !self.is_indexed() || pod::index(pod).is_some_and(|index| index < self.completions())
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend.unwrap_or(false)
    }

    fn only_replaces_failed(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }

    fn is_deleting(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }
}

pub(super) fn decide(observed: &Observed<'_>, backoff: &mut Backoff, now: Timestamp) -> Plan {
    let empty = JobSpec::default();
    let spec = observed.job.spec.as_ref().unwrap_or(&empty);
    let view = View::new(observed, spec, now);
    let mut status = view.job.status.clone().unwrap_or_default();
    let mut events = Vec::new();
    if status.start_time.is_none() && !view.is_suspended() {
        status.start_time = Some(Time(now));
    }

    let mut counting = Counting::new(&view, &status);
    let interim = verdict::interim(&view, &status, &counting);
    let release = counting.release(&view, interim.as_ref());
    backoff.note(&release.ended);
    let mut work = Work::default();
    if let Some(interim) = &interim {
        let ended = view.active.iter().map(|pod| (*pod).clone()).collect();
        // What is in the way of a full count has not failed.
        if interim.is_by_count() { work.withdraw = ended } else { work.delete = ended }
    } else if view.is_deleting() {
        // Whoever deletes it sees to its pods.
    } else if view.is_suspended() {
        work.withdraw = view.active.iter().map(|pod| (*pod).clone()).collect();
        suspend(&view, &mut status, &mut events);
    } else {
        resume(&view, &mut status, &mut events);
        work = view.work(&counting, backoff);
    }
    let goes: Vec<Arc<Pod>> = work.withdraw.iter().chain(&work.delete).cloned().collect();
    counting::count_running(&mut status, &view, &goes);

    let mut noted = counting.noted(&view, status.clone());
    let mut counted = counting.counted(&view, status);
    if let Some(interim) = &interim {
        verdict::set_interim(&mut noted, interim, now);
        verdict::set_interim(&mut counted, interim, now);
        if view.active.is_empty() && view.terminating.is_empty() && !release.again {
            finish(&view, &mut counted, interim, &mut events);
        }
    }
    let next = work.next.or(deadline(&view, &counted, now));
    Plan {
        withdraw: work.withdraw,
        delete: work.delete,
        noted,
        release: release.pods,
        counted,
        create: work.create,
        events,
        next,
        again: release.again,
    }
}

#[derive(Default)]
struct Work {
    create: Vec<Pod>,
    withdraw: Vec<Arc<Pod>>,
    delete: Vec<Arc<Pod>>,
    next: Next,
}

fn suspend(view: &View<'_>, status: &mut JobStatus, events: &mut Vec<(EventType, String, String)>) {
    if verdict::set(status, "Suspended", "True", "JobSuspended", "Job suspended", view.now) {
        events.push(normal("Suspended", "Job suspended"));
    }
}

fn resume(view: &View<'_>, status: &mut JobStatus, events: &mut Vec<(EventType, String, String)>) {
    if verdict::is_true(status, "Suspended") {
        verdict::set(status, "Suspended", "False", "JobResumed", "Job resumed", view.now);
        status.start_time = Some(Time(view.now));
        events.push(normal("Resumed", "Job resumed"));
    }
}

fn finish(view: &View<'_>, status: &mut JobStatus, interim: &Interim, events: &mut Vec<(EventType, String, String)>) {
    let now = view.now;
    if interim.success {
        verdict::set(status, "Complete", "True", &interim.reason, &interim.message, now);
        status.completion_time = Some(Time(now));
        if view.spec.completions.is_some_and(|completions| status.succeeded.unwrap_or(0) > completions) {
            let text = "Too many succeeded pods running after completion count reached";
            events.push(warning("TooManySucceededPods", text.to_owned()));
        }
        events.push(normal("Completed", "Job completed"));
    } else {
        verdict::set(status, "Failed", "True", &interim.reason, &interim.message, now);
        events.push(warning(&interim.reason, interim.message.clone()));
    }
}

/// When `activeDeadlineSeconds` runs out.
fn deadline(view: &View<'_>, status: &JobStatus, now: Timestamp) -> Next {
    let (Some(limit), Some(start)) = (view.spec.active_deadline_seconds, &status.start_time) else { return Next::Settled };
    let left = start.0.as_second() + limit - now.as_second();
    if left > 0 && !view.is_suspended() { Next::after_seconds(Some(left)) } else { Next::Settled }
}

impl View<'_> {
    fn work(&self, counting: &Counting, backoff: &Backoff) -> Work {
        let mut work = Work::default();
        let mut active = self.active.clone();
        if self.is_indexed() {
            active = self.drop_duplicates(active, counting, &mut work.withdraw);
        }
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0) as usize;
        let succeeded = counting.succeeded(self) as usize;
        let want = match self.spec.completions {
            Some(completions) => {
                let open = (completions.max(0) as usize).saturating_sub(succeeded + counting.failed_indexes.len());
                parallelism.min(open)
            }
            // A work queue: once one pod has succeeded the others finish, and no more are made.
            None if succeeded > 0 => active.len(),
            None => parallelism,
        };
        if active.len() > want {
            let surplus = ranking::youngest_first(&active);
            work.withdraw.extend(surplus.into_iter().take(active.len() - want));
            work.withdraw.truncate(BURST_MAX);
        }
        // One thing at a time: what goes may make room for what comes.
        if !work.withdraw.is_empty() {
            return work;
        }
        let pending = if self.only_replaces_failed() { self.terminating.len() } else { 0 };
        let missing = want.saturating_sub(active.len() + pending).min(BURST_MAX);
        if missing == 0 {
            return work;
        }
        if self.spec.backoff_limit_per_index.is_none() {
            let wait = backoff.seconds_left(self.now);
            if wait > 0 {
                work.next = Next::after_seconds(Some(wait));
                return work;
            }
        }
        if self.is_indexed() {
            self.create_indexed(missing, &active, counting, &mut work);
        } else {
            work.create = vec![pod::new_pod(self.job, None, None); missing];
        }
        work
    }

    /// One active pod per index, and none beyond the last index.
    fn drop_duplicates<'b>(&self, active: Vec<&'b Arc<Pod>>, counting: &Counting, surplus: &mut Vec<Arc<Pod>>) -> Vec<&'b Arc<Pod>> {
        let mut seen = Indexes::new();
        let mut kept = Vec::new();
        // The most useful of an index stays.
        for ranked in ranking::youngest_first(&active).into_iter().rev() {
            let index = pod::index(&ranked).filter(|_| self.has_valid_index(&ranked));
            match index {
                Some(index) if !counting.completed.contains(&index) && seen.insert(index) => {
                    kept.extend(active.iter().copied().find(|pod| pod.metadata.uid == ranked.metadata.uid));
                }
                _ => surplus.push(ranked),
            }
        }
        kept
    }

    fn create_indexed(&self, missing: usize, active: &[&Arc<Pod>], counting: &Counting, work: &mut Work) {
        let mut busy: Indexes = active.iter().filter_map(|pod| pod::index(pod)).collect();
        if self.only_replaces_failed() {
            busy.extend(self.terminating.iter().filter_map(|pod| pod::index(pod)));
        }
        let is_open = |index: &i32| {
            !busy.contains(index) && !counting.completed.contains(index) && !counting.failed_indexes.contains(index)
        };
        let per_index = self.spec.backoff_limit_per_index.is_some();
        for index in (0..self.completions()).filter(is_open).take(missing) {
            let failures = per_index.then(|| counting.failures_of(self, index));
            if let (Some((counted, ignored)), Some(last)) = (failures, counting.delayed.get(&index)) {
                let ended = pod::finish_time(last, self.now);
                let failures = u32::try_from(counted + ignored).unwrap_or(0);
                let wait = delay_seconds(failures) - (self.now.as_second() - ended.as_second());
                if wait > 0 {
                    work.next = work.next.or(Next::after_seconds(Some(wait)));
                    continue;
                }
            }
            work.create.push(pod::new_pod(self.job, Some(index), failures));
        }
    }
}

fn format_indexes(set: &Indexes) -> Option<String> {
    let text = indexes::format(set);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
