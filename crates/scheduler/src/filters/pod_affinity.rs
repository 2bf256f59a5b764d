//! Required pod affinity and anti-affinity, the pod's own and that of pods already there.

use std::collections::HashMap;

use super::{Filter, Rejection};
use crate::cluster::Cluster;
use crate::cycle::Cycle;
use crate::node_info::NodeInfo;
use crate::pod_info::{AffinityTerm, PodInfo};

/// How many pods count for or against each place, a place being a label and its value.
#[derive(Clone, Default)]
pub struct AffinityCounts {
    /// Pods there that keep this one away.
    repelling: Places,
    /// Pods that match all of its affinity terms, by term.
    wanted: Vec<Places>,
    /// Pods that match one of its anti-affinity terms, by term.
    unwanted: Vec<Places>,
    /// Whether it may be the first of a group that it itself belongs to.
    matches_itself: bool,
}

type Places = HashMap<(String, String), i64>;

pub fn count(pod: &PodInfo, cluster: &Cluster) -> AffinityCounts {
    let mut counts = AffinityCounts {
        wanted: vec![Places::new(); pod.required_affinity.len()],
        unwanted: vec![Places::new(); pod.required_anti_affinity.len()],
        matches_itself: matches_all(&pod.required_affinity, pod, cluster),
        ..AffinityCounts::default()
    };
    for uid in &cluster.with_anti_affinity {
        let Some((other, Some(node))) = cluster.placed(uid) else { continue };
        count_repelling(&mut counts.repelling, pod, other, node, cluster, 1);
    }
    for (term, places) in pod.required_anti_affinity.iter().zip(&mut counts.unwanted) {
        count_term(places, term, cluster);
    }
    match &pod.required_affinity[..] {
        [] => {}
        [term] => count_term(&mut counts.wanted[0], term, cluster),
        terms => {
            // Only pods that match all of the terms count, so they are looked at one by one.
            for namespace in namespaces(&terms[0], cluster) {
                for other in cluster.placed_in(&namespace) {
                    let Some((other, Some(node))) = cluster.placed(&other.uid) else { continue };
                    if matches_all(terms, other, cluster) {
                        count_wanted(&mut counts.wanted, terms, node, 1);
                    }
                }
            }
        }
    }
    counts
}

pub fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    let (pod, counts) = (cycle.pod, &cycle.affinity);
    if !satisfies_affinity(pod, counts, node) {
        return Err(Rejection::final_one(Filter::InterPodAffinity, "node(s) didn't match pod affinity rules"));
    }
    let unwanted = pod.required_anti_affinity.iter().zip(&counts.unwanted);
    if unwanted.into_iter().any(|(term, places)| count_at(places, &term.topology_key, node) > 0) {
        return Err(Rejection::resolvable(Filter::InterPodAffinity, "node(s) didn't match pod anti-affinity rules"));
    }
    let repelled = counts.repelling.iter().any(|((key, value), count)| *count > 0 && node.labels.get(key) == Some(value));
    if repelled {
        let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
        return Err(Rejection::resolvable(Filter::InterPodAffinity, reason));
    }
    Ok(())
}

/// Counts `other` in (1) or out (-1) on the node, for the sake of argument.
pub fn adjust(counts: &mut AffinityCounts, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, cluster: &Cluster, delta: i64) {
    count_repelling(&mut counts.repelling, pod, other, node, cluster, delta);
    for (term, places) in pod.required_anti_affinity.iter().zip(&mut counts.unwanted) {
        if term.matches(other, &cluster.namespaces) {
            add(places, &term.topology_key, node, delta);
        }
    }
    if !pod.required_affinity.is_empty() && matches_all(&pod.required_affinity, other, cluster) {
        count_wanted(&mut counts.wanted, &pod.required_affinity, node, delta);
    }
}

fn satisfies_affinity(pod: &PodInfo, counts: &AffinityCounts, node: &NodeInfo) -> bool {
    if !pod.required_affinity.iter().all(|term| node.labels.contains_key(&term.topology_key)) {
        return false;
    }
    let mut terms = pod.required_affinity.iter().zip(&counts.wanted);
    if terms.all(|(term, places)| count_at(places, &term.topology_key, node) > 0) {
        return true;
    }
    // The first pod of a group has nobody to be near to.
    let nobody = counts.wanted.iter().all(|places| places.values().all(|count| *count <= 0));
    nobody && counts.matches_itself
}

fn count_repelling(places: &mut Places, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, cluster: &Cluster, delta: i64) {
    for term in other.required_anti_affinity.iter().filter(|term| term.matches(pod, &cluster.namespaces)) {
        add(places, &term.topology_key, node, delta);
    }
}

