//! Keeps the kernel's rules what Services and EndpointSlices say.
//!
//! ```text
//! starting --first lists are there--> replace the table, all in one transaction
//! following: changed keys --decide--> plan --one transaction--> following
//!                                              \--refused--> replace the table, with backoff
//! following: somebody else deletes rules of ours --> replace the table
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers, ObjectKey, Scope};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::NetError;
use net::conntrack::ConntrackSocket;
use net::nft::{Element, ElementData, Family, NftSocket, Table, TableWatch, Transaction};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::decide::{HealthCheck, Surroundings, decide};
use crate::endpoints::Place;
use crate::entry::{Frontend, UDP};
use crate::flows::stale;
use crate::health::HealthServers;
use crate::state::{Plan, State};
use crate::table::ServiceTable;

/// Changes that come within this time of a transaction share the next one.
const PAUSE: Duration = Duration::from_millis(2);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const BY_SERVICE: &str = "proxy: service";

#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// nftables table; one for each cluster on a machine.
    pub table: String,
    pub node_name: String,
    /// Pods' addresses, one range for each address family in use. Clients from elsewhere are masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Addresses of the node on which node ports answer; empty: all.
    pub node_port_addresses: Vec<IpNet>,
    /// Served by this node itself, not through endpoints: the cluster's DNS.
    pub skip_cluster_ips: Vec<IpAddr>,
}

/// Works in the network namespace of the thread that made it.
pub struct Proxy {
    informers: Arc<Informers>,
    place: Place,
    kernel: Arc<Mutex<Kernel>>,
}

impl Proxy {
    pub fn new(config: ProxyConfig, informers: Arc<Informers>) -> Result<Proxy, NetError> {
        let place = Place { node: config.node_name.clone(), zone: String::new() };
        let kernel = Arc::new(Mutex::new(Kernel::new(&config)?));
        Ok(Proxy { informers, place, kernel })
    }

    /// Until cancelled. The rules stay: connections must not suffer from a restart. See [`Proxy::clean_up`].
    pub async fn run(self, cancel: CancellationToken) {
        let own = cancel.child_token();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.follow(own.clone()) => {}
        }
        own.cancel();
    }

    /// Removes every rule of this table name.
    pub fn clean_up(table: &str) -> Result<(), NetError> {
        let nft = NftSocket::open()?;
        let mut transaction = Transaction::new();
        for found in nft.tables()?.iter().filter(|found| found.name == table) {
            transaction.delete_table(found);
        }
        transaction.commit(&nft)
    }

    async fn follow(mut self, cancel: CancellationToken) {
        let world = World::observe(&self.informers, &self.place.node, cancel);
        world.synced().await;
        let watch = self.kernel.lock().watch();
        let watch = watch.inspect_err(|error| tracing::warn!(%error, "changes by others will go unnoticed")).ok();
        let mut health = HealthServers::default();
        let mut backoff = BACKOFF_MIN;
        let mut replace = true;
        loop {
            let dirty = world.dirty.take();
            self.place.zone = world.zone(&self.place.node);
            let begun = Instant::now();
            let outcome = self.synchronize(&world, dirty, replace).await;
            match outcome {
                Ok(checks) => {
                    health.update(checks).await;
                    (replace, backoff) = (false, BACKOFF_MIN);
                }
                Err(error) => {
                    tracing::warn!(%error, "Services could not be programmed; all rules will be replaced");
                    tokio::time::sleep(backoff).await;
                    (replace, backoff) = (true, (backoff * 2).min(BACKOFF_MAX));
                    continue;
                }
            }
            tokio::time::sleep_until(begun + PAUSE).await;
            tokio::select! {
                () = world.dirty.changed() => {}
                () = tampered(watch.as_ref()) => {
                    tracing::warn!("somebody else changed the rules of Services; all of them will be replaced");
                    tokio::time::sleep(BACKOFF_MIN).await;
                    replace = true;
                }
            }
        }
    }

    /// Off the runtime's threads: a full load takes tens of milliseconds.
    async fn synchronize(
        &self,
        world: &Arc<World>,
        dirty: DirtyKeys,
        replace: bool,
    ) -> Result<HealthChanges, NetError> {
        let (kernel, world, place) = (self.kernel.clone(), world.clone(), self.place.clone());
        let work = move || {
            let mut kernel = kernel.lock();
            let moved = kernel.set_place(place);
            let look = |key: &ObjectKey| world.look(key);
            if replace {
                kernel.replace(world.keys(), look)
            } else if moved || dirty.everything {
                let keys = kernel.known().chain(world.keys()).collect();
                kernel.change(keys, look)
            } else {
                kernel.change(dirty.keys, look)
            }
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(outcome) => outcome,
            Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
            Err(_) => Err(NetError::Invalid { what: "the program is shutting down".into() }),
        }
    }
}

