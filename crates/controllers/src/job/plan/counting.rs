//! Which pods ended, and what that makes of the counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::{BURST_MAX, View, format_indexes};
use crate::job::failure_policy::{self, Verdict};
use crate::job::indexes::{self, Indexes};
use crate::job::pod;
use crate::pods;

#[derive(Default)]
pub(super) struct Counting {
    /// Uids noted whose pods still carry their finalizer, or will when the status is written.
    uncounted_succeeded: BTreeSet<String>,
    uncounted_failed: BTreeSet<String>,
    /// Noted before, and released since.
    newly_succeeded: i32,
    newly_failed: i32,
    pub release: Vec<Arc<Pod>>,
    pub completed: Indexes,
    pub failed_indexes: Indexes,
    /// By index: counted and ignored failures, known from its last failed pod.
    failures: BTreeMap<i32, (i32, i32)>,
    pub last_failure: BTreeMap<i32, Timestamp>,
    /// Pods seen to end in this round: when, and whether well.
    pub ended: Vec<(Timestamp, bool)>,
    /// Why the failure policy wants the Job to fail.
    pub fail_job: Option<String>,
    pub again: bool,
    base_succeeded: i32,
    base_failed: i32,
}

impl Counting {
    pub fn new(view: &View<'_>, status: &JobStatus) -> Self {
        let completions = view.completions();
        let mut counting = Counting {
            base_succeeded: status.succeeded.unwrap_or(0),
            base_failed: status.failed.unwrap_or(0),
            completed: indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions),
            failed_indexes: indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions),
            ..Counting::default()
        };
        counting.settle_noted(view, status);
        let kept = counting.last_failures(view);
        for pod in view.pods.iter().filter(|pod| pod::is_tracked(pod)) {
            if counting.release.len() >= BURST_MAX {
                counting.again = true;
                break;
            }
            counting.look_at(view, pod, &kept);
        }
        counting
    }

    /// What was noted in an earlier round: counted once its pod is released or gone.
    fn settle_noted(&mut self, view: &View<'_>, status: &JobStatus) {
        let tracked: BTreeMap<&str, &Arc<Pod>> = view
            .pods
            .iter()
            .filter(|pod| pod::is_tracked(pod))
            .map(|pod| (pod.metadata.uid.as_deref().unwrap_or_default(), pod))
            .collect();
        let noted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        for uid in noted.succeeded.into_iter().flatten() {
            match tracked.get(uid.as_str()) {
                Some(_) => drop(self.uncounted_succeeded.insert(uid)),
                None => self.newly_succeeded += 1,
            }
        }
        for uid in noted.failed.into_iter().flatten() {
            match tracked.get(uid.as_str()) {
                Some(_) => drop(self.uncounted_failed.insert(uid)),
                None => self.newly_failed += 1,
            }
        }
    }

    /// With a backoff per index, the last failed pod of each open index stays until it is replaced: it is
    /// what remembers how often the index has failed.
    fn last_failures(&mut self, view: &View<'_>) -> BTreeSet<String> {
        let Some(limit) = view.spec.backoff_limit_per_index.filter(|_| view.is_indexed()) else { return BTreeSet::new() };
        let mut last: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        let failures = |pod: &Pod| pod::number(pod, pod::FAILURE_COUNT) + pod::number(pod, pod::IGNORED_FAILURE_COUNT);
        for pod in view.pods.iter().filter(|pod| pod::is_tracked(pod) && pod::is_failed(pod, view.only_replaces_failed())) {
            let Some(index) = pod::index(pod).filter(|index| *index < view.completions()) else { continue };
            let newest = last.entry(index).or_insert(pod);
            if failures(pod) > failures(newest) {
                *newest = pod;
            }
        }
        let replaced: Indexes = view.active.iter().filter_map(|pod| pod::index(pod)).collect();
        let mut kept = BTreeSet::new();
        for (index, pod) in last {
            let verdict = failure_policy::judge(view.spec.pod_failure_policy.as_ref(), pod);
            let ignored = verdict == Verdict::Ignore;
            let counts = (
                pod::number(pod, pod::FAILURE_COUNT) + i32::from(!ignored),
                pod::number(pod, pod::IGNORED_FAILURE_COUNT) + i32::from(ignored),
            );
            if counts.0 > limit || verdict == Verdict::FailIndex {
                self.failed_indexes.insert(index);
                continue;
            }
            self.failures.insert(index, counts);
            self.last_failure.insert(index, pod::finish_time(pod, view.now));
            if !replaced.contains(&index) && !view.is_suspended() && !view.is_deleting() {
                kept.insert(pod.metadata.uid.clone().unwrap_or_default());
            }
        }
        kept
    }

    fn look_at(&mut self, view: &View<'_>, pod: &Arc<Pod>, kept: &BTreeSet<String>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if self.uncounted_succeeded.contains(&uid) || self.uncounted_failed.contains(&uid) {
            self.release.push(pod.clone());
            return;
        }
        if pod::is_succeeded(pod) {
            self.ended.push((pod::finish_time(pod, view.now), true));
            if !view.is_indexed() {
                self.uncounted_succeeded.insert(uid);
            } else if let Some(index) = pod::index(pod).filter(|index| *index < view.completions()) {
                self.completed.insert(index);
                self.failed_indexes.remove(&index);
            }
            self.release.push(pod.clone());
        } else if pod::is_failed(pod, view.only_replaces_failed()) {
            let verdict = failure_policy::judge(view.spec.pod_failure_policy.as_ref(), pod);
            if let Verdict::FailJob(why) = &verdict {
                self.fail_job.get_or_insert_with(|| why.clone());
            }
            if kept.contains(&uid) && self.fail_job.is_none() {
                return;
            }
            self.ended.push((pod::finish_time(pod, view.now), false));
            if verdict != Verdict::Ignore {
                self.uncounted_failed.insert(uid);
            }
            self.release.push(pod.clone());
        } else if view.is_deleting() && pods::is_terminating(pod) {
            self.release.push(pod.clone());
        }
    }

    pub fn failures_of(&self, index: i32) -> (i32, i32) {
        self.failures.get(&index).copied().unwrap_or((0, 0))
    }

    /// Including those that are noted and not counted yet.
    pub fn succeeded(&self, view: &View<'_>) -> i32 {
        if view.is_indexed() {
            return self.completed.len() as i32;
        }
        self.base_succeeded + self.newly_succeeded + self.uncounted_succeeded.len() as i32
    }

    pub fn failed(&self) -> i32 {
        self.base_failed + self.newly_failed + self.uncounted_failed.len() as i32
    }

    pub fn noted(&self, view: &View<'_>, status: JobStatus) -> JobStatus {
        let list = |uids: &BTreeSet<String>| (!uids.is_empty()).then(|| uids.iter().cloned().collect());
        let uncounted = UncountedTerminatedPods {
            succeeded: list(&self.uncounted_succeeded),
            failed: list(&self.uncounted_failed),
        };
        let succeeded = self.base_succeeded + self.newly_succeeded;
        self.fill(view, status, succeeded, self.base_failed + self.newly_failed, uncounted)
    }

    pub fn counted(&self, view: &View<'_>, status: JobStatus) -> JobStatus {
        self.fill(view, status, self.succeeded(view), self.failed(), UncountedTerminatedPods::default())
    }

    fn fill(&self, view: &View<'_>, mut status: JobStatus, succeeded: i32, failed: i32, uncounted: UncountedTerminatedPods) -> JobStatus {
        let nonzero = |count: i32| (count != 0).then_some(count);
        let succeeded = if view.is_indexed() { self.completed.len() as i32 } else { succeeded };
        status.active = nonzero(view.active.len() as i32);
        status.ready = Some(view.active.iter().filter(|pod| pods::is_ready(pod)).count() as i32);
        status.terminating = Some(view.terminating.len() as i32);
        status.succeeded = nonzero(succeeded);
        status.failed = nonzero(failed);
        status.uncounted_terminated_pods = Some(uncounted);
        if view.is_indexed() {
            status.completed_indexes = format_indexes(&self.completed);
            if view.spec.backoff_limit_per_index.is_some() {
                status.failed_indexes = Some(format_indexes(&self.failed_indexes).unwrap_or_default());
            }
        }
        status
    }
}