fn count_wanted(wanted: &mut [Places], terms: &[AffinityTerm], node: &NodeInfo, delta: i64) {
    for (term, places) in terms.iter().zip(wanted) {
        add(places, &term.topology_key, node, delta);
    }
}

fn count_term(places: &mut Places, term: &AffinityTerm, cluster: &Cluster) {
    for namespace in namespaces(term, cluster) {
        cluster.count(&namespace, &term.selector).for_each(|node, count| {
            if let Some(node) = cluster.node(node) {
                add(places, &term.topology_key, node, count.all);
            }
        });
    }
}

/// The namespaces that the term speaks of.
pub fn namespaces(term: &AffinityTerm, cluster: &Cluster) -> Vec<String> {
    let mut named: Vec<String> = term.namespaces.iter().cloned().collect();
    if let Some(selector) = &term.namespace_selector {
        let selected = cluster.namespaces.iter().filter(|(name, labels)| !term.namespaces.contains(*name) && selector.matches(labels));
        named.extend(selected.map(|(name, _)| name.clone()));
    }
    named
}

fn matches_all(terms: &[AffinityTerm], pod: &PodInfo, cluster: &Cluster) -> bool {
    terms.iter().all(|term| term.matches(pod, &cluster.namespaces))
}

fn add(places: &mut Places, topology_key: &str, node: &NodeInfo, delta: i64) {
    if let Some(value) = node.labels.get(topology_key) {
        *places.entry((topology_key.to_owned(), value.clone())).or_insert(0) += delta;
    }
}

fn count_at(places: &Places, topology_key: &str, node: &NodeInfo) -> i64 {
    let Some(value) = node.labels.get(topology_key) else { return 0 };
    places.get(&(topology_key.to_owned(), value.clone())).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{cluster, fits, place, pod};

    fn term(app: &str) -> Value {
        json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}])
    }

    #[track_caller]
    fn check(kind: &str, terms: Value, pods: &str, expected: &str) {
        let affinity = json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
        let wanted = pod(json!({"metadata": {"labels": {"app": "web"}}, "spec": {"affinity": affinity}}));
        let cluster = cluster("a1[zone=a] a2[zone=a] b1[zone=b] x1", pods, "app=db");
        assert_eq!(fits(&cluster, &wanted), expected, "{kind} {terms} {pods}");
    }

    #[test]
    fn draws_near_and_keeps_away() {
        check("podAffinity", term("db"), "a1:1", "a1 a2");
        check("podAffinity", term("db"), "", "");
        check("podAffinity", term("web"), "", "a1 a2 b1"); // The first of its group.
        check("podAffinity", term("db"), "x1:1", "");
        check("podAntiAffinity", term("db"), "a1:1", "b1 x1");
        check("podAntiAffinity", term("db"), "", "a1 a2 b1 x1");
        check("podAntiAffinity", term("web"), "a1:1", "a1 a2 b1 x1");
        let both = json!([term("db")[0].clone(), {"topologyKey": "zone", "labelSelector": {}}]);
        check("podAffinity", both, "b1:1", "b1");
    }

    #[test]
    fn respects_those_already_there() {
        let mut cluster = cluster("a1[zone=a] a2[zone=a] b1[zone=b]", "", "");
        let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term("web")}});
        place(&mut cluster, json!({"metadata": {"name": "loner"}, "spec": {"affinity": affinity}}), "a1");
        let web = pod(json!({"metadata": {"labels": {"app": "web"}}}));
        assert_eq!(fits(&cluster, &web), "b1");
        assert_eq!(fits(&cluster, &pod(json!({}))), "a1 a2 b1");
    }

    #[test]
    fn looks_into_other_namespaces() {
        let mut cluster = cluster("a1[zone=a] b1[zone=b]", "", "");
        cluster.namespaces.insert("team".into(), [("env".to_owned(), "prod".to_owned())].into());
        place(&mut cluster, json!({"metadata": {"name": "db", "namespace": "team", "labels": {"app": "db"}}}), "b1");
        let near = |extra: Value| {
            let mut term = term("db");
            term[0].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let affinity = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
            pod(json!({"spec": {"affinity": affinity}}))
        };
        assert_eq!(fits(&cluster, &near(json!({}))), "");
        assert_eq!(fits(&cluster, &near(json!({"namespaces": ["team"]}))), "b1");
        assert_eq!(fits(&cluster, &near(json!({"namespaceSelector": {"matchLabels": {"env": "prod"}}}))), "b1");
        assert_eq!(fits(&cluster, &near(json!({"namespaceSelector": {"matchLabels": {"env": "dev"}}}))), "");
    }
}
