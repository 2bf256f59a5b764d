//! What the host's own network looks like: the node's address, and how large its packets may be.

use std::net::IpAddr;

use crate::error::NetError;
use crate::route::{Address, Link, Route, RouteSocket};

/// What a machine without any network uses: enough for everything on itself.
const MTU_FALLBACK: u32 = 1500;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostInterface {
    pub name: String,
    pub index: u32,
    pub address: IpAddr,
    pub mtu: u32,
}

/// The host's interfaces at one moment.
#[derive(Clone, Debug, Default)]
pub struct HostNetwork {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
}

impl HostNetwork {
    /// Of the calling thread's network namespace.
    pub fn observe() -> Result<HostNetwork, NetError> {
        HostNetwork::observe_through(&RouteSocket::open()?)
    }

    pub fn observe_through(socket: &RouteSocket) -> Result<HostNetwork, NetError> {
        Ok(HostNetwork { links: socket.links()?, addresses: socket.addresses()?, routes: socket.routes()? })
    }

    /// The interface by which the node is known: that of the default route, else the first with a global address.
    /// Bridges and pods' devices of this or another cluster do not count while anything else is there.
    pub fn primary(&self) -> Option<HostInterface> {
        let mut defaults: Vec<&Route> = self
            .routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0 && route.destination.addr().is_ipv4())
            .collect();
        defaults.sort_by_key(|route| route.metric);
        let by_default_route = defaults.into_iter().find_map(|route| {
            let found = self.interface(route.link?, route.source)?;
            Some(found)
        });
        by_default_route
            .or_else(|| self.first_global(|link| !matches!(link.kind.as_deref(), Some("bridge" | "veth" | "vxlan"))))
            .or_else(|| self.first_global(|_| true))
    }

    /// Of the primary interface.
    pub fn mtu(&self) -> u32 {
        self.primary().map_or(MTU_FALLBACK, |interface| interface.mtu)
    }

    /// As if the named interface did not exist: a bridge must not take its own MTU for the host's.
    pub fn mtu_without(&self, name: &str) -> u32 {
        let links = self.links.iter().filter(|link| link.name != name).cloned().collect();
        HostNetwork { links, ..self.clone() }.mtu()
    }

    /// Every global address, as NodePorts and the node's status want them.
    pub fn global_addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter(|address| address.global).map(|address| address.address.addr()).collect()
    }

    fn first_global(&self, suits: impl Fn(&Link) -> bool) -> Option<HostInterface> {
        let mut links: Vec<&Link> = self.links.iter().filter(|link| link.up && !link.loopback && suits(link)).collect();
        links.sort_by_key(|link| link.index);
        links.into_iter().find_map(|link| self.interface(link.index, None))
    }

    fn interface(&self, index: u32, source: Option<IpAddr>) -> Option<HostInterface> {
        let link = self.links.iter().find(|link| link.index == index)?;
        let address = source.or_else(|| {
            self.addresses
                .iter()
                .find(|address| address.link == index && address.global && address.address.addr().is_ipv4())
                .map(|address| address.address.addr())
        })?;
        Some(HostInterface { name: link.name.clone(), index, address, mtu: link.mtu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `links` are `name:kind:mtu`, `addresses` `name=cidr`, `routes` `destination@name[:metric]`.
    #[track_caller]
    fn check(links: &str, addresses: &str, routes: &str, expected: &str) {
        let links: Vec<Link> = links
            .split_whitespace()
            .enumerate()
            .map(|(index, text)| {
                let parts: Vec<&str> = text.split(':').collect();
                Link {
                    index: index as u32 + 1,
                    name: parts[0].into(),
                    mtu: parts[2].parse().unwrap(),
                    up: true,
                    loopback: parts[0] == "lo",
                    master: None,
                    kind: Some(parts[1].to_owned()).filter(|kind| !kind.is_empty()),
                    hardware_address: Vec::new(),
                    vxlan: None,
                }
            })
            .collect();
        let index = |name: &str| links.iter().find(|link| link.name == name).unwrap().index;
        let network = HostNetwork {
            addresses: addresses
                .split_whitespace()
                .map(|text| {
                    let (name, address) = text.split_once('=').unwrap();
                    Address { link: index(name), address: address.parse().unwrap(), global: name != "lo" }
                })
                .collect(),
            routes: routes
                .split_whitespace()
                .map(|text| {
                    let (destination, rest) = text.split_once('@').unwrap();
                    let (name, metric) = rest.split_once(':').unwrap_or((rest, "0"));
                    Route {
                        destination: destination.parse().unwrap(),
                        gateway: None,
                        link: Some(index(name)),
                        source: None,
                        metric: metric.parse().unwrap(),
                        protocol: 0,
                    }
                })
                .collect(),
            links,
        };
        let found = network.primary().map(|found| format!("{} {} {}", found.name, found.address, found.mtu));
        assert_eq!(found.unwrap_or_default(), expected);
    }

    #[test]
    fn the_primary_interface() {
        let addresses = "lo=127.0.0.1/8 docker0=172.17.0.1/16 eth0=192.0.2.2/24 eth1=198.51.100.2/24";
        let links = "lo::65536 docker0:bridge:1500 eth0::1400 eth1::9000";
        check(links, addresses, "0.0.0.0/0@eth1", "eth1 198.51.100.2 9000");
        check(links, addresses, "0.0.0.0/0@eth1:200 0.0.0.0/0@eth0:100", "eth0 192.0.2.2 1400");
        check(links, addresses, "192.0.2.0/24@eth0", "eth0 192.0.2.2 1400");
        check("lo::65536 coracle0:bridge:1500", "coracle0=10.42.0.1/24", "", "coracle0 10.42.0.1 1500");
        check("lo::65536", "lo=127.0.0.1/8", "", "");
    }
}
