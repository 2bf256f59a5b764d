//! Links, addresses, routes and neighbours: rtnetlink, as far as Coracle needs it.
//!
//! Commands are appended to a [`Batch`] and sent together; queries answer what exists. Adding an address, route or
//! neighbour replaces what stood there, so that every command can be repeated after a crash.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use nix::errno::Errno;

use crate::error::NetError;
use crate::netlink::{Attributes, Batch, Protocol, Socket, Writer, parse_attribute_str, parse_attribute_u32};

/// Device names are at most this long.
pub const NAME_LENGTH_MAX: usize = libc::IFNAMSIZ - 1;

const ACK: i32 = libc::NLM_F_ACK;
const CREATE: i32 = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const REPLACE: i32 = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

const LINK_HEADER_LENGTH: usize = 16;
const ADDRESS_HEADER_LENGTH: usize = 8;
const ROUTE_HEADER_LENGTH: usize = 12;
const NEIGHBOUR_HEADER_LENGTH: usize = 12;

const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFA_LOCAL: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LABEL: u16 = 3;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const RTNH_F_ONLINK: u32 = 4;
const NTF_SELF: u8 = 0x02;
/// Marks our routes, so that they can be told from the administrator's. Unused by known routing daemons.
pub const ROUTE_PROTOCOL: u8 = 142;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
    pub loopback: bool,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// `bridge`, `veth`, `vxlan`; none for hardware.
    pub kind: Option<String>,
    pub hardware_address: Vec<u8>,
    /// Of a VXLAN device: network number, local address, port.
    pub vxlan: Option<(u32, IpAddr, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub address: IpNet,
    pub global: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    pub link: Option<u32>,
    pub source: Option<IpAddr>,
    pub metric: u32,
    /// Who made it; [`ROUTE_PROTOCOL`] for ours.
    pub protocol: u8,
}

/// Asks about one network namespace: that of the thread which opened it.
#[derive(Debug)]
pub struct RouteSocket {
    socket: Socket,
}

impl RouteSocket {
    pub fn open() -> Result<RouteSocket, NetError> {
        Ok(RouteSocket { socket: Socket::open(Protocol::Route)? })
    }

    pub fn send(&self, batch: &Batch) -> Result<(), NetError> {
        self.socket.send_all(batch)
    }

    pub fn send_tolerating(&self, batch: &Batch, tolerated: &[Errno]) -> Result<(), NetError> {
        self.socket.send_tolerating(batch, tolerated)
    }

    pub fn links(&self) -> Result<Vec<Link>, NetError> {
        let request = Batch::one("listing network interfaces", libc::RTM_GETLINK, libc::NLM_F_DUMP, |writer| {
            link_header(writer, 0, 0, 0);
        });
        Ok(self.socket.dump(&request)?.iter().filter_map(|(_, body)| parse_link(body)).collect())
    }

    pub fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let doing = format!("looking up interface {name}");
        let request = Batch::one(doing, libc::RTM_GETLINK, ACK, |writer| {
            link_header(writer, 0, 0, 0);
            writer.str(libc::IFLA_IFNAME, name);
        });
        match self.socket.dump(&request) {
            Ok(found) => Ok(found.iter().find_map(|(_, body)| parse_link(body))),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn addresses(&self) -> Result<Vec<Address>, NetError> {
        let request = Batch::one("listing addresses", libc::RTM_GETADDR, libc::NLM_F_DUMP, |writer| {
            writer.raw(&[0; ADDRESS_HEADER_LENGTH]);
        });
        Ok(self.socket.dump(&request)?.iter().filter_map(|(_, body)| parse_address(body)).collect())
    }

    /// Unicast routes of the main table.
    pub fn routes(&self) -> Result<Vec<Route>, NetError> {
        let request = Batch::one("listing routes", libc::RTM_GETROUTE, libc::NLM_F_DUMP, |writer| {
            writer.raw(&[0; ROUTE_HEADER_LENGTH]);
        });
        Ok(self.socket.dump(&request)?.iter().filter_map(|(_, body)| parse_route(body)).collect())
    }

    /// Forwarding entries of a VXLAN device, or neighbours of any device: (destination, hardware address).
    pub fn neighbours(&self, link: u32, bridge: bool) -> Result<Vec<(IpAddr, Vec<u8>)>, NetError> {
        let family = if bridge { libc::AF_BRIDGE as u8 } else { libc::AF_INET as u8 };
        let request = Batch::one("listing neighbours", libc::RTM_GETNEIGH, libc::NLM_F_DUMP, |writer| {
            neighbour_header(writer, family, 0, 0, 0);
        });
        let found = self.socket.dump(&request)?;
        Ok(found
            .iter()
            .filter(|(_, body)| body.get(4..8).and_then(parse_attribute_u32) == Some(link))
            .filter_map(|(_, body)| {
                let attributes = Attributes::after(body, NEIGHBOUR_HEADER_LENGTH);
                let hardware_address = attributes.value_of(NDA_LLADDR)?.to_vec();
                Some((parse_ip(attributes.value_of(NDA_DST)?)?, hardware_address))
            })
            .collect())
    }
}

/// The ends of a veth pair. The far end is made inside the other namespace at once, so it never appears here.
pub struct VethPair<'a> {
    pub name: &'a str,
    pub bridge: u32,
    pub mtu: u32,
    pub peer_name: &'a str,
    pub peer_namespace: BorrowedFd<'a>,
    pub peer_hardware_address: [u8; 6],
}

