//! The APIServices of the groups that this server serves itself, as data.
//!
//! Invariant: one for each group and version in discovery but `apiregistration.k8s.io`, which is what they are of.

use serde_json::{Value, json};

use crate::discovery;

pub const GROUP: &str = "apiregistration.k8s.io";
pub const PLURAL: &str = "apiservices";

/// group, its priority, the priority of a version that is alone; the original's figures
static PRIORITIES: &[(&str, u32, u32)] = &[
    ("", 18000, 1),
    ("apps", 17800, 15),
    ("events.k8s.io", 17750, 15),
    ("authentication.k8s.io", 17700, 15),
    ("authorization.k8s.io", 17600, 15),
    ("autoscaling", 17500, 15),
    ("batch", 17400, 15),
    ("certificates.k8s.io", 17300, 15),
    ("networking.k8s.io", 17200, 15),
    ("policy", 17100, 15),
    ("rbac.authorization.k8s.io", 17000, 15),
    ("storage.k8s.io", 16800, 15),
    ("apiextensions.k8s.io", 16700, 15),
    ("admissionregistration.k8s.io", 16700, 15),
    ("scheduling.k8s.io", 16600, 15),
    ("coordination.k8s.io", 16500, 15),
    ("node.k8s.io", 16300, 15),
    ("discovery.k8s.io", 16200, 15),
    ("flowcontrol.apiserver.k8s.io", 16100, 21),
    ("resource.k8s.io", 15900, 20),
    ("metrics.k8s.io", 100, 100),
];
const AUTOSCALING_V2: u32 = 30;

/// `now`: since when they are available, if they are new.
pub fn objects(now: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for (group, versions) in discovery::offered() {
        let Some((_, group_priority, version_priority)) = PRIORITIES.iter().find(|(own, ..)| *own == group) else {
            debug_assert_eq!(group, GROUP, "a group without a priority");
            continue;
        };
        for version in versions {
            let version_priority = match (group, version) {
                ("autoscaling", "v2") => AUTOSCALING_V2,
                _ => *version_priority,
            };
            let mut spec = json!({
                "version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority,
            });
            if !group.is_empty() {
                spec["group"] = group.into();
            }
            all.push(json!({
                "metadata": {
                    "name": format!("{version}.{group}"),
                    "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
                },
                "spec": spec,
                "status": {"conditions": [{
                    "type": "Available", "status": "True", "reason": "Local",
                    "message": "Local APIServices are always available", "lastTransitionTime": now,
                }]},
            }));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_its_priority() {
        let groups = discovery::offered().into_iter().map(|(group, _)| group);
        for group in groups.filter(|group| *group != GROUP) {
            assert!(PRIORITIES.iter().any(|(own, ..)| *own == group), "{group}");
        }
        let names: Vec<Value> = objects("").into_iter().map(|service| service["metadata"]["name"].clone()).collect();
        assert!(names.contains(&json!("v1.")) && names.contains(&json!("v2.autoscaling")));
    }
}
