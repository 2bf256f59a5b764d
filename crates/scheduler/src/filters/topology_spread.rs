//! Hard topology spread constraints: no place may be ahead of the emptiest by more than `maxSkew`.

use std::borrow::Cow;
use std::collections::HashMap;

use super::taint_toleration::tolerates_all;
use super::{Filter, Rejection};
use crate::cluster::Cluster;
use crate::cycle::Cycle;
use crate::node_info::NodeInfo;
use crate::node_selector::required_matches;
use crate::pod_info::{PodInfo, SpreadConstraint};

/// Matching pods per place, for one constraint.
#[derive(Clone)]
pub struct SpreadCounts<'a> {
    constraint: Cow<'a, SpreadConstraint>,
    /// By the topology label's value; places without pods count 0.
    places: HashMap<String, i64>,
    /// The least of `places`, or 0 where there are too few of them.
    emptiest: i64,
    counts_itself: bool,
}

pub fn count<'a>(pod: &'a PodInfo, cluster: &Cluster) -> Vec<SpreadCounts<'a>> {
    let own = hard_constraints(pod, cluster);
    let constraints: Vec<&SpreadConstraint> = own.iter().map(Cow::as_ref).collect();
    let count = |held: &Cow<'a, SpreadConstraint>| {
        let constraint: &SpreadConstraint = held;
        let counts_itself = constraint.selector.matcher.matches(&pod.labels);
        if let Some(places) = count_by_place(pod, constraint, &constraints, cluster) {
            return SpreadCounts { constraint: held.clone(), emptiest: emptiest(constraint, &places), places, counts_itself };
        }
        let matching = cluster.count(&pod.key.namespace, &constraint.selector);
        let mut places = HashMap::new();
        // A node without all of the keys is no place for any of the constraints.
        let eligible = cluster.nodes().iter().filter(|node| has_all_keys(node, &constraints) && is_domain(pod, constraint, node));
        for node in eligible {
            let Some(place) = node.labels.get(&constraint.topology_key) else { continue };
            let here = if constraint.selector.is_everything() { 0 } else { matching.at(&node.name).live };
            match places.get_mut(place) {
                Some(count) => *count += here,
                None => {
                    places.insert(place.clone(), here);
                }
            }
        }
        SpreadCounts { constraint: held.clone(), emptiest: emptiest(constraint, &places), places, counts_itself }
    };
    own.iter().map(count).collect()
}

/// The pod's own, or if it has none at all those that its profile gives it.
fn hard_constraints<'a>(pod: &'a PodInfo, cluster: &Cluster) -> Vec<Cow<'a, SpreadConstraint>> {
    if !pod.spread.is_empty() {
        return pod.spread.iter().filter(|constraint| constraint.hard).map(Cow::Borrowed).collect();
    }
    if pod.profile.default_constraints.iter().flatten().all(|constraint| !constraint.hard) {
        return Vec::new();
    }
    let given = cluster.default_selectors.constraints(pod).into_iter();
    given.filter(|constraint| constraint.hard).map(Cow::Owned).collect()
}

/// What is counted along anyway, where every node that has the label is a place.
fn count_by_place(pod: &PodInfo, constraint: &SpreadConstraint, all: &[&SpreadConstraint], cluster: &Cluster) -> Option<HashMap<String, i64>> {
    if constraint.honor_taints || constraint.honor_affinity && pod.is_particular() {
        return None;
    }
    let domains = cluster.domains(&constraint.topology_key)?;
    let everywhere = |key: &str| cluster.domains(key).is_some_and(|values| values.values().sum::<usize>() == cluster.nodes().len());
    if all.iter().any(|other| other.topology_key != constraint.topology_key && !everywhere(&other.topology_key)) {
        return None;
    }
    let counted = cluster.places(&pod.key.namespace, &constraint.selector, &constraint.topology_key)?;
    // A selector without requirements counts nobody, as in the original.
    let counted = Some(counted).filter(|_| !constraint.selector.is_everything());
    Some(domains.keys().map(|value| (value.clone(), counted.and_then(|counted| counted.get(value)).map_or(0, |count| count.live))).collect())
}

fn emptiest(constraint: &SpreadConstraint, places: &HashMap<String, i64>) -> i64 {
    if (places.len() as i64) < constraint.min_domains {
        return 0;
    }
    places.values().copied().min().unwrap_or(i64::from(i32::MAX))
}

pub fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    for spread in &cycle.spread {
        let Some(place) = node.labels.get(&spread.constraint.topology_key) else {
            let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
            return Err(Rejection::final_one(Filter::PodTopologySpread, reason));
        };
        let here = spread.places.get(place).copied().unwrap_or(0) + i64::from(spread.counts_itself);
        if here - spread.emptiest > spread.constraint.max_skew {
            let reason = "node(s) didn't match pod topology spread constraints";
            return Err(Rejection::resolvable(Filter::PodTopologySpread, reason));
        }
    }
    Ok(())
}

