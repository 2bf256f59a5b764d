//! Required pod affinity and anti-affinity, the pod's own and that of pods already there.

use std::collections::HashMap;

use super::{Filter, Rejection};
use crate::cluster::Cluster;
use crate::counts::Places;
use crate::cycle::Cycle;
use crate::node_info::NodeInfo;
use crate::pod_info::{AffinityTerm, PodInfo};

/// How many pods count for or against each place, a place being the value of a topology label.
#[derive(Clone, Default)]
pub struct AffinityCounts<'a> {
    /// Topology key and pods there that keep this one away, by their term.
    repelling: Vec<(&'a str, &'a HashMap<String, i64>)>,
    /// By topology key and value: what is supposed to be added to that or taken away.
    supposed_repelling: HashMap<String, HashMap<String, i64>>,
    /// Pods that match all of its affinity terms, by term.
    wanted: Vec<TermCounts<'a>>,
    /// Pods that match one of its anti-affinity terms, by term.
    unwanted: Vec<TermCounts<'a>>,
    /// Whether it may be the first of a group that it itself belongs to.
    matches_itself: bool,
}

/// Pods that count for a term, by place.
#[derive(Clone, Default)]
struct TermCounts<'a> {
    /// Counted along, one for each namespace.
    kept: Vec<&'a Places>,
    /// Counted for this pod alone, and what is supposed.
    more: HashMap<String, i64>,
}

impl TermCounts<'_> {
    fn at(&self, topology_key: &str, node: &NodeInfo) -> i64 {
        let Some(value) = node.labels.get(topology_key) else { return 0 };
        let kept: i64 = self.kept.iter().filter_map(|places| places.get(value)).map(|count| count.all).sum();
        kept + self.more.get(value).copied().unwrap_or(0)
    }

    fn add(&mut self, topology_key: &str, node: &NodeInfo, delta: i64) {
        if let Some(value) = node.labels.get(topology_key) {
            *self.more.entry(value.clone()).or_insert(0) += delta;
        }
    }

    fn is_empty(&self) -> bool {
        let at = |value: &String| -> i64 {
            let kept: i64 = self.kept.iter().filter_map(|places| places.get(value)).map(|count| count.all).sum();
            kept + self.more.get(value).copied().unwrap_or(0)
        };
        if self.more.is_empty() {
            return self.kept.iter().all(|places| places.is_empty());
        }
        self.kept.iter().flat_map(|places| places.keys()).chain(self.more.keys()).all(|value| at(value) <= 0)
    }
}

pub fn count<'a>(pod: &PodInfo, cluster: &'a Cluster) -> AffinityCounts<'a> {
    let repelling = cluster.repelling.groups().filter(|group| group.term.matches(pod, &cluster.namespaces));
    let mut counts = AffinityCounts {
        repelling: repelling.map(|group| (group.term.topology_key.as_str(), &group.places)).collect(),
        supposed_repelling: HashMap::new(),
        wanted: vec![TermCounts::default(); pod.required_affinity.len()],
        unwanted: pod.required_anti_affinity.iter().map(|term| count_term(term, cluster)).collect(),
        matches_itself: matches_all(&pod.required_affinity, pod, cluster),
    };
    match &pod.required_affinity[..] {
        [] => {}
        [term] => counts.wanted[0] = count_term(term, cluster),
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
    if unwanted.into_iter().any(|(term, counted)| counted.at(&term.topology_key, node) > 0) {
        return Err(Rejection::resolvable(Filter::InterPodAffinity, "node(s) didn't match pod anti-affinity rules"));
    }
    if counts.repels_from(node) {
        let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
        return Err(Rejection::resolvable(Filter::InterPodAffinity, reason));
    }
    Ok(())
}

