//! NetworkPolicies to chains and sets of addresses. Pure.
//!
//! Source: the API's description of networking.k8s.io/v1 NetworkPolicy. A pod that no policy selects for a direction
//! takes everything there; one that some select takes what any of them allows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::selector::LabelSelector;
use client::ObjectKey;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::decide::protocol_number;

pub(super) type Labels = BTreeMap<String, String>;

/// What policies ask about a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub namespace: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    /// On this node, so its traffic is judged here.
    pub local: bool,
    /// Name, protocol and number.
    pub ports: Vec<(String, u8, u16)>,
}

impl PodFacts {
    /// None for a pod that has no address of its own: not yet, no longer, or the host's.
    pub fn of(pod: &Pod, node: &str) -> Option<PodFacts> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let is_finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if spec.host_network.unwrap_or(false) || is_finished {
            return None;
        }
        let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
        let addresses: BTreeSet<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
        if addresses.is_empty() {
            return None;
        }
        let restartable = spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
        let ports = spec.containers.iter().chain(restartable).flat_map(|container| container.ports.iter().flatten());
        let named = ports.filter_map(|port| {
            let protocol = protocol_number(port.protocol.as_deref().unwrap_or("TCP"));
            Some((port.name.clone()?, protocol, u16::try_from(port.container_port).ok()?))
        });
        Some(PodFacts {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses: addresses.into_iter().collect(),
            local: spec.node_name.as_deref() == Some(node),
            ports: named.collect(),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    Anybody,
    /// A set of addresses.
    Pods(String),
    Block { cidr: IpNet, except: Vec<IpNet> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    Any,
    Protocol(u8),
    /// Both ends included.
    Range { protocol: u8, first: u16, last: u16 },
    /// A set of destination, protocol and port: what the name means differs from pod to pod.
    Named(String),
}

/// A connection that is both from (to) these and to these ports may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allow {
    pub peers: Peers,
    pub ports: Ports,
}

/// What the kernel is to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Desired {
    pub chains: BTreeMap<Judge, Vec<Allow>>,
    pub pods: BTreeMap<String, BTreeSet<IpAddr>>,
    pub ports: BTreeMap<String, BTreeSet<(IpAddr, u8, u16)>>,
    /// Local pods that are selected, and the number of the chain that judges their traffic in this direction.
    pub judged: BTreeMap<(Direction, IpAddr), usize>,
}

/// A chain that judges one direction for the pods that the same policies select, by its number.
pub(super) type Judge = (Direction, usize);

impl Desired {
    /// Whether only the contents of sets and maps differ.
    pub fn same_rules(&self, other: &Desired) -> bool {
        self.chains == other.chains
            && self.pods.keys().eq(other.pods.keys())
            && self.ports.keys().eq(other.ports.keys())
    }
}

pub(super) fn decide<'a>(
    policies: impl IntoIterator<Item = &'a NetworkPolicy>,
    pods: &[PodFacts],
    namespaces: &BTreeMap<String, Labels>,
) -> Desired {
    let mut policies: Vec<&NetworkPolicy> = policies.into_iter().collect();
    policies.sort_by_key(|policy| ObjectKey::of(&policy.metadata));
    let mut desired = Desired::default();
    for direction in [Direction::Ingress, Direction::Egress] {
        let of_direction: Vec<&NetworkPolicy> =
            policies.iter().filter(|policy| concerns(policy, direction)).copied().collect();
        // Pods that the same policies select share a chain.
        let mut groups: BTreeMap<Vec<usize>, Vec<&PodFacts>> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| pod.local) {
            let selecting = of_direction.iter().enumerate().filter(|(_, policy)| selects(policy, pod));
            let selecting: Vec<usize> = selecting.map(|(index, _)| index).collect();
            if !selecting.is_empty() {
                groups.entry(selecting).or_default().push(pod);
            }
        }
        let mut allowed_by: BTreeMap<usize, Vec<Allow>> = BTreeMap::new();
        let used: BTreeSet<usize> = groups.keys().flatten().copied().collect();
        for index in used {
            let allowed = Compiler { policy: of_direction[index], direction, pods, namespaces, desired: &mut desired };
            allowed_by.insert(index, allowed.compile());
        }
        for (number, (selecting, members)) in groups.into_iter().enumerate() {
            let allowed = selecting.iter().flat_map(|index| allowed_by[index].clone()).collect();
            desired.chains.insert((direction, number), allowed);
            for address in members.iter().flat_map(|pod| &pod.addresses) {
                desired.judged.insert((direction, *address), number);
            }
        }
    }
    desired
}

fn concerns(policy: &NetworkPolicy, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let wanted = if direction == Direction::Ingress { "Ingress" } else { "Egress" };
    match spec.policy_types.as_deref() {
        Some(types) if !types.is_empty() => types.iter().any(|held| held == wanted),
        _ => direction == Direction::Ingress || spec.egress.is_some(),
    }
}

