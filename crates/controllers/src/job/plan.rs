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
    /// The status with newly finished pods noted, to be written before their finalizers go.
    pub noted: JobStatus,
    pub release: Vec<Arc<Pod>>,
    /// The status with all released pods counted.
    pub counted: JobStatus,
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
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

    let counting = Counting::new(&view, &status);
    backoff.note(&counting.ended);
    let interim = verdict::interim(&view, &status, &counting);
    let mut work = Work::default();
    if interim.is_some() {
        work.delete = view.active.iter().map(|pod| (*pod).clone()).collect();
    } else if view.is_suspended() {
        suspend(&view, &mut status, &mut work, &mut events);
    } else if !view.is_deleting() {
        resume(&view, &mut status, &mut events);
        work = view.work(&counting, backoff);
    }

    let mut noted = counting.noted(&view, status.clone());
    let mut counted = counting.counted(&view, status);
    if let Some(interim) = &interim {
        verdict::set_interim(&mut noted, interim, now);
        verdict::set_interim(&mut counted, interim, now);
        if view.active.is_empty() && view.terminating.is_empty() && !counting.again {
            finish(&mut counted, interim, &mut events, now);
        }
    }
    work.delete.truncate(BURST_MAX);
    let next = work.next.or(deadline(&view, &counted, now));
    let again = counting.again;
    Plan { noted, release: counting.release, counted, create: work.create, delete: work.delete, events, next, again }
}

#[derive(Default)]
struct Work {
    create: Vec<Pod>,
    delete: Vec<Arc<Pod>>,
    next: Next,
}

fn suspend(view: &View<'_>, status: &mut JobStatus, work: &mut Work, events: &mut Vec<(EventType, String, String)>) {
    work.delete = view.active.iter().map(|pod| (*pod).clone()).collect();
    status.start_time = None;
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

fn finish(status: &mut JobStatus, interim: &Interim, events: &mut Vec<(EventType, String, String)>, now: Timestamp) {
    if interim.success {
        verdict::set(status, "Complete", "True", &interim.reason, &interim.message, now);
        status.completion_time = Some(Time(now));
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
    if left > 0 { Next::after_seconds(Some(left)) } else { Next::Settled }
}

impl View<'_> {
    fn work(&self, counting: &Counting, backoff: &Backoff) -> Work {
        let mut work = Work::default();
        let mut active = self.active.clone();
        if self.is_indexed() {
            active = self.drop_duplicates(active, counting, &mut work.delete);
        }
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0) as usize;
        let succeeded = counting.succeeded(self) as usize;
        let want = match self.spec.completions {
            Some(completions) => {
                let open = (completions.max(0) as usize).saturating_sub(succeeded + counting.failed_indexes.len());
                parallelism.min(open)
            }
            // A work queue: once one pod has succeeded the others finish, and no more are made.
            None if succeeded > 0 => active.len().min(parallelism),
            None => parallelism,
        };
        if active.len() > want {
            let surplus = ranking::least_useful_first(&active, self.now, &|_| 0);
            work.delete.extend(surplus.into_iter().take(active.len() - want));
            return work;
        }
        let pending = if self.only_replaces_failed() { self.terminating.len() } else { 0 };
        let missing = want.saturating_sub(active.len() + pending).min(BURST_MAX);
        if missing == 0 {
            return work;
        }
        if !self.is_indexed() || self.spec.backoff_limit_per_index.is_none() {
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
    fn drop_duplicates<'b>(&self, active: Vec<&'b Arc<Pod>>, counting: &Counting, delete: &mut Vec<Arc<Pod>>) -> Vec<&'b Arc<Pod>> {
        let mut seen = Indexes::new();
        let mut kept = Vec::new();
        // The most useful of an index stays.
        for ranked in ranking::least_useful_first(&active, self.now, &|_| 0).into_iter().rev() {
            let index = pod::index(&ranked).filter(|index| *index < self.completions());
            match index {
                Some(index) if !counting.completed.contains(&index) && seen.insert(index) => {
                    kept.extend(active.iter().copied().find(|pod| pod.metadata.uid == ranked.metadata.uid));
                }
                _ => delete.push(ranked),
            }
        }
        kept
    }

    fn create_indexed(&self, missing: usize, active: &[&Arc<Pod>], counting: &Counting, work: &mut Work) {
        let mut busy: Indexes = active.iter().filter_map(|pod| pod::index(pod)).collect();
        if self.only_replaces_failed() {
            busy.extend(self.terminating.iter().filter_map(|pod| pod::index(pod)));
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let is_open = |index: &i32| {
            !busy.contains(index) && !counting.completed.contains(index) && !counting.failed_indexes.contains(index)
        };
        for index in (0..self.completions()).filter(is_open) {
            if work.create.len() == missing {
                return;
            }
            let failures = per_index.then(|| counting.failures_of(index));
            if let Some((counted, ignored)) = failures
                && let Some(ended) = counting.last_failure.get(&index)
            {
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
