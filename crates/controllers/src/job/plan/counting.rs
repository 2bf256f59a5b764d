//! Which pods ended, and what that makes of the counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::verdict::Interim;
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
    /// Ended, tracked, and noted nowhere. Pods without a valid index of an indexed Job are in neither.
    fresh_succeeded: Vec<Arc<Pod>>,
    fresh_failed: Vec<Arc<Pod>>,
    pub completed: Indexes,
    pub failed_indexes: Indexes,
    /// With a backoff per index: the pod that remembers how often its index has failed. It stays until it is replaced.
    pub delayed: BTreeMap<i32, Arc<Pod>>,
    /// Why the failure policy wants the Job to fail.
    pub fail_job: Option<String>,
    base_succeeded: i32,
    base_failed: i32,
}

/// What a round lets go of.
#[derive(Default)]
pub(super) struct Release {
    pub pods: Vec<Arc<Pod>>,
    /// Pods seen to end in this round: when, and whether well.
    pub ended: Vec<(Timestamp, bool)>,
    /// More ended than one round may count.
    pub again: bool,
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
        for pod in view.pods.iter().filter(|pod| pod::is_tracked(pod)) {
            counting.look_at(view, pod);
        }
        if view.spec.backoff_limit_per_index.is_some() && view.is_indexed() {
            counting.find_delayed(view);
        }
        counting
    }

    /// What was noted in an earlier round: counted once its pod is released or gone.
    fn settle_noted(&mut self, view: &View<'_>, status: &JobStatus) {
        let tracked: BTreeSet<&str> =
            view.pods.iter().filter(|pod| pod::is_tracked(pod)).filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        let noted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        for uid in noted.succeeded.into_iter().flatten() {
            match tracked.contains(uid.as_str()) {
                true => drop(self.uncounted_succeeded.insert(uid)),
                false => self.newly_succeeded += 1,
            }
        }
        for uid in noted.failed.into_iter().flatten() {
            match tracked.contains(uid.as_str()) {
                true => drop(self.uncounted_failed.insert(uid)),
                false => self.newly_failed += 1,
            }
        }
    }

    fn look_at(&mut self, view: &View<'_>, pod: &Arc<Pod>) {
        let failed = pod::is_failed(pod, view.only_replaces_failed());
        let verdict = failed.then(|| failure_policy::judge(view.spec.pod_failure_policy.as_ref(), pod));
        if let Some(Verdict::FailJob(why)) = &verdict {
            self.fail_job.get_or_insert_with(|| why.clone());
        }
        if !view.has_valid_index(pod) {
            return;
        }
        let index = pod::index(pod).filter(|_| view.is_indexed());
        if let (Some(index), Some(verdict), Some(limit)) = (index, &verdict, view.spec.backoff_limit_per_index) {
            let counts = *verdict != Verdict::Ignore && pod::number(pod, pod::FAILURE_COUNT) >= limit;
            if *verdict == Verdict::FailIndex || counts {
                self.failed_indexes.insert(index);
            }
        }
        if pod::is_succeeded(pod) {
            self.completed.extend(index);
            if !self.is_noted(pod) {
                self.fresh_succeeded.push(pod.clone());
            }
        } else if failed && !self.is_noted(pod) {
            self.fresh_failed.push(pod.clone());
        }
    }

    fn find_delayed(&mut self, view: &View<'_>) {
        let active: Indexes = view.active.iter().filter_map(|pod| pod::index(pod)).collect();
        let failed = view.pods.iter().filter(|pod| pod::is_tracked(pod) && pod::is_failed(pod, view.only_replaces_failed()));
        for pod in failed.filter(|pod| view.has_valid_index(pod)) {
            let Some(index) = pod::index(pod) else { continue };
            if self.completed.contains(&index) || self.failed_indexes.contains(&index) || active.contains(&index) {
                continue;
            }
            let knows_more = |known: &Arc<Pod>| {
                pod::failures(known) <= pod::failures(pod) && pod::finish_time(known, view.now) <= pod::finish_time(pod, view.now)
            };
            if self.delayed.get(&index).is_none_or(knows_more) {
                self.delayed.insert(index, pod.clone());
            }
        }
    }

    fn is_noted(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.uncounted_succeeded.contains(uid) || self.uncounted_failed.contains(uid)
    }

    /// Notes what may go now. Once the Job has ended everything may; if it has failed, what still ran has failed with it.
    pub fn release(&mut self, view: &View<'_>, end: Option<&Interim>) -> Release {
        let mut release = Release::default();
        let mut tracked: Vec<&Arc<Pod>> = view.pods.iter().filter(|pod| pod::is_tracked(pod)).collect();
        if view.is_indexed() {
            tracked.sort_by_key(|pod| pod::index(pod));
        }
        for pod in tracked {
            if release.pods.len() >= BURST_MAX {
                release.again = true;
                break;
            }
            let failed = pod::is_failed(pod, view.only_replaces_failed());
            let may_go = view.is_deleting() || end.is_some() || pod::is_succeeded(pod) || failed && !self.is_delayed(pod);
            if !may_go {
                continue;
            }
            release.pods.push(pod.clone());
            if self.is_noted(pod) || !view.has_valid_index(pod) {
                continue;
            }
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if pod::is_succeeded(pod) {
                release.ended.push((pod::finish_time(pod, view.now), true));
                if !view.is_indexed() {
                    self.uncounted_succeeded.insert(uid);
                }
            } else if failed || end.is_some_and(|end| !end.success) {
                release.ended.push((pod::finish_time(pod, view.now), false));
                if failure_policy::judge(view.spec.pod_failure_policy.as_ref(), pod) != Verdict::Ignore {
                    self.uncounted_failed.insert(uid);
                }
            }
        }
        self.fresh_succeeded.clear();
        self.fresh_failed.clear();
        release
    }

    fn is_delayed(&self, pod: &Pod) -> bool {
        pod::index(pod).and_then(|index| self.delayed.get(&index)).is_some_and(|held| held.metadata.uid == pod.metadata.uid)
    }

    /// What the replacement of an index's last failed pod is to remember: counted and ignored failures.
    pub fn failures_of(&self, view: &View<'_>, index: i32) -> (i32, i32) {
        let Some(pod) = self.delayed.get(&index) else { return (0, 0) };
        let ignored = failure_policy::judge(view.spec.pod_failure_policy.as_ref(), pod) == Verdict::Ignore;
        (
            pod::number(pod, pod::FAILURE_COUNT) + i32::from(!ignored),
            pod::number(pod, pod::IGNORED_FAILURE_COUNT) + i32::from(ignored),
        )
    }

    /// Including those that are not counted yet, and before `release` those that are not noted either.
    pub fn succeeded(&self, view: &View<'_>) -> i32 {
        if view.is_indexed() {
            return self.completed.len() as i32;
        }
        self.base_succeeded + self.newly_succeeded + (self.uncounted_succeeded.len() + self.fresh_succeeded.len()) as i32
    }

    pub fn failed(&self, view: &View<'_>) -> i32 {
        let policy = view.spec.pod_failure_policy.as_ref();
        let fresh = self.fresh_failed.iter().filter(|pod| failure_policy::judge(policy, pod) != Verdict::Ignore).count();
        self.base_failed + self.newly_failed + (self.uncounted_failed.len() + fresh) as i32
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
        self.fill(view, status, self.succeeded(view), self.failed(view), UncountedTerminatedPods::default())
    }

    fn fill(&self, view: &View<'_>, mut status: JobStatus, succeeded: i32, failed: i32, uncounted: UncountedTerminatedPods) -> JobStatus {
        let succeeded = if view.is_indexed() { self.completed.len() as i32 } else { succeeded };
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

/// How many run once `deleted` are on their way out.
pub(super) fn count_running(status: &mut JobStatus, view: &View<'_>, deleted: &[Arc<Pod>]) {
    let stays = |pod: &&&Arc<Pod>| !deleted.iter().any(|gone| gone.metadata.uid == pod.metadata.uid);
    let staying: Vec<_> = view.active.iter().filter(stays).collect();
    status.active = nonzero(staying.len() as i32);
    status.ready = Some(staying.iter().filter(|pod| pods::is_ready(pod)).count() as i32);
    status.terminating = Some((view.terminating.len() + view.active.len() - staying.len()) as i32);
}

fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}
