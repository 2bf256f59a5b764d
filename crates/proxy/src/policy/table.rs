//! The rules that judge selected pods' traffic.
//!
//! ```text
//! forward (after Services are translated), input:
//!   part of a connection that was let through -> accept
//!   a pod with itself              @selves  -> accept
//!   source of a judged pod         @egress  -> chain of its policies: what they allow returns, the rest is dropped
//!   destination of a judged pod    @ingress -> likewise; not at input, where no pod is the destination
//! ```
//!
//! What this host itself sends to its pods is not judged: probes must arrive.

use std::collections::BTreeSet;
use std::net::IpAddr;

use net::nft::matching::{
    CT_STATE_ESTABLISHED, CT_STATE_RELATED, connection_state, destination_in, destination_not_in, in_set,
    load_destination, load_destination_port, load_protocol, load_source, protocol_is, rule, source_in, source_not_in,
};
use net::nft::{
    Chain, ChainKind, Element, Expression, Field, Hook, Key, Register, Set, Table, Transaction, Verdict, priority,
};

use super::decide::{Allow, Desired, Direction, Judge, Peers, Ports};

const SELVES: &str = "selves";

/// After the rules of Services, which translate and refuse.
const PRIORITY: i32 = priority::FILTER + 10;

type Rule = Vec<Expression>;

fn judging_map(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn chain_name((direction, number): Judge) -> String {
    format!("{}-{number}", judging_map(direction))
}

/// One of the family whose addresses are judged.
pub(super) struct PolicyTable<'a> {
    pub table: &'a Table,
}

