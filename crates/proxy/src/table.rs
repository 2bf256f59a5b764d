//! The rules: a few chains and maps that stay, one chain for each way of picking an endpoint, and elements.
//!
//! ```text
//! prerouting, output (filter) -> frontends: new connections alone
//!   address, protocol, port        @services    -> number of a pick
//!   what is refused is refused
//! prerouting, output (nat) -> services:
//!   (an address of this node) port @node-ports  -> number of a pick
//!   number                         @picks       -> chain, for example cluster-2:
//!     mark for masquerading, if answers would not come back otherwise
//!     slot: a random number below 2; with affinity, the one that the client had before
//!   to-endpoint: address, protocol, port, slot     @endpoints -> address and port of the endpoint
//! ```
//!
//! Services that have as many endpoints and the same policy share a chain, so the number of rules does not grow with
//! the number of Services. Numbers go from one rule to the next in the packet's priority, which the kernel sets anew
//! before it would matter. A map straight to verdicts would spare that step, but each change of such a map makes the
//! kernel check every element of it; and so does the first rule of a chain that looks into a map. That is why chains that
//! come and go look into none: only those that stay do.
//!
//! Affinity remembers (client, frontend) -> slot in a map that the kernel fills, by a chain for each length of memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use net::nft::matching::{
    CT_STATE_INVALID, CT_STATE_NEW, CT_STATUS_DESTINATION_TRANSLATED, clear_mark, connection_state, connection_status,
    destination_in, destination_is_local, in_set, load_destination, load_destination_port, load_protocol, load_source,
    map, mark_has, not_in_set, protocol_is, rule, set_mark, source_in, source_is_local, source_not_in,
};
use net::nft::{
    Chain, ChainKind, DynamicOperation, Element, ElementData, Expression, Family, Field, Hook, Key, Meta, NatKind,
    Register, Reject, Set, Table, Transaction, Verdict, priority,
};

use crate::entry::{Affinity, EntryKey, EntryValue, Frontend, INTERNAL_SLOTS, Pick, Refusal, Source, TCP};
use crate::state::Plan;

/// Bit of the packet mark that asks for masquerading; the one kube-proxy uses.
const MASQUERADE_MARK: u32 = 0x4000;
/// Above every traffic class that somebody would set, so that a packet's own priority is never taken for a pick.
const PICK_NUMBERS: u32 = 0xc0ac_0000;
/// Clients remembered, per kind of frontend. Beyond it new ones are spread without being remembered.
const AFFINITY_CLIENTS_MAX: u32 = 1 << 18;

const SERVICES: &str = "services";
const NODE_PORTS: &str = "node-ports";
const PICKS: &str = "picks";
const ENDPOINTS: &str = "endpoints";
const NODE_PORT_ENDPOINTS: &str = "node-port-endpoints";
const AFFINITY: &str = "affinity";
const NODE_PORT_AFFINITY: &str = "node-port-affinity";
const REJECTED: &str = "rejected";
const DROPPED: &str = "dropped";
const REJECTED_NODE_PORTS: &str = "rejected-node-ports";
const DROPPED_NODE_PORTS: &str = "dropped-node-ports";
const CLUSTER_IPS: &str = "cluster-ips";
const HAIRPINS: &str = "hairpins";
const RESTRICTED: &str = "restricted";
const ALLOWED_SOURCES: &str = "allowed-sources";

/// A table of one address family.
#[derive(Clone, Debug)]
pub(crate) struct ServiceTable {
    pub table: Table,
    /// Pods' addresses: what comes from elsewhere is masqueraded.
    pub cluster_cidr: IpNet,
    /// Node ports answer on these addresses of the node; on all, if empty.
    pub node_port_addresses: Vec<IpNet>,
}

type Rule = Vec<Expression>;

impl ServiceTable {
    /// Everything but elements and picks, in place of whatever stood there.
    pub fn replace(&self, transaction: &mut Transaction) {
        transaction.replace_table(&self.table);
        for set in self.sets() {
            transaction.add_set(&self.table, &set);
        }
        for (chain, rules) in self.chains() {
            transaction.add_chain(&self.table, &chain);
            for rule in rules {
                transaction.add_rule(&self.table, &chain.name, &rule);
            }
        }
    }

