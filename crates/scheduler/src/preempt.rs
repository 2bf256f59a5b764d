//! Whom to evict so that a pod of higher priority fits, or why that would not help.
//!
//! Invariant: only pods of lower priority go, no more of them than needed, and budgets are broken last.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::cycle::Cycle;
use crate::decide::{Diagnosis, histogram};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub enum Preemption {
    Evict { node: String, victims: Vec<Arc<PodInfo>> },
    /// Nobody to evict; the sentence goes after the diagnosis.
    Useless(String),
    /// Room is being made for it already.
    UnderWay(String),
}

struct Candidate<'a> {
    node: &'a NodeInfo,
    victims: Vec<Arc<PodInfo>>,
    broken_budgets: usize,
}

/// `start` says at which node to begin, so that not always the same ones are tried.
pub fn preempt(pod: &PodInfo, cluster: &crate::cluster::Cluster, diagnosis: &Diagnosis, budgets: &[Arc<PodDisruptionBudget>], start: usize) -> Preemption {
    const PREFIX: &str = "no new claims to deallocate, preemption: ";
    if pod.spec().is_some_and(|spec| spec.preemption_policy.as_deref() == Some("Never")) {
        return Preemption::Useless(format!("{PREFIX}not eligible due to preemptionPolicy=Never."));
    }
    if !pod.profile.preempts {
        return Preemption::Useless(String::new());
    }
    if waits_for_victims(pod, cluster, diagnosis) {
        return Preemption::UnderWay(format!("{PREFIX}not eligible due to a terminating pod on the nominated node."));
    }
    let useless = |reasons: &BTreeMap<&str, String>| {
        let not_helpful = "Preemption is not helpful for scheduling";
        let all = cluster.nodes().iter().map(|node| reasons.get(node.name.as_str()).map_or(not_helpful, String::as_str));
        Preemption::Useless(format!("{PREFIX}0/{} nodes are available: {}.", diagnosis.nodes, histogram(all)))
    };
    if cluster.nodes().is_empty() {
        return Preemption::Useless(String::new());
    }
    let mut reasons = BTreeMap::new();
    let Ok(cycle) = Cycle::new(pod, cluster) else { return useless(&reasons) };
    let resolvable = |node: &&NodeInfo| diagnosis.rejections.get(&node.name).is_some_and(|rejection| rejection.resolvable);
    let mut possible: Vec<&NodeInfo> = cluster.nodes().iter().filter(resolvable).collect();
    if !possible.is_empty() {
        let middle = start % possible.len();
        possible.rotate_left(middle);
    }
    let profile = &pod.profile;
    let enough = (possible.len() * profile.min_candidate_nodes_percentage / 100).max(profile.min_candidate_nodes_absolute).max(1);
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for node in possible {
        match try_node(&cycle, node, budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(reason) => {
                reasons.insert(node.name.as_str(), reason);
            }
        }
        if candidates.len() >= enough {
            break;
        }
    }
    match candidates.into_iter().min_by_key(cost) {
        Some(Candidate { node, victims, .. }) => Preemption::Evict { node: node.name.clone(), victims },
        None => useless(&reasons),
    }
}

/// Whether those that went for it are still on their way out of a node that it may yet use.
fn waits_for_victims(pod: &PodInfo, cluster: &crate::cluster::Cluster, diagnosis: &Diagnosis) -> bool {
    let node = cluster.nominated_node(&pod.uid).and_then(|name| cluster.node(name));
    let is_victim = |other: &Arc<PodInfo>| other.priority < pod.priority && other.preempted;
    let is_lost = |node: &NodeInfo| diagnosis.rejections.get(&node.name).is_some_and(|rejection| !rejection.resolvable);
    node.is_some_and(|node| !is_lost(node) && node.pods.values().any(is_victim))
}

