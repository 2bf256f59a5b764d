//! Ports of the host that lead to pods (`hostPort`).
//!
//! Two maps, so that the number of pods costs nothing: by (protocol, port) for every address of the host, and by
//! (address, protocol, port) where a `hostIP` is given. Connections from the host's loopback and of a pod with itself
//! are masqueraded, since their answers would not come back otherwise.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::conntrack::ConntrackSocket;
use crate::error::NetError;
use crate::nft::matching::{
    CT_STATUS_DESTINATION_TRANSLATED, connection_status, destination_in, destination_is_local, in_set,
    load_destination, load_destination_port, load_protocol, load_source, map, rule, source_in,
};
use crate::nft::{
    Chain, ChainKind, Element, ElementData, Expression, Family, Field, Hook, Key, NatKind, NftSocket, Register, Set,
    Table, Transaction, Verdict, priority,
};

const BY_PORT: &str = "host-ports";
const BY_ADDRESS: &str = "host-ports-of-address";
const UDP: u8 = 17;
const SELF: &str = "host-port-pods";
/// After the Services' rules, as with the original's: what they have translated need not look here.
const PRIORITY: i32 = priority::DESTINATION_NAT + 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// None: every address of the host.
    pub host_ip: Option<Ipv4Addr>,
    pub host_port: u16,
    pub container_port: u16,
    /// IP protocol number: 6 for TCP, 17 for UDP, 132 for SCTP.
    pub protocol: u8,
}

/// Chains and maps; elements that are there stay.
pub(crate) fn ensure(transaction: &mut Transaction, table: &Table, pod_cidr: Ipv4Net) {
    use Field::{Ipv4Address, Port, Protocol};
    transaction.add_set(table, &Set::map(BY_PORT, &[Protocol, Port], &[Ipv4Address, Port]));
    transaction.add_set(table, &Set::map(BY_ADDRESS, &[Ipv4Address, Protocol, Port], &[Ipv4Address, Port]));
    transaction.add_set(table, &Set::new(SELF, &[Ipv4Address, Ipv4Address]));
    transaction.add_chain(table, &Chain::regular("host-ports"));
    transaction.flush_chain(table, "host-ports");

    let (first, second, third) = (Register(0), Register(1), Register(2));
    let translate = |map_name: &str| {
        vec![
            map(map_name, first, first),
            Expression::Nat { kind: NatKind::Destination, ipv6: false, address: first, port: Some(second) },
        ]
    };
    let of_address = rule([
        vec![load_destination(Family::Ipv4, first), load_protocol(second), load_destination_port(third)],
        translate(BY_ADDRESS),
    ]);
    let of_any =
        rule([destination_is_local(), vec![load_protocol(first), load_destination_port(second)], translate(BY_PORT)]);
    transaction.add_rule(table, "host-ports", &of_address);
    transaction.add_rule(table, "host-ports", &of_any);

    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        transaction.replace_chain(table, &Chain::base(name, ChainKind::Nat, hook, PRIORITY));
        transaction.add_rule(table, name, &[Expression::Verdict(Verdict::Jump("host-ports".into()))]);
    }

    // With route_localnet, packets to 127.0.0.1 could come in from the bridge: only answers may.
    let loopback = loopback();
    transaction.replace_chain(table, &Chain::base("input", ChainKind::Filter, Hook::Input, priority::FILTER));
    let foreign = rule([
        source_in(pod_cidr.into()),
        destination_in(loopback),
        crate::nft::matching::connection_state(crate::nft::matching::CT_STATE_NEW),
        vec![Expression::Verdict(Verdict::Drop)],
    ]);
    transaction.add_rule(table, "input", &foreign);
}

/// For the chain at postrouting.
pub(crate) fn masquerade_rules(pod_cidr: Ipv4Net) -> [Vec<Expression>; 2] {
    let masquerade = || vec![Expression::Masquerade { random_ports: false }];
    let translated = || connection_status(CT_STATUS_DESTINATION_TRANSLATED);
    let from_loopback = rule([source_in(loopback()), destination_in(pod_cidr.into()), translated(), masquerade()]);
    let with_itself = rule([
        translated(),
        vec![
            load_source(Family::Ipv4, Register(0)),
            load_destination(Family::Ipv4, Register(1)),
            in_set(SELF, Register(0)),
        ],
        masquerade(),
    ]);
    [from_loopback, with_itself]
}

