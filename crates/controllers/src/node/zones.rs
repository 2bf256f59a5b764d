//! How fast nodes of a zone may be given up, by how many of the zone are down. Pure.
//!
//! Invariant: when everything seems down, the fault is taken to be ours: nothing is evicted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;

/// Seconds between two nodes of one zone: the original's 0.1 and 0.01 per second.
const INTERVAL_SECONDS: i64 = 10;
const SLOW_INTERVAL_SECONDS: i64 = 100;
/// Zones up to this size are not evicted from at all while most of them is down.
const LARGE_ZONE: usize = 50;
const UNHEALTHY_PART: f64 = 0.55;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

pub(super) fn zone_of(node: &Node) -> String {
    let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default();
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// Seconds that must lie between two evictions in `zone`; `None` while there must be none.
pub(super) fn eviction_interval<'a>(nodes: impl IntoIterator<Item = &'a Node>, zone: &str) -> Option<i64> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for node in nodes {
        let (ready, unready) = counts.entry(zone_of(node)).or_default();
        match super::readiness(node) {
            "True" => *ready += 1,
            _ => *unready += 1,
        }
    }
    if counts.values().all(|counts| state(*counts) == State::Full) {
        return None;
    }
    let counts = counts.get(zone).copied().unwrap_or_default();
    match state(counts) {
        State::Partial if counts.0 + counts.1 > LARGE_ZONE => Some(SLOW_INTERVAL_SECONDS),
        State::Partial => None,
        State::Normal | State::Full => Some(INTERVAL_SECONDS),
    }
}

fn state((ready, unready): (usize, usize)) -> State {
    let total = ready + unready;
    if ready == 0 && unready > 0 {
        State::Full
    } else if unready > 2 && unready as f64 / total as f64 >= UNHEALTHY_PART {
        State::Partial
    } else {
        State::Normal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};

    /// `a:3/2` is zone a with three ready and two unready nodes.
    #[track_caller]
    fn check(zones: &str, zone: &str, expected: Option<i64>) {
        let mut nodes = Vec::new();
        for word in zones.split_whitespace() {
            let (name, counts) = word.split_once(':').unwrap();
            let (ready, unready) = counts.split_once('/').unwrap();
            for (count, status) in [(ready, "True"), (unready, "Unknown")] {
                for _ in 0..count.parse().unwrap() {
                    let mut node = Node::default();
                    node.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), name.to_owned())].into());
                    let condition = NodeCondition { type_: "Ready".into(), status: status.into(), ..NodeCondition::default() };
                    node.status = Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() });
                    nodes.push(node);
                }
            }
        }
        assert_eq!(eviction_interval(&nodes, &format!("/{zone}")), expected);
    }

    #[test]
    fn the_more_is_down_the_slower() {
        check("a:3/1", "a", Some(10));
        check("a:0/1", "a", None); // Everything is down.
        check("a:0/3 b:3/0", "a", Some(10)); // One zone is down, the others live.
        check("a:2/3 b:3/0", "a", None); // Small and mostly down.
        check("a:20/40 b:3/0", "a", Some(100));
        check("a:1/2", "a", Some(10)); // Two are not yet a pattern.
    }
}
