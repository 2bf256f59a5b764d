//! Makes this node answer for the addresses of a pool that it was chosen for.
//!
//! Invariant: besides the cluster's DNS, the bridge has just the addresses of the Services whose annotation names this
//! node; what an earlier run left there goes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers};
use k8s_openapi::api::core::v1::{Node, Service};
use net::NetError;
use net::pod_network::BridgeNetwork;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const BACKOFF: Duration = Duration::from_secs(1);

/// Until cancelled. The addresses stay: a restart must not interrupt anybody.
pub async fn run(
    bridge: BridgeNetwork,
    informers: Arc<Informers>,
    node_name: String,
    cluster_dns: IpAddr,
    cancel: CancellationToken,
) {
    let services: Arc<Informer<Service>> = informers.of();
    let nodes: Arc<Informer<Node>> = informers.of();
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    services.subscribe(move |_| notify.notify_one());
    services.synced().await;
    nodes.synced().await;
    loop {
        let of_nodes = nodes.list().iter().flat_map(|node| addresses(node)).collect();
        let wanted = wanted(services.list().iter().map(AsRef::as_ref), &node_name, &of_nodes);
        let bridge = bridge.clone();
        let done = tokio::task::spawn_blocking(move || synchronize(&bridge, &wanted, cluster_dns)).await;
        let failed = match done {
            Ok(Err(cause)) => Some(cause.to_string()),
            Err(cause) => Some(cause.to_string()),
            Ok(Ok(())) => None,
        };
        if let Some(cause) = &failed {
            tracing::warn!(%cause, "addresses of load balancers are not as they should be");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = changed.notified() => {}
            () = tokio::time::sleep(BACKOFF), if failed.is_some() => {}
        }
    }
}

fn addresses(node: &Node) -> Vec<IpAddr> {
    let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    listed.filter_map(|address| address.address.parse().ok()).collect()
}

/// Pure. A Service that has just been given a pool still tells of the nodes' own addresses for a moment; to take such
/// a one would cut its node off.
fn wanted<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    node_name: &str,
    of_nodes: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    let chosen = services.into_iter().filter(|service| {
        let annotations = service.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(controllers::ANNOUNCING_NODE)).is_some_and(|node| node == node_name)
    });
    chosen.flat_map(controllers::ingress_addresses).filter(|address| !of_nodes.contains(address)).collect()
}

fn synchronize(bridge: &BridgeNetwork, wanted: &BTreeSet<IpAddr>, cluster_dns: IpAddr) -> Result<(), NetError> {
    let present: BTreeSet<IpAddr> = bridge.local_addresses()?.into_iter().filter(|it| *it != cluster_dns).collect();
    for gone in present.difference(wanted) {
        bridge.remove_local_address(*gone)?;
    }
    for new in wanted.difference(&present) {
        bridge.add_local_address(*new)?;
        if let IpAddr::V4(address) = new {
            bridge.announce(*address)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_names_this_node() {
        let service = |node: &str, ip: &str| -> Service {
            serde_json::from_value(json!({
                "metadata": {"annotations": {"coracle.io/announcing-node": node}},
                "status": {"loadBalancer": {"ingress": [{"ip": ip}]}},
            }))
            .expect("a Service")
        };
        let all = [service("a", "10.0.0.1"), service("b", "10.0.0.2"), Service::default()];
        let address = BTreeSet::from(["10.0.0.2".parse().expect("an address")]);
        assert_eq!(wanted(&all, "b", &BTreeSet::new()), address);
        assert_eq!(wanted(&all, "b", &address), BTreeSet::new(), "a node's own");
    }
}
