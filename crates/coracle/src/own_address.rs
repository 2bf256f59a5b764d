//! The address by which the node is known: found at the start, and watched from then on.
//!
//! Where it stands (certificates, the Node's status, routes of other nodes, the `kubernetes` Service) is decided at the
//! start, so when the host has got another one the program starts itself anew. Containers do not notice.

use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use net::address_watch::AddressWatch;
use net::host::HostNetwork;

use crate::config::Config;
use crate::instance::Instance;
use crate::node;

/// A new lease comes in several steps: an address goes, another comes, then its routes.
const SETTLE: Duration = Duration::from_secs(1);

/// How server and agent end where nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stopped,
    /// The host has another address than at the start.
    Moved,
}

/// As told, else the host's, else the bridge's.
pub fn node_ip(config: &Config) -> Result<IpAddr, String> {
    if let Some(address) = config.node_ip {
        return Ok(address);
    }
    let host = HostNetwork::observe().map_err(|cause| format!("the host's network cannot be read: {cause}"))?;
    match host.primary() {
        Some(interface) => Ok(interface.address),
        None => node::bridge_address(config),
    }
}

/// Returns when the host has another address for good; never, if the address was told.
pub async fn moved(config: &Config, instance: &Instance, address: IpAddr) {
    let watch = match AddressWatch::open() {
        Ok(watch) if config.node_ip.is_none() => watch,
        Ok(_) => return std::future::pending().await,
        Err(error) => {
            tracing::warn!(%error, "a change of the node's address will go unnoticed");
            return std::future::pending().await;
        }
    };
    loop {
        watch.changed().await;
        tokio::time::sleep(SETTLE).await;
        let now = HostNetwork::observe().ok().and_then(|host| host.primary());
        // Without any other, our own bridge would be the next best: a host that is cut off keeps its address.
        let ours = [&instance.bridge, &instance.vxlan];
        if let Some(now) = now.filter(|now| now.address != address && !ours.contains(&&now.name)) {
            tracing::warn!(before = %address, now = %now.address, interface = now.name, "the node's address has changed; starting anew");
            return;
        }
    }
}

/// The same command line in the same process. Returns only if it cannot be.
pub fn start_anew() -> String {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "coracle".into());
    let cause = Command::new("/proc/self/exe").arg0(name).args(arguments).exec();
    format!("cannot start anew: {cause}")
}
