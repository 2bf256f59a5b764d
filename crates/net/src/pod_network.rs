//! The pods' network on one node: a bridge, a pair of virtual devices for each pod, and the rules around them.
//!
//! Invariant: what this module made can be found again without memory. Pods' devices are ports of the bridge and
//! named after the sandbox; addresses are files of [`crate::ipam`]; rules stand in one table. `ensure`, `attach` and
//! `detach` may be repeated after a crash at any point, and converge.
//!
//! Deliberately absent: other nodes (an overlay adds routes to this), Services (`proxy`), CNI plugins.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;
use parking_lot::Mutex;

use crate::conntrack::ConntrackSocket;
use crate::error::NetError;
use crate::host::HostNetwork;
use crate::host_ports::{self, HostPort};
use crate::ipam::{AddressPool, gateway};
use crate::netlink::Batch;
use crate::netns::NetworkNamespace;
use crate::nft::matching::{destination_in, destination_not_in, output_interface_is_not, rule, source_in};
use crate::nft::{
    Chain, ChainKind, Expression, Family, Hook, NftSocket, Table, TableWatch, Transaction, Verdict, priority,
};
use crate::route::{NAME_LENGTH_MAX, ROUTE_PROTOCOL, Route, RouteSocket, VethPair};
use crate::sysctl;

/// The name of a pod's device inside the pod.
const POD_DEVICE: &str = "eth0";
/// The kernel's number of the loopback device in every namespace.
const LOOPBACK: u32 = 1;
const MULTICAST: &str = "224.0.0.0/4";

#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// The bridge's device name, at most 15 bytes.
    pub name: String,
    /// This node's part of the cluster's range.
    pub pod_cidr: Ipv4Net,
    /// All pods of all nodes. Traffic that leaves it is masqueraded.
    pub cluster_cidr: Ipv4Net,
    /// Routed to the bridge, so that Services are reachable on a host without a default route.
    pub service_cidr: Option<Ipv4Net>,
    /// None: the host's, less `encapsulation_bytes`.
    pub mtu: Option<u32>,
    /// What an overlay adds to each packet.
    pub encapsulation_bytes: u32,
    /// Holds the addresses in use.
    pub state_dir: PathBuf,
    pub masquerade: bool,
    /// Tells this cluster's rules from another's on the same machine: `coracle`, `coracle-<hash>`.
    pub instance: String,
}

impl BridgeConfig {
    fn table(&self) -> Table {
        Table::new(Family::Ipv4, format!("{}-net", self.instance))
    }

    fn addresses_dir(&self) -> PathBuf {
        self.state_dir.join("addresses")
    }

    fn bridge_address(&self) -> Ipv4Addr {
        gateway(self.pod_cidr)
    }

    fn comment(&self) -> String {
        format!("{} pods", self.instance)
    }
}

/// Belongs to the network namespace of the thread that called [`BridgeNetwork::ensure`], whoever uses it later.
#[derive(Clone)]
pub struct BridgeNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    config: BridgeConfig,
    bridge: u32,
    mtu: u32,
    route: Mutex<RouteSocket>,
    nft: Mutex<NftSocket>,
    conntrack: Mutex<ConntrackSocket>,
    addresses: Mutex<AddressPool>,
    /// As the kernel has them, to put them back.
    host_ports: Mutex<HashMap<Ipv4Addr, Vec<HostPort>>>,
}

impl BridgeNetwork {
    /// Makes the bridge, its routes and rules, or mends what is there. Pods that are attached stay so.
    pub fn ensure(config: BridgeConfig) -> Result<BridgeNetwork, NetError> {
        check(&config)?;
        let route = RouteSocket::open()?;
        let nft = NftSocket::open()?;
        let host = HostNetwork::observe_through(&route)?;
        refuse_clash(&config, &host)?;
        let mtu = config.mtu.unwrap_or_else(|| host.mtu_without(&config.name) - config.encapsulation_bytes);

        let bridge = ensure_bridge(&config, &route, mtu)?;
        sysctl::ensure("net/ipv4/ip_forward", "1")?;
        sysctl::ensure_bridge_traffic_is_filtered()?;
        // Ports of 127.0.0.1 that lead to a pod: the packets leave through the bridge with that source.
        sysctl::ensure(&format!("net/ipv4/conf/{}/route_localnet", config.name), "1")?;
        ensure_rules(&config, &nft)?;
        allow_forwarding(&config, &nft)?;
        let addresses = AddressPool::open(config.addresses_dir(), config.pod_cidr)?;
        tracing::debug!(bridge = config.name, mtu, range = %config.pod_cidr, "pod network is up");
        let host_ports = host_ports::read(&nft, &config.table())?;
        let shared = Shared {
            config,
            bridge,
            mtu,
            route: Mutex::new(route),
            nft: Mutex::new(nft),
            conntrack: Mutex::new(ConntrackSocket::open()?),
            addresses: Mutex::new(addresses),
            host_ports: Mutex::new(host_ports),
        };
        Ok(BridgeNetwork { shared: Arc::new(shared) })
    }

