//! The little of a pod that invariants ask for, read once per write.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

#[derive(Debug)]
pub struct PodFacts {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Uid and kind of its controller; empty if it has none.
    pub owner: String,
    pub owner_kind: String,
    /// Empty until it has one.
    pub node: String,
    pub phase: String,
    pub ready: bool,
    pub deleting: bool,
    /// When its grace period is over, after which a quota no longer counts it, whether it is gone or not.
    pub overdue_at: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
    pub ip: String,
    pub milli_cpu: i64,
    pub memory: i64,
    /// Protocol, address and port on the host.
    pub host_ports: Vec<(String, String, i64)>,
}

impl PodFacts {
    pub fn of(pod: &Value) -> PodFacts {
        let metadata = &pod["metadata"];
        let owner = controller(pod);
        let containers = || pod["spec"]["containers"].as_array().into_iter().flatten();
        let sum = |resource: &str, read: fn(&Quantity) -> i64| {
            let asked = containers().filter_map(|container| container["resources"]["requests"][resource].as_str());
            asked.filter_map(|text| Quantity::parse(text).ok()).map(|amount| read(&amount)).sum()
        };
        let ports = containers().flat_map(|container| container["ports"].as_array().into_iter().flatten());
        PodFacts {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            owner: owner.map(|owner| text(&owner["uid"])).unwrap_or_default(),
            owner_kind: owner.map(|owner| text(&owner["kind"])).unwrap_or_default(),
            node: text(&pod["spec"]["nodeName"]),
            phase: text(&pod["status"]["phase"]),
            ready: condition(pod, "Ready") == Some("True"),
            deleting: !metadata["deletionTimestamp"].is_null(),
            overdue_at: overdue_at(metadata),
            labels: labels(metadata),
            ip: text(&pod["status"]["podIP"]),
            milli_cpu: sum("cpu", Quantity::milli_value),
            memory: sum("memory", Quantity::value),
            host_ports: ports
                .filter_map(|port| {
                    let number = port["hostPort"].as_i64()?;
                    Some((text(&port["protocol"]), text(&port["hostIP"]), number))
                })
                .collect(),
        }
    }

    pub fn is_finished(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Neither finished nor on its way out.
    pub fn is_active(&self) -> bool {
        !self.deleting && !self.is_finished()
    }

    pub fn is_available(&self) -> bool {
        self.is_active() && self.ready
    }
}

fn overdue_at(metadata: &Value) -> Option<Timestamp> {
    let deleted: Timestamp = metadata["deletionTimestamp"].as_str()?.parse().ok()?;
    deleted.checked_add(SignedDuration::from_secs(metadata["deletionGracePeriodSeconds"].as_i64()?)).ok()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A string map such as `metadata.labels`.
pub fn labels(metadata: &Value) -> BTreeMap<String, String> {
    string_map(&metadata["labels"])
}

pub fn string_map(value: &Value) -> BTreeMap<String, String> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

pub fn controller(object: &Value) -> Option<&Value> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}