impl AffinityCounts<'_> {
    fn repels_from(&self, node: &NodeInfo) -> bool {
        let supposed = |key: &str, value: &String| self.supposed_repelling.get(key).and_then(|values| values.get(value)).copied().unwrap_or(0);
        let total = |key: &str| {
            let Some(value) = node.labels.get(key) else { return 0 };
            let groups = self.repelling.iter().filter(|(of, _)| *of == key);
            groups.filter_map(|(_, places)| places.get(value)).sum::<i64>() + supposed(key, value)
        };
        self.repelling.iter().any(|(key, _)| total(key) > 0) || self.supposed_repelling.keys().any(|key| total(key) > 0)
    }
}

/// Counts `other` in (1) or out (-1) on the node, for the sake of argument.
pub fn adjust(counts: &mut AffinityCounts<'_>, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, cluster: &Cluster, delta: i64) {
    for term in other.required_anti_affinity.iter().filter(|term| term.matches(pod, &cluster.namespaces)) {
        if let Some(value) = node.labels.get(&term.topology_key) {
            let values = counts.supposed_repelling.entry(term.topology_key.clone()).or_default();
            *values.entry(value.clone()).or_insert(0) += delta;
        }
    }
    for (term, counted) in pod.required_anti_affinity.iter().zip(&mut counts.unwanted) {
        if term.matches(other, &cluster.namespaces) {
            counted.add(&term.topology_key, node, delta);
        }
    }
    if !pod.required_affinity.is_empty() && matches_all(&pod.required_affinity, other, cluster) {
        count_wanted(&mut counts.wanted, &pod.required_affinity, node, delta);
    }
}

fn satisfies_affinity(pod: &PodInfo, counts: &AffinityCounts<'_>, node: &NodeInfo) -> bool {
    if !pod.required_affinity.iter().all(|term| node.labels.contains_key(&term.topology_key)) {
        return false;
    }
    let mut terms = pod.required_affinity.iter().zip(&counts.wanted);
    if terms.all(|(term, counted)| counted.at(&term.topology_key, node) > 0) {
        return true;
    }
    // The first pod of a group has nobody to be near to.
    counts.wanted.iter().all(TermCounts::is_empty) && counts.matches_itself
}