    /// Gives the namespace an `eth0` on the bridge, an address and a default route. Answers the addresses. A sandbox
    /// that is attached already gets new devices and keeps its address.
    pub async fn attach(&self, netns: impl AsRef<Path>, sandbox_id: &str) -> Result<Vec<IpAddr>, NetError> {
        let (shared, netns, sandbox_id) = (self.shared.clone(), netns.as_ref().to_owned(), sandbox_id.to_owned());
        blocking(move || shared.attach(&netns, &sandbox_id)).await
    }

    /// Takes devices, address and host ports back. Does nothing for a sandbox that is not attached.
    pub async fn detach(&self, sandbox_id: &str) -> Result<(), NetError> {
        let (shared, sandbox_id) = (self.shared.clone(), sandbox_id.to_owned());
        blocking(move || shared.detach(&sandbox_id)).await
    }

    /// Leads ports of the host to ports of an attached sandbox. Replaces what the sandbox had.
    pub async fn set_host_ports(&self, sandbox_id: &str, ports: Vec<HostPort>) -> Result<(), NetError> {
        let (shared, sandbox_id) = (self.shared.clone(), sandbox_id.to_owned());
        blocking(move || shared.set_host_ports(&sandbox_id, &ports)).await
    }

    /// Detaches every sandbox that is not in the list, and removes ports of the bridge that belong to none.
    pub async fn collect_garbage(&self, live: impl IntoIterator<Item = String>) -> Result<(), NetError> {
        let (shared, live) = (self.shared.clone(), live.into_iter().collect());
        blocking(move || shared.collect_garbage(&live)).await
    }

    /// Makes this host answer at a further address (the cluster's DNS), reachable from pods and host.
    pub fn add_local_address(&self, address: IpAddr) -> Result<(), NetError> {
        let mut batch = Batch::new();
        batch.add_address(self.shared.bridge, address.into(), None);
        self.shared.route.lock().send(&batch)
    }

    /// What [`BridgeNetwork::add_local_address`] has added and nobody removed, also before a restart.
    pub fn local_addresses(&self) -> Result<Vec<IpAddr>, NetError> {
        let listed = self.shared.route.lock().addresses()?;
        let own = listed.into_iter().filter(|it| it.link == self.shared.bridge && it.address.prefix_len() == it.address.max_prefix_len());
        Ok(own.map(|it| it.address.addr()).collect())
    }

    /// Tells the host's neighbours that the address is here.
    pub fn announce(&self, address: Ipv4Addr) -> Result<(), NetError> {
        let host = HostNetwork::observe_through(&self.shared.route.lock())?;
        let Some(primary) = host.primary() else { return Ok(()) };
        match host.links.iter().find(|link| link.index == primary.index) {
            Some(link) if link.index != self.shared.bridge => crate::arp::announce(address, link),
            _ => Ok(()),
        }
    }

