//! How fast a recommendation may be followed. Pure but for `Memory`, which is handed in.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec};

/// The original's `--horizontal-pod-autoscaler-downscale-stabilization`.
const DOWN_STABILIZATION_SECONDS: i32 = 300;
/// Nothing older matters: periods are at most half an hour, windows an hour.
const MEMORY_SECONDS: i64 = 3600;

/// Recent recommendations and changes of one autoscaler.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Memory {
    recommendations: Vec<(Timestamp, i32)>,
    /// How many replicas were added (or, negative, taken away) when.
    changes: Vec<(Timestamp, i32)>,
}

impl Memory {
    pub fn changed(&mut self, by: i32, now: Timestamp) {
        self.changes.push((now, by));
    }

    fn forget_old(&mut self, now: Timestamp) {
        let recent = |at: Timestamp| now.as_second() - at.as_second() <= MEMORY_SECONDS;
        self.recommendations.retain(|(at, _)| recent(*at));
        self.changes.retain(|(at, _)| recent(*at));
    }

    fn added_within(&self, seconds: i32, now: Timestamp) -> i32 {
        self.within(&self.changes, seconds, now).filter(|by| *by > 0).sum()
    }

    fn removed_within(&self, seconds: i32, now: Timestamp) -> i32 {
        -self.within(&self.changes, seconds, now).filter(|by| *by < 0).sum::<i32>()
    }

    fn within<'a>(&self, list: &'a [(Timestamp, i32)], seconds: i32, now: Timestamp) -> impl Iterator<Item = i32> + 'a {
        let since = now.as_second() - i64::from(seconds);
        list.iter().filter(move |(at, _)| at.as_second() > since).map(|(_, value)| *value)
    }
}

/// What comes of a recommendation, with the conditions to tell: reason and message.
#[derive(Debug, PartialEq)]
pub(super) struct Decision {
    pub replicas: i32,
    pub able: (&'static str, &'static str),
    /// Whether the recommendation was cut, and by what.
    pub limited: (bool, &'static str, &'static str),
}

