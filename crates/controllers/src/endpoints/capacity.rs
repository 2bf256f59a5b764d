//! Hints by the capacity of zones, for Services that ask for them by `service.kubernetes.io/topology-mode: Auto`.
//!
//! Invariant: each zone gets endpoints in proportion to the CPU of its nodes, so that none has to serve more than its
//! share by a fifth; where that cannot be had, nobody gets a hint. The same endpoints and nodes yield the same hints.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone};

use crate::node::readiness;

/// What a zone may serve above its share.
const OVERLOAD: f64 = 0.2;
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const MODE: &str = "service.kubernetes.io/topology-mode";
const DEPRECATED_MODE: &str = "service.kubernetes.io/topology-aware-hints";

pub(super) fn is_auto(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = annotations.and_then(|annotations| annotations.get(DEPRECATED_MODE).or_else(|| annotations.get(MODE)));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

/// Each zone's part of the whole, by the CPU that its ready nodes have to give.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Capacity(BTreeMap<String, f64>);

impl Capacity {
    /// `None` when a node does not tell, or there is but one zone.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Option<Self> {
        let mut by_zone: BTreeMap<String, i64> = BTreeMap::new();
        for node in nodes.into_iter().filter(|node| readiness(node) == "True" && !is_control_plane(node)) {
            let zone = label(node, ZONE_LABEL).filter(|zone| !zone.is_empty())?;
            let cpu = cpu_of(node).filter(|cpu| *cpu > 0)?;
            *by_zone.entry(zone.clone()).or_insert(0) += cpu;
        }
        let total: i64 = by_zone.values().sum();
        let ratio = |cpu: i64| cpu as f64 / total as f64;
        (by_zone.len() > 1).then(|| Capacity(by_zone.into_iter().map(|(zone, cpu)| (zone, ratio(cpu))).collect()))
    }

    /// The fewest that a zone may have of `count` endpoints.
    fn least(ratio: f64, count: usize) -> usize {
        (ratio * count as f64 / (1.0 + OVERLOAD)).ceil() as usize
    }
}

/// All of a node that its zone's capacity depends on.
pub(super) fn facts(node: &Node) -> impl PartialEq + '_ {
    (readiness(node), label(node, ZONE_LABEL), is_control_plane(node), cpu_of(node))
}

fn label<'a>(node: &'a Node, name: &str) -> Option<&'a String> {
    node.metadata.labels.as_ref()?.get(name)
}

fn is_control_plane(node: &Node) -> bool {
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"].iter().any(|role| label(node, role).is_some())
}

fn cpu_of(node: &Node) -> Option<i64> {
    let cpu = node.status.as_ref()?.allocatable.as_ref()?.get("cpu")?;
    Quantity::parse(&cpu.0).ok().map(|cpu| cpu.milli_value())
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
}

/// Whether some zone has fewer endpoints than it may have, as slices tell.
pub(super) fn is_overloaded<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>, capacity: Option<&Capacity>) -> bool {
    let mut hinted: BTreeMap<&str, usize> = BTreeMap::new();
    for endpoint in slices.into_iter().flat_map(|slice| &slice.endpoints).filter(|endpoint| is_ready(endpoint)) {
        for zone in endpoint.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten()) {
            *hinted.entry(&zone.name).or_insert(0) += 1;
        }
    }
    let total: usize = hinted.values().sum();
    let Some(Capacity(ratios)) = capacity else { return total > 0 };
    total > 0
        && ratios.iter().any(|(zone, ratio)| {
            let count = hinted.get(zone.as_str()).copied().unwrap_or(0);
            count == 0 || count < Capacity::least(*ratio, total)
        })
}

