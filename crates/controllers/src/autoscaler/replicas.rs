//! How many replicas a metric asks for. Arithmetic only.
//!
//! Invariant: what is not known never makes things worse: pods without a metric count as fully busy when it
//! would go down, and as idle when it would go up.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::context::seconds_between;
use crate::pods;

/// The original's `--horizontal-pod-autoscaler-cpu-initialization-period` and `-initial-readiness-delay`.
const CPU_INITIALIZATION_SECONDS: i64 = 300;
const READINESS_DELAY_SECONDS: i64 = 30;

/// One pod's usage, in thousandths, averaged over the window that ended at the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub value: i64,
    pub at: Timestamp,
    pub window_seconds: i64,
}

pub(super) type Samples = BTreeMap<String, Sample>;

/// How far from the target is near enough, upwards and downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    pub up: f64,
    pub down: f64,
}

impl Tolerance {
    fn holds(&self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What a metric aims at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// Percent of the pods' requests.
    Utilization(i32),
    /// Thousandths per pod.
    Average(i64),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub replicas: i32,
    /// Percent, for utilization.
    pub utilization: Option<i32>,
    /// Thousandths per pod.
    pub average: i64,
}

/// Pods sorted by what is known of them.
#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: Vec<String>,
    unready: Vec<String>,
    missing: Vec<String>,
}

/// What is known when replicas are asked for by a metric of pods.
pub(super) struct PodsMetric<'a> {
    pub pods: &'a [Arc<Pod>],
    pub samples: &'a Samples,
    /// Thousandths by pod, for utilization.
    pub requests: &'a BTreeMap<String, i64>,
    pub target: Target,
    pub is_cpu: bool,
}

pub(super) fn by_pods(current: i32, metric: &PodsMetric<'_>, tolerance: Tolerance, now: Timestamp) -> Result<Outcome, String> {
    let PodsMetric { pods, samples, requests, target, is_cpu } = *metric;
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(pods, samples, is_cpu, now);
    let mut known: BTreeMap<String, i64> = groups.ready.iter().map(|name| (name.clone(), samples[name].value)).collect();
    if known.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let (ratio, outcome) = measure(&known, requests, target)?;
    let outcome = |replicas| Outcome { replicas, ..outcome };
    let rebalances = !groups.unready.is_empty() && ratio > 1.0;
    if !rebalances && groups.missing.is_empty() {
        if tolerance.holds(ratio) {
            return Ok(outcome(current));
        }
        return Ok(outcome((ratio * known.len() as f64).ceil() as i32));
    }
    for name in &groups.missing {
        let request = requests.get(name).copied().unwrap_or(0);
        let busy = match target {
            Target::Utilization(percent) => request * i64::from(percent.max(100)) / 100,
            Target::Average(value) => value,
        };
        known.insert(name.clone(), if ratio < 1.0 { busy } else { 0 });
    }
    if rebalances {
        known.extend(groups.unready.iter().map(|name| (name.clone(), 0)));
    }
    let (corrected, _) = measure(&known, requests, target)?;
    let turned = (ratio < 1.0 && corrected > 1.0) || (ratio > 1.0 && corrected < 1.0);
    if tolerance.holds(corrected) || turned {
        return Ok(outcome(current));
    }
    let replicas = (corrected * known.len() as f64).ceil() as i32;
    let against = (corrected < 1.0 && replicas > current) || (corrected > 1.0 && replicas < current);
    Ok(outcome(if against { current } else { replicas }))
}

/// Replicas by one number for the whole target, to be met as such.
pub(super) fn by_value(current: i32, ready_pods: i32, value: i64, target: i64, tolerance: Tolerance) -> i32 {
    let ratio = value as f64 / target as f64;
    if current == 0 {
        return ratio.ceil() as i32; // From zero: as many as the value has targets in it.
    }
    if tolerance.holds(ratio) { current } else { (ratio * f64::from(ready_pods)).ceil() as i32 }
}

/// Replicas by one number for the whole target, to be shared by its pods.
pub(super) fn by_average(current: i32, value: i64, target: i64, tolerance: Tolerance) -> i32 {
    let ratio = value as f64 / (target as f64 * f64::from(current));
    if current != 0 && tolerance.holds(ratio) { current } else { (value as f64 / target as f64).ceil() as i32 }
}

