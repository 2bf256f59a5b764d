//! A whole cluster in one process and in virtual time: the real API server over the in-memory store, all
//! controllers, the scheduler, and simulated nodes, on tokio's paused clock.
//!
//! Invariant: nothing here knows a shortcut. Components talk to the API server by the same requests as in a real
//! cluster; only the kernel beneath the kubelet is pretended, and only what could happen on a network happens on the
//! way. Deliberately absent: threads and the wall clock, so that the same seed yields the same run.

mod answers;
mod components;
mod faults;
mod invariants;
mod leaders;
mod link;
mod node;
mod pod_facts;
mod script;
mod serve;
mod workload;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::clock::Clock;
use apiserver::ApiServer;
use client::Rest;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use components::Component;
use leaders::Leaders;
use link::{Link, Network, Speaker};
use node::{Running, SimulatedNode};
use world::{Watched, WatchedStore};

pub use faults::{FaultRates, Faults};
pub use node::NodeConfig;
pub use pod_facts::PodFacts;
pub use script::{CRASHES, ENDS_AFTER, EXIT_CODE, FAILS_PERCENT, FLAPS_AFTER, READY_AFTER, STARTS_AFTER};
pub use serve::{ServeConfig, ServeError, serve};
pub use workload::Workload;
pub use world::World;

/// When every simulated cluster begins.
const BEGINNING: &str = "2026-01-01T00:00:00Z";

/// How a simulated cluster is made.
pub struct ClusterConfig {
    pub seed: u64,
    /// Signs service-account tokens; any P-256 key will do.
    pub service_account_key_pem: String,
    /// Copies of the controller manager and of the scheduler, of which one each leads.
    pub copies: usize,
    /// The most that a component's clock differs from the API server's.
    pub skew_max: Duration,
}

impl ClusterConfig {
    pub fn new(seed: u64, service_account_key_pem: String) -> ClusterConfig {
        ClusterConfig { seed, service_account_key_pem, copies: 1, skew_max: Duration::ZERO }
    }
}

/// A running cluster; must live within a paused current-thread runtime to be reproducible.
pub struct SimulatedCluster {
    pub clock: Clock,
    /// As an administrator, whom faults spare.
    pub client: kube::Client,
    pub rest: Rest,
    pub seed: u64,
    pub faults: Faults,
    config: ClusterConfig,
    store: Arc<WatchedStore>,
    watched: Arc<Mutex<Watched>>,
    network: Network,
    running: Arc<Running>,
    components: Arc<Mutex<BTreeMap<String, Link>>>,
    /// Servers started so far: each has uids and names of its own.
    servers: AtomicU64,
    cancel: CancellationToken,
}

impl SimulatedCluster {
    /// Starts API server, controllers and scheduler, one copy each.
    pub async fn start(seed: u64, service_account_key_pem: String) -> Result<SimulatedCluster, apiserver::StartError> {
        Self::start_with(ClusterConfig::new(seed, service_account_key_pem)).await
    }

    pub async fn start_with(config: ClusterConfig) -> Result<SimulatedCluster, apiserver::StartError> {
        let clock = Clock::starting_at(BEGINNING.parse().expect("a valid time"));
        let leaders = Arc::new(Leaders::default());
        let (store, watched) = WatchedStore::new(leaders.clone());
        let faults = Faults::new(config.seed);
        let network = Network::new(faults.clone(), leaders);
        let administrator = Speaker { user: "sim".into(), groups: vec!["system:masters"], identity: None, mortal: false, spared: true };
        let client = Link::new(&network, administrator).client("sim");
        let cluster = SimulatedCluster {
            clock,
            rest: Rest::new(client.clone()),
            client,
            seed: config.seed,
            faults,
            store: Arc::new(store),
            watched,
            network,
            running: Arc::default(),
            components: Arc::default(),
            servers: AtomicU64::new(0),
            cancel: CancellationToken::new(),
            config,
        };
        cluster.start_server().await?;
        for copy in 0..cluster.config.copies {
            for component in Component::ALL {
                cluster.keep_alive(component, copy);
            }
        }
        Ok(cluster)
    }

    async fn start_server(&self) -> Result<(), apiserver::StartError> {
        let stop = self.cancel.child_token();
        let number = self.servers.fetch_add(1, Ordering::Relaxed);
        let config = apiserver::Config {
            seed: Some(self.seed.wrapping_add(number << 32)),
            cancel: stop.clone(),
            ..apiserver::Config::new(self.store.clone(), self.clock.clone(), self.config.service_account_key_pem.clone())
        };
        let server = ApiServer::new(config).await?;
        self.network.connect(server, stop);
        Ok(())
    }

    /// The API server crashes and is back, with the same store, after `down`.
    pub async fn restart_server(&self, down: Duration) -> Result<(), apiserver::StartError> {
        self.network.disconnect();
        tokio::time::sleep(down).await;
        self.start_server().await
    }

