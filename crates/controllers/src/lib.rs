//! The controllers: each makes one kind of wish come true, through the API alone.
//!
//! Invariant: controllers know one another only by the objects they write. Each observes from shared
//! caches, decides purely, and acts through `context`; a stale cache never makes it act twice, because its
//! own writes are in the cache before the write returns.
//!
//! Deliberately absent: any access to the store, and any time but the clock that is handed in.

mod autoscaler;
mod bootstrap_tokens;
mod certificates;
mod cluster_roles;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod failure;
#[cfg(test)]
mod fixtures;
mod garbage;
mod history;
mod job;
mod load_balancer;
mod namespace;
mod node;
mod owners;
mod pods;
mod proportion;
mod replicaset;
mod resource_quota;
mod root_ca;
mod runner;
mod scheduling;
mod service_accounts;
mod service_ranges;
mod statefulset;
mod token_secrets;
mod ttl_after_finished;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use client::{Informers, Rest};
use futures::future::{BoxFuture, join_all};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use context::Context;
pub use load_balancer::{ANNOUNCER as ANNOUNCING_NODE, AddressPool, ingress as ingress_addresses};
use runner::{Controller, Queue};
pub use volumes::local_path::{LocalDirectories, OwnMachine};

/// The original's `--cluster-signing-duration` and `--node-monitor-grace-period`.
const DEFAULT_SIGNING_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);
const DEFAULT_NODE_MONITOR_GRACE_PERIOD: Duration = Duration::from_secs(50);

/// What every cluster has to say; all else has the original's defaults and is set on `ControllerManager`.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// PEM of the CA that signs the API server's certificate; published in every namespace.
    pub ca_pem: String,
}

/// What `Context` hands to the controllers. Not to be printed: it holds a private key.
#[derive(Clone)]
struct Settings {
    ca_pem: String,
    cluster_cidrs: Vec<IpNet>,
    terminated_pod_threshold: usize,
    local_paths: Option<volumes::local_path::LocalPaths>,
    signing_key_pem: Option<String>,
    signing_duration: Duration,
    node_monitor_grace_period: Duration,
    load_balancers: LoadBalancerSettings,
}

/// How Services of type LoadBalancer get their addresses.
#[derive(Clone, Debug, Default)]
pub struct LoadBalancerSettings {
    /// Without a pool Services get the addresses of the nodes.
    pub pool: Option<AddressPool>,
    /// TCP ports of the nodes that the cluster itself needs.
    pub reserved_ports: Vec<u16>,
    /// Somebody else serves them.
    pub disabled: bool,
}

/// All controllers of one cluster.
pub struct ControllerManager {
    client: kube::Client,
    informers: Arc<Informers>,
    clock: Clock,
    settings: Settings,
}

impl ControllerManager {
    pub fn new(client: kube::Client, informers: Arc<Informers>, clock: Clock, config: ControllersConfig) -> Self {
        let settings = Settings {
            ca_pem: config.ca_pem,
            cluster_cidrs: Vec::new(),
            terminated_pod_threshold: 12_500,
            local_paths: None,
            signing_key_pem: None,
            signing_duration: DEFAULT_SIGNING_DURATION,
            node_monitor_grace_period: DEFAULT_NODE_MONITOR_GRACE_PERIOD,
            load_balancers: LoadBalancerSettings::default(),
        };
        ControllerManager { client, informers, clock, settings }
    }

    /// Ranges that nodes get their pod addresses from, one per address family. Without them nodes get none.
    pub fn cluster_cidrs(mut self, ranges: Vec<IpNet>) -> Self {
        self.settings.cluster_cidrs = ranges;
        self
    }

    /// Finished pods that are kept before the oldest are removed; 0 keeps all.
    pub fn terminated_pod_threshold(mut self, count: usize) -> Self {
        self.settings.terminated_pod_threshold = count;
        self
    }

    /// Volumes of class `local-path` are directories below `root` on the nodes; without this the class is not there.
    pub fn local_paths(mut self, root: PathBuf, directories: Arc<dyn LocalDirectories>) -> Self {
        self.settings.local_paths = Some(volumes::local_path::LocalPaths { root, directories });
        self
    }