/// Pure. Gives each ready endpoint its own zone, then some to zones that have too few. The error says why nobody gets one.
pub(super) fn give_hints(endpoints: &mut [&mut Endpoint], capacity: Option<&Capacity>) -> Result<(), String> {
    endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let mut ready: Vec<&mut Endpoint> = endpoints.iter_mut().map(|endpoint| &mut **endpoint).filter(|endpoint| is_ready(endpoint)).collect();
    let Some(Capacity(ratios)) = capacity else {
        return Err("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes".into());
    };
    let (count, zones) = (ready.len(), ratios.len());
    if zones > count {
        return Err(format!("Insufficient number of endpoints ({count} endpoints, {zones} zones)"));
    }
    let least: usize = ratios.values().map(|ratio| Capacity::least(*ratio, count)).sum();
    if least > count {
        let text = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
        return Err(format!("{text} ({count} endpoints, {zones} zones)"));
    }
    let mut own: Vec<String> = Vec::with_capacity(count);
    for endpoint in &ready {
        match endpoint.zone.as_ref().filter(|zone| !zone.is_empty()) {
            Some(zone) => own.push(zone.clone()),
            None => return Err("One or more endpoints do not have a zone specified".into()),
        }
    }
    let (mut giving, mut receiving) = exchange(ratios, &own);
    for (endpoint, zone) in ready.iter_mut().zip(own) {
        let mut hint = zone.clone();
        if let Some(to_give) = giving.get_mut(&zone).filter(|count| **count > 0)
            && let Some((other, to_receive)) = receiving.iter_mut().find(|(_, count)| **count > 0)
        {
            *to_give -= 1;
            *to_receive -= 1;
            hint.clone_from(other);
        }
        endpoint.hints = Some(EndpointHints { for_zones: Some(vec![ForZone { name: hint }]), for_nodes: None });
    }
    Ok(())
}

