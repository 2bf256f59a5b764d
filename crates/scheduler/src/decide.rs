//! The decision: which node a pod goes to, or why to none.
//!
//! Invariant: a function of the cluster as it is known; among nodes that are equally good the given random numbers
//! choose.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::cycle::Cycle;
use crate::filters::{Filter, Rejection};
use crate::node_info::NodeInfo;
use crate::node_selector::named_nodes;
use crate::pod_info::{PodInfo, Selector};
use crate::scores;
use crate::storage::VolumePlan;

/// In a cluster up to this size every node is looked at; in larger ones a part of the nodes, this many at least.
const SAMPLE_MIN: usize = 100;

pub enum Outcome {
    Chosen { node: String, volumes: VolumePlan },
    Unfit(Diagnosis),
}

/// Why no node will do.
#[derive(Default)]
pub struct Diagnosis {
    pub nodes: usize,
    /// Set if the reason is the same whatever the node.
    pub everywhere: Option<String>,
    /// By node.
    pub rejections: BTreeMap<String, Rejection>,
    /// Who had a say in it.
    pub filters: BTreeSet<Filter>,
}

/// What makes decisions fair between nodes: where the last one stopped looking, and random numbers below a bound.
pub struct Fairness<'a> {
    pub next_start: &'a mut usize,
    pub below: &'a mut dyn FnMut(usize) -> usize,
}

/// Counts ahead what the decision for the pod will ask, see `Cluster::prepare`.
pub fn prepare(pod: &PodInfo, cluster: &mut Cluster) {
    let own: Vec<(Selector, String)> = {
        let default = if pod.spread.is_empty() { cluster.default_selectors.constraints(pod) } else { Vec::new() };
        let constraints = pod.spread.iter().chain(&default);
        constraints.map(|constraint| (constraint.selector.clone(), constraint.topology_key.clone())).collect()
    };
    for (selector, topology_key) in &own {
        cluster.prepare_places(&pod.key.namespace, selector, topology_key);
    }
    let required = pod.required_affinity.iter().chain(&pod.required_anti_affinity);
    let preferred = pod.preferred_affinity.iter().chain(&pod.preferred_anti_affinity).map(|(_, term)| term);
    for term in required.chain(preferred) {
        for namespace in crate::filters::pod_affinity::namespaces(term, cluster) {
            cluster.prepare_places(&namespace, &term.selector, &term.topology_key);
        }
    }
}

pub fn decide(pod: &PodInfo, cluster: &Cluster, fairness: Fairness<'_>) -> Outcome {
    let nodes = cluster.nodes();
    let mut diagnosis = Diagnosis { nodes: nodes.len(), ..Diagnosis::default() };
    if nodes.is_empty() {
        diagnosis.everywhere = Some("no nodes available to schedule pods".to_owned());
        return Outcome::Unfit(diagnosis);
    }
    let cycle = match Cycle::new(pod, cluster) {
        Ok(cycle) => cycle,
        Err((reason, filter)) => {
            diagnosis.everywhere = Some(reason);
            diagnosis.filters.insert(filter);
            return Outcome::Unfit(diagnosis);
        }
    };
    let feasible = find(&cycle, fairness.next_start, &mut diagnosis);
    let node = match feasible[..] {
        [] => return Outcome::Unfit(diagnosis),
        [only] => only,
        _ => best(pod, cluster, &feasible, fairness.below),
    };
    // The filter has just found a plan for this node.
    let volumes = cluster.storage.plan(&cycle.volumes, node).unwrap_or_default();
    Outcome::Chosen { node: node.name.clone(), volumes }
}

fn find<'a>(cycle: &Cycle<'a>, next_start: &mut usize, diagnosis: &mut Diagnosis) -> Vec<&'a NodeInfo> {
    let cluster = cycle.cluster;
    let mut feasible = Vec::new();
    let mut check = |node: &'a NodeInfo, feasible: &mut Vec<&'a NodeInfo>| match cycle.check(node) {
        Ok(()) => feasible.push(node),
        Err(rejection) => {
            diagnosis.filters.insert(rejection.filter);
            diagnosis.rejections.insert(node.name.clone(), rejection);
        }
    };
    // A pod that waited for victims on a node goes there if it can.
    if let Some(nominated) = cluster.nominated_node(&cycle.pod.uid).and_then(|name| cluster.node(name))
        && cycle.check(nominated).is_ok()
    {
        return vec![nominated];
    }
    if let Some(named) = cycle.pod.spec().and_then(named_nodes) {
        for node in named.iter().filter_map(|name| cluster.node(name)) {
            check(node, &mut feasible);
        }
        if feasible.is_empty() {
            for node in cluster.nodes().iter().filter(|node| !named.contains(node.name.as_str())) {
                let reason = "node(s) didn't satisfy plugin(s) [NodeAffinity]";
                diagnosis.rejections.insert(node.name.clone(), Rejection::final_one(Filter::NodeAffinity, reason));
            }
            diagnosis.filters.insert(Filter::NodeAffinity);
        }
        return feasible;
    }
    let nodes = cluster.nodes();
    let enough = sample_size(nodes.len(), cycle.pod.profile.percentage_of_nodes_to_score);
    let start = *next_start % nodes.len();
    let mut seen = 0;
    for node in nodes[start..].iter().chain(&nodes[..start]) {
        seen += 1;
        check(node, &mut feasible);
        if feasible.len() >= enough {
            break;
        }
    }
    *next_start = (start + seen) % nodes.len();
    feasible
}