pub struct Vxlan<'a> {
    pub name: &'a str,
    pub id: u32,
    pub port: u16,
    pub local: IpAddr,
    pub mtu: u32,
    pub hardware_address: [u8; 6],
}

/// Commands: each appends one message.
impl Batch {
    pub fn add_bridge(&mut self, name: &str, mtu: u32, hardware_address: [u8; 6]) {
        self.add(format!("creating bridge {name}"), libc::RTM_NEWLINK, CREATE, |writer| {
            link_header(writer, 0, 0, 0);
            writer.str(libc::IFLA_IFNAME, name);
            writer.u32(libc::IFLA_MTU, mtu);
            // A fixed address: otherwise the bridge takes the lowest of its ports', and pods' ARP caches go stale.
            writer.bytes(libc::IFLA_ADDRESS, &hardware_address);
            writer.nest(libc::IFLA_LINKINFO, |info| {
                info.str(libc::IFLA_INFO_KIND, "bridge");
                info.nest(libc::IFLA_INFO_DATA, |data| data.u32(IFLA_BR_FORWARD_DELAY, 0));
            });
        });
    }

    /// The near end becomes a port of the bridge in hairpin mode (a pod may reach itself through its Service).
    pub fn add_veth(&mut self, pair: &VethPair<'_>) {
        self.add(format!("creating veth {}", pair.name), libc::RTM_NEWLINK, CREATE, |writer| {
            link_header(writer, 0, libc::IFF_UP as u32, libc::IFF_UP as u32);
            writer.str(libc::IFLA_IFNAME, pair.name);
            writer.u32(libc::IFLA_MTU, pair.mtu);
            writer.u32(libc::IFLA_MASTER, pair.bridge);
            writer.nest(libc::IFLA_LINKINFO, |info| {
                info.str(libc::IFLA_INFO_KIND, "veth");
                info.nest(libc::IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        link_header(peer, 0, 0, 0);
                        peer.str(libc::IFLA_IFNAME, pair.peer_name);
                        peer.u32(libc::IFLA_MTU, pair.mtu);
                        peer.bytes(libc::IFLA_ADDRESS, &pair.peer_hardware_address);
                        peer.u32(libc::IFLA_NET_NS_FD, pair.peer_namespace.as_raw_fd() as u32);
                    });
                });
            });
        });
    }

    pub fn set_hairpin(&mut self, link_name: &str) {
        self.add(format!("setting hairpin mode of {link_name}"), libc::RTM_NEWLINK, ACK, |writer| {
            link_header(writer, 0, 0, 0);
            writer.str(libc::IFLA_IFNAME, link_name);
            writer.nest(libc::IFLA_LINKINFO, |info| {
                info.str(libc::IFLA_INFO_SLAVE_KIND, "bridge");
                info.nest(libc::IFLA_INFO_SLAVE_DATA, |data| data.u8(IFLA_BRPORT_MODE, 1));
            });
        });
    }

    /// Learning is off: who lives where is known from the cluster's nodes.
    pub fn add_vxlan(&mut self, vxlan: &Vxlan<'_>) {
        self.add(format!("creating VXLAN device {}", vxlan.name), libc::RTM_NEWLINK, CREATE, |writer| {
            link_header(writer, 0, 0, 0);
            writer.str(libc::IFLA_IFNAME, vxlan.name);
            writer.u32(libc::IFLA_MTU, vxlan.mtu);
            writer.bytes(libc::IFLA_ADDRESS, &vxlan.hardware_address);
            writer.nest(libc::IFLA_LINKINFO, |info| {
                info.str(libc::IFLA_INFO_KIND, "vxlan");
                info.nest(libc::IFLA_INFO_DATA, |data| {
                    data.u32(IFLA_VXLAN_ID, vxlan.id);
                    data.bytes(IFLA_VXLAN_LOCAL, &octets(vxlan.local));
                    data.u8(IFLA_VXLAN_LEARNING, 0);
                    data.be16(IFLA_VXLAN_PORT, vxlan.port);
                });
            });
        });
    }

    pub fn set_up(&mut self, index: u32) {
        self.add(format!("bringing up interface {index}"), libc::RTM_NEWLINK, ACK, |writer| {
            link_header(writer, index, libc::IFF_UP as u32, libc::IFF_UP as u32);
        });
    }

    pub fn set_mtu(&mut self, index: u32, mtu: u32) {
        self.add(format!("setting the MTU of interface {index}"), libc::RTM_NEWLINK, ACK, |writer| {
            link_header(writer, index, 0, 0);
            writer.u32(libc::IFLA_MTU, mtu);
        });
    }

    pub fn delete_link(&mut self, name: &str) {
        self.add(format!("deleting interface {name}"), libc::RTM_DELLINK, ACK, |writer| {
            link_header(writer, 0, 0, 0);
            writer.str(libc::IFLA_IFNAME, name);
        });
    }

    pub fn add_address(&mut self, link: u32, address: IpNet, label: Option<&str>) {
        self.add(format!("adding address {address}"), libc::RTM_NEWADDR, REPLACE, |writer| {
            address_header(writer, link, address);
            writer.bytes(IFA_LOCAL, &octets(address.addr()));
            writer.bytes(IFA_ADDRESS, &octets(address.addr()));
            if let (IpNet::V4(_), Some(label)) = (address, label) {
                writer.str(IFA_LABEL, label);
            }
            if let IpNet::V6(_) = address {
                // The address is ours by construction; waiting a second for a duplicate would delay every pod.
                writer.u32(IFA_FLAGS, IFA_F_NODAD);
            }
        });
    }

    pub fn delete_address(&mut self, link: u32, address: IpNet) {
        self.add(format!("deleting address {address}"), libc::RTM_DELADDR, ACK, |writer| {
            address_header(writer, link, address);
            writer.bytes(IFA_LOCAL, &octets(address.addr()));
        });
    }

    pub fn add_route(&mut self, route: &Route) {
        self.add(format!("adding route to {}", route.destination), libc::RTM_NEWROUTE, REPLACE, |writer| {
            route_body(writer, route);
        });
    }

    pub fn delete_route(&mut self, route: &Route) {
        self.add(format!("deleting route to {}", route.destination), libc::RTM_DELROUTE, ACK, |writer| {
            route_body(writer, route);
        });
    }

    /// A permanent ARP or NDP entry.
    pub fn add_neighbour(&mut self, link: u32, address: IpAddr, hardware_address: &[u8]) {
        self.add(format!("adding neighbour {address}"), libc::RTM_NEWNEIGH, REPLACE, |writer| {
            neighbour_header(writer, family(address), link, NUD_PERMANENT, 0);
            writer.bytes(NDA_DST, &octets(address));
            writer.bytes(NDA_LLADDR, hardware_address);
        });
    }

    pub fn delete_neighbour(&mut self, link: u32, address: IpAddr) {
        self.add(format!("deleting neighbour {address}"), libc::RTM_DELNEIGH, ACK, |writer| {
            neighbour_header(writer, family(address), link, 0, 0);
            writer.bytes(NDA_DST, &octets(address));
        });
    }

    /// Frames for this hardware address leave a VXLAN device towards that machine.
    pub fn add_forwarding(&mut self, link: u32, hardware_address: &[u8], machine: IpAddr) {
        self.add(format!("adding forwarding entry to {machine}"), libc::RTM_NEWNEIGH, REPLACE, |writer| {
            neighbour_header(writer, libc::AF_BRIDGE as u8, link, NUD_PERMANENT, NTF_SELF);
            writer.bytes(NDA_DST, &octets(machine));
            writer.bytes(NDA_LLADDR, hardware_address);
        });
    }

    pub fn delete_forwarding(&mut self, link: u32, hardware_address: &[u8], machine: IpAddr) {
        self.add(format!("deleting forwarding entry to {machine}"), libc::RTM_DELNEIGH, ACK, |writer| {
            neighbour_header(writer, libc::AF_BRIDGE as u8, link, 0, NTF_SELF);
            writer.bytes(NDA_DST, &octets(machine));
            writer.bytes(NDA_LLADDR, hardware_address);
        });
    }
}

