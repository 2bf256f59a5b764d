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

    /// How many replicas there were before the changes of the period.
    fn at_start_of(&self, seconds: i32, current: i32, now: Timestamp) -> i32 {
        current - self.within(&self.changes, seconds, now).sum::<i32>()
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
    if memory.recommendations.is_empty() {
        memory.recommendations.push((now, current)); // What was recommended before is not known; it led to this.
    }
    memory.recommendations.push((now, recommended));
    let Some(behavior) = spec.behavior.as_ref() else { return follow_plainly(spec, memory, current, recommended, now) };
    let (up, down) = (behavior.scale_up.as_ref(), behavior.scale_down.as_ref());
    let (stabilized, able) = stabilize(memory, up, down, current, recommended, now);
    let minimum = spec.min_replicas.unwrap_or(1);
    let (replicas, limited) = if stabilized > current {
        let limit = up_limit(up, memory, current, now).max(current);
        at_most(stabilized, limit, spec.max_replicas)
    } else if stabilized < current {
        let limit = down_limit(down, memory, current, now).min(current);
        let (least, limited) = if limit > minimum {
            (limit, (true, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"))
        } else {
            (minimum, TOO_FEW)
        };
        if stabilized < least { (least, limited) } else { (stabilized, WITHIN) }
    } else {
        (stabilized, WITHIN)
    };
    Decision { replicas, able, limited }
}

/// Without a word on behaviour: up at most to the double, or to four, and down not below what was recommended of late.
fn follow_plainly(spec: &HorizontalPodAutoscalerSpec, memory: &Memory, current: i32, recommended: i32, now: Timestamp) -> Decision {
    let recent = memory.within(&memory.recommendations, DOWN_STABILIZATION_SECONDS, now);
    let stabilized = recent.max().unwrap_or(recommended).max(recommended);
    let able = if stabilized == recommended { READY } else { DOWN_STABILIZED };
    let minimum = spec.min_replicas.unwrap_or(1);
    let (replicas, limited) = if stabilized < minimum {
        (minimum, TOO_FEW)
    } else {
        at_most(stabilized, current.saturating_mul(2).max(4), spec.max_replicas)
    };
    Decision { replicas, able, limited }
}

fn at_most(stabilized: i32, limit: i32, maximum: i32) -> (i32, (bool, &'static str, &'static str)) {
    let (most, limited) = if limit < maximum {
        (limit, (true, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"))
    } else {
        (maximum, (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"))
    };
    if stabilized > most { (most, limited) } else { (stabilized, WITHIN) }
}

const WITHIN: (bool, &str, &str) = (false, "DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: (bool, &str, &str) = (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count");
const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: (&str, &str) =
    ("ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation");

/// Upwards the lowest recent recommendation counts, downwards the highest.
fn stabilize(memory: &Memory, up: Option<&HPAScalingRules>, down: Option<&HPAScalingRules>, current: i32, recommended: i32, now: Timestamp) -> (i32, (&'static str, &'static str)) {
    let up_window = up.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(0);
    let down_window = down.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(DOWN_STABILIZATION_SECONDS);
    let lowest = memory.within(&memory.recommendations, up_window, now).min().unwrap_or(recommended).min(recommended);
    let highest = memory.within(&memory.recommendations, down_window, now).max().unwrap_or(recommended).max(recommended);
    let stabilized = current.max(lowest).min(highest);
    if stabilized == recommended {
        (stabilized, READY)
    } else if stabilized < recommended {
        let text = "recent recommendations were lower than current one, applying the lowest recent recommendation";
        (stabilized, ("ScaleUpStabilized", text))
    } else {
        (stabilized, DOWN_STABILIZED)
    }
}

fn up_limit(rules: Option<&HPAScalingRules>, memory: &Memory, current: i32, now: Timestamp) -> i32 {
    let default = [policy("Pods", 4), policy("Percent", 100)];
    limit(rules, &default, |policy| {
        let start = memory.at_start_of(policy.period_seconds, current, now);
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
        let start = memory.at_start_of(policy.period_seconds, current, now);
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
    fn by_default_up_to_the_double_and_down_after_five_minutes() {
        check(&spec(1, 100), &[
            (0, 1, 20, 4, "ScaleUpLimit"),
            (15, 4, 20, 8, "ScaleUpLimit"),
            (30, 8, 20, 16, "ScaleUpLimit"),
            (45, 16, 20, 20, "ReadyForNewScale"),
            (60, 20, 2, 20, "ScaleDownStabilized"),
            (344, 20, 2, 20, "ScaleDownStabilized"),
            (345, 20, 2, 2, "ReadyForNewScale"),
        ]);
        check(&spec(1, 100), &[(0, 3, 50, 6, "ScaleUpLimit"), (15, 6, 1, 12, "ScaleUpLimit")]); // What was recommended of late counts.
        check(&spec(1, 100), &[(0, 10, 2, 10, "ScaleDownStabilized")]); // Nothing is known of the time before: it is kept.
        check(&spec(1, 8), &[(0, 5, 50, 8, "TooManyReplicas")]);
        check(&spec(1, 100), &[(0, 50, 99, 99, "ReadyForNewScale")]);
        check(&spec(1, 100), &[(0, 50, 101, 100, "TooManyReplicas")]);
        check(&spec(5, 100), &[(0, 5, 2, 5, "ScaleDownStabilized"), (301, 5, 2, 5, "TooFewReplicas")]);
    }

    /// `window [select] KIND:VALUE/PERIOD...`.
    fn rules(text: &str) -> HPAScalingRules {
        let mut rules = HPAScalingRules::default();
        for word in text.split_whitespace() {
            if let Ok(window) = word.parse() {
                rules.stabilization_window_seconds = Some(window);
            } else if let Some((type_, rest)) = word.split_once(':') {
                let (value, period) = rest.split_once('/').unwrap();
                let policy = HPAScalingPolicy { type_: type_.into(), value: value.parse().unwrap(), period_seconds: period.parse().unwrap() };
                rules.policies.get_or_insert_default().push(policy);
            } else {
                rules.select_policy = Some(word.into());
            }
        }
        rules
    }

    fn behaving(min: i32, max: i32, up: &str, down: &str) -> HorizontalPodAutoscalerSpec {
        let some = |text: &str| (!text.is_empty()).then(|| rules(text));
        let behavior = HorizontalPodAutoscalerBehavior { scale_up: some(up), scale_down: some(down) };
        HorizontalPodAutoscalerSpec { behavior: Some(behavior), ..spec(min, max) }
    }

    #[test]
    fn policies_limit_what_happens_in_a_period() {
        check(&behaving(2, 100, "Disabled", "0 Pods:1/60"), &[
            (0, 10, 2, 9, "ScaleDownLimit"),
            (30, 9, 2, 9, "ScaleDownLimit"),
            (61, 9, 2, 8, "ScaleDownLimit"),
            (62, 8, 20, 8, "ScaleUpLimit"),
            (200, 2, 1, 2, "TooFewReplicas"),
        ]);
        check(&behaving(1, 100, "0", "0"), &[(0, 1, 20, 5, "ScaleUpLimit"), (15, 5, 20, 10, "ScaleUpLimit"), (30, 10, 1, 1, "ReadyForNewScale")]);
        check(&behaving(1, 100, "0 Pods:2/60", ""), &[(0, 4, 20, 6, "ScaleUpLimit"), (30, 6, 20, 6, "ScaleUpLimit"), (60, 6, 20, 8, "ScaleUpLimit")]);
        check(&behaving(1, 100, "0 Percent:50/60", ""), &[(0, 3, 20, 5, "ScaleUpLimit")]); // Rounded up,
        check(&behaving(1, 100, "", "0 Percent:50/60"), &[(0, 5, 1, 2, "ScaleDownLimit")]); // and down.
        check(&behaving(1, 100, "0 Max Pods:1/60 Percent:100/60", ""), &[(0, 5, 20, 10, "ScaleUpLimit")]);
        check(&behaving(1, 100, "0 Min Pods:1/60 Percent:100/60", ""), &[(0, 5, 20, 6, "ScaleUpLimit")]);
        check(&behaving(1, 100, "", "0 Max Pods:1/60 Percent:50/60"), &[(0, 10, 1, 5, "ScaleDownLimit")]);
        check(&behaving(1, 100, "", "0 Min Pods:1/60 Percent:50/60"), &[(0, 10, 1, 9, "ScaleDownLimit")]);
        check(&behaving(1, 100, "", "0 Disabled"), &[(0, 10, 1, 10, "ScaleDownLimit")]);
        // What went down within the period may come up again, and the other way round.
        check(&behaving(1, 100, "0 Pods:2/60", "0 Pods:5/60"), &[(0, 10, 5, 5, "ReadyForNewScale"), (15, 5, 30, 12, "ScaleUpLimit")]);
        check(&behaving(1, 100, "0 Pods:5/60", "0 Pods:2/60"), &[(0, 5, 10, 10, "ReadyForNewScale"), (15, 10, 1, 3, "ScaleDownLimit")]);
        // More was done than is allowed, say by hand: nothing more, and nothing is undone.
        check(&behaving(1, 100, "0 Pods:1/60", ""), &[(0, 5, 6, 6, "ReadyForNewScale"), (10, 9, 20, 9, "ScaleUpLimit")]);
    }

    #[test]
    fn recommendations_settle_before_they_are_followed() {
        check(&behaving(1, 100, "60 Percent:900/15", "60"), &[
            (0, 5, 5, 5, "ReadyForNewScale"),
            (15, 5, 9, 5, "ScaleUpStabilized"),
            (30, 5, 8, 5, "ScaleUpStabilized"),
            (61, 5, 9, 8, "ScaleUpStabilized"), // The lowest of the last minute.
            (76, 8, 3, 8, "ScaleDownStabilized"), // The highest of the last minute is above: it stays.
            (137, 8, 3, 3, "ReadyForNewScale"),
        ]);
        check(&behaving(1, 100, "", ""), &[(0, 10, 10, 10, "ReadyForNewScale"), (15, 10, 5, 10, "ScaleDownStabilized"), (301, 10, 5, 5, "ReadyForNewScale")]);
    }
}