fn selects(policy: &NetworkPolicy, pod: &PodFacts) -> bool {
    let Some(spec) = &policy.spec else { return false };
    policy.metadata.namespace.as_deref() == Some(pod.namespace.as_str())
        && spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels))
}

type JsonSelector = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A selector that the API server accepted; one that cannot be read selects nothing, so that nothing is let in by it.
fn matches(selector: &JsonSelector, labels: &Labels) -> bool {
    LabelSelector::from_typed(selector).is_ok_and(|selector| selector.matches(labels))
}

/// Turns the rules of one policy into permissions, and adds the sets that they refer to.
struct Compiler<'a> {
    policy: &'a NetworkPolicy,
    direction: Direction,
    pods: &'a [PodFacts],
    namespaces: &'a BTreeMap<String, Labels>,
    desired: &'a mut Desired,
}

impl Compiler<'_> {
    fn compile(mut self) -> Vec<Allow> {
        let Some(spec) = &self.policy.spec else { return Vec::new() };
        let rules: Vec<(&[NetworkPolicyPeer], &[NetworkPolicyPort])> = match self.direction {
            Direction::Ingress => {
                let rules = spec.ingress.iter().flatten();
                rules.map(|rule| (rule.from.as_deref().unwrap_or_default(), rule.ports.as_deref().unwrap_or_default())).collect()
            }
            Direction::Egress => {
                let rules = spec.egress.iter().flatten();
                rules.map(|rule| (rule.to.as_deref().unwrap_or_default(), rule.ports.as_deref().unwrap_or_default())).collect()
            }
        };
        let mut allowed = Vec::new();
        for (peers, ports) in rules {
            let peers = self.peers(peers);
            let ports = self.ports(ports);
            for peers in &peers {
                allowed.extend(ports.iter().map(|ports| Allow { peers: peers.clone(), ports: ports.clone() }));
            }
        }
        allowed
    }

    fn peers(&mut self, peers: &[NetworkPolicyPeer]) -> Vec<Peers> {
        if peers.is_empty() {
            return vec![Peers::Anybody];
        }
        let mut found: Vec<Peers> = peers.iter().filter_map(|peer| block(peer.ip_block.as_ref()?)).collect();
        let selecting: Vec<&NetworkPolicyPeer> = peers.iter().filter(|peer| peer.ip_block.is_none()).collect();
        if !selecting.is_empty() {
            let pods = self.pods.iter().filter(|pod| selecting.iter().any(|peer| self.is_peer(peer, pod)));
            let addresses = pods.flat_map(|pod| pod.addresses.iter().copied()).collect();
            let name = format!("pods-{}", self.desired.pods.len());
            self.desired.pods.insert(name.clone(), addresses);
            found.push(Peers::Pods(name));
        }
        found
    }

    fn is_peer(&self, peer: &NetworkPolicyPeer, pod: &PodFacts) -> bool {
        let in_namespace = match &peer.namespace_selector {
            Some(selector) => self.namespaces.get(&pod.namespace).is_some_and(|labels| matches(selector, labels)),
            None => self.policy.metadata.namespace.as_deref() == Some(pod.namespace.as_str()),
        };
        in_namespace && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels))
    }

    fn ports(&mut self, ports: &[NetworkPolicyPort]) -> Vec<Ports> {
        if ports.is_empty() {
            return vec![Ports::Any];
        }
        ports.iter().filter_map(|port| self.port(port)).collect()
    }

    fn port(&mut self, port: &NetworkPolicyPort) -> Option<Ports> {
        let protocol = protocol_number(port.protocol.as_deref().unwrap_or("TCP"));
        Some(match &port.port {
            None => Ports::Protocol(protocol),
            Some(IntOrString::Int(number)) => {
                let first = u16::try_from(*number).ok()?;
                let last = port.end_port.map_or(Some(first), |last| u16::try_from(last).ok())?;
                Ports::Range { protocol, first, last }
            }
            Some(IntOrString::String(name)) => {
                // The name is the destination's: the selected pod's on its way in, the peer's on its way out.
                let is_destination = |pod: &&PodFacts| self.direction == Direction::Egress || (pod.local && selects(self.policy, pod));
                let destinations = self.pods.iter().filter(is_destination);
                let numbers = destinations.flat_map(|pod| {
                    let held = pod.ports.iter().filter(|(held, of, _)| held == name && *of == protocol);
                    held.flat_map(|(_, protocol, number)| pod.addresses.iter().map(|ip| (*ip, *protocol, *number)))
                });
                let numbers = numbers.collect();
                let set = format!("ports-{}", self.desired.ports.len());
                self.desired.ports.insert(set.clone(), numbers);
                Ports::Named(set)
            }
        })
    }
}

fn block(block: &IPBlock) -> Option<Peers> {
    let cidr: IpNet = block.cidr.parse().ok()?;
    let except = block.except.iter().flatten().filter_map(|net| net.parse::<IpNet>().ok());
    Some(Peers::Block { cidr: cidr.trunc(), except: except.map(|net| net.trunc()).collect() })
}

#[cfg(test)]
mod tests;