fn link_header(writer: &mut Writer, index: u32, flags: u32, change: u32) {
    let mut header = [0; LINK_HEADER_LENGTH];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    writer.raw(&header);
}

fn address_header(writer: &mut Writer, link: u32, address: IpNet) {
    let mut header = [0; ADDRESS_HEADER_LENGTH];
    header[0] = family(address.addr());
    header[1] = address.prefix_len();
    header[3] = if address.addr().is_loopback() { libc::RT_SCOPE_HOST } else { libc::RT_SCOPE_UNIVERSE };
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    writer.raw(&header);
}

fn route_body(writer: &mut Writer, route: &Route) {
    let mut header = [0; ROUTE_HEADER_LENGTH];
    header[0] = family(route.destination.addr());
    header[1] = route.destination.prefix_len();
    header[4] = libc::RT_TABLE_MAIN;
    header[5] = route.protocol;
    header[6] = if route.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    header[7] = libc::RTN_UNICAST;
    if route.gateway.is_some() && route.link.is_some() {
        // The gateway of an overlay is reachable through its device by a neighbour entry, not by a subnet.
        header[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    }
    writer.raw(&header);
    if route.destination.prefix_len() > 0 {
        writer.bytes(libc::RTA_DST, &octets(route.destination.network()));
    }
    if let Some(gateway) = route.gateway {
        writer.bytes(libc::RTA_GATEWAY, &octets(gateway));
    }
    if let Some(link) = route.link {
        writer.u32(libc::RTA_OIF, link);
    }
    if let Some(source) = route.source {
        writer.bytes(libc::RTA_PREFSRC, &octets(source));
    }
    if route.metric > 0 {
        writer.u32(libc::RTA_PRIORITY, route.metric);
    }
}

fn neighbour_header(writer: &mut Writer, family: u8, link: u32, state: u16, flags: u8) {
    let mut header = [0; NEIGHBOUR_HEADER_LENGTH];
    header[0] = family;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    writer.raw(&header);
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let flags = parse_attribute_u32(body.get(8..12)?)? as i32;
    let attributes = Attributes::after(body, LINK_HEADER_LENGTH);
    Some(Link {
        index: parse_attribute_u32(body.get(4..8)?)?,
        name: parse_attribute_str(attributes.value_of(libc::IFLA_IFNAME)?),
        mtu: attributes.value_of(libc::IFLA_MTU).and_then(parse_attribute_u32)?,
        up: flags & libc::IFF_UP != 0,
        loopback: flags & libc::IFF_LOOPBACK != 0,
        master: attributes.value_of(libc::IFLA_MASTER).and_then(parse_attribute_u32),
        kind: attributes.nested(libc::IFLA_LINKINFO).value_of(libc::IFLA_INFO_KIND).map(parse_attribute_str),
        hardware_address: attributes.value_of(libc::IFLA_ADDRESS).unwrap_or_default().to_vec(),
        vxlan: parse_vxlan(attributes.nested(libc::IFLA_LINKINFO)),
    })
}

fn parse_vxlan(info: Attributes<'_>) -> Option<(u32, IpAddr, u16)> {
    let data = info.nested(libc::IFLA_INFO_DATA);
    if parse_attribute_str(info.value_of(libc::IFLA_INFO_KIND)?) != "vxlan" {
        return None;
    }
    let port = u16::from_be_bytes(data.value_of(IFLA_VXLAN_PORT)?.try_into().ok()?);
    let id = parse_attribute_u32(data.value_of(IFLA_VXLAN_ID)?)?;
    Some((id, parse_ip(data.value_of(IFLA_VXLAN_LOCAL)?)?, port))
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let header = body.get(..ADDRESS_HEADER_LENGTH)?;
    let attributes = Attributes::after(body, ADDRESS_HEADER_LENGTH);
    let value = attributes.value_of(IFA_LOCAL).or_else(|| attributes.value_of(IFA_ADDRESS))?;
    Some(Address {
        link: parse_attribute_u32(&header[4..8])?,
        address: IpNet::new(parse_ip(value)?, header[1]).ok()?,
        global: header[3] == libc::RT_SCOPE_UNIVERSE,
    })
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let header = body.get(..ROUTE_HEADER_LENGTH)?;
    let attributes = Attributes::after(body, ROUTE_HEADER_LENGTH);
    let table = attributes.value_of(libc::RTA_TABLE).and_then(parse_attribute_u32).unwrap_or(header[4].into());
    if table != u32::from(libc::RT_TABLE_MAIN) || header[7] != libc::RTN_UNICAST {
        return None;
    }
    let unspecified = match i32::from(header[0]) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let ip = |kind| attributes.value_of(kind).and_then(parse_ip);
    Some(Route {
        destination: IpNet::new(ip(libc::RTA_DST).unwrap_or(unspecified), header[1]).ok()?,
        gateway: ip(libc::RTA_GATEWAY),
        link: attributes.value_of(libc::RTA_OIF).and_then(parse_attribute_u32),
        source: ip(libc::RTA_PREFSRC),
        metric: attributes.value_of(libc::RTA_PRIORITY).and_then(parse_attribute_u32).unwrap_or(0),
        protocol: header[5],
    })
}

pub(crate) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// In network order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(crate) fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}
