//! Common beginnings of rules: each yields the expressions of one condition.

use ipnet::IpNet;

use super::expression::{
    ADDRESS_TYPE_LOCAL, Compare, ConnectionTracking, Expression, FibResult, Header, Meta, Register,
};
use super::{Family, Field};
use crate::route::octets;

pub use super::expression::{
    CT_STATE_ESTABLISHED, CT_STATE_INVALID, CT_STATE_NEW, CT_STATE_RELATED, CT_STATUS_DESTINATION_TRANSLATED,
    CT_STATUS_SOURCE_TRANSLATED,
};

const REGISTER: Register = Register::FIRST;

/// A rule from its parts.
pub fn rule<const N: usize>(parts: [Vec<Expression>; N]) -> Vec<Expression> {
    parts.into_iter().flatten().collect()
}

pub fn source_in(net: IpNet) -> Vec<Expression> {
    address_in(net, Direction::Source, Compare::Equal)
}

pub fn source_not_in(net: IpNet) -> Vec<Expression> {
    address_in(net, Direction::Source, Compare::NotEqual)
}

pub fn destination_in(net: IpNet) -> Vec<Expression> {
    address_in(net, Direction::Destination, Compare::Equal)
}

pub fn destination_not_in(net: IpNet) -> Vec<Expression> {
    address_in(net, Direction::Destination, Compare::NotEqual)
}

pub fn load_source(family: Family, to: Register) -> Expression {
    load_address(family, Direction::Source, to)
}

pub fn load_destination(family: Family, to: Register) -> Expression {
    load_address(family, Direction::Destination, to)
}

pub fn load_protocol(to: Register) -> Expression {
    Expression::Meta { key: Meta::TransportProtocol, to }
}

/// Of TCP, UDP and SCTP alike.
pub fn load_destination_port(to: Register) -> Expression {
    Expression::Payload { header: Header::Transport, offset: 2, length: 2, to }
}

pub fn protocol_is(protocol: u8) -> Vec<Expression> {
    vec![load_protocol(REGISTER), equal(vec![protocol])]
}

/// The packet's destination is an address of this host.
pub fn destination_is_local() -> Vec<Expression> {
    address_type(FibResult::DestinationAddressType)
}

pub fn source_is_local() -> Vec<Expression> {
    address_type(FibResult::SourceAddressType)
}

/// One of the states, or'ed.
pub fn connection_state(states: u32) -> Vec<Expression> {
    any_bit(ConnectionTracking::State, states)
}

pub fn connection_status(bits: u32) -> Vec<Expression> {
    any_bit(ConnectionTracking::Status, bits)
}

pub fn mark_has(bit: u32) -> Vec<Expression> {
    vec![
        Expression::Meta { key: Meta::Mark, to: REGISTER },
        mask(bit.to_ne_bytes().to_vec(), vec![0; 4]),
        Expression::Compare { register: REGISTER, comparison: Compare::NotEqual, value: vec![0; 4] },
    ]
}

/// Sets the bit and leaves the others.
pub fn set_mark(bit: u32) -> Vec<Expression> {
    vec![
        Expression::Meta { key: Meta::Mark, to: REGISTER },
        mask((!bit).to_ne_bytes().to_vec(), bit.to_ne_bytes().to_vec()),
        Expression::SetMeta { key: Meta::Mark, from: REGISTER },
    ]
}

pub fn clear_mark(bit: u32) -> Vec<Expression> {
    vec![
        Expression::Meta { key: Meta::Mark, to: REGISTER },
        mask((!bit).to_ne_bytes().to_vec(), vec![0; 4]),
        Expression::SetMeta { key: Meta::Mark, from: REGISTER },
    ]
}

pub fn input_interface_is(name: &str) -> Vec<Expression> {
    interface_name(Meta::InputInterfaceName, name, Compare::Equal)
}

pub fn output_interface_is(name: &str) -> Vec<Expression> {
    interface_name(Meta::OutputInterfaceName, name, Compare::Equal)
}

pub fn output_interface_is_not(name: &str) -> Vec<Expression> {
    interface_name(Meta::OutputInterfaceName, name, Compare::NotEqual)
}

pub fn in_set(set: &str, key: Register) -> Expression {
    Expression::Lookup { set: set.to_owned(), key, to: None, inverted: false }
}

pub fn not_in_set(set: &str, key: Register) -> Expression {
    Expression::Lookup { set: set.to_owned(), key, to: None, inverted: true }
}

pub fn map(set: &str, key: Register, to: Register) -> Expression {
    Expression::Lookup { set: set.to_owned(), key, to: Some(to), inverted: false }
}

enum Direction {
    Source,
    Destination,
}

fn load_address(family: Family, direction: Direction, to: Register) -> Expression {
    let (source_offset, length) = match family.address_field() {
        Field::Ipv6Address => (8, 16),
        _ => (12, 4),
    };
    let offset = match direction {
        Direction::Source => source_offset,
        Direction::Destination => source_offset + length,
    };
    Expression::Payload { header: Header::Network, offset, length, to }
}

fn address_in(net: IpNet, direction: Direction, comparison: Compare) -> Vec<Expression> {
    let family = if net.addr().is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let mut expressions = vec![load_address(family, direction, REGISTER)];
    if net.prefix_len() < net.max_prefix_len() {
        let netmask = octets(net.netmask());
        let zero = vec![0; netmask.len()];
        expressions.push(mask(netmask, zero));
    }
    expressions.push(Expression::Compare { register: REGISTER, comparison, value: octets(net.network()) });
    expressions
}

fn address_type(result: FibResult) -> Vec<Expression> {
    vec![Expression::Fib { result, to: REGISTER }, equal(ADDRESS_TYPE_LOCAL.to_ne_bytes().to_vec())]
}

fn any_bit(key: ConnectionTracking, bits: u32) -> Vec<Expression> {
    vec![
        Expression::ConnectionTracking { key, to: REGISTER },
        mask(bits.to_ne_bytes().to_vec(), vec![0; 4]),
        Expression::Compare { register: REGISTER, comparison: Compare::NotEqual, value: vec![0; 4] },
    ]
}

fn interface_name(key: Meta, name: &str, comparison: Compare) -> Vec<Expression> {
    let mut value = name.as_bytes().to_vec();
    value.resize(libc::IFNAMSIZ, 0);
    vec![Expression::Meta { key, to: REGISTER }, Expression::Compare { register: REGISTER, comparison, value }]
}

fn mask(mask: Vec<u8>, xor: Vec<u8>) -> Expression {
    Expression::Bitwise { from: REGISTER, to: REGISTER, mask, xor }
}

fn equal(value: Vec<u8>) -> Expression {
    Expression::Compare { register: REGISTER, comparison: Compare::Equal, value }
}