    /// The part of the plan that is of this family.
    pub fn change(&self, transaction: &mut Transaction, plan: &Plan, number_of: impl Fn(&Pick) -> u32) {
        let is_ours = |ipv6: bool| ipv6 == self.is_ipv6();
        for affinity in plan.new_affinities.iter().filter(|affinity| is_ours(affinity.ipv6)) {
            transaction.add_chain(&self.table, &Chain::regular(affinity.to_string()));
            for rule in self.affinity_rules(affinity) {
                transaction.add_rule(&self.table, &affinity.to_string(), &rule);
            }
        }
        for (number, pick) in plan.new_picks.iter().filter(|(_, pick)| is_ours(pick.ipv6)) {
            self.add_pick(transaction, *number, pick);
        }
        let mut removed: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
        let mut added: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
        for (key, change) in plan.changes.iter().filter(|(key, _)| is_ours(key.is_ipv6())) {
            if let Some(value) = &change.before {
                let (set, element) = element(key, value, &number_of);
                // A map's element is found by its key alone.
                removed.entry(set).or_default().push(Element { data: None, ..element });
            }
            if let Some(value) = &change.after {
                let (set, element) = element(key, value, &number_of);
                added.entry(set).or_default().push(element);
            }
        }
        for (set, elements) in &removed {
            transaction.delete_elements(&self.table, set, elements);
        }
        for (set, elements) in &added {
            transaction.add_elements(&self.table, set, elements);
        }
        for (number, pick) in plan.old_picks.iter().filter(|(_, pick)| is_ours(pick.ipv6)) {
            self.remove_pick(transaction, *number, pick);
        }
        for affinity in plan.old_affinities.iter().filter(|affinity| is_ours(affinity.ipv6)) {
            transaction.delete_chain(&self.table, &affinity.to_string());
        }
    }

    /// Maps whose elements are endpoints in slots, for [`ServiceTable::parse_slot`].
    pub fn endpoint_sets() -> [&'static str; 2] {
        [ENDPOINTS, NODE_PORT_ENDPOINTS]
    }

    /// Maps whose elements are clients that were remembered.
    pub fn affinity_sets() -> [&'static str; 2] {
        [AFFINITY, NODE_PORT_AFFINITY]
    }

    /// An endpoint in a slot, read back from the kernel.
    pub fn parse_slot(&self, set: &str, element: &Element) -> Option<(Frontend, u32, SocketAddr)> {
        let Some(ElementData::Value(value)) = &element.data else { return None };
        let (frontend, slot) = match set {
            ENDPOINTS => {
                let (ip, rest) = self.parse_address(element.key.as_bytes())?;
                let (protocol, port, slot) = parse_port_and_slot(rest)?;
                (Frontend::Address { ip, protocol, port }, slot)
            }
            _ => {
                let (protocol, port, slot) = parse_port_and_slot(element.key.as_bytes())?;
                (Frontend::NodePort { ipv6: self.is_ipv6(), protocol, port }, slot)
            }
        };
        let (ip, rest) = self.parse_address(value.as_bytes())?;
        let port = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
        Some((frontend, slot, SocketAddr::new(ip, port)))
    }

