//! The node's place in the pods' one flat network: its own range on the bridge, a way to every other node's.
//!
//! ```text
//! Nodes (addresses, pod ranges) ──► own range: bridge ──► ready
//!                               └─► others: overlay (VXLAN or plain routes)
//! ```
//!
//! Invariants: what stands in the kernel stays as it is while no server can be asked; the range is kept in a file, so
//! that a start without servers finds the same network. Routes go when a Node is deleted, not when it is silent.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informer, ObjectKey};
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Node;
use net::cni::Cni;
use net::overlay::{self, Backend, Overlay, OverlayConfig, Peer};
use net::pod_network::{BridgeConfig, BridgeNetwork};
use runtime::cri::RuntimeService;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, NetworkBackend};
use crate::instance::Instance;
use crate::pod_network::Bridge;

const VXLAN_PORT: u16 = 8472;
const RETRY: Duration = Duration::from_secs(2);

/// What a later start, or `coracle down`, has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    pod_cidr: Ipv4Net,
    cluster_cidr: Ipv4Net,
}

pub struct FlatNetwork {
    pub config: Config,
    pub instance: Instance,
    pub node_ip: IpAddr,
    pub bridge: Arc<Bridge>,
    pub runtime: Arc<dyn RuntimeService>,
    /// Somebody else's plugins make pods' networks; ours has but the node's own addresses.
    pub plugins: Option<Cni>,
}

/// Of the bridge where plugins give pods their addresses: it carries the cluster's DNS and Services' addresses. Instances
/// on one machine have different ones, all in 169.254.32.0/19, of which clouds and others use nothing.
fn link_local(instance: &Instance) -> Ipv4Net {
    let block = if instance.is_default() { 11 << 6 } else { api::hash::fnv32a(instance.name.as_bytes()) % (32 << 6) };
    let first = u32::from(Ipv4Addr::new(169, 254, 32, 0)) + (block << 2);
    Ipv4Net::new_assert(Ipv4Addr::from(first), 30)
}

struct Up {
    pod_cidr: Ipv4Net,
    mtu: u32,
    /// Made with the first other node: a machine alone needs none.
    overlay: Option<Overlay>,
}