/// How many feasible nodes are enough to choose from, as the original reckons it.
fn sample_size(nodes: usize, percentage: usize) -> usize {
    if nodes < SAMPLE_MIN || percentage >= 100 {
        return nodes;
    }
    let adaptive = (50usize.saturating_sub(nodes / 125)).max(5);
    let percentage = if percentage == 0 { adaptive } else { percentage };
    (nodes * percentage / 100).max(SAMPLE_MIN)
}

fn best<'a>(pod: &PodInfo, cluster: &Cluster, feasible: &[&'a NodeInfo], below: &mut dyn FnMut(usize) -> usize) -> &'a NodeInfo {
    let totals = scores::total(pod, cluster, feasible);
    let highest = totals.iter().copied().max().unwrap_or(0);
    let leaders: Vec<&NodeInfo> = feasible.iter().zip(&totals).filter(|(_, total)| **total == highest).map(|(node, _)| *node).collect();
    leaders[below(leaders.len())]
}

impl Diagnosis {
    /// The sentence for the pod's condition and event. `afterword` tells what preemption could do.
    pub fn message(&self, afterword: &str) -> String {
        if self.nodes == 0 {
            return self.everywhere.clone().unwrap_or_default();
        }
        let mut message = format!("0/{} nodes are available:", self.nodes);
        match &self.everywhere {
            Some(reason) => message += &format!(" {reason}."),
            None => {
                let reasons = self.rejections.values().flat_map(|rejection| &rejection.reasons);
                let counted = histogram(reasons.map(AsRef::as_ref));
                if !counted.is_empty() {
                    message += &format!(" {counted}.");
                }
            }
        }
        if !afterword.is_empty() {
            message += &format!(" {afterword}");
        }
        message
    }
}

