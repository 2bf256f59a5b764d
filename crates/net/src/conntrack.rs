//! Connection tracking: which flows the kernel remembers, and forgetting some of them.
//!
//! A UDP client that keeps its port never begins a new flow, so a flow that was translated to an endpoint which is
//! gone would black-hole until it times out. TCP needs none of this.

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use crate::error::NetError;
use crate::netlink::{Attributes, Batch, Protocol, Socket, Writer, parse_attribute_u32};
use crate::nft::Family;
use crate::nft::generic_header;
use crate::route::{octets, parse_ip};

const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const HEADER_LENGTH: usize = 4;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub protocol: u8,
    /// As the first packet came.
    pub original: Tuple,
    /// As the answer comes: its source is where the packet really went.
    pub reply: Tuple,
    id: u32,
}

/// Belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct ConntrackSocket {
    socket: Socket,
}

impl ConntrackSocket {
    pub fn open() -> Result<ConntrackSocket, NetError> {
        Ok(ConntrackSocket { socket: Socket::open(Protocol::Netfilter)? })
    }

    /// Of one protocol, by its IP number.
    pub fn flows(&self, family: Family, protocol: u8) -> Result<Vec<Flow>, NetError> {
        let filtered = self.dump(family, protocol, true);
        // Kernels before 5.8 cannot filter, so the answer is filtered here in any case.
        let found = match filtered {
            Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EINVAL)) => {
                self.dump(family, protocol, false)?
            }
            filtered => filtered?,
        };
        Ok(found.iter().filter_map(|(_, body)| parse_flow(body)).filter(|flow| flow.protocol == protocol).collect())
    }

    fn dump(&self, family: Family, protocol: u8, filter: bool) -> Result<Vec<(u16, Vec<u8>)>, NetError> {
        let request = Batch::one("listing tracked connections", kind(IPCTNL_MSG_CT_GET), libc::NLM_F_DUMP, |writer| {
            generic_header(writer, family.number(), 0);
            if filter {
                writer.nest(CTA_TUPLE_ORIG, |tuple| {
                    tuple.nest(CTA_TUPLE_PROTO, |proto| proto.u8(CTA_PROTO_NUM, protocol));
                });
                writer.nest(CTA_FILTER, |flags| {
                    flags.u32(CTA_FILTER_ORIG_FLAGS, CTA_FILTER_F_CTA_PROTO_NUM);
                    flags.u32(CTA_FILTER_REPLY_FLAGS, 0);
                });
            }
        });
        self.socket.dump(&request)
    }

    /// Flows that are gone already are fine.
    pub fn forget(&self, flows: &[Flow]) -> Result<(), NetError> {
        /// Keeps the acknowledgements of one call well below the socket's buffer.
        const CHUNK: usize = 1000;
        for flows in flows.chunks(CHUNK) {
            let mut batch = Batch::new();
            for flow in flows {
                let doing = format!("forgetting the flow to {}", flow.original.destination);
                batch.add(doing, kind(IPCTNL_MSG_CT_DELETE), libc::NLM_F_ACK, |writer| {
                    let family = if flow.original.source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
                    generic_header(writer, family.number(), 0);
                    writer.nest(CTA_TUPLE_ORIG, |tuple| write_tuple(tuple, flow.protocol, &flow.original));
                    writer.u32(CTA_ID, flow.id);
                });
            }
            self.socket.send_tolerating(&batch, &[Errno::ENOENT])?;
        }
        Ok(())
    }
}

fn kind(message: u16) -> u16 {
    ((libc::NFNL_SUBSYS_CTNETLINK as u16) << 8) | message
}

fn write_tuple(writer: &mut Writer<'_>, protocol: u8, tuple: &Tuple) {
    let (source, destination) = match tuple.source.ip() {
        IpAddr::V4(_) => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
        IpAddr::V6(_) => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
    };
    writer.nest(CTA_TUPLE_IP, |ip| {
        ip.bytes(source, &octets(tuple.source.ip()));
        ip.bytes(destination, &octets(tuple.destination.ip()));
    });
    writer.nest(CTA_TUPLE_PROTO, |proto| {
        proto.u8(CTA_PROTO_NUM, protocol);
        proto.be16(CTA_PROTO_SRC_PORT, tuple.source.port());
        proto.be16(CTA_PROTO_DST_PORT, tuple.destination.port());
    });
}

fn parse_flow(body: &[u8]) -> Option<Flow> {
    let flow = Attributes::after(body, HEADER_LENGTH);
    let (protocol, original) = parse_tuple(flow.nested(CTA_TUPLE_ORIG))?;
    let (_, reply) = parse_tuple(flow.nested(CTA_TUPLE_REPLY))?;
    Some(Flow { protocol, original, reply, id: flow.value_of(CTA_ID).and_then(parse_attribute_u32)? })
}

fn parse_tuple(tuple: Attributes<'_>) -> Option<(u8, Tuple)> {
    let (ip, proto) = (tuple.nested(CTA_TUPLE_IP), tuple.nested(CTA_TUPLE_PROTO));
    let address = |v4, v6| ip.value_of(v4).or_else(|| ip.value_of(v6)).and_then(parse_ip);
    let port = |kind| proto.value_of(kind).and_then(|value| value.try_into().ok()).map(u16::from_be_bytes);
    Some((
        *proto.value_of(CTA_PROTO_NUM)?.first()?,
        Tuple {
            source: SocketAddr::new(address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port(CTA_PROTO_SRC_PORT)?),
            destination: SocketAddr::new(address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port(CTA_PROTO_DST_PORT)?),
        },
    ))
}
