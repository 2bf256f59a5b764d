//! The steps of a rule. Each reads or writes registers; a comparison that fails ends the rule.

use super::numbers;
use crate::netlink::Writer;

/// A 32-bit register; longer values fill several, from this one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Register(pub u8);

impl Register {
    pub const FIRST: Register = Register(0);
    const COUNT: u8 = 16;

    pub fn after(self, words: u32) -> Register {
        Register(self.0 + words as u8)
    }

    fn number(self) -> u32 {
        debug_assert!(self.0 < Register::COUNT, "register {} does not exist", self.0);
        NFT_REG32_00 + u32::from(self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    Network,
    Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    Mark,
    Priority,
    InputInterface,
    OutputInterface,
    InputInterfaceName,
    OutputInterfaceName,
    NetworkProtocol,
    TransportProtocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionTracking {
    State,
    Status,
    Mark,
    /// Addresses and ports of the first packet, before any translation.
    OriginalSource,
    OriginalDestination,
    OriginalDestinationPort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibResult {
    SourceAddressType,
    DestinationAddressType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynamicOperation {
    Add,
    Update,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    PortUnreachable,
    AdministrativelyProhibited,
    TcpReset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Payload {
        header: Header,
        offset: u32,
        length: u32,
        to: Register,
    },
    Compare {
        register: Register,
        comparison: Compare,
        value: Vec<u8>,
    },
    /// Both ends included; big-endian.
    Range {
        register: Register,
        inside: bool,
        first: Vec<u8>,
        last: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`.
    Bitwise {
        from: Register,
        to: Register,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// In a set: the rule goes on if it is there. In a map: the value goes to `to`.
    Lookup {
        set: String,
        key: Register,
        to: Option<Register>,
        inverted: bool,
    },
    /// In a map of verdicts: the verdict is carried out.
    VerdictLookup {
        set: String,
        key: Register,
    },
    Immediate {
        to: Register,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    Meta {
        key: Meta,
        to: Register,
    },
    SetMeta {
        key: Meta,
        from: Register,
    },
    ConnectionTracking {
        key: ConnectionTracking,
        to: Register,
    },
    Fib {
        result: FibResult,
        to: Register,
    },
    /// A number from `offset` to `offset + modulus - 1`.
    RandomNumber {
        modulus: u32,
        offset: u32,
        to: Register,
    },
    Nat {
        kind: NatKind,
        ipv6: bool,
        address: Register,
        port: Option<Register>,
    },
    Masquerade {
        random_ports: bool,
    },
    Redirect {
        port: Option<Register>,
    },
    Reject(Reject),
    Counter,
    /// Goes on while fewer than this have passed lately.
    Limit {
        packets: u64,
        per_seconds: u64,
        burst: u32,
    },
    /// Changes an element of a set while packets pass.
    Dynamic {
        operation: DynamicOperation,
        set: String,
        key: Register,
        value: Option<Register>,
        timeout_milliseconds: Option<u64>,
    },
}

pub const CT_STATE_INVALID: u32 = 1;
pub const CT_STATE_ESTABLISHED: u32 = 2;
pub const CT_STATE_RELATED: u32 = 4;
pub const CT_STATE_NEW: u32 = 8;
pub const CT_STATUS_SOURCE_TRANSLATED: u32 = 1 << 4;
pub const CT_STATUS_DESTINATION_TRANSLATED: u32 = 1 << 5;
/// The kernel's RTN_LOCAL: an address of this host.
pub const ADDRESS_TYPE_LOCAL: u32 = 2;

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Expression::Payload { .. } => "payload",
            Expression::Compare { .. } => "cmp",
            Expression::Range { .. } => "range",
            Expression::Bitwise { .. } => "bitwise",
            Expression::Lookup { .. } | Expression::VerdictLookup { .. } => "lookup",
            Expression::Immediate { .. } | Expression::Verdict(_) => "immediate",
            Expression::Meta { .. } | Expression::SetMeta { .. } => "meta",
            Expression::ConnectionTracking { .. } => "ct",
            Expression::Fib { .. } => "fib",
            Expression::RandomNumber { .. } => "numgen",
            Expression::Nat { .. } => "nat",
            Expression::Masquerade { .. } => "masq",
            Expression::Redirect { .. } => "redir",
            Expression::Reject(_) => "reject",
            Expression::Counter => "counter",
            Expression::Limit { .. } => "limit",
            Expression::Dynamic { .. } => "dynset",
        }
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer.nest(numbers::NFTA_LIST_ELEM, |element| {
            element.str(numbers::NFTA_EXPR_NAME, self.name());
            element.nest(numbers::NFTA_EXPR_DATA, |body| self.write_body(body));
        });
    }

    fn write_body(&self, body: &mut Writer<'_>) {
        match self {
            Expression::Payload { header, offset, length, to } => {
                body.be32(1, to.number());
                let base = match header {
                    Header::Network => libc::NFT_PAYLOAD_NETWORK_HEADER,
                    Header::Transport => libc::NFT_PAYLOAD_TRANSPORT_HEADER,
                };
                body.be32(2, base as u32);
                body.be32(3, *offset);
                body.be32(4, *length);
            }
            Expression::Compare { register, comparison, value } => {
                body.be32(1, register.number());
                body.be32(2, *comparison as u32);
                body.nest(3, |data| write_data(data, value));
            }
            Expression::Range { register, inside, first, last } => {
                body.be32(1, register.number());
                body.be32(2, u32::from(!inside));
                body.nest(3, |data| write_data(data, first));
                body.nest(4, |data| write_data(data, last));
            }
            Expression::Bitwise { from, to, mask, xor } => {
                body.be32(1, from.number());
                body.be32(2, to.number());
                body.be32(3, mask.len() as u32);
                body.nest(4, |data| write_data(data, mask));
                body.nest(5, |data| write_data(data, xor));
            }
            Expression::Lookup { set, key, to, inverted } => {
                body.str(1, set);
                body.be32(2, key.number());
                if let Some(to) = to {
                    body.be32(3, to.number());
                }
                if *inverted {
                    body.be32(5, 1);
                }
            }
            Expression::VerdictLookup { set, key } => {
                body.str(1, set);
                body.be32(2, key.number());
                body.be32(3, NFT_REG_VERDICT);
            }
            Expression::Immediate { to, value } => {
                body.be32(1, to.number());
                body.nest(2, |data| write_data(data, value));
            }
            Expression::Verdict(verdict) => {
                body.be32(1, NFT_REG_VERDICT);
                body.nest(2, |data| write_verdict(data, verdict));
            }
            Expression::Meta { key, to } => {
                body.be32(1, to.number());
                body.be32(2, key.number());
            }
            Expression::SetMeta { key, from } => {
                body.be32(2, key.number());
                body.be32(3, from.number());
            }
            Expression::ConnectionTracking { key, to } => {
                body.be32(1, to.number());
                body.be32(2, key.number());
                if key.is_directional() {
                    body.u8(3, CT_DIRECTION_ORIGINAL);
                }
            }
            Expression::Fib { result, to } => {
                body.be32(1, to.number());
                body.be32(2, NFT_FIB_RESULT_ADDRTYPE);
                let flags = match result {
                    FibResult::SourceAddressType => 1,
                    FibResult::DestinationAddressType => 2,
                };
                body.be32(3, flags);
            }
            Expression::RandomNumber { modulus, offset, to } => {
                body.be32(1, to.number());
                body.be32(2, *modulus);
                body.be32(3, NFT_NG_RANDOM);
                body.be32(4, *offset);
            }
            Expression::Nat { kind, ipv6, address, port } => {
                let family = if *ipv6 { libc::NFPROTO_IPV6 } else { libc::NFPROTO_IPV4 };
                body.be32(1, *kind as u32);
                body.be32(2, family as u32);
                body.be32(3, address.number());
                if let Some(port) = port {
                    body.be32(5, port.number());
                }
            }
            Expression::Masquerade { random_ports } => {
                if *random_ports {
                    body.be32(1, NF_NAT_RANGE_PROTO_RANDOM_FULLY);
                }
            }
            Expression::Redirect { port } => {
                if let Some(port) = port {
                    body.be32(1, port.number());
                }
            }
            Expression::Reject(reject) => {
                let (kind, code) = match reject {
                    Reject::PortUnreachable => (NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH),
                    Reject::AdministrativelyProhibited => (NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED),
                    Reject::TcpReset => (NFT_REJECT_TCP_RST, 0),
                };
                body.be32(1, kind);
                body.u8(2, code);
            }
            Expression::Counter => {
                body.be64(1, 0);
                body.be64(2, 0);
            }
            Expression::Limit { packets, per_seconds, burst } => {
                body.be64(1, *packets);
                body.be64(2, *per_seconds);
                body.be32(3, *burst);
                body.be32(4, 0);
            }
            Expression::Dynamic { operation, set, key, value, timeout_milliseconds } => {
                body.str(1, set);
                body.be32(3, *operation as u32);
                body.be32(4, key.number());
                if let Some(value) = value {
                    body.be32(5, value.number());
                }
                if let Some(timeout) = timeout_milliseconds {
                    body.be64(6, *timeout);
                }
            }
        }
    }
}

impl Meta {
    fn number(self) -> u32 {
        match self {
            Meta::Priority => 2,
            Meta::Mark => 3,
            Meta::InputInterface => 4,
            Meta::OutputInterface => 5,
            Meta::InputInterfaceName => 6,
            Meta::OutputInterfaceName => 7,
            Meta::NetworkProtocol => 15,
            Meta::TransportProtocol => 16,
        }
    }
}

impl ConnectionTracking {
    fn number(self) -> u32 {
        match self {
            ConnectionTracking::State => 0,
            ConnectionTracking::Status => 2,
            ConnectionTracking::Mark => 3,
            ConnectionTracking::OriginalSource => 8,
            ConnectionTracking::OriginalDestination => 9,
            ConnectionTracking::OriginalDestinationPort => 12,
        }
    }

    fn is_directional(self) -> bool {
        !matches!(self, ConnectionTracking::State | ConnectionTracking::Status | ConnectionTracking::Mark)
    }
}

pub(super) fn write_data(writer: &mut Writer<'_>, value: &[u8]) {
    writer.bytes(numbers::NFTA_DATA_VALUE, value);
}

pub(super) fn write_verdict(writer: &mut Writer<'_>, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Return => (libc::NFT_RETURN, None),
        Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
    };
    writer.nest(numbers::NFTA_DATA_VERDICT, |nested| {
        nested.be32(numbers::NFTA_VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            nested.str(numbers::NFTA_VERDICT_CHAIN, chain);
        }
    });
}

const NFT_REG_VERDICT: u32 = 0;
const NFT_REG32_00: u32 = 8;
const CT_DIRECTION_ORIGINAL: u8 = 0;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFT_NG_RANDOM: u32 = 1;
const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
const NFT_REJECT_ICMPX_PORT_UNREACH: u8 = 1;
const NFT_REJECT_ICMPX_ADMIN_PROHIBITED: u8 = 3;
