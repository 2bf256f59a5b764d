//! A whole cluster in one process and in virtual time: the real API server over the in-memory store, all
//! controllers, the scheduler, and simulated nodes, on tokio's paused clock.
//!
//! Invariant: nothing here knows a shortcut. Components talk to the API server by the same requests as in a real
//! cluster; only the kernel beneath the kubelet is pretended. Deliberately absent: threads and the wall clock, so
//! that the same seed yields the same run.

mod node;

use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use apiserver::ApiServer;
use client::{EventRecorder, Informers, Rest};
use controllers::{ControllerManager, ControllersConfig};
use scheduler::{Scheduler, SchedulerConfig};
use store::memory::MemoryStore;
use tokio_util::sync::CancellationToken;

pub use node::{ENDS_AFTER, EXIT_CODE, NodeConfig, READY_AFTER, STARTS_AFTER, SimulatedNode};

/// When every simulated cluster begins.
const BEGINNING: &str = "2026-01-01T00:00:00Z";

/// A running cluster; must live within a paused current-thread runtime to be reproducible.
pub struct SimulatedCluster {
    pub server: Arc<ApiServer>,
    pub clock: Clock,
    /// As an administrator.
    pub client: kube::Client,
    pub rest: Rest,
    pub seed: u64,
    cancel: CancellationToken,
}

impl SimulatedCluster {
    /// Starts API server, controllers and scheduler. The key signs service-account tokens; any P-256 key will do.
    pub async fn start(seed: u64, service_account_key_pem: String) -> Result<SimulatedCluster, apiserver::StartError> {
        let clock = Clock::starting_at(BEGINNING.parse().expect("a valid time"));
        let cancel = CancellationToken::new();
        let config = apiserver::Config {
            seed: Some(seed),
            cancel: cancel.clone(),
            ..apiserver::Config::new(Arc::new(MemoryStore::new()), clock.clone(), service_account_key_pem)
        };
        let server = ApiServer::new(config).await?;
        let client = client::in_process(server.in_process("sim", &["system:masters"]));
        let cluster = SimulatedCluster { rest: Rest::new(client.clone()), server, clock, client, seed, cancel };
        cluster.start_controllers();
        cluster.start_scheduler();
        Ok(cluster)
    }

    /// Adds a node; cancelling the token is its death.
    pub fn add_node(&self, config: NodeConfig) -> CancellationToken {
        let user = format!("system:node:{}", config.name);
        let client = client::in_process_as(self.server.in_process(&user, &["system:nodes"]), "kubelet");
        let cancel = self.cancel.child_token();
        tokio::spawn(SimulatedNode::run(config, client, self.clock.clone(), cancel.clone()));
        cancel
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

    fn start_controllers(&self) {
        let user = self.server.in_process("system:kube-controller-manager", &[]);
        let client = client::in_process_as(user, "kube-controller-manager");
        let informers = Informers::new(client.clone(), self.cancel.clone());
        let config = ControllersConfig { ca_pem: String::new() };
        let controllers = ControllerManager::new(client, informers, self.clock.clone(), config);
        tokio::spawn(controllers.run(self.cancel.clone()));
    }

    fn start_scheduler(&self) {
        let client = client::in_process_as(self.server.in_process("system:kube-scheduler", &[]), "kube-scheduler");
        let informers = Informers::new(client.clone(), self.cancel.clone());
        let recorder = EventRecorder::new(client.clone(), self.clock.clone(), "default-scheduler", "");
        let config = SchedulerConfig { seed: self.seed, ..SchedulerConfig::default() };
        let scheduler = Scheduler::new(client, informers, recorder, self.clock.clone(), config);
        tokio::spawn(scheduler.run(self.cancel.clone()));
    }
}

impl Drop for SimulatedCluster {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
