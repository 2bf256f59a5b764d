//! What the kernel is to hold, as keys and values: the middle between a Service and the rules' maps.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// What clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Frontend {
    Address {
        ip: IpAddr,
        protocol: u8,
        port: u16,
    },
    /// On every address of this node, of one family.
    NodePort {
        ipv6: bool,
        protocol: u8,
        port: u16,
    },
}

impl Frontend {
    pub fn is_ipv6(&self) -> bool {
        match self {
            Frontend::Address { ip, .. } => ip.is_ipv6(),
            Frontend::NodePort { ipv6, .. } => *ipv6,
        }
    }

    pub fn protocol(&self) -> u8 {
        match self {
            Frontend::Address { protocol, .. } | Frontend::NodePort { protocol, .. } => *protocol,
        }
    }
}

/// What endpoints see of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A pod's own address; clients beyond the cluster appear as this node, since answers must come back through it.
    Pods,
    /// Always this node.
    Node,
    /// Always the client's own: endpoints are on this node. Pods, and this node itself, use all endpoints instead.
    Client,
}

/// How to pick a slot. One chain of rules for each that is in use, however many Services share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Pick {
    pub ipv6: bool,
    pub node_port: bool,
    pub source: Source,
    pub slots: u32,
    /// Slots of [`Source::Client`] for pods and this node, numbered from [`INTERNAL_SLOTS`].
    pub internal_slots: u32,
    pub affinity_seconds: Option<u32>,
}

impl Pick {
    pub fn affinity(&self) -> Option<Affinity> {
        self.affinity_seconds.map(|seconds| Affinity { ipv6: self.ipv6, node_port: self.node_port, seconds })
    }
}

/// How long clients are remembered. One chain of rules for each that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Affinity {
    pub ipv6: bool,
    pub node_port: bool,
    pub seconds: u32,
}

/// Where the second list of slots of a frontend begins.
pub(crate) const INTERNAL_SLOTS: u32 = 1 << 16;

/// What happens to connections where there is nobody to lead them to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// The client learns it at once.
    Reject,
    /// There are endpoints, but not for this node to use.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum EntryKey {
    Frontend(Frontend),
    Slot(Frontend, u32),
    /// Whose other ports are refused.
    ClusterIp(IpAddr),
    /// May connect to itself through a Service.
    Hairpin(IpAddr),
    /// Open to some sources only, ...
    Restricted(Frontend),
    /// ... namely these.
    AllowedSource(Frontend, IpNet),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryValue {
    Pick(Pick),
    Refuse(Refusal),
    Endpoint(SocketAddr),
    Present,
}

pub(crate) type Entries = BTreeMap<EntryKey, EntryValue>;

impl EntryKey {
    pub fn is_ipv6(&self) -> bool {
        match self {
            EntryKey::Frontend(frontend)
            | EntryKey::Slot(frontend, _)
            | EntryKey::Restricted(frontend)
            | EntryKey::AllowedSource(frontend, _) => frontend.is_ipv6(),
            EntryKey::ClusterIp(ip) | EntryKey::Hairpin(ip) => ip.is_ipv6(),
        }
    }
}

pub(crate) fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        UDP => "udp",
        SCTP => "sctp",
        _ => "tcp",
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol_name(self.protocol());
        match self {
            Frontend::Address { ip, port, .. } => write!(f, "{protocol} {}", SocketAddr::new(*ip, *port)),
            Frontend::NodePort { port, .. } => write!(f, "{protocol} node:{port}"),
        }
    }
}

/// Also the name of its chain.
impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.source {
            Source::Pods => "cluster",
            Source::Node => "external",
            Source::Client => "local",
        })?;
        if self.node_port {
            f.write_str("-node-port")?;
        }
        write!(f, "-{}", self.slots)?;
        if self.source == Source::Client {
            write!(f, "-of-{}", self.internal_slots)?;
        }
        match self.affinity_seconds {
            Some(seconds) => write!(f, "-affinity-{seconds}s"),
            None => Ok(()),
        }
    }
}

/// Also the name of its chain.
impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "affinity{}-{}s", if self.node_port { "-node-port" } else { "" }, self.seconds)
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryKey::Frontend(frontend) => write!(f, "{frontend}"),
            EntryKey::Slot(frontend, slot) if *slot >= INTERNAL_SLOTS => {
                write!(f, "{frontend} #{} internal", slot - INTERNAL_SLOTS)
            }
            EntryKey::Slot(frontend, slot) => write!(f, "{frontend} #{slot}"),
            EntryKey::ClusterIp(ip) => write!(f, "cluster ip {ip}"),
            EntryKey::Hairpin(ip) => write!(f, "hairpin {ip}"),
            EntryKey::Restricted(frontend) => write!(f, "{frontend} restricted"),
            EntryKey::AllowedSource(frontend, net) => write!(f, "{frontend} from {net}"),
        }
    }
}

impl fmt::Display for EntryValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryValue::Pick(pick) => write!(f, " -> {pick}"),
            EntryValue::Refuse(Refusal::Reject) => f.write_str(" -> reject"),
            EntryValue::Refuse(Refusal::Drop) => f.write_str(" -> drop"),
            EntryValue::Endpoint(address) => write!(f, " = {address}"),
            EntryValue::Present => Ok(()),
        }
    }
}
