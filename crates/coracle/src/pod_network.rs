//! Joins two rooms of one floor: the runtime asks for a pod's network in CRI's words, `net` builds it.

use std::net::IpAddr;

use async_trait::async_trait;
use net::host_ports::HostPort;
use net::pod_network::BridgeNetwork;
use runtime::cri::{CriError, CriResult, PodNetwork, PodSandboxConfig, PortMapping, Protocol};

/// The node's bridge, as the runtime knows it.
pub struct Bridge(pub BridgeNetwork);

#[async_trait]
impl PodNetwork for Bridge {
    async fn set_up(&self, sandbox_id: &str, netns: &str, config: &PodSandboxConfig) -> CriResult<Vec<String>> {
        let failed = |cause: net::NetError| {
            CriError::Internal(format!("failed to setup network for sandbox {sandbox_id:?}: {cause}"))
        };
        let addresses = self.0.attach(netns, sandbox_id).await.map_err(failed)?;
        let ports: Vec<HostPort> = config.port_mappings.iter().filter_map(host_port).collect();
        if !ports.is_empty() {
            self.0.set_host_ports(sandbox_id, ports).await.map_err(failed)?;
        }
        Ok(addresses.iter().map(IpAddr::to_string).collect())
    }

    async fn tear_down(&self, sandbox_id: &str, _netns: &str) -> CriResult<()> {
        self.0
            .detach(sandbox_id)
            .await
            .map_err(|cause| CriError::Internal(format!("failed to destroy network for sandbox {sandbox_id:?}: {cause}")))
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