    pub fn remove_local_address(&self, address: IpAddr) -> Result<(), NetError> {
        let mut batch = Batch::new();
        batch.delete_address(self.shared.bridge, address.into());
        self.shared.route.lock().send_tolerating(&batch, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
    }

    pub fn address_of(&self, sandbox_id: &str) -> Option<IpAddr> {
        self.shared.addresses.lock().address_of(sandbox_id).map(IpAddr::V4)
    }

    /// The bridge's own address: every pod's gateway.
    pub fn gateway(&self) -> IpAddr {
        self.shared.config.bridge_address().into()
    }

    pub fn mtu(&self) -> u32 {
        self.shared.mtu
    }

    /// Puts rules back that somebody else deleted (`nft flush ruleset`, a restarted firewall), until cancelled by
    /// being dropped.
    pub async fn keep_rules(&self) -> Result<(), NetError> {
        /// So that two that undo each other's work do not do so all the time.
        const PAUSE: Duration = Duration::from_millis(100);
        let watch = TableWatch::open(vec![self.shared.config.table()], &self.shared.nft.lock())?;
        loop {
            watch.tampered().await;
            tokio::time::sleep(PAUSE).await;
            let shared = self.shared.clone();
            if let Err(error) = blocking(move || shared.restore_rules()).await {
                tracing::warn!(%error, "rules of the pod network could not be put back");
            }
        }
    }

    /// Interface number of the bridge.
    pub fn bridge(&self) -> u32 {
        self.shared.bridge
    }

    /// Removes devices, rules and the record of addresses.
    pub fn clean_up(&self) -> Result<(), NetError> {
        remove(&self.shared.config, &self.shared.route.lock(), &self.shared.nft.lock())
    }

    /// [`BridgeNetwork::clean_up`] without having ensured before: what a killed server left.
    pub fn clean_up_after(config: &BridgeConfig) -> Result<(), NetError> {
        remove(config, &RouteSocket::open()?, &NftSocket::open()?)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
        Err(_) => Err(NetError::Invalid { what: "the program is shutting down".into() }),
    }
}

impl Shared {
    fn attach(&self, netns: &Path, sandbox_id: &str) -> Result<Vec<IpAddr>, NetError> {
        let namespace = NetworkNamespace::open(netns)?;
        let address = self.addresses.lock().reserve(sandbox_id)?;
        let outcome = self.connect(&namespace, sandbox_id, address);
        if outcome.is_err() {
            // Nobody will detach what was never attached.
            let _ = self.detach(sandbox_id);
        }
        outcome.map(|()| vec![IpAddr::V4(address)])
    }

    fn connect(&self, namespace: &NetworkNamespace, sandbox_id: &str, address: Ipv4Addr) -> Result<(), NetError> {
        let name = self.device_name(sandbox_id);
        let mut near = Batch::new();
        near.add_veth(&VethPair {
            name: &name,
            bridge: self.bridge,
            mtu: self.mtu,
            peer_name: POD_DEVICE,
            peer_namespace: namespace.as_fd(),
            peer_hardware_address: hardware_address(address),
        });
        near.set_hairpin(&name);
        {
            let route = self.route.lock();
            if let Err(error) = route.send(&near) {
                if error.errno() != Some(Errno::EEXIST) {
                    return Err(error);
                }
                // Left by an attempt that was killed.
                route.send_tolerating(&deletion(&name), &[Errno::ENODEV])?;
                route.send(&near)?;
            }
        }

        let inside = namespace.run(RouteSocket::open)?;
        let device = inside
            .link(POD_DEVICE)?
            .ok_or_else(|| NetError::NotFound { what: format!("interface {POD_DEVICE} of the pod") })?
            .index;
        let net = Ipv4Net::new(address, self.config.pod_cidr.prefix_len()).expect("the prefix of a valid range");
        let mut far = Batch::new();
        far.set_up(LOOPBACK);
        far.add_address(device, net.into(), None);
        far.set_up(device);
        far.add_route(&Route {
            destination: IpNet::V4(Ipv4Net::default()),
            gateway: Some(self.config.bridge_address().into()),
            link: Some(device),
            source: None,
            metric: 0,
            protocol: libc::RTPROT_BOOT,
        });
        inside.send(&far)
    }

    fn detach(&self, sandbox_id: &str) -> Result<(), NetError> {
        let deleted = deletion(&self.device_name(sandbox_id));
        self.route.lock().send_tolerating(&deleted, &[Errno::ENODEV])?;
        let Some(address) = self.addresses.lock().address_of(sandbox_id) else { return Ok(()) };
        self.replace_host_ports(address, &[])?;
        // Last: while the file is there, a crash is followed by another attempt.
        self.addresses.lock().release(sandbox_id)?;
        Ok(())
    }

    fn restore_rules(&self) -> Result<(), NetError> {
        let nft = self.nft.lock();
        ensure_rules(&self.config, &nft)?;
        allow_forwarding(&self.config, &nft)?;
        for (address, ports) in self.host_ports.lock().iter() {
            host_ports::replace(&nft, &self.config.table(), *address, ports)?;
        }
        Ok(())
    }

    fn set_host_ports(&self, sandbox_id: &str, ports: &[HostPort]) -> Result<(), NetError> {
        let address = self
            .addresses
            .lock()
            .address_of(sandbox_id)
            .ok_or_else(|| NetError::NotFound { what: format!("address of sandbox {sandbox_id}") })?;
        self.replace_host_ports(address, ports)
    }