/// `1 Insufficient cpu, 2 node(s) were unschedulable`: how often each reason, in the order of the text.
pub fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut texts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{cluster_of, pod};

    fn choose(cluster: &Cluster, pod: &PodInfo) -> Outcome {
        decide(pod, cluster, Fairness { next_start: &mut 0, below: &mut |_| 0 })
    }

    fn node(name: &str, cpu: &str) -> Value {
        json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}
        })
    }

    #[track_caller]
    fn check(nodes: &[Value], spec: Value, expected: &str) {
        let outcome = match choose(&cluster_of(nodes), &pod(json!({"spec": spec.clone()}))) {
            Outcome::Chosen { node, .. } => node,
            Outcome::Unfit(diagnosis) => diagnosis.message(""),
        };
        assert_eq!(outcome, expected, "{spec}");
    }

    #[test]
    fn tells_where_or_why_not() {
        let asking = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        check(&[], json!({}), "no nodes available to schedule pods");
        check(&[node("n1", "1")], asking("1"), "n1");
        check(&[node("n1", "1"), node("n2", "4")], asking("1"), "n2");
        check(&[node("n1", "1")], asking("2"), "0/1 nodes are available: 1 Insufficient cpu.");
        let mut tainted = node("n2", "4");
        tainted["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let both = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s).";
        check(&[node("n1", "1"), tainted], asking("2"), both);
        let claim = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
        check(&[node("n1", "1")], claim, "0/1 nodes are available: persistentvolumeclaim \"data\" not found.");
    }

    #[test]
    fn goes_only_to_the_node_that_is_named() {
        let named = |name: &str| {
            let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
            json!({"affinity": {"nodeAffinity": required}})
        };
        check(&[node("n1", "1"), node("n2", "1")], named("n2"), "n2");
        let nowhere = "0/2 nodes are available: 2 node(s) didn't satisfy plugin(s) [NodeAffinity].";
        check(&[node("n1", "1"), node("n2", "1")], named("n3"), nowhere);
    }

    #[test]
    fn says_each_reason_word_for_word() {
        let on = |more: Value| {
            let mut node = node("n1", "1");
            for (key, value) in more.as_object().unwrap() {
                match node[key].as_object_mut() {
                    Some(part) => part.extend(value.as_object().unwrap().clone()),
                    None => node[key] = value.clone(),
                }
            }
            [node]
        };
        let says = |more: Value, spec: Value, expected: &str| check(&on(more), spec, &format!("0/1 nodes are available: {expected}."));
        says(json!({"spec": {"unschedulable": true}}), json!({}), "1 node(s) were unschedulable");
        says(json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}}), json!({}), "1 node(s) had untolerated taint(s)");
        says(json!({}), json!({"nodeName": "n2"}), "1 node(s) didn't match the requested node name");
        says(json!({}), json!({"nodeSelector": {"disk": "ssd"}}), "1 node(s) didn't match Pod's node affinity/selector");
        says(json!({"status": {"allocatable": {"pods": "0"}}}), json!({}), "1 Too many pods");
        let containers = |requests: Value| json!({"containers": [{"name": "c", "resources": {"requests": requests}}]});
        says(json!({}), containers(json!({"cpu": "2", "memory": "2Gi"})), "1 Insufficient cpu, 1 Insufficient memory");
        says(json!({}), containers(json!({"ephemeral-storage": "1", "example.com/gpu": "1"})), "1 Insufficient ephemeral-storage, 1 Insufficient example.com/gpu");
        let spread = |key: &str| json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2, "labelSelector": {}}]});
        says(json!({}), spread("rack"), "1 node(s) didn't match pod topology spread constraints (missing required label)");
        let near = |kind: &str, key: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
        says(json!({}), near("podAffinity", "kubernetes.io/hostname"), "1 node(s) didn't match pod affinity rules");
        says(json!({}), json!({"resourceClaims": [{"name": "gpu"}]}), "resource claims are not supported by this scheduler");
        let fields = |values: &[&[&str]]| {
            let fields: Vec<Value> = values.iter().map(|values| json!({"key": "metadata.name", "operator": "In", "values": values})).collect();
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": fields}]}}}})
        };
        says(json!({}), fields(&[&["n2"]]), "1 node(s) didn't satisfy plugin(s) [NodeAffinity]");
        says(json!({}), fields(&[&["n1"], &["n2"]]), "pod affinity terms conflict");
        // Reasons in the order of their text, numbers first, as many as there are.
        let mut full = node("n2", "1");
        full["status"]["allocatable"]["pods"] = json!("0");
        let three = [node("n1", "1"), full, on(json!({"metadata": {"name": "n3"}, "spec": {"unschedulable": true}}))[0].clone()];
        check(&three, containers(json!({"cpu": "2"})), "0/3 nodes are available: 1 Too many pods, 1 node(s) were unschedulable, 2 Insufficient cpu.");
    }

    #[test]
    fn looks_at_a_part_of_a_large_cluster() {
        assert_eq!([1, 99, 100, 250, 1000, 5000, 20000].map(|nodes| sample_size(nodes, 0)), [1, 99, 100, 120, 420, 500, 1000]);
        assert_eq!([(99, 10), (5000, 10), (5000, 1), (5000, 100)].map(|(nodes, part)| sample_size(nodes, part)), [99, 500, 100, 5000]);
    }

    /// A measurement: `cargo nextest run -p scheduler --run-ignored only --no-capture`.
    #[test]
    #[ignore = "a measurement"]
    fn decides_fast() {
        use std::io::Write as _;
        for (nodes, pods) in [(1, 100), (100, 2000), (5000, 10_000)] {
            let nodes: Vec<Value> = (0..nodes).map(|number| node(&format!("n{number}"), "64")).collect();
            let mut cluster = cluster_of(&nodes);
            let selector = [("app".to_owned(), "web".to_owned())].into();
            cluster.default_selectors.services.entry("default".into()).or_default().insert("web".into(), selector);
            let (mut next_start, mut dice) = (0, 1usize);
            let began = std::time::Instant::now();
            for number in 0..pods {
                let pod = pod(json!({"metadata": {"name": format!("p{number}"), "labels": {"app": "web"}}}));
                prepare(&pod, &mut cluster);
                let mut below = |bound| {
                    dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (dice >> 33) % bound
                };
                if let Outcome::Chosen { node, .. } = decide(&pod, &cluster, Fairness { next_start: &mut next_start, below: &mut below }) {
                    cluster.place(std::sync::Arc::new(pod), &node, true);
                }
            }
            let rate = pods as f64 / began.elapsed().as_secs_f64();
            writeln!(std::io::stderr(), "{} nodes: {rate:.0} pods/s", nodes.len()).unwrap();
        }
    }
}
