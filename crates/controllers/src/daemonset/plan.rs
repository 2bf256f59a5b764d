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
        for pod in observed.pods {
            by_node.entry(template::target_node(pod).unwrap_or_default()).or_default().push(pod);
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), &pod.metadata.name));
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
        // One old and one new may stand together; of each sort the oldest stays.
        for updated in [false, true] {
            let same: Vec<_> = running.iter().filter(|pod| self.is_updated(pod) == updated).collect();
            plan.delete.extend(same.iter().skip(1).map(|pod| (**pod).clone()));
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
            let old = alive.iter().find(|pod| !self.is_updated(pod));
            let new = alive.iter().find(|pod| self.is_updated(pod));
            match (old, new) {
                (None, None) if placement.starts => unavailable += 1,
                (None, Some(new)) if !self.is_available(new) => unavailable += 1,
                (Some(old), None) if pods::is_finished(old) => unavailable += 1, // Replaced as a loss.
                // An unavailable old pod loses nothing by being replaced.
                (Some(old), None) if !self.is_available(old) => {
                    unavailable += 1;
                    at_once.push((**old).clone());
                }
                (Some(old), None) => candidates.push((**old).clone()),
                _ => {}
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
                (Some(old), Some(new)) if self.is_available(new) => plan.delete.push((**old).clone()),
                (Some(_), Some(_)) => surging += 1,
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
            let alive: Vec<_> = on_node.iter().filter(|pod| !pods::is_terminating(pod)).collect();
            status.number_ready += i32::from(alive.iter().any(|pod| pods::is_ready(pod)));
            available += i32::from(alive.iter().any(|pod| self.is_available(pod)));
            updated += i32::from(alive.iter().any(|pod| self.is_updated(pod)));
        }
        let nonzero = |count: i32| (count != 0).then_some(count);
        status.updated_number_scheduled = nonzero(updated);
        status.number_available = nonzero(available);
        status.number_unavailable = nonzero(status.desired_number_scheduled - available);
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::history::POD_REVISION_LABEL;
    use k8s_openapi::api::apps::v1::{DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
    use k8s_openapi::api::core::v1::{NodeSpec, PodSpec, PodTemplateSpec, Taint};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    fn set(text: &str) -> DaemonSet {
        let mut rolling = RollingUpdateDaemonSet::default();
        let mut kind = "RollingUpdate";
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "ondelete" => kind = "OnDelete",
                "unavailable" => rolling.max_unavailable = Some(IntOrString::Int(value.parse().unwrap())),
                "surge" => rolling.max_surge = Some(IntOrString::Int(value.parse().unwrap())),
                other => panic!("{other}"),
            }
        }
        let strategy = DaemonSetUpdateStrategy { type_: Some(kind.into()), rolling_update: Some(rolling) };
        let template = PodTemplateSpec { spec: Some(PodSpec::default()), metadata: None };
        let spec = DaemonSetSpec { template, update_strategy: Some(strategy), ..DaemonSetSpec::default() };
        DaemonSet { spec: Some(spec), ..DaemonSet::default() }
    }

    /// Nodes are `name[!taint:effect]`, pods `name@node[:flags]`, outdated with a trailing `~`.
    #[track_caller]
    fn check(spec: &str, nodes: &str, pods: &str, expected: &str) {
        let set = set(spec);
        let nodes: Vec<Arc<Node>> = nodes
            .split_whitespace()
            .map(|word| {
                let (name, taint) = word.split_once('!').map_or((word, None), |(name, taint)| (name, Some(taint)));
                let mut node = Node::default();
                node.metadata.name = Some(name.into());
                let taints = taint.map(|taint| {
                    let (key, effect) = taint.split_once(':').unwrap();
                    vec![Taint { key: key.into(), effect: effect.into(), ..Taint::default() }]
                });
                node.spec = Some(NodeSpec { taints, ..NodeSpec::default() });
                Arc::new(node)
            })
            .collect();
        let pods: Vec<Arc<Pod>> = pods
            .split_whitespace()
            .map(|word| {
                let hash = if word.ends_with('~') { "old" } else { "new" };
                let (name, rest) = word.trim_end_matches('~').split_once('@').unwrap();
                let (node, flags) = rest.split_once(':').unwrap_or((rest, ""));
                let mut pod = fixtures::pod(&format!("{name}:{flags}"));
                pod.spec.as_mut().unwrap().node_name = Some(node.into());
                pod.metadata.labels.get_or_insert_default().insert(POD_REVISION_LABEL.into(), hash.into());
                Arc::new(pod)
            })
            .collect();
        let plan = decide(&Observed { set: &set, nodes: &nodes, pods: &pods, hash: "new", collisions: 0 }, fixtures::now());
        let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
        let mut steps: Vec<String> = plan.create.iter().map(|node| format!("+{node}")).collect();
        steps.extend(plan.delete.iter().map(|pod| format!("-{}", name(pod))));
        steps.extend(plan.lost.iter().map(|loss| format!("lost({})", name(&loss.pod))));
        assert_eq!(steps.join(" "), expected);
    }

    #[test]
    fn one_per_fitting_node() {
        check("", "n1 n2", "", "+n1 +n2");
        check("", "n1 n2", "a@n1", "+n2");
        check("", "n1", "a@n1:age=9 b@n1:age=5", "-b");
        check("", "n1!x:NoSchedule", "", "");
        check("", "n1!x:NoSchedule", "a@n1", ""); // It may stay.
        check("", "n1!x:NoExecute", "a@n1", "-a");
        check("", "n1!node.kubernetes.io/not-ready:NoExecute", "", "+n1");
        check("", "n1", "a@n1:deleting", ""); // The next one when it is gone.
        check("", "n1", "a@n1:failed", "lost(a)");
    }

    #[test]
    fn updates_a_few_nodes_at_a_time() {
        check("", "n1 n2 n3", "a@n1~ b@n2~ c@n3~", "-a");
        check("unavailable=2", "n1 n2 n3", "a@n1~ b@n2~ c@n3~", "-a -b");
        check("", "n1 n2 n3", "a@n1:unready b@n2~ c@n3~", "");
        check("", "n1 n2 n3", "a@n1 b@n2:unready~ c@n3~", "-b");
        check("ondelete", "n1", "a@n1~", "");
    }

    #[test]
    fn surging_waits_for_the_new_one() {
        check("surge=1 unavailable=0", "n1 n2", "a@n1~ b@n2~", "+n1");
        check("surge=1 unavailable=0", "n1 n2", "a@n1~ b@n2~ c@n1:unready", "");
        check("surge=1 unavailable=0", "n1 n2", "a@n1~ b@n2~ c@n1", "+n2 -a");
    }
}