    fn replace_host_ports(&self, address: Ipv4Addr, ports: &[HostPort]) -> Result<(), NetError> {
        let old = self.host_ports.lock().get(&address).cloned().unwrap_or_default();
        if old.is_empty() && ports.is_empty() {
            return Ok(());
        }
        host_ports::replace(&self.nft.lock(), &self.config.table(), address, ports)?;
        let mut known = self.host_ports.lock();
        match ports {
            [] => drop(known.remove(&address)),
            ports => drop(known.insert(address, ports.to_vec())),
        }
        drop(known);
        host_ports::forget_flows(&self.conntrack.lock(), address, &[&old, ports].concat())
    }

    fn collect_garbage(&self, live: &HashSet<String>) -> Result<(), NetError> {
        let dead: Vec<String> =
            self.addresses.lock().holders().filter(|holder| !live.contains(*holder)).map(str::to_owned).collect();
        for sandbox_id in dead {
            self.detach(&sandbox_id)?;
        }
        let wanted: HashSet<String> = live.iter().map(|sandbox_id| self.device_name(sandbox_id)).collect();
        let route = self.route.lock();
        for link in route.links()? {
            let is_pods = link.master == Some(self.bridge) && link.kind.as_deref() == Some("veth");
            if is_pods && !wanted.contains(&link.name) {
                route.send_tolerating(&deletion(&link.name), &[Errno::ENODEV])?;
            }
        }
        Ok(())
    }