    /// The private key of the CA: approved certificate requests are signed with it. Without it they are not.
    pub fn signing_key_pem(mut self, key_pem: String) -> Self {
        self.settings.signing_key_pem = Some(key_pem);
        self
    }

    pub fn load_balancers(mut self, settings: LoadBalancerSettings) -> Self {
        self.settings.load_balancers = settings;
        self
    }

    /// How long a certificate lasts when its request does not ask for less.
    pub fn signing_duration(mut self, duration: Duration) -> Self {
        self.settings.signing_duration = duration;
        self
    }

    /// A node that gives no sign of life for so long is taken for dead.
    pub fn node_monitor_grace_period(mut self, duration: Duration) -> Self {
        self.settings.node_monitor_grace_period = duration;
        self
    }

    /// Runs every controller until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let ControllerManager { client, informers, clock, settings } = self;
        let context = &Arc::new(Context { rest: Rest::new(client), informers, clock, settings });
        let mut controllers: Vec<Arc<dyn Controller>> = vec![
            Arc::new(replicaset::ReplicaSets::new(context)),
            Arc::new(replicaset::ReplicationControllers::new(context)),
            Arc::new(deployment::Deployments::new(context)),
            Arc::new(endpoints::slices::EndpointSlices::new(context)),
            Arc::new(endpoints::legacy::LegacyEndpoints::new(context)),
            Arc::new(endpoints::mirroring::EndpointSliceMirroring::new(context)),
            Arc::new(namespace::Namespaces::new(context)),
            Arc::new(service_accounts::ServiceAccounts::new(context)),
            Arc::new(root_ca::RootCa::new(context)),
            Arc::new(service_ranges::ServiceRanges::new(context)),
            Arc::new(node::lifecycle::NodeLifecycle::new(context)),
            Arc::new(node::eviction::TaintEviction::new(context)),
            Arc::new(node::ipam::NodeIpam::new(context)),
            Arc::new(node::ttl::NodeTtl::new(context)),
            Arc::new(node::pod_gc::PodGc::new(context)),
            Arc::new(statefulset::StatefulSets::new(context)),
            Arc::new(daemonset::DaemonSets::new(context)),
            Arc::new(job::Jobs::new(context)),
            Arc::new(cronjob::CronJobs::new(context)),
            Arc::new(ttl_after_finished::TtlAfterFinished::new(context)),
            Arc::new(cluster_roles::ClusterRoleAggregation::new(context)),
            // `volumes` is the only binder, protector and maker of claims: a second one (`volume`) would fight it.
            Arc::new(volumes::claim::Claims::new(context)),
            Arc::new(volumes::volume::Volumes::new(context)),
            Arc::new(volumes::local_path::LocalPathClass::new(context)),
            Arc::new(volumes::protection::ClaimProtection::new(context)),
            Arc::new(volumes::protection::VolumeProtection::new(context)),
            Arc::new(volumes::ephemeral::EphemeralVolumes::new(context)),
            Arc::new(disruption::Disruption::new(context)),
            Arc::new(disruption::stale::StaleDisruption::new(context)),
            Arc::new(resource_quota::ResourceQuotas::new(context)),
            Arc::new(certificates::approving::Approving::new(context)),
            Arc::new(certificates::signing::Signing::new(context)),
            Arc::new(certificates::cleaning::Cleaning::new(context)),
            Arc::new(token_secrets::TokenSecrets::new(context)),
            Arc::new(bootstrap_tokens::TokenCleaner::new(context)),
            Arc::new(bootstrap_tokens::BootstrapSigner::new(context)),
            Arc::new(autoscaler::HorizontalAutoscaler::new(context)),
        ];
        if !context.settings.load_balancers.disabled {
            controllers.push(Arc::new(load_balancer::LoadBalancers::new(context)));
        }
        let mut running: Vec<BoxFuture<'_, ()>> = Vec::new();
        running.push(Box::pin(garbage::GarbageCollector::new(context).run(cancel.clone())));
        for controller in controllers {
            let queue = Queue::with_longest_delay(controller.longest_delay()).named(runner::queue_name(controller.name()));
            controller.watch(&queue);
            let informers = context.informers.clone();
            let synced = async move { informers.synced().await };
            running.push(Box::pin(runner::run(controller, synced, queue, cancel.clone())));
        }
        join_all(running).await;
    }
}

