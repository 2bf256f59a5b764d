//! One Service and its EndpointSlices -> what the kernel is to hold. Pure.
//!
//! Source: the Kubernetes documentation "Virtual IPs and Service Proxies".

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::endpoints::{Backend, Place, Usable, backends, usable};
use crate::entry::{Entries, EntryKey, EntryValue, Frontend, INTERNAL_SLOTS, Pick, Refusal, SCTP, Source, TCP, UDP};
use crate::slots::assign;

/// Services with this label are another proxy's.
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Session affinity's timeout where none is given.
const AFFINITY_SECONDS_DEFAULT: u32 = 3 * 60 * 60;

/// What is the same for all Services of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub place: Place,
    /// Served by this node itself (the cluster's DNS).
    pub skip_cluster_ips: Vec<IpAddr>,
    /// Address families in use.
    pub ipv4: bool,
    pub ipv6: bool,
}

/// A load balancer asks here whether this node has endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    pub port: u16,
    pub local_endpoints: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub entries: Entries,
    pub health_check: Option<HealthCheck>,
}

/// Which endpoint stood in which slot before, so that it can stay there.
pub(crate) type PreviousSlots<'a> = &'a dyn Fn(&Frontend, u32) -> Vec<SocketAddr>;

pub(crate) fn decide(
    service: &Service,
    slices: &[impl AsRef<EndpointSlice>],
    surroundings: &Surroundings,
    previous: PreviousSlots<'_>,
) -> Decision {
    let mut decision = Decision::default();
    let labels = service.metadata.labels.as_ref();
    let is_anothers =
        labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY_LABEL) || labels.contains_key(HEADLESS_LABEL));
    let Some(spec) = service.spec.as_ref() else { return decision };
    if is_anothers || !has_cluster_ip(spec) {
        return decision;
    }
    for ipv6 in [false, true] {
        let is_used = if ipv6 { surroundings.ipv6 } else { surroundings.ipv4 };
        if !is_used {
            continue;
        }
        let addresses = Addresses::of(service, spec, ipv6, &surroundings.skip_cluster_ips);
        for ip in &addresses.cluster {
            decision.entries.insert(EntryKey::ClusterIp(*ip), EntryValue::Present);
        }
        for port in spec.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let name = port.name.as_deref().unwrap_or_default();
            let backends = backends(slices, name, protocol, ipv6, &surroundings.place);
            let of_port = PortDecision { spec, port, protocol: protocol_number(protocol), ipv6, backends: &backends };
            of_port.add_entries(&addresses, previous, &mut decision.entries);
        }
    }
    decision.health_check = health_check(spec, slices, surroundings);
    decision
}

fn has_cluster_ip(spec: &ServiceSpec) -> bool {
    // ExternalName is DNS's business; headless ones too.
    let is_external_name = spec.type_.as_deref() == Some("ExternalName");
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    !is_external_name && !ip.is_empty() && ip != "None"
}

/// The addresses of one family by which a Service is reached.
struct Addresses {
    cluster: BTreeSet<IpAddr>,
    external: BTreeSet<IpAddr>,
    load_balancer: BTreeSet<IpAddr>,
}

impl Addresses {
    fn of(service: &Service, spec: &ServiceSpec, ipv6: bool, skipped: &[IpAddr]) -> Addresses {
        let parse = |texts: Vec<&str>| -> BTreeSet<IpAddr> {
            texts.iter().filter_map(|text| text.parse().ok()).filter(|ip: &IpAddr| ip.is_ipv6() == ipv6).collect()
        };
        let mut cluster: Vec<&str> = spec.cluster_ips.iter().flatten().map(String::as_str).collect();
        cluster.extend(spec.cluster_ip.as_deref());
        let ingress = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
        let load_balancer: Vec<&str> = ingress
            .flat_map(|balancer| balancer.ingress.iter().flatten())
            // Mode Proxy: the balancer itself must be passed, also by traffic from inside.
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_deref())
            .collect();
        let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
        let mut cluster = parse(cluster);
        cluster.retain(|ip| !skipped.contains(ip));
        Addresses {
            cluster,
            external: parse(spec.external_ips.iter().flatten().map(String::as_str).collect()),
            load_balancer: if is_balanced { parse(load_balancer) } else { BTreeSet::new() },
        }
    }
}

/// One port of a Service in one address family.
struct PortDecision<'a> {
    spec: &'a ServiceSpec,
    port: &'a ServicePort,
    protocol: u8,
    ipv6: bool,
    backends: &'a [Backend],
}