/// Takes away all pods of lower priority, and gives back those that the pod can live with, the most important first.
fn try_node<'a>(cycle: &Cycle<'_>, node: &'a NodeInfo, budgets: &[Arc<PodDisruptionBudget>]) -> Result<Candidate<'a>, String> {
    let mut lower: Vec<Arc<PodInfo>> = node.pods.values().filter(|other| other.priority < cycle.pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err("No preemption victims found for incoming pod".to_owned());
    }
    lower.sort_by_key(|pod| (Reverse(pod.priority), pod.started, pod.uid.clone()));
    let fits = |victims: &[Arc<PodInfo>]| {
        let mut relieved = node.clone();
        for victim in victims {
            relieved.remove(&victim.uid);
        }
        let removed: Vec<&PodInfo> = victims.iter().map(|victim| &**victim).collect();
        cycle.supposing(node, &[], &removed).check_relieved(node, &relieved)
    };
    fits(&lower).map_err(|rejection| rejection.reasons.join(", "))?;

    let (protected, free) = split_by_budgets(lower, budgets);
    let mut victims: Vec<Arc<PodInfo>> = protected.iter().chain(&free).cloned().collect();
    let mut broken_budgets = 0;
    for (reprieved, is_protected) in protected.iter().map(|pod| (pod, true)).chain(free.iter().map(|pod| (pod, false))) {
        let without: Vec<Arc<PodInfo>> = victims.iter().filter(|victim| victim.uid != reprieved.uid).cloned().collect();
        if fits(&without).is_ok() {
            victims = without;
        } else if is_protected {
            broken_budgets += 1;
        }
    }
    victims.sort_by_key(|pod| (Reverse(pod.priority), pod.started, pod.uid.clone()));
    Ok(Candidate { node, victims, broken_budgets })
}

