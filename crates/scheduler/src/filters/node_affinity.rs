//! `spec.nodeSelector` and the required part of `spec.affinity.nodeAffinity`.

use super::{Filter, Rejection};
use crate::node_info::NodeInfo;
use crate::node_selector::{matches, required_matches};
use crate::pod_info::PodInfo;

pub fn check(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    // As in the original, what the profile adds is told apart from what the pod wants.
    let added = pod.profile.added_affinity.as_ref().and_then(|added| added.required_during_scheduling_ignored_during_execution.as_ref());
    if added.is_some_and(|added| !matches(added, &node.labels, &node.name)) {
        return Err(Rejection::final_one(Filter::NodeAffinity, "node(s) didn't match scheduler-enforced node affinity"));
    }
    match pod.spec().is_none_or(|spec| required_matches(spec, node)) {
        true => Ok(()),
        false => Err(Rejection::final_one(Filter::NodeAffinity, "node(s) didn't match Pod's node affinity/selector")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{node, pod};

    #[track_caller]
    fn check_terms(terms: Value, matches: bool) {
        let node = node(json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}}}));
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        let pod = pod(json!({"spec": {"affinity": {"nodeAffinity": required}}}));
        assert_eq!(check(&pod, &node).is_ok(), matches, "{terms}");
    }

    #[test]
    fn reads_every_operator() {
        let term = |key: &str, operator: &str, values: &[&str]| {
            json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}])
        };
        check_terms(term("disk", "In", &["ssd", "nvme"]), true);
        check_terms(term("disk", "In", &["hdd"]), false);
        check_terms(term("none", "In", &["ssd"]), false);
        check_terms(term("disk", "NotIn", &["hdd"]), true);
        check_terms(term("none", "NotIn", &["hdd"]), true);
        check_terms(term("disk", "Exists", &[]), true);
        check_terms(term("none", "DoesNotExist", &[]), true);
        check_terms(term("cores", "Gt", &["4"]), true);
        check_terms(term("cores", "Gt", &["8"]), false);
        check_terms(term("cores", "Lt", &["16"]), true);
        check_terms(term("disk", "Gt", &["1"]), false);
        check_terms(term("cores", "Lt", &["8"]), false);
        check_terms(term("none", "Gt", &["1"]), false);
        check_terms(term("cores", "Gt", &["many"]), false);
        check_terms(term("disk", "DoesNotExist", &[]), false);
        check_terms(term("none", "Exists", &[]), false);
        check_terms(term("disk", "NotIn", &["ssd"]), false);
        check_terms(term("disk", "Near", &["ssd"]), false);
    }

    #[test]
    fn any_term_suffices_and_an_empty_one_matches_nothing() {
        check_terms(json!([{}]), false);
        check_terms(json!([{}, {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]), true);
        check_terms(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]), true);
        check_terms(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]), false);
        check_terms(json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n2"]}]}]), true);
        check_terms(json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}]), false);
        check_terms(json!([{"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["n1"]}]}]), false);
        check_terms(json!([]), false);
        // All of a term, any of the terms.
        let ssd = json!({"key": "disk", "operator": "In", "values": ["ssd"]});
        let (small, here) = (json!({"key": "cores", "operator": "Lt", "values": ["4"]}), json!({"key": "metadata.name", "operator": "In", "values": ["n1"]}));
        check_terms(json!([{"matchExpressions": [ssd.clone(), small.clone()]}]), false);
        check_terms(json!([{"matchExpressions": [ssd.clone()]}, {"matchExpressions": [small.clone()]}]), true);
        check_terms(json!([{"matchExpressions": [ssd], "matchFields": [here.clone()]}]), true);
        check_terms(json!([{"matchExpressions": [small.clone()], "matchFields": [here.clone()]}]), false);
        check_terms(json!([{"matchExpressions": [small]}, {"matchFields": [here]}]), true);
    }

    #[test]
    fn wants_every_label_of_the_selector() {
        let node = node(json!({"metadata": {"labels": {"disk": "ssd"}}}));
        assert!(check(&pod(json!({"spec": {"nodeSelector": {"disk": "ssd"}}})), &node).is_ok());
        assert!(check(&pod(json!({"spec": {"nodeSelector": {"disk": "ssd", "gpu": "yes"}}})), &node).is_err());
    }
}