    fn parse_address<'a>(&self, bytes: &'a [u8]) -> Option<(IpAddr, &'a [u8])> {
        let (address, rest) = bytes.split_at_checked(self.address().length() as usize)?;
        let ip = match self.is_ipv6() {
            true => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
            false => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        };
        Some((ip, rest))
    }

    fn is_ipv6(&self) -> bool {
        self.table.family == Family::Ipv6
    }

    fn address(&self) -> Field {
        self.table.family.address_field()
    }

    fn sets(&self) -> Vec<Set> {
        use Field::{Number, Port, Protocol};
        let address = self.address();
        vec![
            Set::map(SERVICES, &[address, Protocol, Port], &[Number]),
            Set::map(NODE_PORTS, &[Protocol, Port], &[Number]),
            Set::verdict_map(PICKS, &[Number]),
            Set::map(ENDPOINTS, &[address, Protocol, Port, Number], &[address, Port]),
            Set::map(NODE_PORT_ENDPOINTS, &[Protocol, Port, Number], &[address, Port]),
            Set::map(AFFINITY, &[address, address, Protocol, Port], &[Number]).filled_by_rules(AFFINITY_CLIENTS_MAX),
            Set::map(NODE_PORT_AFFINITY, &[address, Protocol, Port], &[Number]).filled_by_rules(AFFINITY_CLIENTS_MAX),
            Set::new(REJECTED, &[address, Protocol, Port]),
            Set::new(DROPPED, &[address, Protocol, Port]),
            Set::new(REJECTED_NODE_PORTS, &[Protocol, Port]),
            Set::new(DROPPED_NODE_PORTS, &[Protocol, Port]),
            Set::new(CLUSTER_IPS, &[address]),
            Set::new(HAIRPINS, &[address, address]),
            Set::new(RESTRICTED, &[address, Protocol, Port]),
            Set::new(ALLOWED_SOURCES, &[address, Protocol, Port, address]).with_intervals(),
        ]
    }

    /// Regular chains first: a rule may only jump to what is there.
    fn chains(&self) -> Vec<(Chain, Vec<Rule>)> {
        let new = || connection_state(CT_STATE_NEW);
        let jump = |chain: &str| vec![Expression::Verdict(Verdict::Jump(chain.into()))];
        let nat = |hook, priority| (ChainKind::Nat, hook, priority);
        let filter = |hook, priority| (ChainKind::Filter, hook, priority);
        let before_translation = priority::DESTINATION_NAT - 10;
        let after_translation = priority::DESTINATION_NAT + 10;
        let base = |name: &str, (kind, hook, priority)| Chain::base(name, kind, hook, priority);
        let look = || vec![rule([new(), jump("frontends")])];
        let services = || vec![jump("services")];
        vec![
            (Chain::regular(to_endpoint(false)), vec![self.translation_rule(false)]),
            (Chain::regular(to_endpoint(true)), vec![self.translation_rule(true)]),
            (Chain::regular("services"), self.service_rules()),
            (Chain::regular("reject"), reject_rules()),
            (Chain::regular("frontends"), self.frontend_rules()),
            (base("prerouting", nat(Hook::Prerouting, priority::DESTINATION_NAT)), services()),
            (base("output", nat(Hook::Output, priority::DESTINATION_NAT)), services()),
            (base("postrouting", nat(Hook::Postrouting, priority::SOURCE_NAT)), self.masquerade_rules()),
            // Before translation, while packets still carry the Service's address.
            (base("frontends-prerouting", filter(Hook::Prerouting, before_translation)), look()),
            (base("frontends-output", filter(Hook::Output, before_translation)), look()),
            (base("input", filter(Hook::Input, priority::FILTER)), self.input_rules()),
            (base("forward", filter(Hook::Forward, priority::FILTER)), vec![self.untracked_rule()]),
            (
                base("translated-prerouting", filter(Hook::Prerouting, after_translation)),
                vec![self.invalid_port_rule()],
            ),
            (base("translated-output", filter(Hook::Output, after_translation)), vec![self.invalid_port_rule()]),
        ]
    }

    fn service_rules(&self) -> Vec<Rule> {
        let dispatch = || {
            vec![
                Expression::Meta { key: Meta::Priority, to: Register(0) },
                Expression::VerdictLookup { set: PICKS.into(), key: Register(0) },
            ]
        };
        let mut rules = vec![dispatch()];
        let conditions = match self.node_port_addresses.as_slice() {
            [] => vec![destination_is_local()],
            nets => {
                let ours = nets.iter().filter(|net| net.addr().is_ipv6() == self.is_ipv6());
                ours.map(|net| rule([destination_in(*net), destination_is_local()])).collect()
            }
        };
        for condition in conditions {
            rules.push(rule([
                condition,
                self.load_frontend(true, Register(0)).0,
                vec![map(NODE_PORTS, Register(0), Register(0)), remember_number()],
            ]));
        }
        rules.push(dispatch());
        rules
    }

    /// Who is led somewhere is asked before who is refused, and passes fewer rules.
    fn frontend_rules(&self) -> Vec<Rule> {
        let reject = || Expression::Verdict(Verdict::Goto("reject".into()));
        let drop = || Expression::Verdict(Verdict::Drop);
        let (address, after) = self.load_frontend(false, Register(0));
        let (port, _) = self.load_frontend(true, Register(0));
        let source = load_source(self.table.family, after);
        let at_address = |set: &str, then| rule([address.clone(), vec![in_set(set, Register(0)), then]]);
        let at_node =
            |set: &str, then| rule([destination_is_local(), port.clone(), vec![in_set(set, Register(0)), then]]);
        vec![
            rule([
                address.clone(),
                vec![in_set(RESTRICTED, Register(0))],
                address.clone(),
                vec![source, not_in_set(ALLOWED_SOURCES, Register(0)), drop()],
            ]),
            rule([
                address.clone(),
                vec![map(SERVICES, Register(0), Register(0)), remember_number(), Expression::Verdict(Verdict::Return)],
            ]),
            at_address(REJECTED, reject()),
            at_address(DROPPED, drop()),
            at_node(REJECTED_NODE_PORTS, reject()),
            at_node(DROPPED_NODE_PORTS, drop()),
        ]
    }

    fn masquerade_rules(&self) -> Vec<Rule> {
        let family = self.table.family;
        let words = self.address().words();
        vec![
            rule([
                mark_has(MASQUERADE_MARK),
                clear_mark(MASQUERADE_MARK),
                vec![Expression::Masquerade { random_ports: true }],
            ]),
            rule([
                connection_status(CT_STATUS_DESTINATION_TRANSLATED),
                vec![
                    load_source(family, Register(0)),
                    load_destination(family, Register(0).after(words)),
                    in_set(HAIRPINS, Register(0)),
                    Expression::Masquerade { random_ports: true },
                ],
            ]),
        ]
    }

    /// With route_localnet, neighbours could reach what this host serves on its loopback: they may not.
    fn input_rules(&self) -> Vec<Rule> {
        if self.is_ipv6() {
            return Vec::new();
        }
        let loopback: IpNet = Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8).expect("a literal prefix").into();
        let translated = connection_status(CT_STATUS_DESTINATION_TRANSLATED);
        vec![
            rule([destination_in(loopback), translated, vec![Expression::Verdict(Verdict::Accept)]]),
            rule([
                destination_in(loopback),
                source_not_in(loopback),
                connection_state(CT_STATE_NEW),
                vec![Expression::Verdict(Verdict::Drop)],
            ]),
        ]
    }

    /// What the kernel cannot place in a connection is not translated back: the client would see a stranger's packet
    /// and reset the connection.
    fn untracked_rule(&self) -> Rule {
        rule([
            source_in(self.cluster_cidr),
            connection_state(CT_STATE_INVALID),
            vec![Expression::Verdict(Verdict::Drop)],
        ])
    }

    /// What still has a cluster IP after translation asks for a port that the Service does not have.
    fn invalid_port_rule(&self) -> Rule {
        rule([
            connection_state(CT_STATE_NEW),
            vec![
                load_destination(self.table.family, Register(0)),
                in_set(CLUSTER_IPS, Register(0)),
                Expression::Verdict(Verdict::Goto("reject".into())),
            ],
        ])
    }

    fn add_pick(&self, transaction: &mut Transaction, number: u32, pick: &Pick) {
        for (name, rules) in self.pick_chains(pick) {
            transaction.add_chain(&self.table, &Chain::regular(&name));
            for rule in rules {
                transaction.add_rule(&self.table, &name, &rule);
            }
        }
        let verdict = Verdict::Goto(pick.to_string());
        transaction.add_elements(&self.table, PICKS, &[Element::verdict(pick_key(number), verdict)]);
    }

    fn remove_pick(&self, transaction: &mut Transaction, number: u32, pick: &Pick) {
        transaction.delete_elements(&self.table, PICKS, &[Element::key(pick_key(number))]);
        // From the chain that others do not go to.
        for (name, _) in self.pick_chains(pick).iter().rev() {
            transaction.delete_chain(&self.table, name);
        }
    }

    /// The chain of the pick last, after those that it goes to.
    fn pick_chains(&self, pick: &Pick) -> Vec<(String, Vec<Rule>)> {
        let name = pick.to_string();
        let mark = || set_mark(MASQUERADE_MARK);
        let to_endpoints = slot_rules(pick, pick.slots, 0);
        match pick.source {
            Source::Pods => {
                let outside = rule([source_not_in(self.cluster_cidr), mark()]);
                vec![(name, [vec![outside], to_endpoints].concat())]
            }
            Source::Node => vec![(name, [vec![mark()], to_endpoints].concat())],
            Source::Client => {
                let inside = format!("{name}-inside");
                let go = || vec![Expression::Verdict(Verdict::Goto(inside.clone()))];
                let mut rules = vec![
                    rule([source_in(self.cluster_cidr), go()]),
                    rule([source_is_local(), mark()]),
                    rule([source_is_local(), go()]),
                ];
                if pick.slots == 0 {
                    rules.push(vec![Expression::Verdict(Verdict::Drop)]);
                }
                rules.extend(to_endpoints);
                let wide = slot_rules(pick, pick.internal_slots, INTERNAL_SLOTS);
                vec![(inside, wide), (name, rules)]
            }
        }
    }

    /// To the endpoint in the slot that the packet's priority says; on, if there is none.
    fn translation_rule(&self, node_port: bool) -> Rule {
        let start = Register(0);
        let (frontend, slot) = self.load_frontend(node_port, start);
        let endpoints = if node_port { NODE_PORT_ENDPOINTS } else { ENDPOINTS };
        let translation = Expression::Nat {
            kind: NatKind::Destination,
            ipv6: self.is_ipv6(),
            address: start,
            port: Some(start.after(self.address().words())),
        };
        rule([frontend, vec![Expression::Meta { key: Meta::Priority, to: slot }, map(endpoints, start, start), translation]])
    }

    /// To the endpoint that the client had before. The slot that the packet brings is for a client that is not known yet;
    /// where it is known, this begins its time anew. Who comes back from here had a slot that is no more, and is
    /// forgotten: then it is a new one.
    fn affinity_rules(&self, affinity: &Affinity) -> Vec<Rule> {
        let start = Register(0);
        let set = if affinity.node_port { NODE_PORT_AFFINITY } else { AFFINITY };
        let (mut client, remembered) = self.load_frontend(affinity.node_port, start.after(self.address().words()));
        client.insert(0, load_source(self.table.family, start));
        let change = |operation, timeout_milliseconds| {
            let set = set.into();
            vec![
                Expression::Meta { key: Meta::Priority, to: remembered },
                Expression::Dynamic { operation, set, key: start, value: Some(remembered), timeout_milliseconds },
            ]
        };
        let remember = u64::from(affinity.seconds) * 1000;
        let recall = vec![map(set, start, start), Expression::SetMeta { key: Meta::Priority, from: start }];
        vec![
            rule([client.clone(), change(DynamicOperation::Update, Some(remember))]),
            rule([client.clone(), recall]),
            vec![Expression::Verdict(Verdict::Jump(to_endpoint(affinity.node_port).into()))],
            rule([client, change(DynamicOperation::Delete, None)]),
        ]
    }

    /// Loads what a frontend is known by; also the register after it.
    fn load_frontend(&self, node_port: bool, start: Register) -> (Vec<Expression>, Register) {
        let mut expressions = Vec::new();
        let mut next = start;
        if !node_port {
            expressions.push(load_destination(self.table.family, next));
            next = next.after(self.address().words());
        }
        expressions.push(load_protocol(next));
        expressions.push(load_destination_port(next.after(1)));
        (expressions, next.after(2))
    }
}

