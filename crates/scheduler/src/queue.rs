//! Pods that wait for a node.
//!
//! Invariant: a pod is in exactly one place: ready, in flight, held back after an error, or waiting for news that may
//! help it. Nothing is tried again without a reason: the news must concern a filter that rejected the pod.
//!
//! ```text
//!  add -> ready -> in flight -> (bound: removed)
//!           ^          |-> waiting   -- news that helps, or five minutes --> ready
//!           |          `-> held back -- 1 s, 2 s, ... 10 s -------------------> ready
//! ```
//! Pods woken by news go behind those that are not yet due for another try, so that hopeless ones take turns.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::filters::Filter;
use crate::hints::{self, News};
use crate::pod_info::PodInfo;

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// However little news there was, a pod is tried again after this.
const WAIT_MAX: Duration = Duration::from_secs(300);

#[derive(Default)]
pub struct Queue {
    pods: HashMap<String, Entry>,
    ready: BTreeMap<ReadyKey, String>,
    deadlines: BTreeMap<(Instant, u64), String>,
    /// Those that wait for news, in the order of their uids, so that the same news always has the same effect.
    waiting: BTreeSet<String>,
    sequence: u64,
}

/// First those that are due, then by priority, then first come, first served.
type ReadyKey = (bool, Reverse<i32>, u64);

struct Entry {
    info: Arc<PodInfo>,
    attempts: u32,
    due: Option<Instant>,
    place: Place,
}

enum Place {
    Ready(ReadyKey),
    InFlight,
    HeldBack((Instant, u64)),
    Waiting { until: (Instant, u64), filters: BTreeSet<Filter> },
    /// Its scheduling gates are closed.
    Gated,
}

