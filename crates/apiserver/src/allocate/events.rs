//! What the repair of addresses tells of its finds, as events about the Service or the IPAddress.
//!
//! Invariant: telling never fails and never repeats itself within a few minutes; what has been told is remembered up
//! to a bound, and beyond it nothing more is told until something is old enough to forget.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{Compare, Transaction, Write};

use crate::cache::{Entry, encode};
use crate::kinds::registry;
use crate::rest::write::seconds;
use crate::server::ApiServer;

const CONTROLLER: &str = "ipallocator-repair-controller";
/// After which client-go tells the same anew.
const SAME_FOR: SignedDuration = SignedDuration::from_mins(6);
const REMEMBERED: usize = 1000;

#[derive(Default)]
pub struct Voice {
    told: Mutex<HashMap<String, Timestamp>>,
}

/// What an event is about.
pub enum About<'a> {
    Service(&'a Entry),
    Address(&'a Entry),
}

impl Voice {
    pub async fn warn(&self, server: &ApiServer, about: About<'_>, reason: &str, note: &str) {
        let (entry, kind, version, action) = match about {
            About::Service(entry) => (entry, "Service", "v1", "ClusterIPAllocation"),
            About::Address(entry) => (entry, "IPAddress", "networking.k8s.io/v1", "IPAddressAllocation"),
        };
        let now = server.config.clock.now();
        if !self.is_news(format!("{kind} {}/{} {reason} {note}", entry.namespace(), entry.name()), now) {
            return;
        }
        tracing::warn!(object = entry.name(), reason, "{note}");
        let object = entry.value();
        let namespace = if entry.namespace().is_empty() { "default" } else { entry.namespace() };
        let name = format!("{}.{:x}", entry.name(), now.as_nanosecond());
        let event = json!({
            "metadata": {
                "name": name, "namespace": namespace, "uid": server.new_uid(), "creationTimestamp": seconds(now),
            },
            "involvedObject": {
                "apiVersion": version, "kind": kind, "name": entry.name(),
                "namespace": object["metadata"]["namespace"], "uid": object["metadata"]["uid"],
                "resourceVersion": entry.revision.to_string(),
            },
            "eventTime": format!("{now:.6}"), "type": "Warning", "reason": reason, "message": note, "action": action,
            "reportingComponent": CONTROLLER, "reportingInstance": format!("{CONTROLLER}-{}", host()),
            "source": {}, "firstTimestamp": null, "lastTimestamp": null,
        });
        write(server, namespace, &name, event).await;
    }

    fn is_news(&self, what: String, now: Timestamp) -> bool {
        let mut told = self.told.lock();
        if told.len() >= REMEMBERED {
            told.retain(|_, at| now.duration_since(*at) < SAME_FOR);
        }
        let fresh = told.get(&what).is_none_or(|at| now.duration_since(*at) >= SAME_FOR);
        if !fresh || told.len() >= REMEMBERED {
            return false;
        }
        told.insert(what, now);
        true
    }
}

async fn write(server: &ApiServer, namespace: &str, name: &str, mut event: Value) {
    let Some(kind) = registry::by_plural("", "v1", "events") else { return };
    if event["involvedObject"]["namespace"].is_null() {
        event["involvedObject"].as_object_mut().map(|about| about.remove("namespace"));
    }
    let key = server.cache.shelf(kind).store_key(namespace, name);
    let writes = vec![Write::Put { key: key.clone(), value: encode(kind, &event) }];
    let compares = vec![Compare::ModRevision { key, equals: 0 }];
    if let Err(cause) = server.cache.store().commit(Transaction { compares, writes }).await {
        tracing::warn!(name, "event not written: {cause}");
    }
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_twice_at_once() {
        let voice = Voice::default();
        let at = |minutes: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
        for (what, minute, expected) in [("a", 0, true), ("a", 5, false), ("b", 5, true), ("a", 6, true), ("a", 7, false)] {
            assert_eq!(voice.is_news(what.into(), at(minute)), expected, "{what} {minute}");
        }
        for index in 0..2 * REMEMBERED {
            voice.is_news(index.to_string(), at(8));
        }
        assert!(!voice.is_news("new".into(), at(9)));
        assert!(voice.is_news("new".into(), at(14)));
    }
}
