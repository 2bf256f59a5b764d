//! The servers that share a datastore: each keeps a Lease, and the addresses of those that do stand behind the
//! `kubernetes` Service, from which pods and agents know where to ask.
//!
//! Invariant: a server's address is there while its lease is renewed, judged by the own clock from when a renewal was
//! seen; an address that nobody keeps goes. Periodic: the lease, every 5 s, and only where servers share a datastore.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Patch, Rest, Scope};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const LABEL: &str = "coracle.io/server";
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// A server that is silent for so long is taken out.
const LEASE: Duration = Duration::from_secs(15);

/// One server, as its lease tells.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    pub address: IpAddr,
    pub port: u16,
}

/// When a lease was last seen to change, by our clock.
type Seen = BTreeMap<String, (String, Instant)>;

/// Until cancelled.
pub async fn run(client: kube::Client, me: Peer, cancel: CancellationToken) {
    let rest = Rest::new(client.clone());
    let labelled = Scope { namespace: Some(NAMESPACE.into()), label_selector: Some(format!("{LABEL}=true")), ..Scope::default() };
    let leases = Informer::<Lease>::start(&client, labelled, cancel.clone());
    let own_service = Scope {
        namespace: Some("default".into()),
        label_selector: Some("kubernetes.io/service-name=kubernetes".into()),
        ..Scope::default()
    };
    let slices = Informer::<EndpointSlice>::start(&client, own_service, cancel.clone());
    let changed = Arc::new(Notify::new());
    let (on_lease, on_slice) = (changed.clone(), changed.clone());
    leases.subscribe(move |_| on_lease.notify_one());
    slices.subscribe(move |_| on_slice.notify_one());
    let work = async {
        leases.synced().await;
        slices.synced().await;
        let mut seen = Seen::new();
        let mut renew_at = Instant::now();
        loop {
            if Instant::now() >= renew_at {
                if let Err(cause) = renew(&rest, &me).await {
                    tracing::warn!(%cause, "the lease of this server");
                }
                renew_at = Instant::now() + RENEW_EVERY;
            }
            let live = live(&leases.list(), &mut seen, Instant::now(), me.address);
            let known: BTreeSet<IpAddr> = slices.list().iter().flat_map(|slice| addresses(slice)).collect();
            if live != known
                && let Err(cause) = publish(&rest, &live).await
            {
                tracing::warn!(%cause, "the addresses of the servers");
            }
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep_until(renew_at) => {}
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// Those whose lease moves on, and this server itself.
fn live(leases: &[Arc<Lease>], seen: &mut Seen, now: Instant, own: IpAddr) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::from([own]);
    for lease in leases {
        let name = lease.metadata.name.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let entry = seen.entry(name).or_insert_with(|| (version.clone(), now));
        if entry.0 != version {
            *entry = (version, now);
        }
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref());
        let address = holder.and_then(|text| text.parse::<std::net::SocketAddr>().ok()).map(|address| address.ip());
        if now.duration_since(entry.1) < LEASE {
            found.extend(address);
        }
    }
    found
}

fn addresses(slice: &EndpointSlice) -> Vec<IpAddr> {
    slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse().ok()).collect()
}

async fn renew(rest: &Rest, me: &Peer) -> Result<(), client::Error> {
    let key = ObjectKey::new(NAMESPACE, format!("coracle-server-{}", me.name));
    let object = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": key.name, "namespace": key.namespace, "labels": {LABEL: "true"}},
        "spec": {
            "holderIdentity": std::net::SocketAddr::new(me.address, me.port).to_string(),
            "leaseDurationSeconds": LEASE.as_secs(),
            "renewTime": micro_time(jiff::Timestamp::now()),
        },
    });
    rest.patch::<Lease>(&key, &Patch::Apply { object, field_manager: "coracle".into(), force: true }, "").await.map(drop)
}

fn micro_time(now: jiff::Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// The port is that of the server that made the objects: all servers of a cluster have the same one.
async fn publish(rest: &Rest, live: &BTreeSet<IpAddr>) -> Result<(), client::Error> {
    tracing::info!(?live, "servers of the cluster");
    let key = ObjectKey::new("default", "kubernetes");
    let endpoints: Vec<_> = live.iter().map(|address| json!({"addresses": [address.to_string()], "conditions": {"ready": true}})).collect();
    rest.patch::<EndpointSlice>(&key, &Patch::Merge(json!({"endpoints": endpoints})), "").await?;
    let old: Endpoints = rest.get(&key).await?;
    let ports = old.subsets.as_ref().and_then(|subsets| subsets.first()).map(|subset| json!(subset.ports));
    let addresses: Vec<_> = live.iter().map(|address| json!({"ip": address.to_string()})).collect();
    let subsets = json!({"subsets": [{"addresses": addresses, "ports": ports}]});
    rest.patch::<Endpoints>(&key, &Patch::Merge(subsets), "").await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_goes_and_the_own_stays() {
        let lease = |name: &str, holder: &str, version: &str| -> Arc<Lease> {
            let object = json!({"metadata": {"name": name, "resourceVersion": version}, "spec": {"holderIdentity": holder}});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let (own, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut seen = Seen::new();
        let start = Instant::now();
        let first = [lease("b", "192.0.2.2:6443", "5")];
        assert_eq!(live(&first, &mut seen, start, own), BTreeSet::from([own, other]));
        assert_eq!(live(&first, &mut seen, start + LEASE, own), BTreeSet::from([own]));
        let renewed = [lease("b", "192.0.2.2:6443", "6")];
        assert_eq!(live(&renewed, &mut seen, start + LEASE, own), BTreeSet::from([own, other]));
        assert_eq!(live(&[], &mut seen, start, own), BTreeSet::from([own]));
    }
}
