//! Joins two rooms of one floor: the runtime asks for a pod's network in CRI's words, `net` builds it, or has CNI
//! plugins build it.

use std::net::IpAddr;

use async_trait::async_trait;
use net::cni::{Cni, CniPod};
use net::host_ports::HostPort;
use net::pod_network::BridgeNetwork;
use runtime::cri::{CriError, CriResult, PodNetwork, PodSandboxConfig, PortMapping, Protocol};
use tokio::sync::watch;

/// The node's bridge, as the runtime knows it: there as soon as the node has a range of addresses.
pub struct Bridge {
    state: watch::Sender<State>,
}

enum State {
    /// Why not.
    Down(String),
    Up(BridgeNetwork),
}

impl Default for Bridge {
    fn default() -> Self {
        Bridge { state: watch::Sender::new(State::Down("the node has no range of pod addresses yet (spec.podCIDR)".into())) }
    }
}

impl Bridge {
    pub fn set(&self, bridge: BridgeNetwork) {
        self.state.send_replace(State::Up(bridge));
    }

    /// Something is wrong; what is up stays up.
    pub fn refuse(&self, why: String) {
        self.state.send_if_modified(|state| {
            let is_down = matches!(state, State::Down(_));
            if is_down {
                *state = State::Down(why);
            }
            is_down
        });
    }

    /// Waits until it is there.
    pub async fn up(&self) -> BridgeNetwork {
        let mut states = self.state.subscribe();
        loop {
            if let State::Up(bridge) = &*states.borrow_and_update() {
                return bridge.clone();
            }
            // The sender lives in `self`, so waiting cannot fail.
            let _ = states.changed().await;
        }
    }

    fn bridge(&self) -> CriResult<BridgeNetwork> {
        match &*self.state.borrow() {
            State::Up(bridge) => Ok(bridge.clone()),
            State::Down(why) => Err(CriError::Unavailable(why.clone())),
        }
    }
}

#[async_trait]
impl PodNetwork for Bridge {
    async fn set_up(&self, sandbox_id: &str, netns: &str, config: &PodSandboxConfig) -> CriResult<Vec<String>> {
        let failed = |cause: net::NetError| {
            CriError::Internal(format!("failed to setup network for sandbox {sandbox_id:?}: {cause}"))
        };
        let bridge = self.bridge()?;
        let addresses = bridge.attach(netns, sandbox_id).await.map_err(failed)?;
        let ports: Vec<HostPort> = config.port_mappings.iter().filter_map(host_port).collect();
        if !ports.is_empty() {
            bridge.set_host_ports(sandbox_id, ports).await.map_err(failed)?;
        }
        Ok(addresses.iter().map(IpAddr::to_string).collect())
    }

    async fn tear_down(&self, sandbox_id: &str, _netns: &str) -> CriResult<()> {
        self.bridge()?
            .detach(sandbox_id)
            .await
            .map_err(|cause| CriError::Internal(format!("failed to destroy network for sandbox {sandbox_id:?}: {cause}")))
    }

    fn not_ready(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Up(_) => None,
            State::Down(why) => Some(why.clone()),
        }
    }
}

fn host_port(mapping: &PortMapping) -> Option<HostPort> {
    if mapping.host_port == 0 {
        return None;
    }
    Some(HostPort {
        host_ip: mapping.host_ip.parse().ok().filter(|address: &std::net::Ipv4Addr| !address.is_unspecified()),
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        },
    })
}

/// CNI plugins in place of the bridge.
pub struct Plugins(pub Cni);

#[async_trait]
impl PodNetwork for Plugins {
    async fn set_up(&self, sandbox_id: &str, netns: &str, config: &PodSandboxConfig) -> CriResult<Vec<String>> {
        let pod = CniPod {
            namespace: config.metadata.namespace.clone(),
            name: config.metadata.name.clone(),
            uid: config.metadata.uid.clone(),
            ports: config.port_mappings.iter().filter_map(host_port).collect(),
        };
        let made = self.0.add(netns, sandbox_id, &pod).await;
        let addresses = made.map_err(|cause| {
            CriError::Internal(format!("failed to setup network for sandbox {sandbox_id:?}: {cause}"))
        })?;
        Ok(addresses.iter().map(IpAddr::to_string).collect())
    }

    async fn tear_down(&self, sandbox_id: &str, netns: &str) -> CriResult<()> {
        self.0
            .remove(netns, sandbox_id)
            .await
            .map_err(|cause| CriError::Internal(format!("failed to destroy network for sandbox {sandbox_id:?}: {cause}")))
    }
}

/// For taking pods down when the bridge itself goes next.
pub struct Leaving;

#[async_trait]
impl PodNetwork for Leaving {
    async fn set_up(&self, _: &str, _: &str, _: &PodSandboxConfig) -> CriResult<Vec<String>> {
        Err(CriError::Unavailable("the node is being taken down".into()))
    }

    async fn tear_down(&self, _: &str, _: &str) -> CriResult<()> {
        Ok(())
    }
}