/// The pod's ports become these, in one step. A port that another pod holds is an error, and nothing changes.
pub(crate) fn replace(nft: &NftSocket, table: &Table, pod: Ipv4Addr, ports: &[HostPort]) -> Result<(), NetError> {
    let mut transaction = Transaction::new();
    for set in [BY_PORT, BY_ADDRESS] {
        let existing = nft.elements(table, set)?;
        if let Some((port, holder)) = taken(&existing, set, pod, ports) {
            return Err(NetError::AddressTaken { address: holder, holder: format!("host port {port}") });
        }
        let old: Vec<Element> =
            existing.into_iter().filter(|element| target(element) == Some(pod)).map(|e| Element::key(e.key)).collect();
        transaction.delete_elements(table, set, &old);
        let new: Vec<Element> = ports
            .iter()
            .filter(|port| set_of(port) == set)
            .map(|port| Element::mapping(key(port), Key::new().address(pod.into()).port(port.container_port)))
            .collect();
        transaction.add_elements(table, set, &new);
    }
    let itself = Element::key(Key::new().address(pod.into()).address(pod.into()));
    let is_there = nft.elements(table, SELF)?.iter().any(|element| element.key == itself.key);
    match (is_there, ports.is_empty()) {
        (true, true) => transaction.delete_elements(table, SELF, &[itself]),
        (false, false) => transaction.add_elements(table, SELF, &[itself]),
        _ => {}
    }
    transaction.commit(nft)
}

/// What the kernel holds, by pod.
pub(crate) fn read(nft: &NftSocket, table: &Table) -> Result<HashMap<Ipv4Addr, Vec<HostPort>>, NetError> {
    let mut found: HashMap<Ipv4Addr, Vec<HostPort>> = HashMap::new();
    for set in [BY_PORT, BY_ADDRESS] {
        for element in nft.elements(table, set)? {
            if let (Some(pod), Some(port)) = (target(&element), parse(set, &element)) {
                found.entry(pod).or_default().push(port);
            }
        }
    }
    Ok(found)
}

fn parse(set: &str, element: &Element) -> Option<HostPort> {
    let number = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?));
    let Some(ElementData::Value(value)) = &element.data else { return None };
    let (host_ip, rest) = match set {
        BY_ADDRESS => {
            let (ip, rest) = element.key.as_bytes().split_at_checked(4)?;
            (Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)), rest)
        }
        _ => (None, element.key.as_bytes()),
    };
    Some(HostPort {
        host_ip,
        host_port: number(rest.get(4..)?)?,
        container_port: number(value.as_bytes().get(4..)?)?,
        protocol: *rest.first()?,
    })
}

/// UDP clients that keep their port would go on to where the rules led before: to this pod, or to nobody.
pub(crate) fn forget_flows(conntrack: &ConntrackSocket, pod: Ipv4Addr, ports: &[HostPort]) -> Result<(), NetError> {
    let is_udp_port = |number| ports.iter().any(|port| port.protocol == UDP && port.host_port == number);
    if ports.iter().all(|port| port.protocol != UDP) {
        return Ok(());
    }
    let mut flows = conntrack.flows(Family::Ipv4, UDP)?;
    flows.retain(|flow| {
        let (sent_to, went_to) = (flow.original.destination, flow.reply.source);
        is_udp_port(sent_to.port()) && (went_to.ip() == IpAddr::V4(pod) || went_to == sent_to)
    });
    conntrack.forget(&flows)
}

fn set_of(port: &HostPort) -> &'static str {
    if port.host_ip.is_some() { BY_ADDRESS } else { BY_PORT }
}

fn key(port: &HostPort) -> Key {
    let key = match port.host_ip {
        Some(address) => Key::new().address(address.into()),
        None => Key::new(),
    };
    key.protocol(port.protocol).port(port.host_port)
}

/// The pod that an element leads to.
fn target(element: &Element) -> Option<Ipv4Addr> {
    let Some(ElementData::Value(value)) = &element.data else { return None };
    let octets: [u8; 4] = value.as_bytes().get(..4)?.try_into().ok()?;
    Some(octets.into())
}

/// A port that is wanted and held by another pod, with that pod's address.
fn taken(existing: &[Element], set: &str, pod: Ipv4Addr, ports: &[HostPort]) -> Option<(u16, IpAddr)> {
    ports.iter().filter(|port| set_of(port) == set).find_map(|port| {
        let wanted = key(port);
        let holder = existing.iter().find(|element| same_key(&element.key, &wanted)).and_then(target)?;
        (holder != pod).then_some((port.host_port, holder.into()))
    })
}

/// Keys read back from the kernel are padded to whole words.
fn same_key(read: &Key, wanted: &Key) -> bool {
    let (read, wanted) = (read.as_bytes(), wanted.as_bytes());
    read.len() >= wanted.len() && read.starts_with(wanted) && read[wanted.len()..].iter().all(|byte| *byte == 0)
}

fn loopback() -> IpNet {
    IpNet::V4(Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8).expect("a literal prefix"))
}
