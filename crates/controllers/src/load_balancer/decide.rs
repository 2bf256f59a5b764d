//! Which addresses a Service of type LoadBalancer gets. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use client::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Service};

use super::pool::AddressPool;
use crate::node::readiness;

const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The node that answers for a Service's address of the pool.
pub const ANNOUNCER: &str = "coracle.io/announcing-node";

/// A node that may take traffic from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entrance {
    pub node: String,
    pub addresses: Vec<IpAddr>,
}

/// What the other Services of this type hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub addresses: BTreeMap<IpAddr, ObjectKey>,
    /// On every node, by protocol and port.
    pub ports: BTreeMap<(String, i32), ObjectKey>,
}

/// What the Service is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Balanced {
    pub ingress: Vec<IpAddr>,
    /// With a pool: who answers for the address.
    pub announcer: Option<String>,
}

/// `Ready`, and not taken out by its label. External addresses are better known outside than internal ones.
pub(super) fn entrance(node: &Node) -> Option<Entrance> {
    let labels = node.metadata.labels.as_ref();
    let excluded = labels.is_some_and(|labels| labels.contains_key(EXCLUDE_LABEL));
    if excluded || node.metadata.deletion_timestamp.is_some() || readiness(node) != "True" {
        return None;
    }
    let listed = node.status.as_ref()?.addresses.as_deref().unwrap_or_default();
    let of = |kind: &str| -> Vec<IpAddr> {
        listed.iter().filter(|it| it.type_ == kind).filter_map(|it| it.address.parse().ok()).collect()
    };
    let external = of("ExternalIP");
    let addresses = if external.is_empty() { of("InternalIP") } else { external };
    Some(Entrance { node: node.metadata.name.clone()?, addresses })
}

/// Reads what other Services hold from their statuses and specs.
pub(super) fn taken<'a>(services: impl IntoIterator<Item = &'a Service>, own: &ObjectKey) -> Taken {
    let mut taken = Taken::default();
    for service in services {
        let key = ObjectKey::of(&service.metadata);
        let held = ingress(service);
        if key == *own || held.is_empty() {
            continue;
        }
        taken.addresses.extend(held.into_iter().map(|address| (address, key.clone())));
        taken.ports.extend(ports(service).map(|port| (port, key.clone())));
    }
    taken
}

/// The addresses that a Service's status tells.
pub fn ingress(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let listed = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    listed.iter().filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

fn ports(service: &Service) -> impl Iterator<Item = (String, i32)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port))
}

fn is_local(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local")
}

/// The error is a sentence for an event. `with_endpoints`: nodes with a ready endpoint of the Service.
pub(super) fn decide(
    service: &Service,
    entrances: &[Entrance],
    with_endpoints: &BTreeSet<String>,
    taken: &Taken,
    pool: Option<&AddressPool>,
    reserved: &[u16],
) -> Result<Balanced, String> {
    let usable: Vec<&Entrance> =
        entrances.iter().filter(|it| !is_local(service) || with_endpoints.contains(&it.node)).collect();
    match pool {
        Some(pool) => from_pool(service, &usable, taken, pool),
        None => on_nodes(service, &usable, taken, reserved),
    }
}

fn on_nodes(service: &Service, usable: &[&Entrance], taken: &Taken, reserved: &[u16]) -> Result<Balanced, String> {
    let requested = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).unwrap_or_default();
    for (protocol, port) in ports(service) {
        if protocol == "TCP" && reserved.iter().any(|reserved| i32::from(*reserved) == port) {
            return Err(format!("port {port}/TCP of the nodes is the cluster's own"));
        }
        if let Some(holder) = taken.ports.get(&(protocol.clone(), port)) {
            return Err(format!("port {port}/{protocol} of the nodes is taken by Service {holder}"));
        }
    }
    let mut ingress: Vec<IpAddr> = usable.iter().flat_map(|it| it.addresses.iter().copied()).collect();
    ingress.sort();
    ingress.dedup();
    if let Some(wanted) = Some(requested).filter(|it| !it.is_empty()) {
        let wanted: IpAddr = wanted.parse().map_err(|_| format!("loadBalancerIP {wanted:?} is no IP address"))?;
        if !ingress.contains(&wanted) {
            return Err(format!("loadBalancerIP {wanted} is no address of a node"));
        }
        ingress.retain(|address| *address == wanted);
    }
    Ok(Balanced { ingress, announcer: None })
}

