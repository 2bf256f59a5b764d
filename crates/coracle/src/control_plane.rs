//! Controllers and scheduler, as parts of a server or alone.

use std::sync::Arc;

use api::clock::Clock;
use client::lease::LeaseConfig;
use client::{EventRecorder, Informers, ObjectKey};
use controllers::{ControllerManager, ControllersConfig, LoadBalancerSettings, OwnMachine};
use scheduler::{Scheduler, SchedulerConfig};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::local_volumes::Everywhere;

/// The cluster's certificate authority, both PEM.
#[derive(Clone)]
pub struct Authority {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Runs the controllers in the background; `administrator` reaches nodes for their local volumes.
pub fn controller_manager(
    config: &Config,
    turns: &Turns,
    client: kube::Client,
    administrator: kube::Client,
    authority: Authority,
    clock: &Clock,
) {
    let (config, clock) = (config.clone(), clock.clone());
    turns.run("kube-controller-manager", client, move |client, informers, stop| {
        let settings = ControllersConfig { ca_pem: authority.certificate_pem.clone() };
        let controllers = ControllerManager::new(client, informers, clock.clone(), settings)
            .signing_key_pem(authority.key_pem.clone())
            .signing_duration(config.cluster_signing_duration)
            .cluster_cidrs(vec![config.cluster_cidr])
            .node_monitor_grace_period(config.node_monitor_grace_period)
            .load_balancers(LoadBalancerSettings {
                pool: config.load_balancer_pool.clone(),
                reserved_ports: vec![config.https_listen_port, config.kubelet_port],
                disabled: !config.enables("servicelb"),
            });
        let controllers = match config.enables("local-storage") {
            true => controllers.local_paths(
                config.data_dir.join("storage"),
                Arc::new(Everywhere { own: OwnMachine { node_name: config.node_name.clone() }, client: administrator.clone() }),
            ),
            false => controllers,
        };
        controllers.run(stop)
    });
}

/// Runs the scheduler in the background.
pub fn scheduler(config: &Config, turns: &Turns, client: kube::Client, clock: &Clock) {
    let (clock, node_name, profiles) = (clock.clone(), config.node_name.clone(), config.scheduler.clone());
    turns.run("kube-scheduler", client, move |client, informers, stop| {
        let recorder = EventRecorder::new(client.clone(), clock.clone(), "default-scheduler", &node_name);
        let seed = clock.now().as_nanosecond() as u64; // Any will do: it only breaks ties.
        let settings = SchedulerConfig { seed, ..profiles.clone() };
        Scheduler::new(client, informers, recorder, clock.clone(), settings).run(stop)
    });
}

/// Who runs a part, and when.
pub struct Turns {
    cancel: CancellationToken,
    /// With a lease; without one it runs at once, with these caches.
    turn: Turn,
}

enum Turn {
    Alone { informers: Arc<Informers> },
    Lease { identity: String, clock: Clock },
}

impl Turns {
    /// There is no other that could run it.
    pub fn alone(informers: &Arc<Informers>, cancel: &CancellationToken) -> Turns {
        Turns { cancel: cancel.clone(), turn: Turn::Alone { informers: informers.clone() } }
    }

    /// Of several, the one that holds the part's Lease in `kube-system` runs it.
    pub fn by_lease(node_name: &str, clock: &Clock, cancel: &CancellationToken) -> Turns {
        // Names one run of one process: after a crash even an own lease is waited for.
        let identity = format!("{node_name}_{:x}", clock.now().as_nanosecond());
        Turns { cancel: cancel.clone(), turn: Turn::Lease { identity, clock: clock.clone() } }
    }

    fn run<F, Fut>(&self, part: &'static str, client: kube::Client, make: F)
    where
        F: Fn(kube::Client, Arc<Informers>, CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let cancel = self.cancel.clone();
        let (identity, clock) = match &self.turn {
            Turn::Alone { informers } => {
                tokio::spawn(make(client, informers.clone(), cancel));
                return;
            }
            Turn::Lease { identity, clock } => (identity.clone(), clock.clone()),
        };
        tokio::spawn(async move {
            while !cancel.is_cancelled() {
                let lease = ObjectKey { namespace: "kube-system".to_string(), name: part.to_string() };
                let config = LeaseConfig::new(lease, &identity);
                let work = |stop: CancellationToken| {
                    // Of this turn only: what subscribes to them ends with it.
                    let ended = stop.child_token();
                    let client = client::lease::fenced(&client, ended.clone());
                    let work = make(client.clone(), Informers::new(client, ended.clone()), stop);
                    async move {
                        let _guard = ended.drop_guard();
                        work.await;
                    }
                };
                client::lease::lead(client.clone(), clock.clone(), config, cancel.clone(), work).await;
            }
        });
    }
}
