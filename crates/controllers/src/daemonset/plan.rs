//! Which pods a DaemonSet makes and deletes next. Pure: the same observation always yields the same plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::{DaemonSets, template};
use crate::pods;
use crate::proportion::{Round, of_total};
use crate::runner::Next;
use crate::scheduling::{matches_node, tolerates};

/// Pods made or deleted in one round.
const BURST_MAX: usize = 250;

pub(super) struct Observed<'a> {
    pub set: &'a DaemonSet,
    pub nodes: &'a [Arc<Node>],
    pub pods: &'a [Arc<Pod>],
    /// Of the revision that pods should have.
    pub hash: &'a str,
    pub collisions: i32,
}

/// A finished pod where one should run.
#[derive(Debug, PartialEq)]
pub(super) struct Loss {
    pub pod: Arc<Pod>,
    pub node: String,
    pub failed: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    pub lost: Vec<Loss>,
    pub status: DaemonSetStatus,
    pub next: Next,
}

/// Whether a daemon may start on a node, and whether it may stay there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub starts: bool,
    pub stays: bool,
}

pub(super) fn placement(set: &DaemonSet, node: &Node) -> Placement {
    let nowhere = Placement { starts: false, stays: false };
    let Some(mut spec) = set.spec.as_ref().and_then(|spec| spec.template.spec.clone()) else { return nowhere };
    if template::names_other_node(&spec, node) || !matches_node(&spec, node) {
        return nowhere;
    }
    template::tolerate(&mut spec);
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerated = |effects: &[&str]| {
        taints
            .iter()
            .filter(|taint| effects.contains(&taint.effect.as_str()))
            .all(|taint| spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint)))
    };
    Placement { starts: tolerated(&["NoSchedule", "NoExecute"]), stays: tolerated(&["NoExecute"]) }
}

struct View<'a> {
    observed: &'a Observed<'a>,
    now: Timestamp,
    min_ready_seconds: i32,
    by_node: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
    placements: BTreeMap<&'a str, Placement>,
}

pub(super) fn decide(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let view = View::new(observed, now);
    let mut plan = Plan {
        create: Vec::new(),
        delete: Vec::new(),
        lost: Vec::new(),
        status: view.status(),
        next: Next::after_seconds(
            observed.pods.iter().filter_map(|pod| pods::seconds_until_available(pod, view.min_ready_seconds, now)).min(),
        ),
    };
    view.place(&mut plan);
    if view.rolls() {
        view.update(&mut plan);
    }
    plan.create.truncate(BURST_MAX);
    plan.delete.truncate(BURST_MAX);
    plan
}

