//! What a StatefulSet does next. Pure: the same observation always yields the same steps.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::{identity, is_healthy};
use crate::pods;
use crate::proportion::{Round, of_total};
use crate::runner::Next;

const BATCH_MAX: usize = 500;

pub(super) struct Observed<'a> {
    pub set: &'a StatefulSet,
    pub pods: &'a [Arc<Pod>],
    /// Names of revisions: what pods had before the update, and what they are to have.
    pub current: &'a str,
    pub current_template: &'a PodTemplateSpec,
    pub update: &'a str,
    pub collisions: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Create(Box<Pod>),
    Delete(Arc<Pod>),
    /// Somebody changed what makes the pod one of the set's.
    Repair(Box<Pod>),
    /// A pending pod whose claims may be missing.
    Claims { pod: Arc<Pod> },
    OwnClaims { pod: Arc<Pod>, condemned: bool },
}

#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// Steps of one batch may be taken at once; a batch that fails stops those after it.
    pub batches: Vec<Vec<Step>>,
    pub status: StatefulSetStatus,
    pub next: Next,
}

struct View<'a> {
    observed: &'a Observed<'a>,
    spec: &'a StatefulSetSpec,
    now: Timestamp,
    min_ready_seconds: i32,
    ordered: bool,
    /// By ordinal from the start.
    replicas: Vec<Option<Arc<Pod>>>,
    /// Pods beyond, highest first.
    condemned: Vec<Arc<Pod>>,
}

pub(super) fn decide(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let empty = StatefulSetSpec::default();
    let spec = observed.set.spec.as_ref().unwrap_or(&empty);
    let view = View::new(observed, spec, now);
    let mut steps = Vec::new();
    if observed.set.metadata.deletion_timestamp.is_none() {
        view.decide(&mut steps);
    }
    let waits = observed.pods.iter().filter_map(|pod| pods::seconds_until_available(pod, view.min_ready_seconds, now));
    let next = Next::after_seconds(waits.min());
    let status = view.status();
    let batches = if view.ordered { steps.into_iter().map(|step| vec![step]).collect() } else { slow_start(steps) };
    Plan { batches, status, next }
}

/// Batches of 1, 2, 4, ...: what the server refuses costs a few requests, not hundreds.
fn slow_start(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut batches = Vec::new();
    let mut left = steps.into_iter().peekable();
    let mut size = 1;
    while left.peek().is_some() {
        batches.push(left.by_ref().take(size).collect());
        size = (size * 2).min(BATCH_MAX);
    }
    batches
}

impl<'a> View<'a> {
    fn new(observed: &'a Observed<'a>, spec: &'a StatefulSetSpec, now: Timestamp) -> Self {
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let mut replicas = vec![None; wanted];
        let mut condemned = Vec::new();
        for pod in observed.pods {
            let Some(ordinal) = identity::ordinal(observed.set, pod) else { continue };
            let at = usize::try_from(i64::from(ordinal) - i64::from(start)).ok().filter(|at| *at < wanted);
            match at {
                Some(at) => replicas[at] = Some(pod.clone()),
                None => condemned.push(pod.clone()),
            }
        }
        condemned.sort_by_key(|pod| std::cmp::Reverse(identity::ordinal(observed.set, pod)));
        View {
            observed,
            spec,
            now,
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
            replicas,
            condemned,
        }
    }

    fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
    }

    fn rolls(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    fn partition(&self) -> usize {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        rolling.and_then(|rolling| rolling.partition).and_then(|partition| usize::try_from(partition).ok()).unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_healthy(pod) && pods::is_available(pod, self.min_ready_seconds, self.now)
    }

    /// Whether ordinal number `at` is still to be made from the old revision.
    fn keeps_current(&self, at: usize) -> bool {
        self.rolls() && at < self.partition()
    }

    fn decide(&self, steps: &mut Vec<Step>) {
        let mut settled = true;
        for at in 0..self.replicas.len() {
            if !self.settle(at, steps) {
                settled = false;
                if self.ordered {
                    break;
                }
            }
        }
        for pod in &self.condemned {
            steps.extend(self.own_claims(pod, true));
        }
        if self.ordered && !settled {
            return;
        }
        if !self.condemn(steps) && self.ordered {
            return;
        }
        if self.rolls() {
            self.update(steps);
        }
    }

    /// Brings one ordinal to what it should be; false when those after it have to wait.
    fn settle(&self, at: usize, steps: &mut Vec<Step>) -> bool {
        let ordinal = self.start() + i32::try_from(at).unwrap_or(i32::MAX);
        let Some(pod) = &self.replicas[at] else {
            steps.push(Step::Create(Box::new(self.new_pod(at, ordinal))));
            return false;
        };
        if pods::is_terminating(pod) {
            return false; // The name is free when it is gone.
        }
        match pods::phase(pod) {
            // A pod of a set never completes; whatever ended it, there is to be another.
            "Failed" | "Succeeded" => {
                steps.push(Step::Delete(pod.clone()));
                return false;
            }
            "Pending" if self.spec.volume_claim_templates.is_some() => steps.push(Step::Claims { pod: pod.clone() }),
            _ => {}
        }
        steps.extend(self.own_claims(pod, false));
        if let Some(repaired) = identity::repaired(self.observed.set, pod, ordinal) {
            steps.push(Step::Repair(Box::new(repaired)));
        }
        if self.is_available(pod) {
            return true;
        }
        // A pod of a revision that nobody wants any more need not become ready first: a set that was
        // broken by an update is mended by the next one.
        if self.ordered && !is_healthy(pod) && self.rolls() && !self.has_wanted_revision(at, pod) {
            steps.push(Step::Delete(pod.clone()));
        }
        false
    }

    fn has_wanted_revision(&self, at: usize, pod: &Pod) -> bool {
        let revision = identity::revision_of(pod);
        revision == self.observed.update || (self.keeps_current(at) && revision == self.observed.current)
    }

    fn new_pod(&self, at: usize, ordinal: i32) -> Pod {
        let (template, revision) = match self.keeps_current(at) {
            true => (self.observed.current_template, self.observed.current),
            false => (&self.spec.template, self.observed.update),
        };
        identity::new_pod(self.observed.set, template, revision, ordinal)
    }

    fn own_claims(&self, pod: &Arc<Pod>, condemned: bool) -> Option<Step> {
        let has_policy = self.spec.persistent_volume_claim_retention_policy.is_some();
        (has_policy && self.spec.volume_claim_templates.is_some())
            .then(|| Step::OwnClaims { pod: pod.clone(), condemned })
    }

    /// Takes down pods beyond the wanted count, highest first; true when there are none.
    fn condemn(&self, steps: &mut Vec<Step>) -> bool {
        let all = self.replicas.iter().flatten().chain(self.condemned.iter().rev());
        let first_unhealthy = all.filter(|pod| !self.is_available(pod)).map(|pod| &pod.metadata.uid).next();
        for pod in &self.condemned {
            if !pods::is_terminating(pod) {
                // Among several unhealthy pods the lowest is taken care of first.
                let must_wait = !self.is_available(pod) && first_unhealthy != Some(&pod.metadata.uid);
                if self.ordered && must_wait {
                    return false;
                }
                steps.push(Step::Delete(pod.clone()));
            }
            if self.ordered {
                return false;
            }
        }
        self.condemned.is_empty()
    }

    /// Replaces outdated pods from the highest ordinal down, as many at once as may be unavailable. In parallel those
    /// that are no use anyway go first, and at once: they cost no availability.
    fn update(&self, steps: &mut Vec<Step>) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let max_unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).map_or(1, |value| {
            of_total(value, i32::try_from(self.replicas.len()).unwrap_or(i32::MAX), Round::Down).max(1)
        });
        let is_available = |pod: &Option<Arc<Pod>>| pod.as_ref().is_some_and(|pod| self.is_available(pod));
        let unavailable = self.replicas.iter().filter(|pod| !is_available(pod)).count() as i32;
        let mut budget = max_unavailable - unavailable;
        let outdated = self.replicas.iter().skip(self.partition()).rev().flatten().filter(|pod| {
            !pods::is_terminating(pod) && !pods::is_finished(pod) && identity::revision_of(pod) != self.observed.update
        });
        let (useful, useless): (Vec<_>, Vec<_>) = outdated.partition(|pod| self.is_available(pod));
        steps.extend(useless.into_iter().map(|pod| Step::Delete(pod.clone())));
        for pod in useful {
            if budget <= 0 {
                return;
            }
            steps.push(Step::Delete(pod.clone()));
            budget -= 1;
        }
    }

    fn status(&self) -> StatefulSetStatus {
        let old = self.observed.set.status.clone().unwrap_or_default();
        let all = || self.observed.pods.iter().filter(|pod| !pods::phase(pod).is_empty());
        let count = |test: &dyn Fn(&Pod) -> bool| all().filter(|pod| test(pod)).count() as i32;
        let is_revision = |pod: &Pod, revision: &str| !pods::is_terminating(pod) && identity::revision_of(pod) == revision;
        let mut status = StatefulSetStatus {
            observed_generation: self.observed.set.metadata.generation,
            replicas: count(&|_| true),
            ready_replicas: Some(count(&|pod| pods::phase(pod) == "Running" && pods::is_ready(pod))),
            available_replicas: Some(count(&|pod| self.is_available(pod))),
            current_replicas: Some(count(&|pod| is_revision(pod, self.observed.current))),
            updated_replicas: Some(count(&|pod| is_revision(pod, self.observed.update))),
            current_revision: Some(self.observed.current.to_owned()),
            update_revision: Some(self.observed.update.to_owned()),
            collision_count: Some(self.observed.collisions),
            conditions: old.conditions,
        };
        let complete = status.updated_replicas == Some(status.replicas)
            && status.ready_replicas == Some(status.replicas)
            && status.replicas == self.spec.replicas.unwrap_or(1);
        if self.rolls() && complete {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        status
    }
}

#[cfg(test)]
mod tests;