/// First those whose eviction would break a budget.
fn split_by_budgets(pods: Vec<Arc<PodInfo>>, budgets: &[Arc<PodDisruptionBudget>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let parsed: Vec<(usize, LabelSelector)> = budgets
        .iter()
        .enumerate()
        .filter_map(|(index, budget)| {
            let selector = LabelSelector::from_typed(budget.spec.as_ref()?.selector.as_ref()?).ok()?;
            Some((index, selector))
        })
        .collect();
    let allowed = |budget: &Arc<PodDisruptionBudget>| budget.status.as_ref().map_or(0, |status| status.disruptions_allowed);
    let mut left: Vec<i32> = budgets.iter().map(allowed).collect();
    let would_break = |pod: &Arc<PodInfo>| {
        let mut breaks = false;
        for (index, selector) in &parsed {
            let budget = &budgets[*index];
            let disrupted = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
            // A budget without requirements is for no pod at all, and a pod without labels is in nobody's.
            if !pod.labels.is_empty()
                && *selector != LabelSelector::everything()
                && budget.metadata.namespace.as_ref() == Some(&pod.key.namespace)
                && selector.matches(&pod.labels)
                && disrupted.is_none_or(|disrupted| !disrupted.contains_key(&pod.key.name))
            {
                left[*index] -= 1;
                breaks |= left[*index] < 0;
            }
        }
        breaks
    };
    pods.into_iter().partition(would_break)
}

/// The cheapest node: fewest budgets broken, then the least important victims, then the fewest, then the youngest.
fn cost(candidate: &Candidate<'_>) -> (usize, i32, i64, usize, Reverse<jiff::Timestamp>) {
    let victims = &candidate.victims;
    let highest = victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
    let sum = victims.iter().map(|pod| i64::from(pod.priority) + i64::from(i32::MAX) + 1).sum();
    let most_important = victims.iter().filter(|pod| pod.priority == highest);
    let earliest = most_important.map(|pod| pod.started).min().unwrap_or(jiff::Timestamp::MAX);
    (candidate.broken_budgets, highest, sum, victims.len(), Reverse(earliest))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decide::{Fairness, Outcome, decide};
    use crate::testing::{cluster_of, place, pod};

    fn asking(name: &str, priority: i32, cpu: &str) -> Value {
        json!({
            "metadata": {"name": name, "uid": name, "labels": {"name": name}},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}
        })
    }

    /// Pods as `name:priority:cpu@node`; each node has one CPU.
    #[track_caller]
    fn check_with(pods: &str, wanted: Value, budgets: &[Arc<PodDisruptionBudget>], expected: &str) {
        let nodes = ["n1", "n2"].map(|name| json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}}));
        let mut cluster = cluster_of(&nodes);
        for text in pods.split_whitespace() {
            let (pod, node) = text.split_once('@').unwrap();
            let [name, priority, cpu] = pod.split(':').collect::<Vec<_>>()[..] else { panic!("{text}") };
            place(&mut cluster, asking(name, priority.parse().unwrap(), cpu), node);
        }
        let wanted = pod(wanted);
        let Outcome::Unfit(diagnosis) = decide(&wanted, &cluster, Fairness { next_start: &mut 0, below: &mut |_| 0 }) else {
            panic!("it fits: {pods}")
        };
        let outcome = match preempt(&wanted, &cluster, &diagnosis, budgets, 0) {
            Preemption::Evict { node, victims } => {
                let names: Vec<&str> = victims.iter().map(|pod| pod.key.name.as_str()).collect();
                format!("{node}: {}", names.join(" "))
            }
            Preemption::Useless(reason) | Preemption::UnderWay(reason) => reason,
        };
        assert_eq!(outcome, expected, "{pods}");
    }

    #[track_caller]
    fn check(pods: &str, wanted: Value, expected: &str) {
        check_with(pods, wanted, &[], expected);
    }

    #[test]
    fn evicts_as_little_as_possible() {
        check("a:0:1@n1 b:5:1@n2", asking("x", 10, "1"), "n1: a");
        check("a:0:500m@n1 b:1:500m@n1 c:9:1@n2", asking("x", 10, "500m"), "n1: a");
        check("a:0:500m@n1 b:0:500m@n1 c:0:1@n2", asking("x", 10, "1"), "n2: c"); // One victim rather than two.
        check("a:0:600m@n1 b:0:400m@n1 c:9:1@n2", asking("x", 10, "300m"), "n1: b");
    }

    #[test]
    fn says_why_it_would_not_help() {
        let prefix = "no new claims to deallocate, preemption: ";
        let nobody = "0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        check("a:9:1@n1 b:9:1@n2", asking("x", 9, "1"), &format!("{prefix}{nobody}"));
        let hopeless = "0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
        check("a:0:1@n1", asking("x", 9, "2"), &format!("{prefix}{hopeless}"));
        let mut never = asking("x", 9, "1");
        never["spec"]["preemptionPolicy"] = json!("Never");
        check("a:0:1@n1 b:0:1@n2", never, &format!("{prefix}not eligible due to preemptionPolicy=Never."));
    }

    #[test]
    fn breaks_budgets_last() {
        let budget: PodDisruptionBudget = serde_json::from_value(json!({
            "metadata": {"name": "keep", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"name": "a"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}
        }))
        .unwrap();
        check_with("a:0:1@n1 b:5:1@n2", asking("x", 10, "1"), &[Arc::new(budget)], "n2: b");
    }

    fn budget(selector: Value, allowed: i32, disrupted: Value) -> Arc<PodDisruptionBudget> {
        let budget = json!({
            "metadata": {"name": "keep", "namespace": "default"},
            "spec": {"selector": selector},
            "status": {"disruptionsAllowed": allowed, "disruptedPods": disrupted, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}
        });
        Arc::new(serde_json::from_value(budget).unwrap())
    }

    #[test]
    fn budgets_by_selector_and_by_what_is_left_of_them() {
        let of = |names: &[&str]| json!({"matchExpressions": [{"key": "name", "operator": "In", "values": names}]});
        let with = |pods: &str, budgets: &[Arc<PodDisruptionBudget>], expected: &str| check_with(pods, asking("x", 10, "1"), budgets, expected);
        let none = || json!({});
        with("a:0:1@n1 b:5:1@n2", &[budget(of(&["a"]), 1, none())], "n1: a"); // It may lose one.
        with("a:0:500m@n1 c:0:500m@n1 b:5:1@n2", &[budget(of(&["a", "c"]), 1, none())], "n2: b"); // But not two.
        with("a:0:1@n1 b:5:1@n2", &[budget(json!({}), 0, none())], "n1: a"); // A selector without requirements is for no pod.
        with("a:0:1@n1 b:5:1@n2", &[budget(Value::Null, 0, none())], "n1: a");
        with("a:0:1@n1 b:5:1@n2", &[budget(of(&["a"]), 0, json!({"a": "2026-01-01T00:00:00Z"}))], "n1: a"); // Counted already.
        with("a:0:1@n1 b:5:1@n2", &[budget(of(&["a"]), 0, none()), budget(of(&["b"]), 0, none())], "n1: a"); // Both break one: the least important.
        let elsewhere = {
            let mut budget = (*budget(of(&["a"]), 0, none())).clone();
            budget.metadata.namespace = Some("team".into());
            Arc::new(budget)
        };
        with("a:0:1@n1 b:5:1@n2", &[elsewhere], "n1: a");
    }

    #[test]
    fn nodes_are_compared_by_their_victims() {
        // The highest priority among them, then the sum, then how many.
        check("a:5:500m@n1 b:0:500m@n1 c:4:500m@n2 d:4:500m@n2", asking("x", 10, "1"), "n2: c d");
        check("a:5:500m@n1 b:0:500m@n1 c:5:500m@n2 d:4:500m@n2", asking("x", 10, "1"), "n1: a b");
        check("a:-9:500m@n1 b:-9:500m@n1 c:-9:1@n2", asking("x", 10, "1"), "n2: c");
        // Of those of lower priority the most important stay, if they can.
        check("a:1:400m@n1 b:2:400m@n1 c:3:200m@n1 d:9:1@n2", asking("x", 9, "500m"), "n1: b a");
        check("a:1:400m@n1 b:2:400m@n1 c:3:200m@n1 d:9:1@n2", asking("x", 9, "400m"), "n1: a");
        check("a:1:400m@n1 b:9:400m@n1 c:9:1@n2", asking("x", 9, "500m"), "n1: a");
    }

    #[test]
    fn the_youngest_go() {
        let mut cluster = cluster_of(&["n1", "n2"].map(|name| json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}})));
        for (name, started, node) in [("old", "2026-01-01T00:00:00Z", "n1"), ("young", "2026-01-01T01:00:00Z", "n2")] {
            let mut there = asking(name, 0, "1");
            there["status"] = json!({"startTime": started});
            place(&mut cluster, there, node);
        }
        let victims_of = |cluster: &crate::cluster::Cluster, wanted: Value| {
            let wanted = pod(wanted);
            let Outcome::Unfit(diagnosis) = decide(&wanted, cluster, Fairness { next_start: &mut 0, below: &mut |_| 0 }) else { panic!("it fits") };
            match preempt(&wanted, cluster, &diagnosis, &[], 0) {
                Preemption::Evict { node, victims } => format!("{node}: {}", victims[0].key.name),
                Preemption::Useless(reason) | Preemption::UnderWay(reason) => reason,
            }
        };
        assert_eq!(victims_of(&cluster, asking("x", 10, "1")), "n2: young");
        // Somebody as important waits for that node already: it is as good as taken.
        cluster.nominate(Arc::new(pod(asking("first", 10, "1"))), "n2");
        assert_eq!(victims_of(&cluster, asking("x", 10, "1")), "n1: old");
        cluster.nominate(Arc::new(pod(asking("second", 10, "1"))), "n1");
        let none = "no new claims to deallocate, preemption: 0/2 nodes are available: 2 Insufficient cpu.";
        assert_eq!(victims_of(&cluster, asking("x", 10, "1")), none);
        // One that is more important takes their place, and those who waited there are told.
        assert_eq!(victims_of(&cluster, asking("x", 20, "1")), "n2: young");
        let displaced: Vec<String> = cluster.unnominate_below("n2", 20).iter().map(|pod| pod.key.name.clone()).collect();
        assert_eq!(displaced, ["first"]);
        assert_eq!((cluster.nominated_node("first"), cluster.nominated_node("second")), (None, Some("n1")));
    }

    #[test]
    fn waits_for_those_that_are_going() {
        let waits = |victim: Value, diagnosed: &str| {
            let mut cluster = cluster_of(&[json!({"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "1", "pods": "10"}}})]);
            let mut there = asking("victim", 0, "1");
            for (key, value) in victim.as_object().unwrap() {
                there[key].as_object_mut().map(|there| there.extend(value.as_object().unwrap().clone())).unwrap_or_else(|| there[key] = value.clone());
            }
            place(&mut cluster, there, "n1");
            let wanted = Arc::new(pod(asking("x", 10, "1")));
            cluster.nominate(wanted.clone(), "n1");
            let Outcome::Unfit(mut diagnosis) = decide(&wanted, &cluster, Fairness { next_start: &mut 0, below: &mut |_| 0 }) else { panic!("it fits") };
            if diagnosed == "lost" {
                diagnosis.rejections.get_mut("n1").unwrap().resolvable = false;
            }
            match preempt(&wanted, &cluster, &diagnosis, &[], 0) {
                Preemption::Evict { .. } => "evicts".to_owned(),
                Preemption::UnderWay(reason) => reason,
                Preemption::Useless(_) => "useless".to_owned(),
            }
        };
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}});
        let waiting = "no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node.";
        assert_eq!(waits(going.clone(), ""), waiting);
        assert_eq!(waits(going, "lost"), "useless"); // The node will not do any more, whoever leaves it.
        assert_eq!(waits(json!({}), ""), "evicts");
        let of_itself = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(waits(of_itself, ""), "evicts");
    }
}
