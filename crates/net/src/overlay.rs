//! Pods of other nodes: one flat network over the machines' own.
//!
//! ```text
//! VXLAN:        10.42.1.0/24 via 10.42.1.0 dev <device>   route
//!               10.42.1.0 is at 0e:58:0a:2a:01:00         neighbour
//!               0e:58:0a:2a:01:00 is at 192.0.2.2         forwarding entry
//! host gateway: 10.42.1.0/24 via 192.0.2.2                route, where all nodes share a wire
//! ```
//!
//! Invariant: everything follows from the nodes' addresses and pod ranges; nothing has to be agreed upon, also not
//! the devices' hardware addresses, which are made from the pod ranges. What is there is compared with what is
//! wanted, and only the difference is sent, so that established routes never blink.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;

use crate::error::NetError;
use crate::netlink::Batch;
use crate::route::{ROUTE_PROTOCOL, Route, RouteSocket, Vxlan};

/// What VXLAN over IPv4 adds to each packet; give it to the pod network as `encapsulation_bytes`.
pub const VXLAN_ENCAPSULATION_BYTES: u32 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Vxlan {
        /// The network's number; one for each cluster on a wire.
        id: u32,
        port: u16,
    },
    HostGateway,
}

#[derive(Clone, Debug)]
pub struct OverlayConfig {
    pub backend: Backend,
    /// The VXLAN device's name, at most 15 bytes.
    pub device: String,
    /// Every route of ours leads into it.
    pub cluster_cidr: Ipv4Net,
    /// This node's.
    pub node_address: Ipv4Addr,
    pub pod_cidr: Ipv4Net,
    /// Of the device: that of the pod network.
    pub mtu: u32,
}

/// Another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    pub address: Ipv4Addr,
    pub pod_cidr: Ipv4Net,
}

/// Belongs to the network namespace of the thread that called [`Overlay::ensure`].
pub struct Overlay {
    config: OverlayConfig,
    /// The VXLAN device.
    device: Option<u32>,
    socket: RouteSocket,
}

impl Overlay {
    /// Makes the device, or makes it anew if its settings (the node's address) have changed.
    pub fn ensure(config: OverlayConfig) -> Result<Overlay, NetError> {
        let socket = RouteSocket::open()?;
        let device = match config.backend {
            Backend::Vxlan { id, port } => Some(ensure_device(&socket, &config, id, port)?),
            Backend::HostGateway => {
                delete_device(&socket, &config.device)?;
                None
            }
        };
        Ok(Overlay { config, device, socket })
    }

    /// These are all other nodes. Answers what was changed.
    pub fn set_peers(&self, peers: &[Peer]) -> Result<Vec<Step>, NetError> {
        let steps = plan(&self.observe()?, &self.wanted(peers));
        let mut batch = Batch::new();
        steps.iter().for_each(|step| self.add(&mut batch, step));
        // What somebody else removed meanwhile is gone, which is what was wanted.
        self.socket.send_tolerating(&batch, &[Errno::ESRCH, Errno::ENOENT])?;
        Ok(steps)
    }

    /// Removes routes and device.
    pub fn clean_up(&self) -> Result<(), NetError> {
        self.set_peers(&[])?;
        delete_device(&self.socket, &self.config.device)
    }

    fn observe(&self) -> Result<Entries, NetError> {
        let mut entries = Entries::default();
        for route in self.socket.routes()? {
            let (IpNet::V4(range), Some(IpAddr::V4(gateway))) = (route.destination, route.gateway) else { continue };
            let is_ours = route.protocol == ROUTE_PROTOCOL && self.config.cluster_cidr.contains(&range);
            if is_ours {
                let link = route.link.filter(|link| Some(*link) == self.device);
                entries.routes.insert(range, Via { gateway, link });
            }
        }
        if let Some(device) = self.device {
            for (address, hardware_address) in self.socket.neighbours(device, false)? {
                if let (IpAddr::V4(address), Ok(hardware_address)) = (address, hardware_address.try_into()) {
                    entries.neighbours.insert(address, hardware_address);
                }
            }
            for (machine, hardware_address) in self.socket.neighbours(device, true)? {
                if let (IpAddr::V4(machine), Ok(hardware_address)) = (machine, hardware_address.try_into()) {
                    entries.forwarding.insert(hardware_address, machine);
                }
            }
        }
        Ok(entries)
    }