fn measure(known: &BTreeMap<String, i64>, requests: &BTreeMap<String, i64>, target: Target) -> Result<(f64, Outcome), String> {
    let total: i64 = known.values().sum();
    let average = total / known.len() as i64;
    match target {
        Target::Average(value) => {
            let ratio = average as f64 / value as f64;
            Ok((ratio, Outcome { replicas: 0, utilization: None, average }))
        }
        Target::Utilization(percent) => {
            let requested: i64 = known.keys().filter_map(|name| requests.get(name)).sum();
            if requested == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let utilization = (total * 100 / requested) as i32;
            let ratio = f64::from(utilization) / f64::from(percent);
            Ok((ratio, Outcome { replicas: 0, utilization: Some(utilization), average }))
        }
    }
}

fn group(pods: &[Arc<Pod>], samples: &Samples, is_cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pods::is_terminating(pod) || pods::phase(pod) == "Failed" {
            continue;
        }
        if pods::phase(pod) == "Pending" {
            groups.unready.push(name);
            continue;
        }
        match samples.get(&name) {
            None => groups.missing.push(name),
            Some(sample) if is_cpu && is_starting(pod, sample, now) => groups.unready.push(name),
            Some(_) => groups.ready.push(name),
        }
    }
    groups
}

/// A pod that starts burns CPU for itself, which says nothing about its load.
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(started), Some(ready)) = (started, pods::condition(pod, "Ready")) else { return true };
    let changed = ready.last_transition_time.as_ref().unwrap_or(started);
    if seconds_between(started, now) < CPU_INITIALIZATION_SECONDS {
        let window_end = changed.0.as_second() + sample.window_seconds;
        return ready.status == "False" || sample.at.as_second() < window_end;
    }
    // Never ready since its first half minute.
    ready.status == "False" && changed.0.as_second() - started.0.as_second() < READINESS_DELAY_SECONDS
}

/// Ready pods, for metrics of the whole target.
pub(super) fn ready_count(pods: &[Arc<Pod>]) -> i32 {
    pods.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)).count() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    /// Pods are `name[:flags]=usage`; without `=` there is no sample. Each requests 1000.
    #[track_caller]
    fn check(words: &str, target: Target, expected: Result<i32, &str>) {
        let (mut pods, mut samples, mut requests) = (Vec::new(), Samples::new(), BTreeMap::new());
        for word in words.split_whitespace() {
            let (word, value) = word.split_once('@').map_or((word, None), |(word, value)| (word, value.parse().ok()));
            let mut pod = fixtures::pod(word);
            pod.status.as_mut().unwrap().start_time = pod.metadata.creation_timestamp.clone();
            let name = pod.metadata.name.clone().unwrap();
            if let Some(value) = value {
                samples.insert(name.clone(), Sample { value, at: fixtures::now(), window_seconds: 60 });
            }
            requests.insert(name, 1000);
            pods.push(Arc::new(pod));
        }
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        let metric = PodsMetric { pods: &pods, samples: &samples, requests: &requests, target, is_cpu: true };
        let outcome = by_pods(pods.len() as i32, &metric, tolerance, fixtures::now());
        assert_eq!(outcome.map(|outcome| outcome.replicas), expected.map_err(str::to_owned));
    }

    #[test]
    fn follows_the_load() {
        let half = Target::Utilization(50);
        check("a@500 b@500", half, Ok(2));
        check("a@900 b@900", half, Ok(4));
        check("a@540 b@540", half, Ok(2)); // Near enough.
        check("a@100 b@100 c@100", half, Ok(1));
        check("a@1000", Target::Average(250), Ok(4));
        check("", half, Err("no pods returned by selector while calculating replica count"));
        check("a b", half, Err("did not receive metrics for targeted pods (pods might be unready)"));
    }

    #[test]
    fn what_is_not_known_makes_nothing_worse() {
        let half = Target::Utilization(50);
        check("a@100 b@100 c", half, Ok(3)); // Down, but c may be busy.
        check("a@900 b", half, Ok(2)); // Up, but b may be idle.
        check("a@1500 b:pending", half, Ok(3));
        check("a@900 b:age=10@900", half, Ok(2)); // b is still starting.
        check("a@100 b:failed@9000", half, Ok(1)); // The failed one does not count.
    }

    #[test]
    fn one_number_for_all() {
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        assert_eq!(by_value(3, 3, 200, 100, tolerance), 6);
        assert_eq!(by_value(3, 3, 105, 100, tolerance), 3);
        assert_eq!(by_average(3, 1000, 100, tolerance), 10);
        assert_eq!(by_average(10, 1050, 100, tolerance), 10);
        assert_eq!(by_average(0, 250, 100, tolerance), 3);
    }
}