impl FlatNetwork {
    /// Brings up what the last run had, then follows the Nodes until cancelled.
    pub async fn run(self, nodes: Arc<Informer<Node>>, cancel: CancellationToken) {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        nodes.subscribe(move |_: &Change<Node>| notify.notify_one());
        let follow = async {
            if let Some(plugins) = &self.plugins {
                while let Err(problem) = self.ensure_for_plugins(plugins).await {
                    self.refuse(problem);
                    tokio::time::sleep(RETRY).await;
                }
                return std::future::pending().await;
            }
            let mut up = None;
            if let Some(kept) = self.kept() {
                self.ensure(&mut up, kept.pod_cidr).await.unwrap_or_else(|problem| self.refuse(problem));
            }
            nodes.synced().await;
            loop {
                match self.apply(&mut up, &nodes).await {
                    Ok(()) => changed.notified().await,
                    Err(problem) => {
                        self.refuse(problem);
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follow => {}
        }
    }

    async fn ensure_for_plugins(&self, plugins: &Cni) -> Result<(), String> {
        let failed = |cause: net::NetError| format!("pod network: {cause}");
        let IpNet::V4(services) = self.config.service_cidr else { return Err("IPv6 ranges are not supported yet".into()) };
        let own = link_local(&self.instance);
        let settings = config_of_bridge(&self.instance, own, own, services, 0);
        let bridge = BridgeNetwork::ensure(BridgeConfig { masquerade: false, ..settings }).map_err(failed)?;
        let live = self.runtime.list_pod_sandboxes().await.map_err(|cause| cause.to_string())?;
        let live: Vec<String> = live.into_iter().map(|pod| pod.id).collect();
        plugins.collect_garbage(&live).await.map_err(failed)?;
        self.bridge.set(bridge);
        Ok(())
    }

    fn refuse(&self, problem: String) {
        tracing::error!(problem, "the pod network is not as it should be");
        self.bridge.refuse(problem);
    }

    async fn apply(&self, up: &mut Option<Up>, nodes: &Informer<Node>) -> Result<(), String> {
        let own = nodes.get(&ObjectKey::cluster(self.config.node_name.clone()));
        let Some(range) = own.and_then(|own| pod_cidr(&own)) else { return Ok(()) };
        if up.as_ref().is_none_or(|up| up.pod_cidr != range) {
            self.ensure(up, range).await?;
        }
        let Some(up) = up else { return Ok(()) };
        let peers: Vec<Peer> = nodes.list().iter().filter(|node| !self.is_own(node)).filter_map(|node| peer(node)).collect();
        self.set_peers(up, &peers).map_err(|cause| format!("the way to other nodes' pods: {cause}"))
    }

    fn is_own(&self, node: &Node) -> bool {
        node.metadata.name.as_deref() == Some(&self.config.node_name)
    }

    async fn ensure(&self, up: &mut Option<Up>, pod_cidr: Ipv4Net) -> Result<(), String> {
        let settings = bridge_config(&self.config, &self.instance, pod_cidr)?;
        let cluster_cidr = settings.cluster_cidr;
        let bridge = BridgeNetwork::ensure(settings).map_err(|cause| format!("pod network: {cause}"))?;
        let live = self.runtime.list_pod_sandboxes().await.map_err(|cause| cause.to_string())?;
        let live = live.into_iter().map(|pod| pod.id);
        bridge.collect_garbage(live).await.map_err(|cause| format!("pod network: {cause}"))?;
        let kept = serde_json::to_string(&Kept { pod_cidr, cluster_cidr }).map_err(|cause| cause.to_string())?;
        apiserver::pki::write_private(&kept_file(&self.instance), &kept).map_err(|cause| cause.to_string())?;
        tracing::info!(%pod_cidr, mtu = bridge.mtu(), backend = %self.config.network_backend, "pod network is up");
        // The overlay's device carries the range's first address, and is made anew with it.
        *up = Some(Up { pod_cidr, mtu: bridge.mtu(), overlay: None });
        self.bridge.set(bridge);
        Ok(())
    }

    fn set_peers(&self, up: &mut Up, peers: &[Peer]) -> Result<(), net::NetError> {
        if peers.is_empty() && up.overlay.is_none() {
            return Ok(());
        }
        let overlay = match &up.overlay {
            Some(overlay) => overlay,
            None => match self.overlay_config(up.pod_cidr, up.mtu) {
                Some(settings) => up.overlay.insert(Overlay::ensure(settings)?),
                None => return Ok(()),
            },
        };
        for step in overlay.set_peers(peers)? {
            tracing::debug!(%step, "route to other nodes' pods");
        }
        Ok(())
    }

    fn overlay_config(&self, pod_cidr: Ipv4Net, mtu: u32) -> Option<OverlayConfig> {
        let (IpNet::V4(cluster_cidr), IpAddr::V4(node_address)) = (self.config.cluster_cidr, self.node_ip) else { return None };
        let backend = match self.config.network_backend {
            NetworkBackend::Vxlan => Backend::Vxlan { id: self.config.vxlan_id, port: VXLAN_PORT },
            NetworkBackend::HostGateway => Backend::HostGateway,
            NetworkBackend::None => return None,
        };
        Some(OverlayConfig { backend, device: self.instance.vxlan.clone(), cluster_cidr, node_address, pod_cidr, mtu })
    }

    fn kept(&self) -> Option<Kept> {
        let kept = read_kept(&self.instance)?;
        // A cluster with other ranges than before gives another part of them.
        (IpNet::V4(kept.cluster_cidr) == self.config.cluster_cidr).then_some(kept)
    }
}

/// Removes devices, rules and routes that a server or agent left, also a killed one.
pub fn tear_down(instance: &Instance) -> Result<(), String> {
    let failed = |cause: net::NetError| format!("pod network: {cause}");
    let routes = read_kept(instance).map(|kept| kept.cluster_cidr);
    overlay::clean_up_after(&instance.vxlan, routes).map_err(failed)?;
    let nowhere = Ipv4Net::default();
    BridgeNetwork::clean_up_after(&config_of_bridge(instance, nowhere, nowhere, nowhere, 0)).map_err(failed)
}

fn kept_file(instance: &Instance) -> PathBuf {
    instance.network().join("range.json")
}

fn read_kept(instance: &Instance) -> Option<Kept> {
    serde_json::from_slice(&std::fs::read(kept_file(instance)).ok()?).ok()
}

fn bridge_config(config: &Config, instance: &Instance, pod_cidr: Ipv4Net) -> Result<BridgeConfig, String> {
    let (IpNet::V4(cluster_cidr), IpNet::V4(service_cidr)) = (config.cluster_cidr, config.service_cidr) else {
        return Err("IPv6 ranges are not supported yet".into());
    };
    let encapsulation_bytes = match config.network_backend {
        NetworkBackend::Vxlan => overlay::VXLAN_ENCAPSULATION_BYTES,
        NetworkBackend::HostGateway | NetworkBackend::None => 0,
    };
    Ok(config_of_bridge(instance, pod_cidr, cluster_cidr, service_cidr, encapsulation_bytes))
}

fn config_of_bridge(
    instance: &Instance,
    pod_cidr: Ipv4Net,
    cluster_cidr: Ipv4Net,
    service_cidr: Ipv4Net,
    encapsulation_bytes: u32,
) -> BridgeConfig {
    BridgeConfig {
        name: instance.bridge.clone(),
        pod_cidr,
        cluster_cidr,
        service_cidr: Some(service_cidr),
        mtu: None,
        encapsulation_bytes,
        state_dir: instance.network(),
        masquerade: true,
        instance: instance.name.clone(),
    }
}

fn pod_cidr(node: &Node) -> Option<Ipv4Net> {
    let spec = node.spec.as_ref()?;
    spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr).find_map(|text| text.parse().ok())
}

fn peer(node: &Node) -> Option<Peer> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    let address = internal.filter_map(|address| address.address.parse::<Ipv4Addr>().ok()).next()?;
    Some(Peer { address, pod_cidr: pod_cidr(node)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_beside_plugins_have_addresses_of_their_own() {
        let of = |data_dir: &str| link_local(&Instance::of(std::path::Path::new(data_dir)));
        assert_eq!(of(crate::config::DEFAULT_DATA_DIR).to_string(), "169.254.43.0/30");
        assert_ne!(of("/tmp/one"), of("/tmp/two"));
        let all: Ipv4Net = "169.254.32.0/19".parse().unwrap();
        assert!((0..1000).all(|number| all.contains(&of(&format!("/tmp/{number}")))));
    }

    #[test]
    fn a_node_is_a_peer_once_it_has_address_and_range() {
        let node = |addresses: serde_json::Value, range: serde_json::Value| -> Node {
            let object = serde_json::json!({"metadata": {"name": "a"}, "spec": range, "status": {"addresses": addresses}});
            serde_json::from_value(object).unwrap()
        };
        let addresses = serde_json::json!([{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "192.0.2.7"}]);
        let range = serde_json::json!({"podCIDR": "10.42.3.0/24", "podCIDRs": ["10.42.3.0/24"]});
        let expected = Peer { address: Ipv4Addr::new(192, 0, 2, 7), pod_cidr: "10.42.3.0/24".parse().unwrap() };
        assert_eq!(peer(&node(addresses.clone(), range.clone())), Some(expected));
        assert_eq!(peer(&node(addresses, serde_json::json!({}))), None);
        assert_eq!(peer(&node(serde_json::json!([]), range)), None);
    }
}
