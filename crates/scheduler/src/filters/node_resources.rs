//! Room for one more pod and for what it asks.

use std::borrow::Cow;

use super::{Filter, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub fn check(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut resolvable = true;
    if node.pods.len() as i64 + 1 > node.allocatable_pods {
        reasons.push(Cow::Borrowed("Too many pods"));
    }
    let mut fit = |wanted: i64, allocatable: i64, requested: i64, reason: &dyn Fn() -> Cow<'static, str>| {
        if wanted > 0 && wanted > allocatable - requested {
            reasons.push(reason());
            resolvable &= wanted <= allocatable; // Not even an empty node would do.
        }
    };
    let (wanted, allocatable, requested) = (&pod.requests, &node.allocatable, &node.requested);
    fit(wanted.milli_cpu, allocatable.milli_cpu, requested.milli_cpu, &|| Cow::Borrowed("Insufficient cpu"));
    fit(wanted.memory, allocatable.memory, requested.memory, &|| Cow::Borrowed("Insufficient memory"));
    fit(wanted.ephemeral_storage, allocatable.ephemeral_storage, requested.ephemeral_storage, &|| {
        Cow::Borrowed("Insufficient ephemeral-storage")
    });
    for (name, wanted) in wanted.extended.iter().filter(|(name, _)| !pod.profile.ignores(name)) {
        let amount = |of: &std::collections::BTreeMap<String, i64>| of.get(name).copied().unwrap_or(0);
        fit(*wanted, amount(&allocatable.extended), amount(&requested.extended), &|| {
            Cow::Owned(format!("Insufficient {name}"))
        });
    }
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Rejection { filter: Filter::NodeResourcesFit, reasons, resolvable }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{node, outcome, pod};

    fn asking(requests: Value) -> PodInfo {
        pod(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}))
    }

    #[track_caller]
    fn check_fit(taken: Value, wanted: Value, expected: &str) {
        let allocatable = json!({"cpu": "1", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "2", "example.com/gpu": "1"});
        let mut node = node(json!({"status": {"allocatable": allocatable}}));
        node.add(Arc::new(asking(taken.clone())));
        assert_eq!(outcome(check(&asking(wanted.clone()), &node)), expected, "{taken} {wanted}");
    }

    #[test]
    fn names_everything_that_is_short() {
        check_fit(json!({}), json!({}), "");
        check_fit(json!({"cpu": "500m"}), json!({"cpu": "500m"}), "");
        check_fit(json!({"cpu": "501m"}), json!({"cpu": "500m"}), "Insufficient cpu (resolvable)");
        check_fit(json!({"cpu": "2"}), json!({"memory": "1Mi"}), ""); // What is not asked for is not short.
        check_fit(json!({"cpu": "1", "memory": "1Gi"}), json!({"cpu": "1", "memory": "1"}), "Insufficient cpu, Insufficient memory (resolvable)");
        check_fit(json!({}), json!({"cpu": "2"}), "Insufficient cpu");
        check_fit(json!({}), json!({"ephemeral-storage": "11Gi"}), "Insufficient ephemeral-storage");
        check_fit(json!({"example.com/gpu": "1"}), json!({"example.com/gpu": "1"}), "Insufficient example.com/gpu (resolvable)");
        check_fit(json!({}), json!({"example.com/fpga": "1"}), "Insufficient example.com/fpga");
    }

    #[test]
    fn counts_pods() {
        let mut node = node(json!({"status": {"allocatable": {"pods": "1"}}}));
        assert_eq!(outcome(check(&pod(json!({})), &node)), "");
        node.add(Arc::new(pod(json!({}))));
        assert_eq!(outcome(check(&pod(json!({"metadata": {"uid": "2"}})), &node)), "Too many pods (resolvable)");
    }
}