/// Counts `other` in (1) or out (-1) on the node, for the sake of argument.
pub fn adjust(counts: &mut [SpreadCounts<'_>], pod: &PodInfo, other: &PodInfo, node: &NodeInfo, delta: i64) {
    if other.key.namespace != pod.key.namespace || other.terminating {
        return;
    }
    for spread in counts {
        if spread.constraint.selector.matcher.matches(&other.labels)
            && is_domain(pod, &spread.constraint, node)
            && let Some(count) = node.labels.get(&spread.constraint.topology_key).and_then(|place| spread.places.get_mut(place))
        {
            *count += delta;
            spread.emptiest = emptiest(&spread.constraint, &spread.places);
        }
    }
}

fn has_all_keys(node: &NodeInfo, constraints: &[&SpreadConstraint]) -> bool {
    constraints.iter().all(|constraint| node.labels.contains_key(&constraint.topology_key))
}

pub fn is_domain(pod: &PodInfo, constraint: &SpreadConstraint, node: &NodeInfo) -> bool {
    (!constraint.honor_affinity || pod.spec().is_none_or(|spec| required_matches(spec, node)))
        && (!constraint.honor_taints || tolerates_all(pod, node))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{cluster, fits, pod};

    /// Nodes a1, a2 in zone a and b1 in zone b; pods as `node:count`.
    #[track_caller]
    fn check(constraint: Value, pods: &str, expected: &str) {
        let mut constraint = constraint;
        constraint["labelSelector"] = json!({"matchLabels": {"app": "web"}});
        let wanted = pod(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"topologySpreadConstraints": [constraint]}
        }));
        let cluster = cluster("a1[zone=a] a2[zone=a] b1[zone=b] x1", pods, "app=web");
        assert_eq!(fits(&cluster, &wanted), expected, "{constraint} {pods}");
    }

    #[test]
    fn keeps_places_level() {
        let zone = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        check(zone.clone(), "", "a1 a2 b1");
        check(zone.clone(), "a1:1", "b1");
        check(zone.clone(), "a1:1 b1:1", "a1 a2 b1");
        check(zone.clone(), "a1:1 a2:1 b1:1", "b1");
        check(zone, "x1:5", "a1 a2 b1"); // No place, so its pods do not count.
        let loose = json!({"maxSkew": 3, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        check(loose, "a1:2", "a1 a2 b1");
        let soft = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"});
        check(soft, "a1:9", "a1 a2 b1 x1");
        let wide = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 3});
        check(wide, "a1:1 b1:1", "");
    }

    /// Nodes a and b in zone 1, x and y in zone 2; pods as `node:count` with the label `app=web`.
    #[track_caller]
    fn check_table(wanted: Value, pods: &str, expected: &str) {
        let cluster = cluster("a[zone=1] b[zone=1] x[zone=2] y[zone=2]", pods, "app=web");
        assert_eq!(fits(&cluster, &pod(wanted.clone())), expected, "{wanted} {pods}");
    }

    fn web(constraints: Value) -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"topologySpreadConstraints": constraints}})
    }

    /// Hard, over this key; more fields on top.
    fn over(key: &str, more: Value) -> Value {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
        constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        constraint
    }

    const HOST: &str = "kubernetes.io/hostname";

    #[test]
    fn one_constraint() {
        let none = json!({});
        check_table(web(json!([over("zone", none.clone())])), "", "a b x y");
        check_table(web(json!([over("zone", none.clone())])), "a:2 b:1 y:3", "a b x y");
        check_table(web(json!([over("rack", none.clone())])), "", "");
        check_table(web(json!([over(HOST, none.clone())])), "a:2 b:1 y:3", "x");
        check_table(web(json!([over(HOST, json!({"maxSkew": 2}))])), "a:2 b:1 y:3", "b x");
        // Who does not count itself may go where it would be one more.
        let mut other = web(json!([over(HOST, none.clone())]));
        other["metadata"]["labels"] = json!({"app": "db"});
        check_table(other, "a:2 b:1 y:3", "b x");
        let mut elsewhere = web(json!([over(HOST, none.clone())]));
        elsewhere["metadata"]["namespace"] = json!("team");
        check_table(elsewhere, "a:2 b:1 y:3", "a b x y");
        // Neither an empty selector nor none at all counts anybody.
        check_table(web(json!([over(HOST, json!({"labelSelector": {}}))])), "a:1 b:1 x:1", "a b x y");
        check_table(web(json!([over(HOST, json!({"labelSelector": null}))])), "a:1 b:1 x:1", "a b x y");
    }

    #[test]
    fn the_least_is_looked_for_where_it_could_go() {
        let mut some = web(json!([over(HOST, json!({}))]));
        let among = |nodes: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": HOST, "operator": "In", "values": nodes}]}]}}});
        some["spec"]["affinity"] = among(json!(["a", "y"]));
        check_table(some.clone(), "a:2 b:1 y:3", "a");
        some["spec"]["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Ignore");
        check_table(some, "a:2 b:1 y:3", "");
        let mut selected = web(json!([over("zone", json!({}))]));
        selected["spec"]["nodeSelector"] = json!({"zone": "2"});
        check_table(selected, "a:1 y:5", "x y");
    }

    #[test]
    fn tainted_nodes_count_unless_taints_are_honoured() {
        let check = |policy: Option<&str>, expected: &str| {
            let mut cluster = cluster("a[zone=1] b[zone=1] x[zone=2] y[zone=2]", "a:1 b:1 y:1", "app=web");
            let taints = json!([{"key": "k", "effect": "NoSchedule"}]);
            let tainted = json!({"metadata": {"name": "x", "labels": {HOST: "x", "zone": "2"}}, "spec": {"taints": taints},
                "status": {"allocatable": {"cpu": "64", "memory": "64Gi", "pods": "110"}}});
            cluster.set_node(std::sync::Arc::new(serde_json::from_value(tainted).unwrap()));
            let wanted = pod(web(json!([over(HOST, json!({"nodeTaintsPolicy": policy}))])));
            assert_eq!(fits(&cluster, &wanted), expected, "{policy:?}");
        };
        check(None, ""); // The emptiest is closed, and nobody may get ahead of it.
        check(Some("Honor"), "a b y");
    }

    #[test]
    fn too_few_domains_count_as_empty() {
        let with = |domains: i64| web(json!([over("zone", json!({"minDomains": domains, "maxSkew": 2}))]));
        check_table(with(2), "a:1 b:1 x:1 y:1", "a b x y");
        check_table(with(3), "a:1 b:1 x:1 y:1", "");
        check_table(with(3), "a:1 y:1", "a b x y");
    }

    #[test]
    fn several_constraints_must_all_hold() {
        let both = web(json!([over("zone", json!({})), over(HOST, json!({}))]));
        check_table(both.clone(), "a:2 b:1 y:3", "x");
        check_table(both.clone(), "a:2 b:1 y:2", "x");
        check_table(both.clone(), "a:1 b:1 x:1", "y");
        check_table(both, "a:1 x:2 y:1", "b");
        let mixed = web(json!([over("zone", json!({"labelSelector": {"matchLabels": {"app": "db"}}})), over(HOST, json!({}))]));
        check_table(mixed, "a:1 b:1", "x y");
        let soft = web(json!([over("zone", json!({"whenUnsatisfiable": "ScheduleAnyway"})), over(HOST, json!({}))]));
        check_table(soft, "a:1 b:1 x:1", "y");
    }

    #[test]
    fn pods_on_their_way_out_do_not_count() {
        let mut cluster = cluster("a b", "a:1", "app=web");
        let leaving = json!({"metadata": {"name": "leaving", "labels": {"app": "web"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        crate::testing::place(&mut cluster, leaving, "b");
        assert_eq!(fits(&cluster, &pod(web(json!([over(HOST, json!({}))])))), "b");
    }

    #[test]
    fn matching_label_keys_narrow_whom_it_counts() {
        let mut cluster = cluster("a b", "", "");
        for (name, hash, node) in [("old", "1", "a"), ("new", "2", "b")] {
            crate::testing::place(&mut cluster, json!({"metadata": {"name": name, "labels": {"app": "web", "hash": hash}}}), node);
        }
        let mut wanted = web(json!([over(HOST, json!({"matchLabelKeys": ["hash"]}))]));
        wanted["metadata"]["labels"]["hash"] = json!("2");
        assert_eq!(fits(&cluster, &pod(wanted)), "a");
    }

    #[test]
    fn every_field_in_combination() {
        // Fewer domains than wanted count as empty; as many or more do not.
        let wide = |domains: Value, skew: i64| web(json!([over("zone", json!({"minDomains": domains, "maxSkew": skew}))]));
        check_table(wide(Value::Null, 1), "a:1 x:1", "a b x y");
        check_table(wide(json!(1), 1), "a:1 x:1", "a b x y");
        check_table(wide(json!(2), 1), "a:1 x:1", "a b x y");
        check_table(wide(json!(3), 1), "a:1 x:1", "");
        check_table(wide(json!(3), 2), "a:1 x:2", "a b");
        check_table(wide(json!(3), 1), "", "a b x y");
        // Domains that the pod's own selector excludes are none.
        let mut selected = wide(json!(2), 1);
        selected["spec"]["nodeSelector"] = json!({"zone": "1"});
        check_table(selected.clone(), "a:1", "");
        selected["spec"]["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Ignore");
        check_table(selected, "a:1", "");
        let mut honored = wide(json!(1), 1);
        honored["spec"]["nodeSelector"] = json!({"zone": "1"});
        check_table(honored.clone(), "a:5", "a b");
        honored["spec"]["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Honor");
        check_table(honored.clone(), "a:5", "a b");
        honored["spec"]["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Ignore");
        check_table(honored, "a:5", "");
        // What the pod itself has not cannot narrow whom it counts.
        let mut keyed = web(json!([over("zone", json!({"matchLabelKeys": ["none"]}))]));
        check_table(keyed.clone(), "a:1", "x y");
        keyed["metadata"]["labels"]["none"] = json!("1");
        check_table(keyed, "a:1", "a b x y"); // Nobody else has that.
    }
}
