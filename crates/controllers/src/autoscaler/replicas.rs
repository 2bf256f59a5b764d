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
        let supposed = match target {
            Target::Utilization(percent) if ratio < 1.0 => request * i64::from(percent.max(100)) / 100,
            Target::Average(value) if ratio < 1.0 => value,
            Target::Utilization(_) if ratio == 1.0 => continue, // As wanted: who is not known changes nothing.
            _ => 0,
        };
        known.insert(name.clone(), supposed);
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

    /// Pods are `name[:flags]@usage`; without `@` there is no sample. Each requests 1000.
    #[track_caller]
    fn check(words: &str, target: Target, expected: Result<i32, &str>) {
        let outcome = computed(words.split_whitespace().count() as i32, words, target);
        assert_eq!(outcome.map(|outcome| outcome.replicas), expected.map_err(str::to_owned));
    }

    /// Utilization in percent, or the average in thousandths, goes before the replicas.
    #[track_caller]
    fn check_measured(current: i32, words: &str, target: Target, expected: (i64, i32)) {
        let outcome = computed(current, words, target).expect("pods are known");
        let measured = outcome.utilization.map_or(outcome.average, i64::from);
        assert_eq!((measured, outcome.replicas), expected, "{current}: {words}");
    }

    fn computed(current: i32, words: &str, target: Target) -> Result<Outcome, String> {
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
        by_pods(current, &metric, tolerance, fixtures::now())
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
    fn utilization_as_the_original_measures_it() {
        use Target::Utilization as Percent;
        //          now  pods                                                            target        measured, replicas
        check_measured(3, "a@300 b@500 c@700", Percent(30), (50, 5));
        check_measured(3, "a:unready,age=10@300 b@500 c@700", Percent(30), (60, 4)); // The unready one counts as idle.
        check_measured(3, "a:age=10@300 b@500 c@700", Percent(30), (60, 4)); // So does one that starts.
        check_measured(3, "a@400 b:unready,age=10@500 c:unready,age=10@700", Percent(30), (40, 3)); // It would turn.
        check_measured(2, "a@500 b@700 c:failed d:failed", Percent(30), (60, 4));
        check_measured(2, "a@500 b@700 c:deleting@900 d:deleting", Percent(30), (60, 4));
        check_measured(3, "a@900 b@900 c:pending", Percent(30), (90, 6));
        check_measured(5, "a@100 b@300 c@500 d@250 e@250", Percent(50), (28, 3));
        check_measured(5, "a@100 b@300 c@500 d:unready,age=10@250 e:unready,age=10@250", Percent(50), (30, 2));
        check_measured(5, "a@100 b:pending c:pending d:pending e:pending", Percent(50), (10, 1));
        check_measured(5, "a@100 b@300 c@500 d:age=10@1000 e:age=10@1000", Percent(50), (30, 2));
        check_measured(3, "a@1010 b@1030 c@1020", Percent(100), (102, 3));
        check_measured(4, "a@400 b@95 c d", Percent(100), (24, 3)); // Who is missing is taken for busy.
        check_measured(2, "a@1000 b", Percent(100), (100, 2));
        check_measured(3, "a@500 b@500 c", Percent(50), (50, 3)); // As wanted: nothing is done on a guess.
        check_measured(2, "a@1900 b", Percent(100), (190, 2));
        check_measured(2, "a@600 b", Percent(100), (60, 2));
        check_measured(3, "a:unready,age=10 b@450 c@450", Percent(50), (45, 3)); // Near enough.
        check_measured(3, "a:unready,age=10@100 b@2000 c", Percent(50), (200, 4)); // Both are taken for idle.
        check_measured(4, "a:unready,age=10@100 b@450 c@450 d", Percent(50), (45, 4));
        check_measured(3, "a@4000 b@100 c@100", Percent(200), (140, 3)); // Above all that was asked for.
        check_measured(6, "a@100 b@100 c d e f", Percent(300), (10, 5)); // As busy as is wanted, not just as asked for.
        // A sample of a window that began before it was ready says nothing.
        check_measured(2, "a@500 b:age=30@900", Percent(50), (50, 2));
        // Pods of an old revision beside those that are wanted.
        check_measured(3, "a@1000 b@1000 c@1000 d@1000", Percent(50), (100, 8));
    }

    #[test]
    fn averages_as_the_original_measures_them() {
        use Target::Average as Each;
        check_measured(3, "a@20000 b@10000 c@30000", Each(15_000), (20_000, 4));
        check_measured(3, "a@20000 b@10000 c@30000", Each(20_000), (20_000, 3));
        check_measured(4, "a@12000 b@12000 c@12000 d@12000", Each(20_000), (12_000, 3));
        check_measured(3, "a@20000 b@21000 c@21000", Each(20_000), (20_666, 3));
        check_measured(3, "a@50000 b:pending c:pending", Each(15_000), (50_000, 4)); // Those yet to come take their part.
        check_measured(4, "a@10000 b@10000 c d", Each(30_000), (10_000, 3)); // The missing ones count as just right.
    }

    #[test]
    fn one_number_for_all() {
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        assert_eq!(by_value(3, 3, 200, 100, tolerance), 6);
        assert_eq!(by_value(3, 3, 105, 100, tolerance), 3);
        assert_eq!(by_average(3, 1000, 100, tolerance), 10);
        assert_eq!(by_average(10, 1050, 100, tolerance), 10);
        assert_eq!(by_average(0, 250, 100, tolerance), 3);
        assert_eq!(by_value(3, 2, 200, 100, tolerance), 4); // Only those that are ready carry it.
        assert_eq!(by_value(0, 0, 250, 100, tolerance), 3);
        assert_eq!(by_value(3, 3, 95, 100, tolerance), 3);
        assert_eq!(by_value(3, 3, 20, 100, tolerance), 1);
        assert_eq!(by_average(3, 0, 100, tolerance), 0);
        let (none, wide) = (Tolerance { up: 0.0, down: 0.0 }, Tolerance { up: 0.5, down: 0.1 });
        assert_eq!((by_value(3, 3, 105, 100, none), by_value(3, 3, 149, 100, wide), by_value(3, 3, 80, 100, wide)), (4, 3, 3));
    }
}
