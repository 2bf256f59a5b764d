//! Which of a Service's endpoints this node uses.
//!
//! Source: the Kubernetes documentation of traffic policies, topology hints and terminating endpoints. Ready ones are
//! used; where there are none, those that still serve while terminating, so that a rollout never leaves a Service
//! without anybody. Hints count only if every ready endpoint has them and one is meant for us.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Where the proxy runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    /// Label `topology.kubernetes.io/zone` of the node; empty if it has none.
    pub zone: String,
}

/// An endpoint of one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Backend {
    pub address: SocketAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub local: bool,
    /// May be a pod of this node: connections of it with itself need translation.
    pub maybe_local: bool,
    pub hinted_here: Hint,
    pub hinted_zone: Hint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hint {
    Absent,
    Here,
    Elsewhere,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usable {
    /// For traffic policy `Cluster`.
    pub cluster: BTreeSet<SocketAddr>,
    /// For traffic policy `Local`.
    pub local: BTreeSet<SocketAddr>,
}

/// Endpoints of the port of this name, in the address family given.
pub(crate) fn backends(
    slices: &[impl AsRef<EndpointSlice>],
    port_name: &str,
    protocol: &str,
    ipv6: bool,
    place: &Place,
) -> Vec<Backend> {
    let mut backends = Vec::new();
    for slice in slices.iter().map(AsRef::as_ref) {
        let wanted_type = if ipv6 { "IPv6" } else { "IPv4" };
        if slice.address_type != wanted_type {
            continue;
        }
        for port in slice.ports.iter().flatten() {
            let same_protocol = port.protocol.as_deref().unwrap_or("TCP") == protocol;
            if port.name.as_deref().unwrap_or_default() != port_name || !same_protocol {
                continue;
            }
            let Some(number) = port.port.and_then(|number| u16::try_from(number).ok()) else { continue };
            backends.extend(slice.endpoints.iter().filter_map(|endpoint| backend(endpoint, number, ipv6, place)));
        }
    }
    // An endpoint may stand in two slices while it moves between them; then the one that is more ready counts.
    backends.sort_by(|one, other| other.cmp(one));
    backends.dedup_by_key(|backend| backend.address);
    backends.reverse();
    backends
}

fn backend(endpoint: &Endpoint, port: u16, ipv6: bool, place: &Place) -> Option<Backend> {
    // All addresses of an endpoint are the same endpoint; consumers use the first.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    if address.is_ipv6() != ipv6 || address.is_unspecified() {
        return None;
    }
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let hint = |names: Option<Vec<&str>>, here: &str| match names {
        None => Hint::Absent,
        Some(names) if names.is_empty() => Hint::Absent,
        Some(names) if names.contains(&here) => Hint::Here,
        Some(_) => Hint::Elsewhere,
    };
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
    let zones = hints.and_then(|hints| hints.for_zones.as_ref());
    Some(Backend {
        address: SocketAddr::new(address, port),
        ready,
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        local: endpoint.node_name.as_deref() == Some(&place.node),
        maybe_local: endpoint.node_name.as_deref().is_none_or(|node| node == place.node),
        hinted_here: hint(nodes.map(|nodes| nodes.iter().map(|node| node.name.as_str()).collect()), &place.node),
        hinted_zone: hint(zones.map(|zones| zones.iter().map(|zone| zone.name.as_str()).collect()), &place.zone),
    })
}

pub(crate) fn usable(backends: &[Backend]) -> Usable {
    let ready = |backend: &&Backend| backend.ready;
    let last_resort = |backend: &&Backend| backend.serving && backend.terminating;
    let hint = hint_in_force(backends);
    let addresses = |found: Vec<&Backend>| found.into_iter().map(|backend| backend.address).collect();

    let mut cluster: Vec<&Backend> = backends
        .iter()
        .filter(ready)
        .filter(|backend| match hint {
            HintInForce::None => true,
            HintInForce::Node => backend.hinted_here == Hint::Here,
            HintInForce::Zone => backend.hinted_zone == Hint::Here,
        })
        .collect();
    if cluster.is_empty() {
        cluster = backends.iter().filter(last_resort).collect();
    }
    let is_local = |backend: &&Backend| backend.local;
    let mut local: Vec<&Backend> = backends.iter().filter(is_local).filter(ready).collect();
    if local.is_empty() {
        local = backends.iter().filter(is_local).filter(last_resort).collect();
    }
    Usable { cluster: addresses(cluster), local: addresses(local) }
}

enum HintInForce {
    None,
    Node,
    Zone,
}

fn hint_in_force(backends: &[Backend]) -> HintInForce {
    let in_force = |hint: fn(&Backend) -> Hint| {
        let mut hints = backends.iter().filter(|backend| backend.ready).map(hint);
        hints.clone().all(|hint| hint != Hint::Absent) && hints.any(|hint| hint == Hint::Here)
    };
    if in_force(|backend| backend.hinted_here) {
        HintInForce::Node
    } else if in_force(|backend| backend.hinted_zone) {
        HintInForce::Zone
    } else {
        HintInForce::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints as `number[:words]`; words: unready, terminating (and still serving), dead (terminating and not
    /// serving), local, zone=here, zone=there, node=here, node=there.
    #[track_caller]
    fn check(endpoints: &str, cluster: &str, local: &str) {
        let backends: Vec<Backend> = endpoints
            .split_whitespace()
            .map(|text| {
                let (number, words) = text.split_once(':').unwrap_or((text, ""));
                let has = |word: &str| words.split(',').any(|found| found == word);
                let hint = |kind: &str| match (has(&format!("{kind}=here")), has(&format!("{kind}=there"))) {
                    (true, _) => Hint::Here,
                    (_, true) => Hint::Elsewhere,
                    _ => Hint::Absent,
                };
                Backend {
                    address: format!("10.42.0.{number}:80").parse().unwrap(),
                    ready: !has("unready") && !has("terminating") && !has("dead"),
                    serving: !has("unready") && !has("dead"),
                    terminating: has("terminating") || has("dead"),
                    local: has("local"),
                    maybe_local: has("local"),
                    hinted_here: hint("node"),
                    hinted_zone: hint("zone"),
                }
            })
            .collect();
        let usable = usable(&backends);
        let text = |found: &BTreeSet<SocketAddr>| {
            let numbers: Vec<String> =
                found.iter().map(|address| address.ip().to_string().rsplit('.').next().unwrap().to_owned()).collect();
            numbers.join(" ")
        };
        assert_eq!((text(&usable.cluster).as_str(), text(&usable.local).as_str()), (cluster, local), "{endpoints}");
    }

    #[test]
    fn ready_ones_else_those_that_still_serve() {
        //    endpoints                              cluster  local
        check("", "", "");
        check("1 2:local 3:unready", "1 2", "2");
        check("1:terminating 2", "2", "");
        check("1:terminating 2:dead", "1", "");
        check("1:local,terminating 2", "2", "1");
        check("1:local,terminating 2:local", "2", "2");
        check("1:unready 2:dead", "", "");
    }

    #[test]
    fn hints_count_if_all_have_them_and_one_is_for_us() {
        check("1:zone=here 2:zone=there", "1", "");
        check("1:zone=there 2:zone=there", "1 2", "");
        check("1:zone=here 2", "1 2", "");
        check("1:zone=here,unready 2:zone=there", "2", "");
        check("1:zone=here,node=there 2:zone=here,node=here 3:zone=there,node=there", "2", "");
        check("1:zone=here,node=there 2:zone=there,node=there", "1", "");
        // Traffic policy Local knows no hints.
        check("1:zone=here 2:zone=there,local", "1", "2");
    }
}
