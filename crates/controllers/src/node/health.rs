//! Whether a node lives, and which conditions and taints follow. Pure.
//!
//! A node lives while its Lease or its status moves on. What counts is when we saw it move, by our clock;
//! clocks of nodes may be wrong.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use super::{condition, readiness, taints};

/// The original's `--node-startup-grace-period`.
const STARTUP_GRACE_SECONDS: i64 = 60;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The signs of life last seen of a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heartbeat {
    lease: Option<MicroTime>,
    ready: Option<NodeCondition>,
    /// When one of them last changed, by our clock.
    seen: Timestamp,
}

impl Heartbeat {
    /// What is known after looking at the node and its lease.
    pub fn next(known: Option<&Heartbeat>, node: &Node, lease: Option<&MicroTime>, now: Timestamp) -> Self {
        let ready = condition(node, "Ready").cloned();
        let seen = match known {
            Some(known) if known.ready == ready && known.lease.as_ref() == lease => known.seen,
            // What this controller wrote itself is no sign of life.
            Some(known) if known.lease.as_ref() == lease && is_lost(ready.as_ref()) => known.seen,
            Some(_) => now,
            None if ready.is_none() => node.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0),
            None => now,
        };
        Heartbeat { lease: lease.cloned(), ready, seen }
    }

    /// Nothing was to be seen of any node, so that silence until now says nothing of this one.
    pub fn excuse(&mut self, now: Timestamp) {
        self.seen = now;
    }

    /// `grace`: how long a node that has told of itself may be silent.
    pub fn deadline(&self, grace: SignedDuration) -> Timestamp {
        self.seen + if self.ready.is_some() { grace } else { SignedDuration::from_secs(STARTUP_GRACE_SECONDS) }
    }
}

fn is_lost(ready: Option<&NodeCondition>) -> bool {
    ready.is_some_and(|ready| ready.status == "Unknown" && ready.reason.as_deref() == Some("NodeStatusUnknown"))
}

/// The conditions of a node that has been silent for too long, or `None` when they say so already.
pub(super) fn lost_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            None => {
                conditions.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            Some(_) => {}
        }
    }
    changed.then_some(conditions)
}

/// What may become of the pods of a node that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    /// The node may newly be given up.
    Begin,
    /// What was begun goes on.
    GoOn,
    /// Everything is down: what was begun is taken back.
    TakeBack,
}

/// The taints a node should have, given its conditions. `NoExecute` drives its pods away.
pub(super) fn wanted_taints(node: &Node, eviction: Eviction, now: Timestamp) -> Vec<Taint> {
    const BY_CONDITION: [(&str, &str, &str); 7] = [
        ("Ready", "False", NOT_READY),
        ("Ready", "Unknown", UNREACHABLE),
        ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
        ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
        ("", "", "node.kubernetes.io/unschedulable"),
    ];
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let mut wanted: Vec<(&str, &str)> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| match *kind {
            "" => unschedulable,
            kind => condition(node, kind).is_some_and(|condition| condition.status == *status),
        })
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    let evicting = |taint: &Taint| taint.effect == "NoExecute" && matches!(taint.key.as_str(), NOT_READY | UNREACHABLE);
    if eviction == Eviction::Begin || (eviction == Eviction::GoOn && taints(node).iter().any(evicting)) {
        match readiness(node) {
            "False" => wanted.push((NOT_READY, "NoExecute")),
            "Unknown" => wanted.push((UNREACHABLE, "NoExecute")),
            _ => {}
        }
    }
    let ours = |taint: &Taint| {
        evicting(taint) || (taint.effect == "NoSchedule" && BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key))
    };
    let is_wanted = |taint: &Taint| wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect);
    let mut result: Vec<Taint> = taints(node).iter().filter(|taint| !ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !result.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            result.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    result
}