fn count_wanted(wanted: &mut [TermCounts<'_>], terms: &[AffinityTerm], node: &NodeInfo, delta: i64) {
    for (term, counted) in terms.iter().zip(wanted) {
        counted.add(&term.topology_key, node, delta);
    }
}

fn count_term<'a>(term: &AffinityTerm, cluster: &'a Cluster) -> TermCounts<'a> {
    let mut counted = TermCounts::default();
    for namespace in namespaces(term, cluster) {
        if let Some(places) = cluster.places(&namespace, &term.selector, &term.topology_key) {
            counted.kept.push(places);
            continue;
        }
        cluster.count(&namespace, &term.selector).for_each(|node, count| {
            if let Some(node) = cluster.node(node) {
                counted.add(&term.topology_key, node, count.all);
            }
        });
    }
    counted
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

    /// Nodes a and b in zone 1, c in zone 2; `there` are pods with their nodes.
    #[track_caller]
    fn check_table(wanted: Value, there: &[(Value, &str)], expected: &str) {
        let mut cluster = cluster("a[zone=1] b[zone=1] c[zone=2]", "", "");
        for (number, (value, node)) in there.iter().enumerate() {
            let mut value = value.clone();
            value["metadata"]["name"] = json!(format!("there-{number}"));
            place(&mut cluster, value, node);
        }
        assert_eq!(fits(&cluster, &pod(wanted.clone())), expected, "{wanted}");
    }

    fn labelled(labels: Value, affinity: Value) -> Value {
        json!({"metadata": {"labels": labels}, "spec": {"affinity": affinity}})
    }

    fn required(kind: &str, terms: Value) -> Value {
        json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}})
    }

    fn near(key: &str, expressions: Value) -> Value {
        json!({"topologyKey": key, "labelSelector": {"matchExpressions": expressions}})
    }

    const HOST: &str = "kubernetes.io/hostname";

    #[test]
    fn selectors_of_every_operator() {
        let service = |value: &str| labelled(json!({"service": value}), json!({}));
        let wanting = |key: &str, operator: &str, values: Value| {
            let mut expression = json!({"key": key, "operator": operator});
            if !values.is_null() {
                expression["values"] = values;
            }
            labelled(json!({"x": "y"}), required("podAffinity", json!([near("zone", json!([expression]))])))
        };
        let there = [(service("db"), "a")];
        check_table(wanting("service", "In", json!(["db", "cache"])), &there, "a b");
        check_table(wanting("service", "NotIn", json!(["cache"])), &there, "a b");
        check_table(wanting("service", "NotIn", json!(["db"])), &there, "a b c"); // It is the first of such a group itself.
        check_table(wanting("service", "Exists", Value::Null), &there, "a b");
        check_table(wanting("service", "DoesNotExist", Value::Null), &there, "a b c");
        check_table(wanting("other", "DoesNotExist", Value::Null), &there, "a b");
        // All expressions of a term, and all terms.
        let all = json!([near("zone", json!([{"key": "service", "operator": "Exists"}, {"key": "service", "operator": "In", "values": ["web"]}]))]);
        check_table(labelled(json!({}), required("podAffinity", all)), &there, "");
        let two = json!([near("zone", json!([{"key": "service", "operator": "Exists"}])), near(HOST, json!([{"key": "service", "operator": "In", "values": ["db"]}]))]);
        check_table(labelled(json!({}), required("podAffinity", two)), &there, "a");
    }

    #[test]
    fn near_and_apart_together() {
        let of = |app: &str| json!([{"key": "app", "operator": "In", "values": [app]}]);
        let there = [(labelled(json!({"app": "db"}), json!({})), "a"), (labelled(json!({"app": "cache"}), json!({})), "b")];
        let mut both = required("podAffinity", json!([near("zone", of("db"))]));
        both["podAntiAffinity"] = required("podAntiAffinity", json!([near(HOST, of("cache"))]))["podAntiAffinity"].clone();
        check_table(labelled(json!({}), both.clone()), &there, "a");
        both["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["topologyKey"] = json!("zone");
        check_table(labelled(json!({}), both), &there, "");
        // Near its own kind and apart from it, the first goes anywhere, and the second nowhere.
        let own = json!([near("zone", of("web"))]);
        let mut torn = required("podAffinity", own.clone());
        torn["podAntiAffinity"] = required("podAntiAffinity", own)["podAntiAffinity"].clone();
        check_table(labelled(json!({"app": "web"}), torn.clone()), &[], "a b c");
        check_table(labelled(json!({"app": "web"}), torn), &[(labelled(json!({"app": "web"}), json!({})), "a")], "");
    }

    #[test]
    fn those_there_keep_their_distance() {
        let of = |app: &str| json!([{"key": "app", "operator": "In", "values": [app]}]);
        let loner = |key: &str, app: &str| labelled(json!({"app": "loner"}), required("podAntiAffinity", json!([near(key, of(app))])));
        let web = labelled(json!({"app": "web"}), json!({}));
        check_table(web.clone(), &[(loner(HOST, "web"), "a")], "b c");
        check_table(web.clone(), &[(loner("zone", "web"), "a")], "c");
        check_table(web.clone(), &[(loner("zone", "web"), "a"), (loner(HOST, "web"), "c")], "");
        check_table(web.clone(), &[(loner("zone", "db"), "a")], "a b c");
        check_table(web, &[(loner("rack", "web"), "a")], "a b c"); // A place that no node is in.
        // Any of its terms keeps away.
        let twice = labelled(json!({}), required("podAntiAffinity", json!([near(HOST, of("web")), near("zone", of("db"))])));
        check_table(labelled(json!({"app": "db"}), json!({})), &[(twice.clone(), "a")], "c");
        check_table(labelled(json!({"app": "web"}), json!({})), &[(twice, "a")], "b c");
    }

    #[test]
    fn the_first_of_a_group_goes_where_there_is_such_a_place() {
        let own = json!([{"key": "app", "operator": "In", "values": ["web"]}]);
        check_table(labelled(json!({"app": "web"}), required("podAffinity", json!([near("zone", own.clone())]))), &[], "a b c");
        check_table(labelled(json!({"app": "web"}), required("podAffinity", json!([near("rack", own.clone())]))), &[], "");
        check_table(labelled(json!({"app": "db"}), required("podAffinity", json!([near("zone", own.clone())]))), &[], "");
        // There is one of the group, though at no place of the kind.
        let terms = json!([near("zone", own.clone()), near("rack", own)]);
        check_table(labelled(json!({"app": "web"}), required("podAffinity", terms)), &[(labelled(json!({"app": "web"}), json!({})), "a")], "");
    }

    #[test]
    fn label_keys_narrow_whom_a_term_speaks_of() {
        let versioned = |version: &str| labelled(json!({"app": "web", "version": version}), json!({}));
        let there = [(versioned("1"), "a"), (versioned("2"), "c")];
        let wanting = |kind: &str, keys: Value| {
            let mut term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}});
            term.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            labelled(json!({"app": "web", "version": "2"}), required(kind, json!([term])))
        };
        let (same, other) = (json!({"matchLabelKeys": ["version"]}), json!({"mismatchLabelKeys": ["version"]}));
        check_table(wanting("podAffinity", json!({})), &there, "a b c");
        check_table(wanting("podAffinity", same.clone()), &there, "c");
        check_table(wanting("podAffinity", other.clone()), &there, "a b");
        check_table(wanting("podAntiAffinity", json!({})), &there, "");
        check_table(wanting("podAntiAffinity", same), &there, "a b");
        check_table(wanting("podAntiAffinity", other), &there, "c");
        check_table(wanting("podAffinity", json!({"matchLabelKeys": ["none"]})), &there, "a b c");
    }

    #[test]
    fn namespaces_by_name_and_by_label() {
        let mut cluster = cluster("a[zone=1] b[zone=2] c[zone=3]", "", "");
        cluster.namespaces.insert("prod".into(), [("env".to_owned(), "prod".to_owned())].into());
        cluster.namespaces.insert("dev".into(), [("env".to_owned(), "dev".to_owned())].into());
        for (namespace, node) in [("default", "a"), ("prod", "b"), ("dev", "c")] {
            place(&mut cluster, json!({"metadata": {"name": "db", "uid": namespace, "namespace": namespace, "labels": {"app": "db"}}}), node);
        }
        let fits_with = |kind: &str, more: Value| {
            let mut term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}});
            term.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fits(&cluster, &pod(labelled(json!({}), required(kind, json!([term])))))
        };
        let env = |value: &str| json!({"matchLabels": {"env": value}});
        //                       near       apart
        let rows = [
            (json!({}), "a", "b c"),
            (json!({"namespaces": []}), "a", "b c"),
            (json!({"namespaces": ["prod"]}), "b", "a c"),
            (json!({"namespaces": ["prod", "dev"]}), "b c", "a"),
            (json!({"namespaceSelector": env("dev")}), "c", "a b"),
            (json!({"namespaceSelector": env("none")}), "", "a b c"),
            (json!({"namespaceSelector": {}}), "a b c", ""), // All of them.
            (json!({"namespaceSelector": env("dev"), "namespaces": ["prod"]}), "b c", "a"),
        ];
        for (more, near, apart) in rows {
            assert_eq!(fits_with("podAffinity", more.clone()), near, "{more}");
            assert_eq!(fits_with("podAntiAffinity", more.clone()), apart, "{more}");
        }
    }
}