/// How many endpoints each zone gives away and gets.
fn exchange(ratios: &BTreeMap<String, f64>, own: &[String]) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let mut surplus: BTreeMap<&String, f64> = BTreeMap::new();
    let mut lack: BTreeMap<&String, f64> = BTreeMap::new();
    for (zone, ratio) in ratios {
        let has = own.iter().filter(|own| *own == zone).count() as f64;
        let wanted = (ratio * own.len() as f64).max(Capacity::least(*ratio, own.len()) as f64);
        if has > wanted {
            surplus.insert(zone, has - wanted);
        } else if has < wanted {
            lack.insert(zone, wanted - has);
        }
    }
    let most = |zones: &BTreeMap<&String, f64>| {
        zones.iter().fold(None, |most: Option<(String, f64)>, (zone, count)| match most {
            Some((_, known)) if known >= *count => most,
            _ => Some(((*zone).clone(), *count)),
        })
    };
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    while let (Some((giver, to_give)), Some((receiver, to_receive))) = (most(&surplus), most(&lack)) {
        // Halves are rounded, but not both of them away.
        if (to_give < 1.0 && to_receive < 1.0) || to_give < 0.5 || to_receive < 0.5 {
            break;
        }
        *giving.entry(giver.clone()).or_insert(0) += 1;
        *receiving.entry(receiver.clone()).or_insert(0) += 1;
        surplus.entry(ratios.get_key_value(&giver).expect("it is one of them").0).and_modify(|count| *count -= 1.0);
        lack.entry(ratios.get_key_value(&receiver).expect("it is one of them").0).and_modify(|count| *count -= 1.0);
    }
    (giving, receiving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::discovery::v1::EndpointConditions;
    use serde_json::json;

    /// `zone:CPU[:flag]`; flags `unready` and `control`; a zone `-` or a CPU `-` is not told.
    fn capacity(text: &str) -> Option<Capacity> {
        let node = |word: &str| -> Node {
            let mut parts = word.split(':');
            let (zone, cpu, flag) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap_or_default());
            let mut node = json!({"metadata": {"labels": {}}, "status": {
                "conditions": [{"type": "Ready", "status": if flag == "unready" { "False" } else { "True" }}],
                "allocatable": {},
            }});
            if zone != "-" {
                node["metadata"]["labels"][ZONE_LABEL] = json!(zone);
            }
            if cpu != "-" {
                node["status"]["allocatable"]["cpu"] = json!(cpu);
            }
            if flag == "control" {
                node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = json!("");
            }
            serde_json::from_value(node).unwrap()
        };
        let nodes: Vec<Node> = text.split_whitespace().map(node).collect();
        Capacity::of(&nodes)
    }

    /// `zone:count[:unready]`.
    fn endpoints(text: &str) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for word in text.split_whitespace() {
            let mut parts = word.split(':');
            let (zone, count) = (parts.next().unwrap(), parts.next().unwrap().parse::<usize>().unwrap());
            let ready = parts.next().is_none();
            for _ in 0..count {
                endpoints.push(Endpoint {
                    addresses: vec![format!("10.0.0.{:03}", endpoints.len())],
                    zone: (zone != "-").then(|| zone.into()),
                    conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
                    ..Endpoint::default()
                });
            }
        }
        endpoints
    }

    fn hints(text: &str, nodes: &str) -> Result<Vec<Endpoint>, String> {
        let mut endpoints = endpoints(text);
        let mut all: Vec<&mut Endpoint> = endpoints.iter_mut().collect();
        give_hints(&mut all, capacity(nodes).as_ref())?;
        Ok(endpoints)
    }

    #[track_caller]
    fn check(text: &str, nodes: &str, expected: &str) {
        let told = hints(text, nodes).map_or_else(
            |why| why,
            |endpoints| {
                let mut counts: BTreeMap<String, usize> = BTreeMap::new();
                for endpoint in endpoints {
                    let zone = endpoint.zone.unwrap_or_default();
                    let hint = endpoint.hints.map(|hints| hints.for_zones.unwrap()[0].name.clone());
                    *counts.entry(format!("{zone}>{}", hint.unwrap_or_default())).or_insert(0) += 1;
                }
                counts.iter().map(|(pair, count)| format!("{pair}={count}")).collect::<Vec<_>>().join(" ")
            },
        );
        assert_eq!(told, expected);
    }

    #[test]
    fn each_zone_gets_its_share() {
        //    endpoints       nodes                from>for=count
        check("a:2 b:2", "a:1 b:1", "a>a=2 b>b=2");
        check("a:3 b:1", "a:1 b:1", "a>a=2 a>b=1 b>b=1");
        check("a:4", "a:1 b:1", "a>a=2 a>b=2");
        check("a:6", "a:1 b:1 c:1", "a>a=2 a>b=2 a>c=2");
        check("a:5 b:1", "a:2 b:1", "a>a=4 a>b=1 b>b=1");
        check("a:3 b:3", "a:500m b:500m b:1", "a>a=2 a>b=1 b>b=3"); // Nodes of one zone add up.
        check("a:2 b:2 b:5:unready", "a:1 b:1", "a>a=2 b>=5 b>b=2"); // Those that do not serve get none.
        check("a:5 b:5 c:5", "a:1 b:1 c:1 c:9:unready c:9:control", "a>a=5 b>b=5 c>c=5");
        check("a:10 b:9", "a:1 b:1", "a>a=10 b>b=9"); // Half an endpoint is not worth a move.
    }

    #[test]
    fn or_nobody_does() {
        let nodes = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
        check("a:4", "", nodes);
        check("a:4", "a:1", nodes);
        check("a:4", "a:1 -:1", nodes);
        check("a:4", "a:1 b:-", nodes);
        check("a:4", "a:1 b:1:unready", nodes);
        check("a:1", "a:1 b:1", "Insufficient number of endpoints (1 endpoints, 2 zones)");
        check("a:1 b:3:unready", "a:1 b:1", "Insufficient number of endpoints (1 endpoints, 2 zones)");
        check(
            "a:2 b:2",
            "a:1 b:1 c:2",
            "a>a=1 a>c=1 b>b=1 b>c=1",
        );
        check(
            "a:3",
            "a:9 b:1",
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (3 endpoints, 2 zones)",
        );
        check("a:3 -:1", "a:1 b:1", "One or more endpoints do not have a zone specified");
    }

    #[test]
    fn a_zone_with_too_few_is_overloaded() {
        #[track_caller]
        fn check(text: &str, before: &str, after: &str, expected: bool) {
            let slice = EndpointSlice { endpoints: hints(text, before).unwrap_or_default(), ..EndpointSlice::default() };
            assert_eq!(is_overloaded([&slice], capacity(after).as_ref()), expected);
        }
        check("a:5 b:5", "a:1 b:1", "a:1 b:1", false);
        check("a:5 b:5", "a:1 b:1", "a:11 b:9", false); // By less than a fifth.
        check("a:5 b:5", "a:1 b:1", "a:2 b:1", true);
        check("a:5 b:5", "a:1 b:1", "a:1 b:1 c:1", true); // A new zone has none.
        check("a:5 b:5", "a:1 b:1", "a:1", true); // Nothing is known any more.
        check("a:1", "a:1 b:1", "a:1", false); // Nobody has a hint.
    }

    #[test]
    fn services_ask_by_annotation() {
        let asks = |annotations: serde_json::Value| is_auto(&serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap());
        assert!(asks(json!({MODE: "Auto"})) && asks(json!({MODE: "auto"})) && asks(json!({DEPRECATED_MODE: "Auto"})));
        assert!(!asks(json!({MODE: "Disabled"})) && !asks(json!({})) && !asks(json!({MODE: "Auto", DEPRECATED_MODE: "Disabled"})));
    }
}