/// Never, if it could not be watched.
pub(crate) async fn tampered(watch: Option<&TableWatch>) {
    match watch {
        Some(watch) => watch.tampered().await,
        None => std::future::pending().await,
    }
}

/// What each looked-at Service wants of its health check; none: no server.
pub(crate) type HealthChanges = Vec<(ObjectKey, Option<HealthCheck>)>;

/// A Service, if it exists, and its slices.
pub(crate) type Seen = (Option<Arc<Service>>, Vec<Arc<EndpointSlice>>);

/// The informers, and what changed in them since it was last looked at.
struct World {
    services: Arc<Informer<Service>>,
    slices: Arc<Informer<EndpointSlice>>,
    nodes: Arc<Informer<Node>>,
    dirty: Arc<Dirty>,
}

#[derive(Default)]
struct Dirty {
    keys: Mutex<DirtyKeys>,
    changed: Notify,
}

/// Bounded by the number of Services: a set of keys.
#[derive(Default)]
struct DirtyKeys {
    keys: HashSet<ObjectKey>,
    everything: bool,
}

impl Dirty {
    fn add(&self, key: ObjectKey) {
        self.keys.lock().keys.insert(key);
        self.changed.notify_one();
    }

    fn add_everything(&self) {
        self.keys.lock().everything = true;
        self.changed.notify_one();
    }