/// Whether the node's state asks for eviction but the taint is not there yet.
pub(super) fn wants_eviction(node: &Node) -> bool {
    let evicting = |taint: &Taint| taint.effect == "NoExecute" && matches!(taint.key.as_str(), NOT_READY | UNREACHABLE);
    matches!(readiness(node), "False" | "Unknown") && !taints(node).iter().any(evicting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    fn node(conditions: &str, taints: &str) -> Node {
        let conditions = conditions
            .split_whitespace()
            .map(|word| {
                let (kind, status) = word.split_once('=').unwrap();
                NodeCondition { type_: kind.into(), status: status.into(), ..NodeCondition::default() }
            })
            .collect();
        let taints = taints
            .split_whitespace()
            .map(|word| {
                let (key, effect) = word.split_once(':').unwrap();
                let key = if key.contains('/') { key.to_owned() } else { format!("node.kubernetes.io/{key}") };
                Taint { key, effect: effect.into(), ..Taint::default() }
            })
            .collect();
        let mut node = Node::default();
        node.metadata.creation_timestamp = Some(fixtures::ago(1000));
        node.spec = Some(NodeSpec { taints: Some(taints), ..NodeSpec::default() });
        node.status = Some(NodeStatus { conditions: Some(conditions), ..NodeStatus::default() });
        node
    }

    #[track_caller]
    fn check(conditions: &str, taints: &str, eviction: Eviction, expected: &str) {
        let wanted = wanted_taints(&node(conditions, taints), eviction, fixtures::now());
        let told: Vec<String> = wanted
            .iter()
            .map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect))
            .collect();
        assert_eq!(told.join(" "), expected);
    }

    #[test]
    fn taints_follow_conditions() {
        use Eviction::{Begin, GoOn, TakeBack};
        //    conditions      taints before           eviction  taints after
        check("Ready=True", "", Begin, "");
        check("Ready=False", "", GoOn, "not-ready:NoSchedule");
        check("Ready=False", "", Begin, "not-ready:NoSchedule not-ready:NoExecute");
        check("Ready=Unknown", "", GoOn, "unreachable:NoSchedule");
        check("Ready=Unknown", "", Begin, "unreachable:NoSchedule unreachable:NoExecute");
        check("Ready=Unknown", "unreachable:NoSchedule unreachable:NoExecute", GoOn, "unreachable:NoSchedule unreachable:NoExecute");
        check("Ready=Unknown", "unreachable:NoSchedule unreachable:NoExecute", TakeBack, "unreachable:NoSchedule");
        check("Ready=Unknown", "x/y:NoExecute unreachable:NoExecute", TakeBack, "x/y:NoExecute unreachable:NoSchedule");
        check("Ready=True", "not-ready:NoSchedule not-ready:NoExecute x/y:NoSchedule", GoOn, "x/y:NoSchedule");
        check("Ready=True", "unreachable:NoSchedule unreachable:NoExecute", TakeBack, "");
        check("Ready=False", "unreachable:NoExecute", GoOn, "not-ready:NoSchedule not-ready:NoExecute"); // Swapped at once.
        check("Ready=Unknown", "not-ready:NoSchedule not-ready:NoExecute", GoOn, "unreachable:NoSchedule unreachable:NoExecute");
        check("Ready=True MemoryPressure=True", "", GoOn, "memory-pressure:NoSchedule");
        check("Ready=True DiskPressure=True", "", GoOn, "disk-pressure:NoSchedule");
        check("Ready=True PIDPressure=True", "", GoOn, "pid-pressure:NoSchedule");
        check("Ready=True NetworkUnavailable=True", "", GoOn, "network-unavailable:NoSchedule");
        check("Ready=True DiskPressure=Unknown MemoryPressure=False", "disk-pressure:NoSchedule", GoOn, "");
        check("Ready=True", "disk-pressure:NoExecute", GoOn, "disk-pressure:NoExecute"); // Somebody else's.
        check("", "", GoOn, ""); // It has not told of itself yet.
    }

    #[test]
    fn a_cordoned_node_is_tainted() {
        let mut node = node("Ready=True", "");
        node.spec.as_mut().unwrap().unschedulable = Some(true);
        let wanted = wanted_taints(&node, Eviction::GoOn, fixtures::now());
        assert_eq!((wanted[0].key.as_str(), wanted[0].effect.as_str()), ("node.kubernetes.io/unschedulable", "NoSchedule"));
        assert_eq!(wanted[0].time_added, Some(fixtures::ago(0)));
        node.spec.as_mut().unwrap().taints = Some(wanted);
        node.spec.as_mut().unwrap().unschedulable = None;
        assert!(wanted_taints(&node, Eviction::GoOn, fixtures::now()).is_empty());
    }

    #[test]
    fn what_asks_for_eviction() {
        #[track_caller]
        fn check(conditions: &str, taints: &str, expected: bool) {
            assert_eq!(wants_eviction(&node(conditions, taints)), expected);
        }
        check("Ready=True", "", false);
        check("Ready=False", "", true);
        check("Ready=Unknown", "", true);
        check("Ready=Unknown", "unreachable:NoSchedule", true);
        check("Ready=Unknown", "unreachable:NoExecute", false); // It has begun.
        check("Ready=False", "unreachable:NoExecute", false);
        check("", "", false);
    }

    #[test]
    fn silence_is_told_once() {
        let now = fixtures::now();
        let lost = lost_conditions(&node("Ready=True", ""), now).unwrap();
        let told: Vec<_> = lost.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_deref().unwrap())).collect();
        assert_eq!(told[0], ("Ready", "Unknown", "NodeStatusUnknown"));
        assert_eq!(told[1], ("MemoryPressure", "Unknown", "NodeStatusNeverUpdated"));
        let messages: Vec<_> = lost.iter().map(|condition| condition.message.clone().unwrap()).collect();
        assert_eq!(messages[0], "Kubelet stopped posting node status.");
        assert_eq!(messages[1..], ["Kubelet never posted node status."; 3]);
        assert_eq!(lost.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]);
        assert_eq!(lost[1].last_heartbeat_time, Some(fixtures::ago(1000))); // Its creation.
        let network = lost_conditions(&node("Ready=True NetworkUnavailable=False", ""), now).unwrap();
        assert!(network.iter().any(|condition| condition.type_ == "NetworkUnavailable" && condition.status == "False")); // Not the kubelet's.
        let mut again = node("", "");
        again.status.as_mut().unwrap().conditions = Some(lost);
        assert_eq!(lost_conditions(&again, now), None);
    }

    #[test]
    fn a_heartbeat_is_a_change_that_somebody_else_made() {
        let now = fixtures::now();
        let later = now + jiff::SignedDuration::from_secs(10);
        let lease = |second: i64| MicroTime(Timestamp::from_second(second).unwrap());
        let first = Heartbeat::next(None, &node("Ready=True", ""), Some(&lease(1)), now);
        assert_eq!(first.deadline(SignedDuration::from_secs(50)), now + jiff::SignedDuration::from_secs(50));
        let silent = Heartbeat::next(Some(&first), &node("Ready=True", ""), Some(&lease(1)), later);
        assert_eq!(silent.deadline(SignedDuration::from_secs(50)), first.deadline(SignedDuration::from_secs(50)));
        let renewed = Heartbeat::next(Some(&first), &node("Ready=True", ""), Some(&lease(2)), later);
        assert_eq!(renewed.deadline(SignedDuration::from_secs(50)), later + jiff::SignedDuration::from_secs(50));
        let mut given_up = node("", "");
        given_up.status.as_mut().unwrap().conditions = lost_conditions(&node("Ready=True", ""), later);
        let ours = Heartbeat::next(Some(&first), &given_up, Some(&lease(1)), later);
        assert_eq!(ours.deadline(SignedDuration::from_secs(50)), first.deadline(SignedDuration::from_secs(50)));
        let newborn = Heartbeat::next(None, &node("", ""), None, now);
        assert_eq!(newborn.deadline(SignedDuration::from_secs(50)).as_second(), now.as_second() - 1000 + 60);
    }
}