pub(super) fn follow(spec: &HorizontalPodAutoscalerSpec, memory: &mut Memory, current: i32, recommended: i32, now: Timestamp) -> Decision {
    memory.forget_old(now);
    memory.recommendations.push((now, recommended));
    let behavior = spec.behavior.as_ref();
    let up = behavior.and_then(|behavior| behavior.scale_up.as_ref());
    let down = behavior.and_then(|behavior| behavior.scale_down.as_ref());

    let (stabilized, able) = stabilize(memory, up, down, current, recommended, now);
    let minimum = spec.min_replicas.unwrap_or(1);
    let (replicas, limited) = if stabilized > current {
        let limit = up_limit(up, memory, current, now).max(current);
        let (most, limited) = if limit < spec.max_replicas {
            (limit, (true, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"))
        } else {
            (spec.max_replicas, (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"))
        };
        if stabilized > most { (most, limited) } else { (stabilized, WITHIN) }
    } else if stabilized < current {
        let limit = down_limit(down, memory, current, now).min(current);
        let (least, limited) = if limit > minimum {
            (limit, (true, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"))
        } else {
            (minimum, (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"))
        };
        if stabilized < least { (least, limited) } else { (stabilized, WITHIN) }
    } else {
        (stabilized, WITHIN)
    };
    let limited = match limited {
        WITHIN if recommended > spec.max_replicas && replicas == spec.max_replicas => {
            (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
        }
        WITHIN if recommended < minimum && replicas == minimum => {
            (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
        }
        limited => limited,
    };
    Decision { replicas, able, limited }
}

const WITHIN: (bool, &str, &str) = (false, "DesiredWithinRange", "the desired count is within the acceptable range");

/// Upwards the lowest recent recommendation counts, downwards the highest.
fn stabilize(memory: &Memory, up: Option<&HPAScalingRules>, down: Option<&HPAScalingRules>, current: i32, recommended: i32, now: Timestamp) -> (i32, (&'static str, &'static str)) {
    let up_window = up.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(0);
    let down_window = down.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(DOWN_STABILIZATION_SECONDS);
    let lowest = memory.within(&memory.recommendations, up_window, now).min().unwrap_or(recommended).min(recommended);
    let highest = memory.within(&memory.recommendations, down_window, now).max().unwrap_or(recommended).max(recommended);
    let stabilized = current.max(lowest).min(highest);
    if stabilized == recommended {
        (stabilized, ("ReadyForNewScale", "recommended size matches current size"))
    } else if stabilized < recommended {
        let text = "recent recommendations were lower than current one, applying the lowest recent recommendation";
        (stabilized, ("ScaleUpStabilized", text))
    } else {
        let text = "recent recommendations were higher than current one, applying the highest recent recommendation";
        (stabilized, ("ScaleDownStabilized", text))
    }
}

fn up_limit(rules: Option<&HPAScalingRules>, memory: &Memory, current: i32, now: Timestamp) -> i32 {
    let default = [policy("Pods", 4), policy("Percent", 100)];
    limit(rules, &default, |policy| {
        let start = current - memory.added_within(policy.period_seconds, now);
        match policy.type_.as_str() {
            "Pods" => start + policy.value,
            _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
        }
    }, true)
    .unwrap_or(current)
}

fn down_limit(rules: Option<&HPAScalingRules>, memory: &Memory, current: i32, now: Timestamp) -> i32 {
    let default = [policy("Percent", 100)];
    limit(rules, &default, |policy| {
        let start = current + memory.removed_within(policy.period_seconds, now);
        match policy.type_.as_str() {
            "Pods" => start - policy.value,
            _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)).trunc() as i32,
        }
    }, false)
    .unwrap_or(current)
}

fn policy(kind: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: kind.into(), value, period_seconds: 15 }
}

/// `None` when scaling in this direction is disabled. `Max` is the policy that changes most.
fn limit(rules: Option<&HPAScalingRules>, default: &[HPAScalingPolicy], of: impl Fn(&HPAScalingPolicy) -> i32, up: bool) -> Option<i32> {
    let select = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    let policies = rules.and_then(|rules| rules.policies.as_deref()).filter(|policies| !policies.is_empty()).unwrap_or(default);
    let limits = policies.iter().map(of);
    match (select, up) {
        ("Disabled", _) => None,
        ("Min", true) | ("Max", false) => limits.min(),
        _ => limits.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;

    fn spec(min: i32, max: i32) -> HorizontalPodAutoscalerSpec {
        HorizontalPodAutoscalerSpec { min_replicas: Some(min), max_replicas: max, ..HorizontalPodAutoscalerSpec::default() }
    }

    /// Steps are `second:current>recommended=replicas reason`.
    #[track_caller]
    fn check(spec: &HorizontalPodAutoscalerSpec, steps: &[(i64, i32, i32, i32, &str)]) {
        let mut memory = Memory::default();
        for (second, current, recommended, expected, reason) in steps {
            let now = fixtures::now() + jiff::SignedDuration::from_secs(*second);
            let decision = follow(spec, &mut memory, *current, *recommended, now);
            let told = if decision.limited.0 { decision.limited.1 } else { decision.able.0 };
            assert_eq!((decision.replicas, told), (*expected, *reason), "at {second}");
            memory.changed(decision.replicas - current, now);
        }
    }

    #[test]
    fn by_default_up_at_once_and_down_after_five_minutes() {
        check(&spec(1, 100), &[
            (0, 1, 20, 5, "ScaleUpLimit"),
            (15, 5, 20, 10, "ScaleUpLimit"),
            (30, 10, 20, 20, "ReadyForNewScale"),
            (60, 20, 2, 20, "ScaleDownStabilized"),
            (320, 20, 2, 20, "ScaleDownStabilized"),
            (331, 20, 2, 2, "ReadyForNewScale"),
        ]);
    }

    #[test]
    fn bounds_and_policies_are_kept() {
        check(&spec(1, 8), &[(0, 5, 50, 8, "TooManyReplicas")]);
        let mut slow = spec(2, 100);
        let rules = |policies, select: &str| HPAScalingRules {
            policies: Some(policies),
            select_policy: Some(select.into()),
            stabilization_window_seconds: Some(0),
            ..HPAScalingRules::default()
        };
        let one_a_minute = HPAScalingPolicy { type_: "Pods".into(), value: 1, period_seconds: 60 };
        slow.behavior = Some(HorizontalPodAutoscalerBehavior {
            scale_down: Some(rules(vec![one_a_minute], "Max")),
            scale_up: Some(rules(vec![], "Disabled")),
        });
        check(&slow, &[
            (0, 10, 2, 9, "ScaleDownLimit"),
            (30, 9, 2, 9, "ScaleDownLimit"),
            (61, 9, 2, 8, "ScaleDownLimit"),
            (62, 8, 20, 8, "ScaleUpLimit"),
            (200, 2, 1, 2, "TooFewReplicas"),
        ]);
    }
}