impl<'a> View<'a> {
    fn new(observed: &'a Observed<'a>, now: Timestamp) -> Self {
        let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        // What has ended and is being deleted is in nobody's way.
        let gone = |pod: &&Arc<Pod>| pods::is_terminating(pod) && pods::is_finished(pod);
        for pod in observed.pods.iter().filter(|pod| !gone(pod)) {
            by_node.entry(template::target_node(pod).unwrap_or_default()).or_default().push(pod);
        }
        for pods in by_node.values_mut() {
            let is_unbound = |pod: &Pod| pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none());
            pods.sort_by_key(|pod| (is_unbound(pod), pod.metadata.creation_timestamp.as_ref().map(|time| time.0), &pod.metadata.name));
        }
        let name = |node: &'a Arc<Node>| node.metadata.name.as_deref().unwrap_or_default();
        let placements = observed.nodes.iter().map(|node| (name(node), placement(observed.set, node))).collect();
        let min_ready_seconds = observed.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        View { observed, now, min_ready_seconds, by_node, placements }
    }

    fn pods_on(&self, node: &str) -> &[&'a Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    fn rolls(&self) -> bool {
        let strategy = self.observed.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    /// How many may be unavailable, and how many nodes may have two pods, during an update.
    fn budgets(&self) -> (i32, i32) {
        let strategy = self.observed.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let wanted = self.placements.values().filter(|placement| placement.starts).count() as i32;
        let part = |value: Option<&k8s_openapi::apimachinery::pkg::util::intstr::IntOrString>, default| {
            value.map_or(default, |value| of_total(value, wanted, Round::Up))
        };
        let surge = part(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
        let unavailable = part(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1);
        if surge == 0 && unavailable == 0 { (1, 0) } else { (unavailable, surge) }
    }

    fn surges(&self) -> bool {
        self.rolls() && self.budgets().1 > 0
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready_seconds, self.now)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        DaemonSets::hash_of(pod) == self.observed.hash
    }

    fn place(&self, plan: &mut Plan) {
        for (node, placement) in &self.placements {
            let on_node = self.pods_on(node);
            if placement.starts && on_node.is_empty() {
                plan.create.push((*node).to_owned());
            } else if !placement.stays {
                plan.delete.extend(on_node.iter().filter(|pod| !pods::is_terminating(pod)).map(|pod| (*pod).clone()));
            } else {
                self.keep_one(node, on_node, plan);
            }
        }
        // Made for a node that is gone, and never bound.
        for (node, pods) in &self.by_node {
            if !self.placements.contains_key(node) {
                let unbound = |pod: &&&Arc<Pod>| pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none());
                plan.delete.extend(pods.iter().filter(unbound).filter(|pod| !pods::is_terminating(pod)).map(|pod| (*pod).clone()));
            }
        }
    }

    fn keep_one(&self, node: &str, on_node: &[&'a Arc<Pod>], plan: &mut Plan) {
        let mut running = Vec::new();
        for pod in on_node.iter().filter(|pod| !pods::is_terminating(pod)) {
            if pods::is_finished(pod) {
                let failed = pods::phase(pod) == "Failed";
                plan.lost.push(Loss { pod: (*pod).clone(), node: node.to_owned(), failed });
            } else {
                running.push(*pod);
            }
        }
        if running.len() <= 1 {
            return;
        }
        if !self.surges() {
            plan.delete.extend(running[1..].iter().map(|pod| (*pod).clone()));
            return;
        }
        // One old and one new may stand together, while the old one is of use and the new one not yet; of each sort the
        // oldest stays.
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.iter().partition(|pod| self.is_updated(pod));
        plan.delete.extend(old.iter().skip(1).chain(new.iter().skip(1)).map(|pod| (*pod).clone()));
        if let (Some(old), Some(new)) = (old.first(), new.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            plan.delete.push((**old).clone());
        }
    }

    fn update(&self, plan: &mut Plan) {
        let (max_unavailable, max_surge) = self.budgets();
        if max_surge > 0 {
            return self.update_by_surge(max_surge, plan);
        }
        let mut unavailable = 0;
        let mut at_once = Vec::new();
        let mut candidates = Vec::new();
        for (node, placement) in &self.placements {
            let alive: Vec<_> = self.pods_on(node).iter().filter(|pod| !pods::is_terminating(pod)).collect();
            let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = alive.into_iter().partition(|pod| self.is_updated(pod));
            match (old.as_slice(), new.as_slice()) {
                ([], []) => unavailable += i32::from(placement.starts),
                ([], [new]) => unavailable += i32::from(!self.is_available(new)),
                ([old], []) if pods::is_finished(old) => unavailable += 1, // Replaced as a loss.
                // An unavailable old pod loses nothing by being replaced.
                ([old], []) if !self.is_available(old) => {
                    unavailable += 1;
                    at_once.push((**old).clone());
                }
                ([old], []) => candidates.push((**old).clone()),
                _ => unavailable += 1, // One of them goes first.
            }
        }
        let budget = usize::try_from(max_unavailable - unavailable).unwrap_or(0);
        plan.delete.extend(at_once);
        plan.delete.extend(candidates.into_iter().take(budget));
    }

    fn update_by_surge(&self, max_surge: i32, plan: &mut Plan) {
        let mut surging = 0;
        let mut candidates = Vec::new();
        for (node, placement) in &self.placements {
            if !placement.starts {
                continue;
            }
            let alive: Vec<_> = self.pods_on(node).iter().filter(|pod| !pods::is_terminating(pod)).collect();
            let old = alive.iter().find(|pod| !self.is_updated(pod) && !pods::is_finished(pod));
            let new = alive.iter().find(|pod| self.is_updated(pod));
            match (old, new) {
                // When the new one is there, the old one goes as one too many.
                (Some(_), Some(new)) => surging += i32::from(!self.is_available(new)),
                (Some(old), None) if !self.is_available(old) => plan.create.push((*node).to_owned()),
                (Some(_), None) => candidates.push((*node).to_owned()),
                _ => {}
            }
        }
        let budget = usize::try_from(max_surge - surging).unwrap_or(0);
        plan.create.extend(candidates.into_iter().take(budget));
    }

    fn status(&self) -> DaemonSetStatus {
        let old = self.observed.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: self.observed.set.metadata.generation,
            collision_count: (self.observed.collisions > 0).then_some(self.observed.collisions),
            conditions: old.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for (node, placement) in &self.placements {
            let on_node = self.pods_on(node);
            if !placement.starts {
                status.number_misscheduled += i32::from(!on_node.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            status.current_number_scheduled += i32::from(!on_node.is_empty());
            // The oldest stands for its node, on its way out or not.
            let Some(pod) = on_node.first() else { continue };
            status.number_ready += i32::from(pods::is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_updated(pod));
        }
        let nonzero = |count: i32| (count != 0).then_some(count);
        status.updated_number_scheduled = nonzero(updated);
        status.number_available = nonzero(available);
        status.number_unavailable = nonzero(status.desired_number_scheduled - available);
        status
    }
}

#[cfg(test)]
mod tests;
