//! What a StatefulSet does next. Pure: the same observation always yields the same steps.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::{identity, is_healthy};
use crate::pods;
use crate::proportion::{Round, of_total};
use crate::runner::Next;

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
    Delete { pod: Arc<Pod>, reason: Option<(&'static str, &'static str)> },
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
    let batches = if view.ordered { steps.into_iter().map(|step| vec![step]).collect() } else { vec![steps] };
    Plan { batches, status, next }
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
        if self.rolls() && settled {
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
            "Failed" => {
                steps.push(Step::Delete { pod: pod.clone(), reason: Some(("RecreatingFailedPod", "failed")) });
                return false;
            }
            "Succeeded" => {
                steps.push(Step::Delete { pod: pod.clone(), reason: Some(("RecreatingTerminatedPod", "terminated")) });
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
            steps.push(Step::Delete { pod: pod.clone(), reason: None });
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
        let first_unhealthy = all.filter(|pod| !is_healthy(pod)).map(|pod| &pod.metadata.uid).next();
        for pod in &self.condemned {
            if !pods::is_terminating(pod) {
                // Among several unhealthy pods the lowest is taken care of first.
                let must_wait = !self.is_available(pod) && first_unhealthy != Some(&pod.metadata.uid);
                if self.ordered && must_wait {
                    return false;
                }
                steps.push(Step::Delete { pod: pod.clone(), reason: None });
            }
            if self.ordered {
                return false;
            }
        }
        self.condemned.is_empty()
    }

    /// Replaces outdated pods from the highest ordinal down, as many at once as may be unavailable.
    fn update(&self, steps: &mut Vec<Step>) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let max_unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).map_or(1, |value| {
            of_total(value, i32::try_from(self.replicas.len()).unwrap_or(i32::MAX), Round::Up).max(1)
        });
        let mut budget = max_unavailable - self.replicas.iter().flatten().filter(|pod| !self.is_available(pod)).count() as i32;
        for pod in self.replicas.iter().skip(self.partition()).rev().flatten() {
            if budget <= 0 {
                return;
            }
            if identity::revision_of(pod) != self.observed.update && !pods::is_terminating(pod) {
                steps.push(Step::Delete { pod: pod.clone(), reason: None });
                budget -= 1;
            }
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
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::history::POD_REVISION_LABEL;
    use k8s_openapi::api::apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSetUpdateStrategy};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    /// `replicas [parallel] [ondelete] [partition=N] [start=N] [unavailable=N] [minready=N]`.
    fn set(text: &str) -> StatefulSet {
        let mut words = text.split_whitespace();
        let mut spec = StatefulSetSpec { replicas: words.next().map(|n| n.parse().unwrap()), ..StatefulSetSpec::default() };
        let mut rolling = RollingUpdateStatefulSetStrategy::default();
        let mut kind = "RollingUpdate";
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, "0"));
            let value: i32 = value.parse().unwrap();
            match name {
                "parallel" => spec.pod_management_policy = Some("Parallel".into()),
                "ondelete" => kind = "OnDelete",
                "partition" => rolling.partition = Some(value),
                "unavailable" => rolling.max_unavailable = Some(IntOrString::Int(value)),
                "start" => spec.ordinals.get_or_insert_default().start = Some(value),
                "minready" => spec.min_ready_seconds = Some(value),
                other => panic!("{other}"),
            }
        }
        spec.update_strategy = Some(StatefulSetUpdateStrategy { type_: Some(kind.into()), rolling_update: Some(rolling) });
        let mut set = StatefulSet { spec: Some(spec), ..StatefulSet::default() };
        set.metadata.name = Some("db".into());
        set
    }

    /// Pods are `db-N[:flags]`; revision `new` unless the flag `label=controller-revision-hash/old` says so.
    #[track_caller]
    fn check(spec: &str, pods: &str, expected: &str) {
        let set = set(spec);
        let pods: Vec<Arc<Pod>> = pods
            .split_whitespace()
            .map(|word| {
                let (word, revision) = word.split_once('@').unwrap_or((word, "new"));
                let mut pod = fixtures::pod(word);
                pod.metadata.labels.get_or_insert_default().insert(POD_REVISION_LABEL.into(), revision.into());
                let ordinal = identity::ordinal(&set, &pod).unwrap();
                Arc::new(identity::repaired(&set, &pod, ordinal).unwrap_or(pod))
            })
            .collect();
        let old_template = PodTemplateSpec::default();
        let observed =
            Observed { set: &set, pods: &pods, current: "old", current_template: &old_template, update: "new", collisions: 0 };
        let plan = decide(&observed, fixtures::now());
        let told: Vec<String> = plan
            .batches
            .iter()
            .flatten()
            .map(|step| match step {
                Step::Create(pod) => {
                    let mark = if identity::revision_of(pod) == "old" { "@old" } else { "" };
                    format!("+{}{mark}", pod.metadata.name.as_deref().unwrap())
                }
                Step::Delete { pod, .. } => format!("-{}", pod.metadata.name.as_deref().unwrap()),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(told.join(" "), expected);
    }

    #[test]
    fn ordered_one_after_the_other() {
        check("3", "", "+db-0");
        check("3", "db-0:unready", "");
        check("3", "db-0", "+db-1");
        check("3", "db-0 db-2", "+db-1");
        check("3", "db-0 db-1 db-2", "");
        check("3 minready=30", "db-0:age=10", ""); // Ready, not yet available.
        check("2 start=5", "db-5", "+db-6");
        check("3", "db-0:deleting db-1 db-2", "");
        check("3", "db-0:failed", "-db-0");
    }

    #[test]
    fn scales_down_from_the_top() {
        check("1", "db-0 db-1 db-2", "-db-2");
        check("1", "db-0 db-1 db-2:deleting", "");
        check("1", "db-0:unready db-1 db-2", ""); // Something is wrong: nothing is taken away.
        check("1", "db-0 db-1:unready db-2", "-db-2");
        check("1 parallel", "db-0 db-1 db-2", "-db-2 -db-1");
    }

    #[test]
    fn parallel_all_at_once() {
        check("3 parallel", "", "+db-0 +db-1 +db-2");
        check("3 parallel", "db-0:unready db-2", "+db-1");
    }

    #[test]
    fn updates_from_the_top() {
        check("3", "db-0@old db-1@old db-2@old", "-db-2");
        check("3", "db-0@old db-1@old db-2:unready", "");
        check("3", "db-0@old db-1@old db-2", "-db-1");
        check("3 partition=2", "db-0@old db-1@old db-2", "");
        check("3 partition=2", "db-0@old db-2", "+db-1@old");
        check("3 ondelete", "db-0@old db-1@old db-2@old", "");
        check("3 unavailable=2", "db-0@old db-1@old db-2@old", "-db-2 -db-1");
        check("3", "db-0@old db-1@old db-2:unready@broken", "-db-2"); // Mended by the next update.
    }
}