impl PolicyTable<'_> {
    /// Everything anew, in place of whatever stood there.
    pub fn replace(&self, transaction: &mut Transaction, desired: &Desired) {
        transaction.replace_table(self.table);
        let address = self.table.family.address_field();
        transaction.add_set(self.table, &Set::new(SELVES, &[address, address]));
        for direction in [Direction::Ingress, Direction::Egress] {
            transaction.add_set(self.table, &Set::verdict_map(judging_map(direction), &[address]));
        }
        for name in desired.pods.keys() {
            transaction.add_set(self.table, &Set::new(name, &[address]));
        }
        for name in desired.ports.keys() {
            transaction.add_set(self.table, &Set::new(name, &[address, Field::Protocol, Field::Port]));
        }
        for (judge, allowed) in &desired.chains {
            let name = chain_name(*judge);
            transaction.add_chain(self.table, &Chain::regular(&name));
            for allow in allowed {
                transaction.add_rule(self.table, &name, &self.permission(judge.0, allow));
            }
            transaction.add_rule(self.table, &name, &[Expression::Verdict(Verdict::Drop)]);
        }
        for (name, hook) in [("forward", Hook::Forward), ("input", Hook::Input)] {
            transaction.add_chain(self.table, &Chain::base(name, ChainKind::Filter, hook, PRIORITY));
            for rule in self.judging_rules(hook) {
                transaction.add_rule(self.table, name, &rule);
            }
        }
        self.change_elements(transaction, &Desired::default(), desired);
    }

    /// From one content to another; the rules are the same.
    pub fn change_elements(&self, transaction: &mut Transaction, before: &Desired, after: &Desired) {
        let empty = BTreeSet::new();
        for (name, wanted) in &after.pods {
            let held = before.pods.get(name).unwrap_or(&empty);
            self.change_set(transaction, name, held, wanted, |ip| Key::new().address(*ip));
        }
        let empty = BTreeSet::new();
        for (name, wanted) in &after.ports {
            let held = before.ports.get(name).unwrap_or(&empty);
            let key = |(ip, protocol, port): &(IpAddr, u8, u16)| Key::new().address(*ip).protocol(*protocol).port(*port);
            self.change_set(transaction, name, held, wanted, key);
        }
        let judged = |desired: &Desired| desired.judged.keys().map(|(_, ip)| *ip).filter(|ip| self.is_ours(ip)).collect();
        let (held, wanted): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = (judged(before), judged(after));
        self.change_set(transaction, SELVES, &held, &wanted, |ip| Key::new().address(*ip).address(*ip));
        for direction in [Direction::Ingress, Direction::Egress] {
            let of = |desired: &Desired| -> BTreeSet<(IpAddr, usize)> {
                let judged = desired.judged.iter().filter(|((of, ip), _)| *of == direction && self.is_ours(ip));
                judged.map(|((_, ip), chain)| (*ip, *chain)).collect()
            };
            let (held, wanted) = (of(before), of(after));
            let gone: Vec<Element> = held.difference(&wanted).map(|(ip, _)| Element::key(Key::new().address(*ip))).collect();
            let verdict = |number: &usize| Verdict::Jump(chain_name((direction, *number)));
            let new = wanted.difference(&held);
            let new: Vec<Element> =
                new.map(|(ip, number)| Element::verdict(Key::new().address(*ip), verdict(number))).collect();
            let map = judging_map(direction);
            self.change(transaction, map, &gone, &new);
        }
    }

    fn change_set<T: Ord>(
        &self,
        transaction: &mut Transaction,
        set: &str,
        held: &BTreeSet<T>,
        wanted: &BTreeSet<T>,
        key: impl Fn(&T) -> Key,
    ) {
        let gone: Vec<Element> = held.difference(wanted).map(|it| Element::key(key(it))).collect();
        let new: Vec<Element> = wanted.difference(held).map(|it| Element::key(key(it))).collect();
        self.change(transaction, set, &gone, &new);
    }

    fn change(&self, transaction: &mut Transaction, set: &str, gone: &[Element], new: &[Element]) {
        if !gone.is_empty() {
            transaction.delete_elements(self.table, set, gone);
        }
        if !new.is_empty() {
            transaction.add_elements(self.table, set, new);
        }
    }

    fn is_ours(&self, address: &IpAddr) -> bool {
        let ipv6 = self.table.family.address_field() == Field::Ipv6Address;
        address.is_ipv6() == ipv6
    }

    fn judging_rules(&self, hook: Hook) -> Vec<Rule> {
        let (family, start) = (self.table.family, Register(0));
        let words = family.address_field().words();
        let accept = || vec![Expression::Verdict(Verdict::Accept)];
        let judge = |load, direction: Direction| {
            vec![load, Expression::VerdictLookup { set: judging_map(direction).into(), key: start }]
        };
        let mut rules = vec![
            rule([connection_state(CT_STATE_ESTABLISHED | CT_STATE_RELATED), accept()]),
            rule([
                vec![
                    load_source(family, start),
                    load_destination(family, start.after(words)),
                    in_set(SELVES, start),
                ],
                accept(),
            ]),
            judge(load_source(family, start), Direction::Egress),
        ];
        if hook == Hook::Forward {
            rules.push(judge(load_destination(family, start), Direction::Ingress));
        }
        rules
    }

    fn permission(&self, direction: Direction, allow: &Allow) -> Rule {
        let family = self.table.family;
        let start = Register(0);
        let peers = match (&allow.peers, direction) {
            (Peers::Anybody, _) => Vec::new(),
            (Peers::Pods(set), Direction::Ingress) => vec![load_source(family, start), in_set(set, start)],
            (Peers::Pods(set), Direction::Egress) => vec![load_destination(family, start), in_set(set, start)],
            (Peers::Block { cidr, except }, Direction::Ingress) => {
                [vec![source_in(*cidr)], except.iter().map(|net| source_not_in(*net)).collect()].concat().concat()
            }
            (Peers::Block { cidr, except }, Direction::Egress) => {
                [vec![destination_in(*cidr)], except.iter().map(|net| destination_not_in(*net)).collect()].concat().concat()
            }
        };
        let ports = match &allow.ports {
            Ports::Any => Vec::new(),
            Ports::Protocol(protocol) => protocol_is(*protocol),
            Ports::Range { protocol, first, last } => {
                let (first, last) = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
                let in_range = Expression::Range { register: start, inside: true, first, last };
                rule([protocol_is(*protocol), vec![load_destination_port(start), in_range]])
            }
            Ports::Named(set) => {
                let words = family.address_field().words();
                vec![
                    load_destination(family, start),
                    load_protocol(start.after(words)),
                    load_destination_port(start.after(words + 1)),
                    in_set(set, start),
                ]
            }
        };
        rule([peers, ports, vec![Expression::Verdict(Verdict::Return)]])
    }
}
