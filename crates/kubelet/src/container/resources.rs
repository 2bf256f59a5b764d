//! Requests and limits as the kernel's numbers: CPU shares and quota, memory limit, out-of-memory preference.

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::cri::LinuxContainerResources;

use crate::pod::spec::{self, QosClass};

const SHARES_PER_CPU: i64 = 1024;
const SHARES_LEAST: i64 = 2;
const SHARES_MOST: i64 = 262_144;
pub const QUOTA_PERIOD_MICROSECONDS: i64 = 100_000;
const QUOTA_LEAST_MICROSECONDS: i64 = 1_000;
/// `system-node-critical`.
const NODE_CRITICAL_PRIORITY: i32 = 2_000_001_000;

pub fn cpu_shares(millis: i64) -> i64 {
    if millis <= 0 {
        return SHARES_LEAST;
    }
    (millis * SHARES_PER_CPU / 1000).clamp(SHARES_LEAST, SHARES_MOST)
}

/// 0 is no limit.
pub fn cpu_quota(millis: i64) -> i64 {
    if millis <= 0 {
        return 0;
    }
    (millis * QUOTA_PERIOD_MICROSECONDS / 1000).max(QUOTA_LEAST_MICROSECONDS)
}

/// Who goes first when memory runs out: best-effort pods at once, guaranteed ones last.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity_bytes: i64) -> i64 {
    if spec::spec(pod).priority.is_some_and(|priority| priority >= NODE_CRITICAL_PRIORITY) {
        return -997;
    }
    match spec::qos_class(pod) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let requested = spec::request(container.resources.as_ref(), "memory").map_or(0, |memory| memory.value());
            let used_up = if memory_capacity_bytes > 0 { 1000 * requested / memory_capacity_bytes } else { 0 };
            match 1000 - used_up {
                score if score < 3 => 3,
                1000 => 999,
                score => score,
            }
        }
    }
}

pub fn container_resources(pod: &Pod, container: &Container, memory_capacity_bytes: i64) -> LinuxContainerResources {
    let resources = container.resources.as_ref();
    let millis = |quantity: Option<Quantity>| quantity.map_or(0, |quantity| quantity.milli_value());
    LinuxContainerResources {
        cpu_period: QUOTA_PERIOD_MICROSECONDS,
        cpu_quota: cpu_quota(millis(spec::limit(resources, "cpu"))),
        cpu_shares: cpu_shares(millis(spec::request(resources, "cpu"))),
        memory_limit_in_bytes: spec::limit(resources, "memory").map_or(0, |memory| memory.value()),
        oom_score_adj: oom_score_adj(pod, container, memory_capacity_bytes),
        ..LinuxContainerResources::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shares_and_quota() {
        let table = [(0, 2, 0), (1, 2, 1000), (100, 102, 10_000), (1000, 1024, 100_000), (1_000_000, 262_144, 100_000_000)];
        for (millis, shares, quota) in table {
            assert_eq!((cpu_shares(millis), cpu_quota(millis)), (shares, quota), "{millis}m");
        }
    }

    #[track_caller]
    fn check(resources: serde_json::Value, expected: i64) {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "a", "resources": resources}]}})).expect("a pod");
        assert_eq!(oom_score_adj(&pod, &spec::spec(&pod).containers[0].clone(), 4 << 30), expected);
    }

    #[test]
    fn out_of_memory_preference() {
        check(json!({}), 1000);
        check(json!({"requests": {"cpu": "1"}}), 999);
        check(json!({"requests": {"memory": "1Gi"}}), 750);
        check(json!({"requests": {"memory": "4Gi"}}), 3);
        check(json!({"limits": {"memory": "1Gi", "cpu": "1"}}), -997);
    }
}
