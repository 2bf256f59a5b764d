//! NetworkPolicies to nftables: each node judges what goes to and comes from its own pods.
//!
//! Invariant: what the kernel holds is a function of NetworkPolicies, Pods and Namespaces; without any policy it is
//! nothing at all. A change is one transaction; connections that were let through stay so.
//!
//! `PolicyEnforcer::run` (informers) -> [`decide`] (pure) -> [`table`] -> one transaction. The cluster's DNS, which is
//! no pod here, counts as a pod with the labels that policies know it by.
//!
//! Deliberately absent: traffic of pods in the host's network (as the API's description says, undefined), and of the
//! node itself to its own pods (always allowed). A pod's very first packets may pass before its address is known here.

mod decide;
mod table;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use net::NetError;
use net::nft::{Family, NftSocket, Table, TableWatch, Transaction};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use decide::{Desired, PodFacts, decide};
use table::PolicyTable;

/// Changes that come within this time of a transaction share the next one.
const PAUSE: Duration = Duration::from_millis(5);
const BACKOFF: Duration = Duration::from_secs(1);
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// nftables table; one for each cluster on a machine.
    pub table: String,
    pub node_name: String,
    pub cluster_dns: Vec<IpAddr>,
}

/// Works in the network namespace of the thread that made it.
pub struct PolicyEnforcer {
    config: PolicyConfig,
    informers: Arc<Informers>,
    kernel: Arc<Mutex<Kernel>>,
}

struct Kernel {
    table: Table,
    nft: NftSocket,
    /// None: not known, so all is replaced.
    held: Option<Desired>,
}

impl PolicyEnforcer {
    pub fn new(config: PolicyConfig, informers: Arc<Informers>) -> Result<PolicyEnforcer, NetError> {
        let table = Table::new(Family::Ipv4, &config.table);
        let kernel = Kernel { table, nft: NftSocket::open()?, held: None };
        Ok(PolicyEnforcer { config, informers, kernel: Arc::new(Mutex::new(kernel)) })
    }

    /// Until cancelled. The rules stay: a restart must not open anything.
    pub async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(self) {
        let changed = Arc::new(Notify::new());
        let policies: Arc<Informer<NetworkPolicy>> = self.informers.of();
        let notify = changed.clone();
        policies.subscribe(move |_| notify.notify_one());
        policies.synced().await;
        let watch = self.kernel.lock().watch();
        let watch = watch.inspect_err(|error| tracing::warn!(%error, "changes by others will go unnoticed")).ok();
        // Pods and namespaces are of no interest until somebody makes a policy.
        let mut world = None;
        loop {
            let wanted = match policies.list() {
                none if none.is_empty() => Desired::default(),
                policies => {
                    if world.is_none() {
                        world = Some(World::observe(&self.informers, &self.config, &changed).await);
                    }
                    let world = world.as_ref().expect("made just above");
                    decide(policies.iter().map(AsRef::as_ref), &world.pods(), &world.namespaces())
                }
            };
            let kernel = self.kernel.clone();
            let outcome = tokio::task::spawn_blocking(move || kernel.lock().synchronize(wanted)).await;
            let failed = match outcome {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = &failed {
                tracing::warn!(%error, "NetworkPolicies could not be programmed; all rules will be replaced");
            }
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                () = changed.notified() => {}
                () = crate::run::tampered(watch.as_ref()) => {
                    tracing::warn!("somebody else changed the rules of NetworkPolicies; all of them will be replaced");
                    self.kernel.lock().held = None;
                }
                () = tokio::time::sleep(BACKOFF), if failed.is_some() => {}
            }
        }
    }
}

impl Kernel {
    fn watch(&self) -> Result<TableWatch, NetError> {
        TableWatch::open(vec![self.table.clone()], &self.nft)
    }

    fn synchronize(&mut self, wanted: Desired) -> Result<(), NetError> {
        let held = self.held.take();
        if held.as_ref() == Some(&wanted) {
            self.held = held;
            return Ok(());
        }
        let table = PolicyTable { table: &self.table };
        let mut transaction = Transaction::new();
        match &held {
            _ if wanted == Desired::default() => {
                if self.nft.tables()?.contains(&self.table) {
                    transaction.delete_table(&self.table);
                }
            }
            Some(held) if held.same_rules(&wanted) => table.change_elements(&mut transaction, held, &wanted),
            _ => table.replace(&mut transaction, &wanted),
        }
        if !transaction.is_empty() {
            transaction.commit(&self.nft)?;
        }
        self.held = Some(wanted);
        Ok(())
    }
}

/// What policies select from.
struct World {
    pods: Arc<Informer<Pod>>,
    namespaces: Arc<Informer<Namespace>>,
    node_name: String,
    dns: PodFacts,
}

impl World {
    async fn observe(informers: &Informers, config: &PolicyConfig, changed: &Arc<Notify>) -> World {
        let dns = PodFacts {
            namespace: "kube-system".into(),
            labels: BTreeMap::from([("k8s-app".into(), "kube-dns".into())]),
            addresses: config.cluster_dns.clone(),
            local: false,
            ports: vec![("dns".into(), crate::entry::UDP, 53), ("dns-tcp".into(), crate::entry::TCP, 53)],
        };
        let world = World {
            pods: informers.of(),
            namespaces: informers.of(),
            node_name: config.node_name.clone(),
            dns,
        };
        let (notify, node) = (changed.clone(), config.node_name.clone());
        world.pods.subscribe(move |change| {
            let facts = |pod: &Pod| PodFacts::of(pod, &node);
            if change.old().is_none_or(|old| facts(old) != facts(change.object())) {
                notify.notify_one();
            }
        });
        let notify = changed.clone();
        world.namespaces.subscribe(move |change| {
            if change.old().is_none_or(|old| old.metadata.labels != change.object().metadata.labels) {
                notify.notify_one();
            }
        });
        world.pods.synced().await;
        world.namespaces.synced().await;
        world
    }

    fn pods(&self) -> Vec<PodFacts> {
        let listed = self.pods.list();
        let pods = listed.iter().filter_map(|pod| PodFacts::of(pod, &self.node_name));
        pods.chain([self.dns.clone()]).collect()
    }

    fn namespaces(&self) -> BTreeMap<String, decide::Labels> {
        let listed = self.namespaces.list();
        let labels = listed.iter().map(|namespace| {
            let name = namespace.metadata.name.clone().unwrap_or_default();
            let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
            labels.entry(NAME_LABEL.into()).or_insert_with(|| name.clone());
            (name, labels)
        });
        labels.collect()
    }
}