/// For a later rule to find.
fn remember_number() -> Expression {
    Expression::SetMeta { key: Meta::Priority, from: Register(0) }
}

fn to_endpoint(node_port: bool) -> &'static str {
    if node_port { "to-endpoint-of-node-port" } else { "to-endpoint" }
}

/// To a random slot; with affinity, to the one that the client had before. They look into no map themselves.
fn slot_rules(pick: &Pick, slots: u32, first: u32) -> Vec<Rule> {
    if slots == 0 {
        return Vec::new();
    }
    let at_random = || {
        let random = Expression::RandomNumber { modulus: slots, offset: first, to: Register(0) };
        vec![random, Expression::SetMeta { key: Meta::Priority, from: Register(0) }]
    };
    let go = vec![Expression::Verdict(Verdict::Goto(to_endpoint(pick.node_port).into()))];
    let Some(affinity) = pick.affinity() else { return vec![rule([at_random(), go])] };
    let attempt = || vec![Expression::Verdict(Verdict::Jump(affinity.to_string()))];
    // Whose slot is no more is a new client the second time; the last one is for those that there is no room to remember.
    vec![rule([at_random(), attempt()]), rule([at_random(), attempt()]), rule([at_random(), go])]
}

/// Before routing: after it, a redirect could use up what the kernel allows a host of ICMP messages. And a reset
/// for TCP: an unreachable that comes while the client is still in connect() is not heard, and it tries for a second.
fn reject_rules() -> Vec<Rule> {
    vec![
        rule([protocol_is(TCP), vec![Expression::Reject(Reject::TcpReset)]]),
        vec![Expression::Reject(Reject::PortUnreachable)],
    ]
}