    /// Runs one copy of a component, and another life of it whenever it ends.
    fn keep_alive(&self, component: Component, copy: usize) {
        let (network, links, cancel) = (self.network.clone(), self.components.clone(), self.cancel.clone());
        let (faults, seed, elections) = (self.faults.clone(), self.seed, self.config.copies > 1);
        let clock = self.skewed_clock();
        tokio::spawn(async move {
            for life in 0.. {
                let identity = format!("{}_{copy}-{life}", component.name());
                let speaker = Speaker {
                    user: format!("system:{}", component.name()),
                    groups: Vec::new(),
                    identity: elections.then(|| identity.clone()),
                    mortal: true,
                    spared: false,
                };
                let link = Link::new(&network, speaker);
                links.lock().insert(format!("{}-{copy}", component.name()), link.clone());
                let stop = cancel.child_token();
                let elected = elections.then_some(identity);
                let run = component.run(link.clone(), clock.clone(), seed.wrapping_add(life), elected, stop.clone());
                let mut running: JoinHandle<()> = tokio::spawn(run);
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = link.died() => {}
                    _ = &mut running => {}
                }
                link.kill();
                stop.cancel();
                running.abort();
                tokio::time::sleep(Duration::from_millis(100) + faults.below(Duration::from_secs(2))).await;
            }
        });
    }

    /// Ends the present life of a component such as `kube-scheduler-0`; another begins soon.
    pub fn kill(&self, component: &str) {
        if let Some(link) = self.components.lock().get(component) {
            link.kill();
        }
    }

    /// Parts a component from the API server, or joins it again.
    pub fn set_cut(&self, component: &str, cut: bool) {
        if let Some(link) = self.components.lock().get(component) {
            link.set_cut(cut);
        }
    }

    /// Serves an API group in the place of an extension API server: by path and query, `None` is not found.
    pub fn serve_group(&self, group: &str, answer: impl Fn(&str) -> Option<serde_json::Value> + Send + Sync + 'static) {
        self.network.extend(group, Arc::new(answer));
    }

    /// The identity of who leads: `kube-scheduler_0-0`.
    pub fn leader(&self, lease: &str) -> Option<String> {
        self.network.leaders.holder(lease)
    }

    /// Adds a node.
    pub fn add_node(&self, config: NodeConfig) -> NodeHandle {
        let machine = Machine {
            config,
            network: self.network.clone(),
            clock: self.skewed_clock(),
            running: self.running.clone(),
            cancel: self.cancel.clone(),
        };
        let node = NodeHandle { machine, on: Mutex::new(None) };
        node.boot();
        node
    }

    fn skewed_clock(&self) -> Clock {
        let most = self.config.skew_max;
        if most.is_zero() {
            return self.clock.clone();
        }
        let skew = SignedDuration::try_from(self.faults.below(most * 2)).unwrap_or_default() - SignedDuration::try_from(most).unwrap_or_default();
        let start: Timestamp = self.clock.now().checked_add(skew).expect("a small step from a valid time");
        Clock::starting_at(start)
    }

    /// Looks again and again, in virtual time, until `wanted` yields something or `within` has passed.
    pub async fn eventually<T>(&self, within: Duration, wanted: impl AsyncFn() -> Option<T>) -> Option<T> {
        let end = tokio::time::Instant::now() + within;
        loop {
            if let Some(found) = wanted().await {
                return Some(found);
            }
            if tokio::time::Instant::now() >= end {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns when everything has come to rest; `Err` says what has not after `within`.
    pub async fn settles(&self, within: Duration) -> Result<(), Vec<String>> {
        let end = tokio::time::Instant::now() + within;
        let mut quiet = 0;
        loop {
            let unsettled = self.watched.lock().unsettled();
            quiet = if unsettled.is_empty() { quiet + 1 } else { 0 };
            if quiet == 4 {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                return Err(unsettled);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// What was broken so far; `at_rest` also says what may be so only while things move.
    pub fn broken(&self, at_rest: bool) -> Vec<String> {
        let mut broken = self.watched.lock().broken(at_rest);
        broken.extend(self.running.take_broken());
        broken.extend(self.network.take_broken());
        broken
    }

    /// Looks at the world as the store has it.
    pub fn world<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.watched.lock().world)
    }
}

impl Drop for SimulatedCluster {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A simulated machine that can be switched off, parted from the network, and brought back.
pub struct NodeHandle {
    machine: Machine,
    on: Mutex<Option<(Link, CancellationToken)>>,
}

struct Machine {
    config: NodeConfig,
    network: Network,
    clock: Clock,
    running: Arc<Running>,
    cancel: CancellationToken,
}

impl NodeHandle {
    pub fn name(&self) -> &str {
        &self.machine.config.name
    }

    /// Switches it on, if it is off.
    pub fn boot(&self) {
        let mut on = self.on.lock();
        if on.is_some() {
            return;
        }
        let Machine { config, network, clock, running, cancel } = &self.machine;
        let user = format!("system:node:{}", config.name);
        let speaker = Speaker { user, groups: vec!["system:nodes"], identity: None, mortal: false, spared: false };
        let link = Link::new(network, speaker);
        let stop = cancel.child_token();
        tokio::spawn(SimulatedNode::run(config.clone(), link.client("kubelet"), clock.clone(), running.clone(), stop.clone()));
        *on = Some((link, stop));
    }

    /// Its power fails: whatever runs on it runs no more.
    pub fn crash(&self) {
        if let Some((link, stop)) = self.on.lock().take() {
            link.kill();
            stop.cancel();
            self.machine.running.stop_all(&self.machine.config.name);
        }
    }

    /// Parts it from the API server, or joins it again; its pods go on.
    pub fn set_cut(&self, cut: bool) {
        if let Some((link, _)) = &*self.on.lock() {
            link.set_cut(cut);
        }
    }
}