fn from_pool(service: &Service, usable: &[&Entrance], taken: &Taken, pool: &AddressPool) -> Result<Balanced, String> {
    let requested = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).unwrap_or_default();
    let held = ingress(service).into_iter().find(|address| pool.contains(*address) && !taken.addresses.contains_key(address));
    let address = if requested.is_empty() {
        let free = || pool.addresses().find(|address| !taken.addresses.contains_key(address));
        held.or_else(free).ok_or("no address is left in the pool of load balancers")?
    } else {
        let address: IpAddr = requested.parse().map_err(|_| format!("loadBalancerIP {requested:?} is no IP address"))?;
        if !pool.contains(address) {
            return Err(format!("loadBalancerIP {address} is not in the pool of load balancers"));
        }
        if let Some(holder) = taken.addresses.get(&address) {
            return Err(format!("loadBalancerIP {address} is taken by Service {holder}"));
        }
        address
    };
    // Who announces it stays, so that nothing moves without need; else addresses spread over the nodes.
    let announcing = service.metadata.annotations.as_ref().and_then(|all| all.get(ANNOUNCER));
    let stays = usable.iter().find(|it| Some(&it.node) == announcing);
    let spread = || usable.get(pool.position(address) % usable.len().max(1));
    let announcer = stays.or_else(spread).map(|it| it.node.clone());
    Ok(Balanced { ingress: vec![address], announcer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value, status: &[&str], announcer: Option<&str>) -> Service {
        let ingress: Vec<_> = status.iter().map(|ip| json!({"ip": ip})).collect();
        let annotations = announcer.map(|node| json!({ANNOUNCER: node})).unwrap_or_default();
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "annotations": annotations},
            "spec": spec, "status": {"loadBalancer": {"ingress": ingress}},
        }))
        .unwrap()
    }

    fn entrances() -> Vec<Entrance> {
        let of = |node: &str, ip: &str| Entrance { node: node.into(), addresses: vec![ip.parse().unwrap()] };
        vec![of("a", "10.0.0.1"), of("b", "10.0.0.2")]
    }

    fn told(outcome: Result<Balanced, String>) -> String {
        match outcome {
            Err(problem) => problem,
            Ok(it) => {
                let ingress: Vec<String> = it.ingress.iter().map(ToString::to_string).collect();
                format!("{} by {}", ingress.join(","), it.announcer.as_deref().unwrap_or("all"))
            }
        }
    }

    #[track_caller]
    fn check(spec: &str, taken_by: &str, pool: &str, expected: &str) {
        let spec: serde_json::Value = serde_json::from_str(spec).unwrap();
        let mut taken = Taken::default();
        for word in taken_by.split_whitespace() {
            let key = ObjectKey::new("ns", "other");
            match word.split_once('/') {
                Some((port, protocol)) => taken.ports.insert((protocol.into(), port.parse().unwrap()), key),
                None => taken.addresses.insert(word.parse().unwrap(), key),
            };
        }
        let pool = (!pool.is_empty()).then(|| AddressPool::parse(&[pool.to_owned()]).unwrap());
        let nodes = BTreeSet::from(["b".to_owned()]);
        let outcome = decide(&service(spec, &[], None), &entrances(), &nodes, &taken, pool.as_ref(), &[6443]);
        assert_eq!(told(outcome), expected);
    }

    #[test]
    fn addresses_of_nodes() {
        let port = |port: u16| format!(r#"{{"ports": [{{"port": {port}}}]}}"#);
        check(&port(80), "", "", "10.0.0.1,10.0.0.2 by all");
        check(&port(80), "80/UDP", "", "10.0.0.1,10.0.0.2 by all");
        check(&port(80), "80/TCP", "", "port 80/TCP of the nodes is taken by Service ns/other");
        check(&port(6443), "", "", "port 6443/TCP of the nodes is the cluster's own");
        check(r#"{"externalTrafficPolicy": "Local"}"#, "", "", "10.0.0.2 by all");
        check(r#"{"loadBalancerIP": "10.0.0.2"}"#, "", "", "10.0.0.2 by all");
        check(r#"{"loadBalancerIP": "10.0.0.9"}"#, "", "", "loadBalancerIP 10.0.0.9 is no address of a node");
    }

    #[test]
    fn addresses_of_a_pool() {
        let pool = "192.168.1.10-192.168.1.11";
        check("{}", "", pool, "192.168.1.10 by a");
        check("{}", "192.168.1.10", pool, "192.168.1.11 by b");
        check("{}", "192.168.1.10 192.168.1.11", pool, "no address is left in the pool of load balancers");
        check(r#"{"loadBalancerIP": "192.168.1.11"}"#, "", pool, "192.168.1.11 by b");
        let taken = "loadBalancerIP 192.168.1.11 is taken by Service ns/other";
        check(r#"{"loadBalancerIP": "192.168.1.11"}"#, "192.168.1.11", pool, taken);
        let foreign = "loadBalancerIP 10.0.0.1 is not in the pool of load balancers";
        check(r#"{"loadBalancerIP": "10.0.0.1"}"#, "", pool, foreign);
        check(r#"{"externalTrafficPolicy": "Local"}"#, "", pool, "192.168.1.10 by b");
    }

    #[test]
    fn what_a_service_has_stays() {
        let pool = AddressPool::parse(&["192.168.1.0/24".to_owned()]).unwrap();
        let had = service(json!({}), &["192.168.1.77"], Some("b"));
        let outcome = decide(&had, &entrances(), &BTreeSet::new(), &Taken::default(), Some(&pool), &[]);
        assert_eq!(told(outcome), "192.168.1.77 by b");
        let alone = &entrances()[..1];
        let outcome = decide(&had, alone, &BTreeSet::new(), &Taken::default(), Some(&pool), &[]);
        assert_eq!(told(outcome), "192.168.1.77 by a");
    }
}