/// Each in a word of its own.
fn parse_port_and_slot(bytes: &[u8]) -> Option<(u8, u16, u32)> {
    let port = u16::from_be_bytes(bytes.get(4..6)?.try_into().ok()?);
    let slot = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    Some((bytes[0], port, slot))
}

fn pick_key(number: u32) -> Key {
    Key::new().number(PICK_NUMBERS + number)
}

/// The set of an entry and its element there.
fn element(key: &EntryKey, value: &EntryValue, number_of: &impl Fn(&Pick) -> u32) -> (&'static str, Element) {
    let by_kind = |frontend: &Frontend, at_address, at_node| match frontend {
        Frontend::Address { .. } => at_address,
        Frontend::NodePort { .. } => at_node,
    };
    match (key, value) {
        (EntryKey::Frontend(frontend), EntryValue::Pick(pick)) => {
            let number = pick_key(number_of(pick));
            (by_kind(frontend, SERVICES, NODE_PORTS), Element::mapping(frontend_key(frontend), number))
        }
        (EntryKey::Frontend(frontend), value) => {
            let set = match value {
                EntryValue::Refuse(Refusal::Drop) => by_kind(frontend, DROPPED, DROPPED_NODE_PORTS),
                _ => by_kind(frontend, REJECTED, REJECTED_NODE_PORTS),
            };
            (set, Element::key(frontend_key(frontend)))
        }
        (EntryKey::Slot(frontend, slot), value) => {
            let key = frontend_key(frontend).number(*slot);
            let set = by_kind(frontend, ENDPOINTS, NODE_PORT_ENDPOINTS);
            match value {
                EntryValue::Endpoint(endpoint) => {
                    (set, Element::mapping(key, Key::new().address(endpoint.ip()).port(endpoint.port())))
                }
                _ => (set, Element::key(key)),
            }
        }
        (EntryKey::ClusterIp(ip), _) => (CLUSTER_IPS, Element::key(Key::new().address(*ip))),
        (EntryKey::Hairpin(ip), _) => (HAIRPINS, Element::key(Key::new().address(*ip).address(*ip))),
        (EntryKey::Restricted(frontend), _) => (RESTRICTED, Element::key(frontend_key(frontend))),
        (EntryKey::AllowedSource(frontend, net), _) => {
            let at = |ip: IpAddr| frontend_key(frontend).address(ip);
            (ALLOWED_SOURCES, Element::range(at(net.network()), at(net.broadcast())))
        }
    }
}

fn frontend_key(frontend: &Frontend) -> Key {
    match frontend {
        Frontend::Address { ip, protocol, port } => Key::new().address(*ip).protocol(*protocol).port(*port),
        Frontend::NodePort { protocol, port, .. } => Key::new().protocol(*protocol).port(*port),
    }
}