impl PortDecision<'_> {
    fn add_entries(&self, addresses: &Addresses, previous: PreviousSlots<'_>, entries: &mut Entries) {
        let Ok(port) = u16::try_from(self.port.port) else { return };
        let usable = usable(self.backends);
        let at = |ip: &IpAddr| Frontend::Address { ip: *ip, protocol: self.protocol, port };
        let mut add = |frontend: Frontend, route: &Route| self.add_frontend(frontend, route, previous, entries);

        let internal = self.internal_route(&usable);
        for ip in &addresses.cluster {
            add(at(ip), &internal);
        }
        let external = self.external_route(&usable);
        for ip in addresses.external.iter().chain(&addresses.load_balancer) {
            add(at(ip), &external);
        }
        if let Some(port) = self.node_port() {
            add(Frontend::NodePort { ipv6: self.ipv6, protocol: self.protocol, port }, &external);
        }
        for ip in &addresses.load_balancer {
            self.add_restrictions(at(ip), entries);
        }
        if entries.is_empty() {
            return;
        }
        for backend in self.backends.iter().filter(|backend| backend.maybe_local) {
            entries.insert(EntryKey::Hairpin(backend.address.ip()), EntryValue::Present);
        }
    }

    fn node_port(&self) -> Option<u16> {
        let has_node_port = matches!(self.spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let port = self.port.node_port.filter(|port| *port > 0 && has_node_port)?;
        u16::try_from(port).ok()
    }

    /// For the cluster IP.
    fn internal_route(&self, usable: &Usable) -> Route {
        if self.spec.internal_traffic_policy.as_deref() == Some("Local") {
            let refusal = if usable.cluster.is_empty() { Refusal::Reject } else { Refusal::Drop };
            Route { source: Source::Pods, endpoints: usable.local.clone(), internal: BTreeSet::new(), refusal }
        } else {
            Route::everywhere(Source::Pods, usable)
        }
    }

    /// For all that may be reached from beyond the cluster.
    fn external_route(&self, usable: &Usable) -> Route {
        if self.spec.external_traffic_policy.as_deref() == Some("Local") {
            Route {
                source: Source::Client,
                endpoints: usable.local.clone(),
                internal: usable.cluster.clone(),
                refusal: Refusal::Reject,
            }
        } else {
            Route::everywhere(Source::Node, usable)
        }
    }

    fn add_frontend(&self, frontend: Frontend, route: &Route, previous: PreviousSlots<'_>, entries: &mut Entries) {
        if route.endpoints.is_empty() && route.internal.is_empty() {
            entries.insert(EntryKey::Frontend(frontend), EntryValue::Refuse(route.refusal));
            return;
        }
        let affinity_seconds = self.affinity_seconds();
        let mut fill = |endpoints: &BTreeSet<SocketAddr>, first: u32| {
            let slots = assign(&previous(&frontend, first), endpoints, affinity_seconds.is_some());
            for (slot, address) in (first..).zip(&slots) {
                entries.insert(EntryKey::Slot(frontend, slot), EntryValue::Endpoint(*address));
            }
            slots.len() as u32
        };
        let pick = Pick {
            ipv6: frontend.is_ipv6(),
            node_port: matches!(frontend, Frontend::NodePort { .. }),
            source: route.source,
            slots: fill(&route.endpoints, 0),
            internal_slots: fill(&route.internal, INTERNAL_SLOTS),
            affinity_seconds,
        };
        entries.insert(EntryKey::Frontend(frontend), EntryValue::Pick(pick));
    }

    fn affinity_seconds(&self) -> Option<u32> {
        if self.spec.session_affinity.as_deref() != Some("ClientIP") {
            return None;
        }
        let config = self.spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds).and_then(|seconds| u32::try_from(seconds).ok());
        Some(seconds.filter(|seconds| *seconds > 0).unwrap_or(AFFINITY_SECONDS_DEFAULT))
    }

    fn add_restrictions(&self, frontend: Frontend, entries: &mut Entries) {
        let ranges: Vec<&String> = self.spec.load_balancer_source_ranges.iter().flatten().collect();
        if ranges.is_empty() {
            return;
        }
        entries.insert(EntryKey::Restricted(frontend), EntryValue::Present);
        let nets = ranges.iter().filter_map(|text| text.trim().parse::<IpNet>().ok()).map(|net| net.trunc());
        let nets: Vec<IpNet> = nets.filter(|net| net.addr().is_ipv6() == self.ipv6).collect();
        for net in IpNet::aggregate(&nets) {
            entries.insert(EntryKey::AllowedSource(frontend, net), EntryValue::Present);
        }
    }
}

/// Where a frontend leads.
struct Route {
    source: Source,
    endpoints: BTreeSet<SocketAddr>,
    /// What pods and this node use instead.
    internal: BTreeSet<SocketAddr>,
    /// If there is nothing at all.
    refusal: Refusal,
}

impl Route {
    fn everywhere(source: Source, usable: &Usable) -> Route {
        Route { source, endpoints: usable.cluster.clone(), internal: BTreeSet::new(), refusal: Refusal::Reject }
    }
}

fn health_check(
    spec: &ServiceSpec,
    slices: &[impl AsRef<EndpointSlice>],
    surroundings: &Surroundings,
) -> Option<HealthCheck> {
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let port = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?;
    if !is_local || !is_balanced {
        return None;
    }
    // Pods, not ports: one that serves two ports is one endpoint.
    let mut ready: BTreeMap<IpAddr, ()> = BTreeMap::new();
    for service_port in spec.ports.iter().flatten() {
        let protocol = service_port.protocol.as_deref().unwrap_or("TCP");
        let name = service_port.name.as_deref().unwrap_or_default();
        for ipv6 in [false, true] {
            let found = backends(slices, name, protocol, ipv6, &surroundings.place);
            ready.extend(found.iter().filter(|b| b.local && b.ready).map(|b| (b.address.ip(), ())));
        }
    }
    Some(HealthCheck { port, local_endpoints: ready.len() })
}

pub(crate) fn protocol_number(name: &str) -> u8 {
    match name {
        "UDP" => UDP,
        "SCTP" => SCTP,
        _ => TCP,
    }
}

#[cfg(test)]
mod tests;