    fn wanted(&self, peers: &[Peer]) -> Entries {
        let mut entries = Entries::default();
        // A node that just changed its range may stand there with our own.
        for peer in peers.iter().filter(|peer| peer.pod_cidr != self.config.pod_cidr) {
            match self.device {
                None => {
                    entries.routes.insert(peer.pod_cidr, Via { gateway: peer.address, link: None });
                }
                Some(device) => {
                    let gateway = peer.pod_cidr.network();
                    let hardware_address = hardware_address(peer.pod_cidr);
                    entries.routes.insert(peer.pod_cidr, Via { gateway, link: Some(device) });
                    entries.neighbours.insert(gateway, hardware_address);
                    entries.forwarding.insert(hardware_address, peer.address);
                }
            }
        }
        entries
    }

    fn add(&self, batch: &mut Batch, step: &Step) {
        let device = self.device.unwrap_or_default();
        match step {
            Step::AddRoute(range, via) => batch.add_route(&route(*range, *via)),
            Step::DeleteRoute(range, via) => batch.delete_route(&route(*range, *via)),
            Step::AddNeighbour(address, hardware) => batch.add_neighbour(device, (*address).into(), &hardware.0),
            Step::DeleteNeighbour(address) => batch.delete_neighbour(device, (*address).into()),
            Step::AddForwarding(hardware, machine) => {
                batch.add_forwarding(device, &hardware.0, (*machine).into());
            }
            Step::DeleteForwarding(hardware, machine) => {
                batch.delete_forwarding(device, &hardware.0, (*machine).into());
            }
        }
    }
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hardware([u8; 6]);

impl TryFrom<Vec<u8>> for Hardware {
    type Error = Vec<u8>;

