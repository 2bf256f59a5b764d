//! Which pods go first when there are too many.
//!
//! Ages are compared by their binary logarithm, so that of pods of about the same age a random one goes and
//! not always the one on the newest node.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pods;

/// How many active pods of the crowd stand on each node.
pub(super) struct Crowding(HashMap<String, usize>);

impl Crowding {
    pub fn of(crowd: &[Arc<Pod>]) -> Self {
        let mut by_node = HashMap::new();
        for pod in crowd.iter().filter(|pod| pods::is_active(pod)) {
            *by_node.entry(node(pod).to_owned()).or_insert(0) += 1;
        }
        Crowding(by_node)
    }

    pub fn of_pod(&self, pod: &Pod) -> usize {
        self.0.get(node(pod)).copied().unwrap_or(0)
    }
}

pub(crate) fn least_useful_first(active: &[&Arc<Pod>], now: Timestamp, rank: &dyn Fn(&Pod) -> usize) -> Vec<Arc<Pod>> {
    let mut ranked: Vec<(usize, &Arc<Pod>)> = active.iter().map(|pod| (rank(pod), *pod)).collect();
    ranked.sort_by(|(rank_a, a), (rank_b, b)| {
        compare_static(a, b).then_with(|| rank_b.cmp(rank_a)).then_with(|| compare_age(a, b, now))
    });
    ranked.into_iter().map(|(_, pod)| pod.clone()).collect()
}

/// For owners that pay no heed to deletion costs and nodes: the early stages first, and the younger by their exact age.
pub(crate) fn youngest_first(active: &[&Arc<Pod>]) -> Vec<Arc<Pod>> {
    let later = |a: Option<&Time>, b: Option<&Time>| match (a, b) {
        (Some(a), Some(b)) => b.0.cmp(&a.0),
        _ => a.is_some().cmp(&b.is_some()),
    };
    let both_ready = |a: &Pod, b: &Pod| pods::is_ready(a) && pods::is_ready(b);
    let mut ranked = active.to_vec();
    ranked.sort_by(|a, b| {
        compare_stage(a, b)
            .then_with(|| if both_ready(a, b) { later(ready_since(a), ready_since(b)) } else { Ordering::Equal })
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| later(a.metadata.creation_timestamp.as_ref(), b.metadata.creation_timestamp.as_ref()))
    });
    ranked.into_iter().cloned().collect()
}

fn compare_static(a: &Pod, b: &Pod) -> Ordering {
    compare_stage(a, b).then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
}

/// Unassigned, then pending, then unready.
fn compare_stage(a: &Pod, b: &Pod) -> Ordering {
    let assigned = |pod: &Pod| !node(pod).is_empty();
    let phase = |pod: &Pod| match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
}

/// Ready for less time, then more restarts, then younger, then by uid, which is random. The original asks for the uid as
/// soon as different times are of one magnitude, which is no order of ten thousand pods that one could sort by.
fn compare_age(a: &Pod, b: &Pod, now: Timestamp) -> Ordering {
    let both_ready = pods::is_ready(a) && pods::is_ready(b);
    let by_readiness = if both_ready { compare_times(ready_since(a), ready_since(b), now) } else { Ordering::Equal };
    by_readiness
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| compare_times(a.metadata.creation_timestamp.as_ref(), b.metadata.creation_timestamp.as_ref(), now))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// The later (or missing) time first, by magnitude.
fn compare_times(a: Option<&Time>, b: Option<&Time>, now: Timestamp) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => magnitude(a, now).cmp(&magnitude(b, now)),
    }
}

fn magnitude(time: &Time, now: Timestamp) -> i64 {
    let nanoseconds = now.duration_since(time.0).as_nanos();
    if nanoseconds > 0 { i64::from(nanoseconds.ilog2()) } else { -1 }
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get("controller.kubernetes.io/pod-deletion-cost"));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn ready_since(pod: &Pod) -> Option<&Time> {
    pods::condition(pod, "Ready")?.last_transition_time.as_ref()
}

/// Regular containers first, then sidecars, as one pair to compare.
fn restarts(pod: &Pod) -> (i32, i32) {
    let status = pod.status.as_ref();
    let most = |statuses: Option<&Vec<k8s_openapi::api::core::v1::ContainerStatus>>| {
        statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
    };
    (
        most(status.and_then(|status| status.container_statuses.as_ref())),
        most(status.and_then(|status| status.init_container_statuses.as_ref())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[track_caller]
    fn check(pods: &str, crowd: &str, expected: &str) {
        let pods = fixtures::pods(pods);
        let crowd = Crowding::of(&fixtures::pods(crowd));
        let active: Vec<&Arc<Pod>> = pods.iter().collect();
        let sorted = least_useful_first(&active, fixtures::now(), &|pod| crowd.of_pod(pod));
        let names: Vec<&str> = sorted.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn the_least_useful_goes_first() {
        check("a:node=n b", "", "b a"); // Unassigned.
        check("a:node=n b:node=n,pending", "", "b a");
        check("a b:unready c:pending", "", "c b a");
        check("a:cost=10 b:cost=-5 c", "", "b c a");
        check("a:node=x b:node=y", "p:node=y q:node=y r:node=x", "b a"); // From the crowded node.
        check("a:age=1000 b:age=10", "", "b a");
        check("a:restarts=1 b:restarts=5", "", "b a");
        check("b:age=1000 a:age=1010", "", "a b"); // One magnitude: by uid.
    }
}
