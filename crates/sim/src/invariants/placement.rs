//! No pod on a node that it does not fit: resources, ports, taints, selectors, anti-affinity.

use std::collections::BTreeMap;
use std::time::Duration;

use api::quantity::Quantity;
use api::selector::LabelSelector;
use serde_json::Value;

use super::{Invariant, STALE_FOR};
use crate::pod_facts::{PodFacts, labels, string_map, text};
use crate::world::{Change, World};

#[derive(Default)]
pub(super) struct Placement {
    /// When a node's spec, labels or amounts last changed.
    changed: BTreeMap<String, Duration>,
}

impl Invariant for Placement {
    fn after(&mut self, change: &Change, world: &World, broken: &mut Vec<String>) {
        let Some(after) = &change.after else { return };
        match change.kind {
            "minions" => {
                let same = |read: fn(&Value) -> &Value| change.before.as_ref().is_some_and(|before| read(before) == read(after));
                if !same(|node| &node["spec"]) || !same(|node| &node["metadata"]["labels"]) || !same(|node| &node["status"]["allocatable"]) {
                    self.changed.insert(change.name.clone(), world.now);
                }
            }
            "pods" => {
                let bound_before = change.before.as_ref().is_some_and(|before| before["spec"]["nodeName"].is_string());
                if !bound_before && after["spec"]["nodeName"].is_string() {
                    self.bound(after, world, broken);
                }
            }
            _ => {}
        }
    }
}

impl Placement {
    fn bound(&self, pod: &Value, world: &World, broken: &mut Vec<String>) {
        let facts = PodFacts::of(pod);
        let Some(node) = world.get("minions", "", &facts.node) else { return };
        let mut complain = |what: String| broken.push(format!("placement: {}/{} on {}: {what}", facts.namespace, facts.name, facts.node));
        let others: Vec<_> = world.pods_on(&facts.node).filter(|other| other.uid != facts.uid && !other.is_finished()).collect();
        let amount = |name: &str| Quantity::parse(node["status"]["allocatable"][name].as_str().unwrap_or("0")).ok();
        let taken = |read: fn(&PodFacts) -> i64| others.iter().map(|other| read(other)).sum::<i64>() + read(&facts);
        let (cpu, memory) = (taken(|pod| pod.milli_cpu), taken(|pod| pod.memory));
        if facts.milli_cpu > 0 && amount("cpu").is_some_and(|all| cpu > all.milli_value()) {
            complain(format!("{cpu}m CPU are asked for"));
        }
        if facts.memory > 0 && amount("memory").is_some_and(|all| memory > all.value()) {
            complain(format!("{memory} bytes are asked for"));
        }
        if amount("pods").is_some_and(|all| others.len() as i64 + 1 > all.value()) {
            complain(format!("it is the {}th", others.len() + 1));
        }
        if let Some(port) = facts.host_ports.iter().find(|port| others.iter().any(|other| other.host_ports.contains(port))) {
            complain(format!("host port {port:?} is taken"));
        }
        self.apart(pod, &facts, node, world, &mut complain);
        // A scheduler may not have heard yet.
        if self.changed.get(&facts.node).is_some_and(|at| world.now.saturating_sub(*at) < STALE_FOR) {
            return;
        }
        let node_labels = labels(&node["metadata"]);
        if string_map(&pod["spec"]["nodeSelector"]).iter().any(|(key, value)| node_labels.get(key) != Some(value)) {
            complain("its node selector says otherwise".into());
        }
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        let untolerated = taints.filter(|taint| taint["effect"] != "PreferNoSchedule").find(|taint| !tolerates(pod, taint));
        if let Some(taint) = untolerated {
            complain(format!("it does not tolerate {taint}"));
        }
    }

    fn apart(&self, pod: &Value, facts: &PodFacts, node: &Value, world: &World, complain: &mut impl FnMut(String)) {
        let terms = &pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        for term in terms.as_array().into_iter().flatten() {
            let key = text(&term["topologyKey"]);
            let place = &node["metadata"]["labels"][&key];
            let Ok(selector) = LabelSelector::from_json(&term["labelSelector"]) else { continue };
            let near = |other: &&std::sync::Arc<PodFacts>| {
                let there = world.get("minions", "", &other.node);
                other.uid != facts.uid
                    && other.namespace == facts.namespace
                    && !other.is_finished()
                    && there.is_some_and(|there| there["metadata"]["labels"][&key] == *place)
                    && selector.matches(&other.labels)
            };
            if let Some(other) = world.pods().find(near) {
                complain(format!("{} is there, from which it is to keep away", other.name));
            }
        }
    }
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    let tolerations = pod["spec"]["tolerations"].as_array().into_iter().flatten();
    tolerations.into_iter().any(|toleration| {
        let covers = |field: &str| toleration[field].as_str().unwrap_or_default().is_empty() || toleration[field] == taint[field];
        let value = toleration["operator"] == "Exists" || text(&toleration["value"]) == text(&taint["value"]);
        covers("effect") && covers("key") && value
    })
}