    fn try_from(bytes: Vec<u8>) -> Result<Hardware, Vec<u8>> {
        bytes.try_into().map(Hardware)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    pub gateway: Ipv4Addr,
    pub link: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddRoute(Ipv4Net, Via),
    DeleteRoute(Ipv4Net, Via),
    AddNeighbour(Ipv4Addr, Hardware),
    DeleteNeighbour(Ipv4Addr),
    AddForwarding(Hardware, Ipv4Addr),
    DeleteForwarding(Hardware, Ipv4Addr),
}

/// Removes the device, and the routes into the range that have a gateway: what a killed agent left.
pub fn clean_up_after(device: &str, cluster_cidr: Option<Ipv4Net>) -> Result<(), NetError> {
    let socket = RouteSocket::open()?;
    delete_device(&socket, device)?;
    let mut batch = Batch::new();
    for route in socket.routes()? {
        let is_into_range = matches!((route.destination, cluster_cidr), (IpNet::V4(range), Some(cluster)) if cluster.contains(&range));
        if is_into_range && route.protocol == ROUTE_PROTOCOL && route.gateway.is_some() {
            batch.delete_route(&route);
        }
    }
    socket.send_tolerating(&batch, &[Errno::ESRCH])
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entries {
    routes: BTreeMap<Ipv4Net, Via>,
    neighbours: BTreeMap<Ipv4Addr, Hardware>,
    forwarding: BTreeMap<Hardware, Ipv4Addr>,
}

/// From what is there to what is wanted. A route comes after what it needs, and goes before.
fn plan(present: &Entries, wanted: &Entries) -> Vec<Step> {
    let mut steps = Vec::new();
    for (range, via) in missing(&wanted.routes, &present.routes) {
        // A route that only leads elsewhere is replaced, not deleted.
        if !wanted.routes.contains_key(&range) {
            steps.push(Step::DeleteRoute(range, via));
        }
    }
    for (hardware, machine) in missing(&wanted.forwarding, &present.forwarding) {
        steps.push(Step::DeleteForwarding(hardware, machine));
    }
    for (address, _) in missing(&wanted.neighbours, &present.neighbours) {
        if !wanted.neighbours.contains_key(&address) {
            steps.push(Step::DeleteNeighbour(address));
        }
    }
    let new = missing(&present.forwarding, &wanted.forwarding);
    steps.extend(new.map(|(hardware, machine)| Step::AddForwarding(hardware, machine)));
    let new = missing(&present.neighbours, &wanted.neighbours);
    steps.extend(new.map(|(address, hardware)| Step::AddNeighbour(address, hardware)));
    let new = missing(&present.routes, &wanted.routes);
    steps.extend(new.map(|(range, via)| Step::AddRoute(range, via)));
    steps
}

/// What of the second is not, or not so, in the first.
fn missing<'a, K: Ord + Copy, V: PartialEq + Copy>(
    first: &'a BTreeMap<K, V>,
    second: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, V)> + 'a {
    second.iter().filter(|(key, value)| first.get(key) != Some(value)).map(|(key, value)| (*key, *value))
}

fn route(range: Ipv4Net, via: Via) -> Route {
    Route {
        destination: range.into(),
        gateway: Some(via.gateway.into()),
        link: via.link,
        source: None,
        metric: 0,
        protocol: ROUTE_PROTOCOL,
    }
}

fn ensure_device(socket: &RouteSocket, config: &OverlayConfig, id: u32, port: u16) -> Result<u32, NetError> {
    let local = IpAddr::V4(config.node_address);
    let hardware_address = hardware_address(config.pod_cidr).0;
    if let Some(link) = socket.link(&config.device)? {
        let is_as_wanted = link.vxlan == Some((id, local, port)) && link.hardware_address == hardware_address;
        if !is_as_wanted {
            delete_device(socket, &config.device)?;
        }
    }
    let mut batch = Batch::new();
    batch.add_vxlan(&Vxlan { name: &config.device, id, port, local, mtu: config.mtu, hardware_address });
    socket.send_tolerating(&batch, &[Errno::EEXIST])?;
    let not_found = || NetError::NotFound { what: format!("interface {}", config.device) };
    let device = socket.link(&config.device)?.ok_or_else(not_found)?.index;
    let mut batch = Batch::new();
    batch.set_mtu(device, config.mtu);
    batch.add_address(device, IpNet::from(IpAddr::V4(config.pod_cidr.network())), None);
    batch.set_up(device);
    socket.send(&batch)?;
    Ok(device)
}

fn delete_device(socket: &RouteSocket, name: &str) -> Result<(), NetError> {
    let mut batch = Batch::new();
    batch.delete_link(name);
    socket.send_tolerating(&batch, &[Errno::ENODEV])
}

/// Locally administered, from the first address of a node's pods.
fn hardware_address(pod_cidr: Ipv4Net) -> Hardware {
    let [a, b, c, d] = pod_cidr.network().octets();
    Hardware([0x0e, 0x58, a, b, c, d])
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::AddRoute(range, via) => write!(f, "+ {range} via {}", via.gateway),
            Step::DeleteRoute(range, via) => write!(f, "- {range} via {}", via.gateway),
            Step::AddNeighbour(address, hardware) => write!(f, "+ {address} at {hardware}"),
            Step::DeleteNeighbour(address) => write!(f, "- {address}"),
            Step::AddForwarding(hardware, machine) => write!(f, "+ {hardware} at {machine}"),
            Step::DeleteForwarding(hardware, machine) => write!(f, "- {hardware} at {machine}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peers as `address=range`.
    fn overlay_entries(peers: &str) -> Entries {
        let mut entries = Entries::default();
        for text in peers.split_whitespace() {
            let (address, range) = text.split_once('=').unwrap();
            let range: Ipv4Net = range.parse().unwrap();
            entries.routes.insert(range, Via { gateway: range.network(), link: Some(7) });
            entries.neighbours.insert(range.network(), hardware_address(range));
            entries.forwarding.insert(hardware_address(range), address.parse().unwrap());
        }
        entries
    }

    #[track_caller]
    fn check(present: &str, wanted: &str, expected: &str) {
        let steps = plan(&overlay_entries(present), &overlay_entries(wanted));
        let steps: Vec<String> = steps.iter().map(Step::to_string).collect();
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn only_the_difference_is_done() {
        let one = "192.0.2.2=10.42.1.0/24";
        check("", "", "");
        check(one, one, "");
        check(
            "",
            one,
            "+ 0e:58:0a:2a:01:00 at 192.0.2.2
             + 10.42.1.0 at 0e:58:0a:2a:01:00
             + 10.42.1.0/24 via 10.42.1.0",
        );
        check(
            one,
            "",
            "- 10.42.1.0/24 via 10.42.1.0
             - 0e:58:0a:2a:01:00 at 192.0.2.2
             - 10.42.1.0",
        );
        // The node has another address: pods' routes are not touched.
        check(
            one,
            "192.0.2.9=10.42.1.0/24",
            "- 0e:58:0a:2a:01:00 at 192.0.2.2
             + 0e:58:0a:2a:01:00 at 192.0.2.9",
        );
    }
}
