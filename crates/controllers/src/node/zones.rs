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

/// How the zones are, to be computed anew when a node changes its state.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Zones {
    /// By zone: its state and how many nodes it has.
    states: BTreeMap<String, (State, usize)>,
}

impl Zones {
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for node in nodes.into_iter().filter(|node| !is_excluded(node)) {
            let (ready, unready) = counts.entry(zone_of(node)).or_default();
            match super::readiness(node) {
                "True" => *ready += 1,
                _ => *unready += 1,
            }
        }
        Zones { states: counts.into_iter().map(|(zone, counts)| (zone, (state(counts), counts.0 + counts.1))).collect() }
    }

    /// Every zone is down, which is taken to be our own fault.
    pub fn all_down(&self) -> bool {
        !self.states.is_empty() && self.states.values().all(|(state, _)| *state == State::Full)
    }

    /// Seconds that must lie between two evictions in `zone`; `None` while there must be none.
    pub fn eviction_interval(&self, zone: &str) -> Option<i64> {
        if self.all_down() {
            return None;
        }
        match self.states.get(zone) {
            Some((State::Partial, total)) if *total > LARGE_ZONE => Some(SLOW_INTERVAL_SECONDS),
            Some((State::Partial, _)) => None,
            _ => Some(INTERVAL_SECONDS),
        }
    }
}

/// Its owner says that its failure means nothing for others.
fn is_excluded(node: &Node) -> bool {
    node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key("node.kubernetes.io/exclude-disruption"))
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

    /// `a:3/2` is zone a with three ready and two unready nodes; `a!` ones do not count.
    fn zones(text: &str) -> Zones {
        let mut nodes = Vec::new();
        for word in text.split_whitespace() {
            let (name, counts) = word.split_once(':').unwrap();
            let (ready, unready) = counts.split_once('/').unwrap();
            for (count, status) in [(ready, "True"), (unready, "Unknown")] {
                for _ in 0..count.parse().unwrap() {
                    let mut node = Node::default();
                    let mut labels = std::collections::BTreeMap::new();
                    labels.insert("topology.kubernetes.io/zone".to_owned(), name.trim_end_matches('!').to_owned());
                    if name.ends_with('!') {
                        labels.insert("node.kubernetes.io/exclude-disruption".to_owned(), String::new());
                    }
                    node.metadata.labels = Some(labels);
                    let condition = NodeCondition { type_: "Ready".into(), status: status.into(), ..NodeCondition::default() };
                    node.status = Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() });
                    nodes.push(node);
                }
            }
        }
        Zones::of(&nodes)
    }

    #[track_caller]
    fn check(text: &str, zone: &str, expected: Option<i64>) {
        assert_eq!(zones(text).eviction_interval(&format!("/{zone}")), expected);
    }

    #[test]
    fn the_more_is_down_the_slower() {
        //    zones (ready/unready)  zone  seconds between two nodes
        check("a:3/0", "a", Some(10));
        check("a:3/1", "a", Some(10));
        check("a:0/1", "a", None); // Everything is down.
        check("a:0/3 b:0/1", "b", None);
        check("a:0/3 b:3/0", "a", Some(10)); // One zone is down, the others live.
        check("a:2/3 b:3/0", "a", None); // Small and mostly down.
        check("a:2/3 b:3/0", "b", Some(10)); // Which is nothing to the other zone.
        check("a:45/55 b:3/0", "a", Some(100)); // Large and mostly down.
        check("a:46/54 b:3/0", "a", Some(10)); // Just not most of it.
        check("a:22/28 b:3/0", "a", None);
        check("a:22/29 b:3/0", "a", Some(100));
        check("a:1/2", "a", Some(10)); // Two are not yet a pattern.
        check("a:0/3 b:3/3", "b", Some(10));
        check("a:0/3 b!:3/0", "a", None); // Those do not count.
        check("a:3/0 a!:0/9", "a", Some(10));
    }

    #[test]
    fn when_all_seems_down_it_is_us() {
        let all_down = |text: &str| zones(text).all_down();
        assert!(all_down("a:0/1"));
        assert!(all_down("a:0/1 b:0/7"));
        assert!(!all_down("a:0/1 b:1/7"));
        assert!(!all_down(""));
    }
}