    /// From instance and sandbox, so that it is found again and differs between clusters.
    fn device_name(&self, sandbox_id: &str) -> String {
        let hash = fnv64(self.config.instance.bytes().chain([0]).chain(sandbox_id.bytes()));
        format!("veth{:010x}", hash & 0xff_ffff_ffff)
    }
}

fn check(config: &BridgeConfig) -> Result<(), NetError> {
    if config.name.is_empty() || config.name.len() > NAME_LENGTH_MAX {
        let what = format!("the bridge's name {:?} must have 1 to {NAME_LENGTH_MAX} bytes", config.name);
        return Err(NetError::Invalid { what });
    }
    if config.pod_cidr.prefix_len() > 30 || !config.cluster_cidr.contains(&config.pod_cidr) {
        let what = format!(
            "the node's pod range {} must lie in the cluster's {} and have room for a pod",
            config.pod_cidr, config.cluster_cidr
        );
        return Err(NetError::Invalid { what });
    }
    Ok(())
}

/// A host that lives in one of the ranges itself would lose its own network: at once if the range is this node's, later if
/// it is that of a node to come.
fn refuse_clash(config: &BridgeConfig, host: &HostNetwork) -> Result<(), NetError> {
    let pods = ("the cluster's pod range", config.cluster_cidr, "cluster");
    let services = config.service_cidr.map(|range| ("the range of Services", range, "service"));
    for address in &host.addresses {
        let IpNet::V4(net) = address.address else { continue };
        let Some(link) = host.links.iter().find(|link| link.index == address.link) else { continue };
        // The overlay's device has the range's first address, and the bridge whatever Services have.
        if link.name == config.name || link.kind.as_deref() == Some("vxlan") {
            continue;
        }
        for (what, range, name) in [pods].into_iter().chain(services) {
            if range.contains(&net.addr()) || net.trunc().contains(&range.network()) {
                let what = format!("{what} {range} overlaps with {net} of interface {}; choose another {name} CIDR", link.name);
                return Err(NetError::Invalid { what });
            }
        }
    }
    Ok(())
}

fn ensure_bridge(config: &BridgeConfig, route: &RouteSocket, mtu: u32) -> Result<u32, NetError> {
    let address = config.bridge_address();
    let existing = route.link(&config.name)?;
    let index = match &existing {
        Some(link) if link.kind.as_deref() == Some("bridge") => link.index,
        Some(_) => {
            let what = format!("interface {} exists and is no bridge", config.name);
            return Err(NetError::Invalid { what });
        }
        None => {
            let mut batch = Batch::new();
            batch.add_bridge(&config.name, mtu, hardware_address(address));
            route.send(&batch)?;
            let link = route.link(&config.name)?;
            link.ok_or_else(|| NetError::NotFound { what: format!("interface {}", config.name) })?.index
        }
    };

    let net = IpNet::V4(Ipv4Net::new(address, config.pod_cidr.prefix_len()).expect("the prefix of a valid range"));
    let mut batch = Batch::new();
    if existing.is_some() {
        // The node may have been given another range; addresses of one host are those of DNS and the like.
        for old in route.addresses()? {
            let is_range = old.address.addr().is_ipv4() && old.address.prefix_len() < 32;
            if old.link == index && is_range && old.address != net {
                batch.delete_address(index, old.address);
            }
        }
        batch.set_mtu(index, mtu);
    }
    batch.add_address(index, net, None);
    batch.set_up(index);
    if let Some(service_cidr) = config.service_cidr {
        batch.add_route(&service_route(service_cidr, index));
    }
    route.send(&batch)?;
    Ok(index)
}

/// Packets to Services are translated before they would leave by this route; it only has to exist.
fn service_route(service_cidr: Ipv4Net, bridge: u32) -> Route {
    Route {
        destination: service_cidr.into(),
        gateway: None,
        link: Some(bridge),
        source: None,
        metric: 0,
        protocol: ROUTE_PROTOCOL,
    }
}

/// The table is extended, not replaced: host ports of running pods stay.
fn ensure_rules(config: &BridgeConfig, nft: &NftSocket) -> Result<(), NetError> {
    let table = config.table();
    let mut transaction = Transaction::new();
    transaction.add_table(&table);
    host_ports::ensure(&mut transaction, &table, config.pod_cidr);
    transaction.replace_chain(&table, &Chain::base("postrouting", ChainKind::Nat, Hook::Postrouting, priority::SOURCE_NAT));
    for rule in host_ports::masquerade_rules(config.pod_cidr) {
        transaction.add_rule(&table, "postrouting", &rule);
    }
    if config.masquerade {
        let multicast: IpNet = MULTICAST.parse().expect("a literal range");
        let leaving = rule([
            source_in(config.pod_cidr.into()),
            destination_not_in(config.cluster_cidr.into()),
            destination_not_in(multicast),
            output_interface_is_not(&config.name),
            vec![Expression::Masquerade { random_ports: true }],
        ]);
        transaction.add_rule(&table, "postrouting", &leaving);
    }
    transaction.commit(nft)
}

/// A dropping policy of the host's own firewall (Docker sets one) would cut pods off, and no rule of our table could
/// help: a packet must pass every table. So where such a chain exists, our traffic is let through in it.
fn allow_forwarding(config: &BridgeConfig, nft: &NftSocket) -> Result<(), NetError> {
    let table = Table::new(Family::Ipv4, "filter");
    forbid_forwarding(config, nft)?;
    let is_dropping = nft.tables()?.contains(&table)
        && nft.chains(&table)?.iter().any(|chain| chain.name == "FORWARD" && chain.drops == Some(true));
    if !is_dropping {
        return Ok(());
    }
    let cluster: IpNet = config.cluster_cidr.into();
    let mut transaction = Transaction::new();
    for condition in [source_in(cluster), destination_in(cluster)] {
        let accept = rule([condition, vec![Expression::Counter, Expression::Verdict(Verdict::Accept)]]);
        transaction.insert_rule(&table, "FORWARD", &accept, &config.comment());
    }
    transaction.commit(nft)
}

fn forbid_forwarding(config: &BridgeConfig, nft: &NftSocket) -> Result<(), NetError> {
    let table = Table::new(Family::Ipv4, "filter");
    if !nft.tables()?.contains(&table) || !nft.chains(&table)?.iter().any(|chain| chain.name == "FORWARD") {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    for rule in nft.rules(&table, "FORWARD")? {
        if rule.comment.as_deref() == Some(&config.comment()) {
            transaction.delete_rule(&table, "FORWARD", rule.handle);
        }
    }
    transaction.commit(nft)
}

fn remove(config: &BridgeConfig, route: &RouteSocket, nft: &NftSocket) -> Result<(), NetError> {
    if let Some(bridge) = route.link(&config.name)? {
        let mut batch = Batch::new();
        for port in route.links()? {
            if port.master == Some(bridge.index) && port.kind.as_deref() == Some("veth") {
                batch.delete_link(&port.name);
            }
        }
        batch.delete_link(&config.name);
        route.send_tolerating(&batch, &[Errno::ENODEV])?;
    }
    let mut transaction = Transaction::new();
    transaction.delete_table(&config.table());
    transaction.commit(nft)?;
    forbid_forwarding(config, nft)?;
    let addresses = config.addresses_dir();
    match fs::remove_dir_all(&addresses) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(NetError::io("removing", &addresses, error)),
        _ => Ok(()),
    }
}

fn deletion(device: &str) -> Batch {
    let mut batch = Batch::new();
    batch.delete_link(device);
    batch
}

/// From the address, so that a pod which inherits an address is not missed in anyone's ARP cache.
fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn fnv64(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