impl Queue {
    /// A pod without a node, new or changed.
    pub fn add(&mut self, info: Arc<PodInfo>, now: Instant) {
        let uid = info.uid.clone();
        let gated = is_gated(&info);
        let Some(entry) = self.pods.get_mut(&uid) else {
            self.pods.insert(uid.clone(), Entry { info, attempts: 0, due: None, place: Place::Gated });
            if !gated {
                self.make_ready(&uid, now);
            }
            return;
        };
        let changed = entry.info.labels != info.labels || entry.info.spec() != info.spec();
        entry.info = info;
        // Its status, which this scheduler itself writes, is no reason to try again.
        if changed && !gated && !matches!(entry.place, Place::InFlight | Place::HeldBack(_)) {
            self.make_ready(&uid, now);
        }
    }

    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.pods.remove(uid);
    }

    /// The next pod to decide about. It is in flight until `wait`, `hold_back` or `remove`.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some(entry) = self.deadlines.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let uid = entry.get().clone();
            self.make_ready(&uid, now);
        }
        let (_, uid) = self.ready.pop_first()?;
        let entry = self.pods.get_mut(&uid)?;
        entry.place = Place::InFlight;
        entry.attempts += 1;
        Some(entry.info.clone())
    }

    /// No node would do; these filters said so.
    pub fn wait(&mut self, uid: &str, filters: BTreeSet<Filter>, now: Instant) {
        let until = (now + WAIT_MAX, self.next());
        if let Some(entry) = self.leave(uid) {
            entry.due = Some(now + backoff(entry.attempts));
            entry.place = Place::Waiting { until, filters };
            self.deadlines.insert(until, uid.to_owned());
            self.waiting.insert(uid.to_owned());
        }
    }

    /// Something went wrong on the way; try again after a while.
    pub fn hold_back(&mut self, uid: &str, now: Instant) {
        let sequence = self.next();
        if let Some(entry) = self.leave(uid) {
            let until = (now + backoff(entry.attempts), sequence);
            entry.place = Place::HeldBack(until);
            self.deadlines.insert(until, uid.to_owned());
        }
    }

    pub fn tell(&mut self, news: &News<'_>, cluster: &Cluster, now: Instant) {
        let helped = |entry: &Entry| match &entry.place {
            Place::Waiting { filters, .. } if filters.is_empty() => matches!(news, News::NodeCame(_)),
            Place::Waiting { filters, .. } => filters.iter().any(|filter| hints::helps(news, *filter, &entry.info, cluster)),
            _ => false,
        };
        let is_helped = |uid: &&String| self.pods.get(*uid).is_some_and(helped);
        let uids: Vec<String> = self.waiting.iter().filter(is_helped).cloned().collect();
        for uid in uids {
            self.make_ready(&uid, now);
        }
    }

    /// Somebody took its prospect of a node away: it looks for another.
    pub fn wake(&mut self, uid: &str, now: Instant) {
        if self.waiting.contains(uid) {
            self.make_ready(uid, now);
        }
    }

    /// When `pop` may have something that it has not now.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first_key_value().map(|((at, _), _)| *at)
    }

    fn make_ready(&mut self, uid: &str, now: Instant) {
        let sequence = self.next();
        let Some(entry) = self.leave(uid) else { return };
        let early = entry.due.is_some_and(|due| due > now);
        let key = (early, Reverse(entry.info.priority), sequence);
        entry.place = Place::Ready(key);
        self.ready.insert(key, uid.to_owned());
    }

    /// Takes the pod out of whatever place it is in.
    fn leave(&mut self, uid: &str) -> Option<&mut Entry> {
        let entry = self.pods.get_mut(uid)?;
        match &entry.place {
            Place::Ready(key) => {
                self.ready.remove(key);
            }
            Place::HeldBack(until) => {
                self.deadlines.remove(until);
            }
            Place::Waiting { until, .. } => {
                self.deadlines.remove(until);
                self.waiting.remove(uid);
            }
            Place::InFlight | Place::Gated => {}
        }
        entry.place = Place::InFlight;
        Some(entry)
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

fn is_gated(info: &PodInfo) -> bool {
    info.spec().is_some_and(|spec| spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()))
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    fn info(name: &str, spec: Value) -> Arc<PodInfo> {
        Arc::new(pod(json!({"metadata": {"name": name}, "spec": spec})))
    }

    fn popped(queue: &mut Queue, now: Instant) -> String {
        let names: Vec<String> = std::iter::from_fn(|| queue.pop(now)).map(|pod| pod.key.name.clone()).collect();
        names.join(" ")
    }

    #[test]
    fn important_pods_first_then_first_come_first_served() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.add(info(name, json!({"priority": priority})), now);
        }
        queue.add(info("gated", json!({"schedulingGates": [{"name": "wait"}]})), now);
        assert_eq!(popped(&mut queue, now), "b d a c");
        queue.add(info("gated", json!({})), now);
        assert_eq!(popped(&mut queue, now), "gated");
    }

    #[test]
    fn waits_for_news_that_helps() {
        let (mut queue, now, cluster) = (Queue::default(), Instant::now(), Cluster::default());
        queue.add(info("a", json!({})), now);
        popped(&mut queue, now);
        queue.wait("a", BTreeSet::from([Filter::NodeResourcesFit, Filter::TaintToleration]), now);
        queue.tell(&News::PodCame(&info("other", json!({}))), &cluster, now);
        assert_eq!(popped(&mut queue, now), "");
        queue.tell(&News::PodLeft(&info("other", json!({}))), &cluster, now);
        assert_eq!(popped(&mut queue, now), "a");
        queue.wait("a", BTreeSet::new(), now); // There were no nodes at all.
        queue.tell(&News::PodLeft(&info("other", json!({}))), &cluster, now);
        assert_eq!(popped(&mut queue, now), "");
        queue.tell(&News::NodeCame(&crate::testing::node(json!({}))), &cluster, now);
        assert_eq!(popped(&mut queue, now), "a");
    }

    #[test]
    fn tries_again_after_a_while() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.add(info("a", json!({})), start);
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(popped(&mut queue, start), "a");
            queue.hold_back("a", start);
            assert_eq!(queue.next_deadline(), Some(start + Duration::from_secs(seconds)));
            queue.make_ready("a", start);
        }
        popped(&mut queue, start);
        queue.wait("a", BTreeSet::from([Filter::NodeName]), start);
        assert_eq!(popped(&mut queue, start + Duration::from_secs(299)), "");
        assert_eq!(popped(&mut queue, start + Duration::from_secs(300)), "a");
    }

    #[test]
    fn fresh_pods_go_before_woken_ones() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(info("woken", json!({"priority": 9})), now);
        popped(&mut queue, now);
        queue.wait("woken", BTreeSet::from([Filter::NodeResourcesFit]), now);
        queue.tell(&News::PodLeft(&info("other", json!({}))), &Cluster::default(), now);
        queue.add(info("fresh", json!({})), now);
        assert_eq!(popped(&mut queue, now), "fresh woken");
    }

    #[test]
    fn its_own_status_does_not_wake_a_pod() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(info("a", json!({})), now);
        popped(&mut queue, now);
        queue.wait("a", BTreeSet::from([Filter::NodeName]), now);
        queue.add(info("a", json!({})), now);
        assert_eq!(popped(&mut queue, now), "");
        queue.add(info("a", json!({"nodeSelector": {"x": "y"}})), now);
        assert_eq!(popped(&mut queue, now), "a");
        queue.remove("a");
        queue.hold_back("a", now);
        assert_eq!(queue.next_deadline(), None);
    }
}