    fn take(&self) -> DirtyKeys {
        std::mem::take(&mut self.keys.lock())
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl World {
    fn observe(informers: &Informers, node: &str, cancel: CancellationToken) -> Arc<World> {
        // Of all nodes only ours matters, and on a big cluster the others are many.
        let scope = Scope { field_selector: Some(format!("metadata.name={node}")), ..Scope::default() };
        let world = World {
            services: informers.of::<Service>(),
            slices: informers.of::<EndpointSlice>(),
            nodes: Informer::start(informers.client(), scope, cancel),
            dirty: Arc::new(Dirty::default()),
        };
        world.slices.index_by(BY_SERVICE, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
        let dirty = world.dirty.clone();
        world.services.subscribe(move |change| dirty.add(ObjectKey::of(&change.object().metadata)));
        let dirty = world.dirty.clone();
        world.slices.subscribe(move |change| {
            let slices = change.old().into_iter().chain([change.object()]);
            slices.filter_map(|slice| service_of(slice)).for_each(|key| dirty.add(key));
        });
        let dirty = world.dirty.clone();
        world.nodes.subscribe(move |change| {
            let zone = |node: &Node| node.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned();
            if change.old().is_none_or(|old| zone(old) != zone(change.object())) {
                dirty.add_everything();
            }
        });
        Arc::new(world)
    }

    async fn synced(&self) {
        // Not the node: it may not be registered yet, and without it only hints are missing.
        self.services.synced().await;
        self.slices.synced().await;
    }

    fn keys(&self) -> HashSet<ObjectKey> {
        self.services.list().iter().map(|service| ObjectKey::of(&service.metadata)).collect()
    }

    fn look(&self, key: &ObjectKey) -> Seen {
        (self.services.get(key), self.slices.indexed(BY_SERVICE, &key.to_string()))
    }

    fn zone(&self, node: &str) -> String {
        let node = self.nodes.get(&ObjectKey::cluster(node));
        let label = node.as_ref().and_then(|node| node.metadata.labels.as_ref()?.get(ZONE_LABEL));
        label.cloned().unwrap_or_default()
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// The rules in the kernel and what is known of them.
pub(crate) struct Kernel {
    tables: Vec<ServiceTable>,
    /// Of this name, but of a family that is not in use.
    unused: Vec<Table>,
    nft: NftSocket,
    conntrack: ConntrackSocket,
    state: State,
    surroundings: Surroundings,
}

impl Kernel {
    pub fn new(config: &ProxyConfig) -> Result<Kernel, NetError> {
        let mut tables: Vec<ServiceTable> = Vec::new();
        for cluster_cidr in &config.cluster_cidrs {
            let family = if cluster_cidr.addr().is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
            if tables.iter().all(|known| known.table.family != family) {
                tables.push(ServiceTable {
                    table: Table::new(family, &config.table),
                    cluster_cidr: *cluster_cidr,
                    node_port_addresses: config.node_port_addresses.clone(),
                });
            }
        }
        let is_used = |family| tables.iter().any(|known| known.table.family == family);
        if is_used(Family::Ipv4) {
            // Node ports of 127.0.0.1: the packets leave towards a pod with that source until they are masqueraded.
            net::sysctl::ensure("net/ipv4/conf/all/route_localnet", "1")?;
        }
        let surroundings = Surroundings {
            place: Place { node: config.node_name.clone(), zone: String::new() },
            skip_cluster_ips: config.skip_cluster_ips.clone(),
            ipv4: is_used(Family::Ipv4),
            ipv6: is_used(Family::Ipv6),
        };
        let unused = [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| !is_used(*family));
        Ok(Kernel {
            unused: unused.map(|family| Table::new(family, &config.table)).collect(),
            tables,
            nft: NftSocket::open()?,
            conntrack: ConntrackSocket::open()?,
            state: State::default(),
            surroundings,
        })
    }

    /// Whether it is another place than before.
    pub fn set_place(&mut self, place: Place) -> bool {
        let moved = self.surroundings.place != place;
        self.surroundings.place = place;
        moved
    }

    fn watch(&self) -> Result<TableWatch, NetError> {
        TableWatch::open(self.tables.iter().map(|known| known.table.clone()).collect(), &self.nft)
    }

    fn known(&self) -> impl Iterator<Item = ObjectKey> {
        self.state.services().cloned()
    }

    /// Looks at these Services and changes what they want changed.
    pub fn change(
        &mut self,
        keys: HashSet<ObjectKey>,
        look: impl Fn(&ObjectKey) -> Seen,
    ) -> Result<HealthChanges, NetError> {
        let mut plan = Plan::default();
        let health = self.plan(keys, look, &mut plan);
        if !plan.is_empty() {
            let mut transaction = Transaction::new();
            self.add(&mut transaction, &plan);
            transaction.commit(&self.nft)?;
            tracing::debug!("Services changed:\n{plan}");
        }
        self.forget_flows(&plan)?;
        Ok(health)
    }

    /// Throws away what is known and replaces the tables, in one step. Clients stay with their endpoints.
    pub fn replace(
        &mut self,
        keys: HashSet<ObjectKey>,
        look: impl Fn(&ObjectKey) -> Seen,
    ) -> Result<HealthChanges, NetError> {
        let mut found = HashMap::new();
        let mut clients = Vec::new();
        for table in &self.tables {
            for set in ServiceTable::endpoint_sets() {
                let elements = self.nft.elements(&table.table, set)?;
                for (frontend, slot, endpoint) in elements.iter().filter_map(|element| table.parse_slot(set, element)) {
                    let slots: &mut BTreeMap<u32, SocketAddr> = found.entry(frontend).or_default();
                    slots.insert(slot, endpoint);
                }
            }
            for set in ServiceTable::affinity_sets() {
                clients.push((table.clone(), set, self.nft.elements(&table.table, set)?));
            }
        }
        self.state = State::with_found_slots(found);
        let mut plan = Plan::default();
        let health = self.plan(keys, look, &mut plan);
        self.state.forget_found_slots();

        let mut transaction = Transaction::new();
        for table in self.nft.tables()?.iter().filter(|table| self.unused.contains(table)) {
            transaction.delete_table(table);
        }
        for table in &self.tables {
            table.replace(&mut transaction);
        }
        self.add(&mut transaction, &plan);
        for (table, set, elements) in clients {
            transaction.add_elements(&table.table, set, &elements.into_iter().filter(is_alive).collect::<Vec<_>>());
        }
        transaction.commit(&self.nft)?;
        self.forget_flows(&plan)?;
        Ok(health)
    }

    fn plan(&mut self, keys: HashSet<ObjectKey>, look: impl Fn(&ObjectKey) -> Seen, plan: &mut Plan) -> HealthChanges {
        let mut health = HealthChanges::new();
        for key in keys {
            let (service, slices) = look(&key);
            let decision = match &service {
                None => Default::default(),
                Some(service) => {
                    let previous = |frontend: &Frontend, first| self.state.slots(&key, frontend, first);
                    decide(service, &slices, &self.surroundings, &previous)
                }
            };
            self.state.update(&key, decision.entries, plan);
            health.push((key, decision.health_check));
        }
        self.state.remove_idle_picks(plan);
        health
    }

    fn add(&self, transaction: &mut Transaction, plan: &Plan) {
        for table in &self.tables {
            // A pick that goes away in this plan is no longer numbered; only its key in other maps is needed then.
            table.change(transaction, plan, |pick| self.state.pick_number(pick).unwrap_or_default());
        }
    }

    fn forget_flows(&self, plan: &Plan) -> Result<(), NetError> {
        if plan.udp.is_empty() {
            return Ok(());
        }
        let frontends = self.state.udp_endpoints(&plan.udp);
        for table in &self.tables {
            let flows = self.conntrack.flows(table.table.family, UDP)?;
            self.conntrack.forget(&stale(flows, &frontends))?;
        }
        Ok(())
    }
}

/// One that just ran out must not come back with no time left, which the kernel would take for no limit.
fn is_alive(element: &Element) -> bool {
    let has_time = element.expires_in.is_some_and(|left| left > Duration::from_secs(1));
    has_time && matches!(element.data, Some(ElementData::Value(_)))
}

#[cfg(test)]
mod tests;
