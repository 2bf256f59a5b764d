//! What a Job's `podFailurePolicy` makes of a failed pod. Pure.

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Count,
    Ignore,
    FailIndex,
    /// The whole Job fails, for this reason.
    FailJob(String),
}

pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    for (at, rule) in policy.iter().flat_map(|policy| policy.rules.iter()).enumerate() {
        let matched = if let Some(requirement) = &rule.on_exit_codes {
            matching_exit(requirement, pod).map(|(container, code)| {
                format!("Container {container} for pod {namespace}/{name} failed with exit code {code} matching {} rule at index {at}", rule.action)
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let matches = |condition: &&PodCondition| {
                let status = |pattern: &PodFailurePolicyOnPodConditionsPattern| pattern.status.as_deref().unwrap_or("True") == condition.status;
                patterns.iter().any(|pattern| pattern.type_ == condition.type_ && status(pattern))
            };
            let matched = conditions.into_iter().find(matches);
            matched.map(|condition| format!("Pod {namespace}/{name} has condition {} matching {} rule at index {at}", condition.type_, rule.action))
        };
        let Some(why) = matched else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(why),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn matching_exit<'a>(requirement: &PodFailurePolicyOnExitCodesRequirement, pod: &'a Pod) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let statuses = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let exit_code = |status: &ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code);
    statuses
        .filter(|status| requirement.container_name.as_ref().is_none_or(|name| *name == status.name))
        .filter_map(|status| Some((status.name.as_str(), exit_code(status)?)))
        .filter(|(_, code)| *code != 0)
        .find(|(_, code)| match requirement.operator.as_str() {
            "In" => requirement.values.contains(code),
            _ => !requirement.values.contains(code),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::batch::v1::PodFailurePolicyRule;
    use serde_json::json;

    fn failed(code: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "status": {
                "phase": "Failed",
                "conditions": [{"type": "DisruptionTarget", "status": "True"}],
                "containerStatuses": [{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}}}],
            },
        }))
        .unwrap()
    }

    fn on_exit(action: &str, operator: &str, values: &[i32]) -> PodFailurePolicyRule {
        let requirement = PodFailurePolicyOnExitCodesRequirement {
            container_name: None,
            operator: operator.into(),
            values: values.to_vec(),
        };
        PodFailurePolicyRule { action: action.into(), on_exit_codes: Some(requirement), on_pod_conditions: None }
    }

    #[test]
    fn the_first_matching_rule_counts() {
        let on_disruption = PodFailurePolicyRule {
            action: "Ignore".into(),
            on_exit_codes: None,
            on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                type_: "DisruptionTarget".into(),
                status: Some("True".into()),
            }]),
        };
        let policy = PodFailurePolicy { rules: vec![on_exit("FailJob", "In", &[42]), on_disruption] };
        let why = "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 0";
        assert_eq!(judge(Some(&policy), &failed(42)), Verdict::FailJob(why.into()));
        assert_eq!(judge(Some(&policy), &failed(1)), Verdict::Ignore);
        let policy = PodFailurePolicy { rules: vec![on_exit("FailIndex", "NotIn", &[1, 2])] };
        assert_eq!(judge(Some(&policy), &failed(3)), Verdict::FailIndex);
        assert_eq!(judge(Some(&policy), &failed(2)), Verdict::Count);
        assert_eq!(judge(None, &failed(2)), Verdict::Count);
    }
}
