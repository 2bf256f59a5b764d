//! Taints keep pods away that do not tolerate them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Filter, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub fn check(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    match tolerates_all(pod, node) {
        true => Ok(()),
        false => Err(Rejection::final_one(Filter::TaintToleration, "node(s) had untolerated taint(s)")),
    }
}

/// Whether the pod tolerates every taint that keeps pods away.
pub fn tolerates_all(pod: &PodInfo, node: &NodeInfo) -> bool {
    let repelling = node.taints().iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    repelling.into_iter().all(|taint| tolerates(pod, taint))
}

pub fn tolerates(pod: &PodInfo, taint: &Taint) -> bool {
    let tolerations = pod.spec().into_iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.into_iter().any(|toleration| toleration_covers(toleration, taint))
}

pub fn toleration_covers(toleration: &Toleration, taint: &Taint) -> bool {
    let covers = |wanted: &Option<String>, given: &str| wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == given);
    if !covers(&toleration.effect, &taint.effect) || !covers(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{node, outcome, pod};

    /// Taints as `key=value:effect`, tolerations as JSON.
    #[track_caller]
    fn check_one(taint: &str, tolerations: Value, tolerated: bool) {
        let (pair, effect) = taint.split_once(':').unwrap();
        let (key, value) = pair.split_once('=').unwrap();
        let node = node(json!({"spec": {"taints": [{"key": key, "value": value, "effect": effect}]}}));
        let pod = pod(json!({"spec": {"tolerations": tolerations}}));
        let expected = if tolerated { "" } else { "node(s) had untolerated taint(s)" };
        assert_eq!(outcome(check(&pod, &node)), expected, "{taint} {tolerations}");
    }

    #[test]
    fn wants_a_toleration_for_each_taint() {
        check_one("a=1:NoSchedule", json!([]), false);
        check_one("a=1:NoExecute", json!([]), false);
        check_one("a=1:PreferNoSchedule", json!([]), true);
        check_one("a=1:NoSchedule", json!([{"key": "a", "value": "1"}]), true);
        check_one("a=1:NoSchedule", json!([{"key": "a", "value": "2"}]), false);
        check_one("a=1:NoSchedule", json!([{"key": "a", "operator": "Exists"}]), true);
        check_one("a=1:NoSchedule", json!([{"operator": "Exists"}]), true);
        check_one("a=1:NoSchedule", json!([{"operator": "Exists", "effect": "NoExecute"}]), false);
        check_one("a=:NoSchedule", json!([{"key": "a"}]), true);
        check_one("a=1:NoSchedule", json!([{"key": "a"}]), false); // No value is the empty one.
        check_one("a=1:NoSchedule", json!([{"key": "a", "operator": "Equal", "value": "1", "effect": "NoSchedule"}]), true);
        check_one("a=1:NoExecute", json!([{"key": "a", "operator": "Equal", "value": "1", "effect": "NoSchedule"}]), false);
        check_one("a=1:NoSchedule", json!([{"key": "b", "operator": "Exists"}]), false);
        check_one("a=1:NoSchedule", json!([{"key": "a", "operator": "Near", "value": "1"}]), false);
        check_one("a=1:NoSchedule", json!([{"key": "b", "operator": "Exists"}, {"key": "a", "operator": "Exists"}]), true);
        // How long it may stay says nothing about whether it may come.
        check_one("a=1:NoExecute", json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]), true);
    }
}
