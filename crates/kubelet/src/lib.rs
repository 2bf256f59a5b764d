//! The node agent: makes the pods assigned to its node real, and reports what became of them.
//!
//! Invariants: it talks to the API server and to the container runtime and to nobody else; containers outlive it
//! and are found again by their labels; nothing in it polls but what the modules list as periodic.
//!
//! ```text
//! watch of own pods ──► dispatch ──► one worker per pod ──► pod::machine (pure) ──► effects ──► runtime, volumes, API
//! runtime events ─────────┘                 ▲ events ◄───────────────────────────────┘
//! ```
//!
//! Deliberately absent: networking of pods (the runtime asks `runtime::cri::PodNetwork`), scheduling, device
//! plugins, CSI, swap and topology management.

mod admission;
mod agent;
pub mod certificates;
mod cgroup;
mod container;
mod dispatch;
mod eviction;
#[cfg(test)]
mod fixtures;
mod gc;
mod image_pull;
mod logs;
mod node;
mod objects;
mod pod;
mod probe;
mod sandbox;
mod server;
mod tokens;
mod volume;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use client::{EventRecorder, Informer, Rest, Scope};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Service, Taint};
use runtime::cri::{ImageService, RuntimeService};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::cgroup::Cgroups;
use crate::dispatch::Dispatch;
use crate::node::machine::Machine;
use crate::node::{Identity, NodeAgent};
use crate::objects::Objects;
use crate::server::Server;
pub use crate::server::ServerConfig;
use crate::tokens::Tokens;
use crate::volume::Volumes;

/// What the node says it runs.
pub const KUBERNETES_VERSION: &str = "v1.35.0";
pub const DEFAULT_PORT: u16 = 10250;
pub const DEFAULT_MAX_PODS: i64 = 110;
/// What `max_container_restart_period` may be at most.
pub const LONGEST_RESTART_WAIT: Duration = Duration::from_mins(5);
pub const DEFAULT_NODE_LEASE_DURATION: Duration = Duration::from_secs(40);

/// Settings of one node. `Default` fits a machine of its own.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    pub node_name: String,
    /// Primary address first.
    pub node_ips: Vec<IpAddr>,
    /// `<data-dir>/agent/kubelet`.
    pub data_dir: PathBuf,
    /// Pods' logs; `<data-dir>/agent/logs` or `/var/log/pods`.
    pub log_dir: PathBuf,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The host's resolver file.
    pub resolv_conf: PathBuf,
    /// Written into the Node when given; otherwise somebody else assigns it.
    pub pod_cidr: Option<String>,
    pub max_pods: i64,
    /// `/` on a machine of its own; one name per node where several share a machine.
    pub cgroup_root: String,
    /// Processes per pod; 0 is no limit.
    pub pod_pids_limit: i64,
    pub node_labels: BTreeMap<String, String>,
    pub register_with_taints: Vec<Taint>,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub system_reserved_cpu_millis: i64,
    pub system_reserved_memory_bytes: i64,
    /// The port that the Node names, where the server listens.
    pub port: u16,
    /// The node's lease is renewed after a quarter of it.
    pub node_lease_duration: Duration,
    /// The longest wait before a container that keeps ending is started again.
    pub max_container_restart_period: Duration,
    /// Without it the agent has no API of its own: no logs, exec and port forwarding.
    pub server: Option<ServerConfig>,
    /// Woken by whoever knows that something the Node tells of has changed, such as the network's readiness.
    pub node_changed: Arc<Notify>,
}

impl Default for KubeletConfig {
    fn default() -> Self {
        KubeletConfig {
            node_name: String::new(),
            node_ips: Vec::new(),
            data_dir: "/var/lib/coracle/agent/kubelet".into(),
            log_dir: "/var/log/pods".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: "/etc/resolv.conf".into(),
            pod_cidr: None,
            max_pods: DEFAULT_MAX_PODS,
            cgroup_root: "/".to_owned(),
            pod_pids_limit: 0,
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            allowed_unsafe_sysctls: Vec::new(),
            system_reserved_cpu_millis: 0,
            system_reserved_memory_bytes: 0,
            port: DEFAULT_PORT,
            node_lease_duration: DEFAULT_NODE_LEASE_DURATION,
            max_container_restart_period: LONGEST_RESTART_WAIT,
            server: None,
            node_changed: Arc::default(),
        }
    }
}

pub struct Kubelet {
    config: KubeletConfig,
    client: kube::Client,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    clock: Clock,
}

impl Kubelet {
    pub fn new(
        config: KubeletConfig,
        client: kube::Client,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
        clock: Clock,
    ) -> Kubelet {
        Kubelet { config, client, runtime, images, clock }
    }

    /// Until cancelled. Pods keep running after it returns.
    pub async fn run(self, cancel: CancellationToken) {
        let recorder = EventRecorder::new(self.client.clone(), self.clock.clone(), "kubelet", &self.config.node_name);
        let machine = Machine::read(&self.config.data_dir);
        let node = Arc::new(self.node_agent(&machine, recorder.clone()));
        let agent = self.agent(&machine, recorder, &node, cancel.clone());
        let dispatch = Dispatch::new(agent.clone(), node.clone(), self.config.allowed_unsafe_sysctls.clone());

        let server = Arc::new(Server::new(agent.clone(), dispatch.clone()));
        let serve = async {
            if let Some(config) = &self.config.server
                && let Err(error) = server.serve(config).await
            {
                tracing::error!(%error, listen = %config.listen, "the kubelet's API cannot be served");
            }
        };
        tokio::select! {
            _ = cancel.cancelled() => {}
            _ = async {
                tokio::join!(
                    node.run(cancel.clone()),
                    dispatch.run(&self.client),
                    serve,
                    eviction::keep_alive(agent.clone(), node.clone(), dispatch.clone()),
                    logs::keep_small(agent.runtime.clone(), agent.log_dir.clone(), agent.clock.clone()),
                    gc::keep_images_small(agent.runtime.clone(), agent.images.clone(), node.clone()),
                )
            } => {}
        }
    }

    fn node_agent(&self, machine: &Machine, recorder: EventRecorder) -> NodeAgent {
        let config = &self.config;
        NodeAgent {
            identity: Identity {
                name: config.node_name.clone(),
                ips: config.node_ips.iter().map(IpAddr::to_string).collect(),
                labels: config.node_labels.clone(),
                taints: config.register_with_taints.clone(),
                pod_cidr: config.pod_cidr.clone(),
                port: config.port,
                lease_duration: config.node_lease_duration,
                max_pods: config.max_pods,
                system_reserved_cpu_millis: config.system_reserved_cpu_millis,
                system_reserved_memory_bytes: config.system_reserved_memory_bytes,
            },
            machine: machine.clone(),
            rest: Rest::new(self.client.clone()),
            runtime: self.runtime.clone(),
            images: self.images.clone(),
            recorder,
            clock: self.clock.clone(),
            current: Default::default(),
            changed: config.node_changed.clone(),
            pressure: Default::default(),
            deleted: Default::default(),
        }
    }

    fn agent(&self, machine: &Machine, recorder: EventRecorder, node: &Arc<NodeAgent>, cancel: CancellationToken) -> Arc<Agent> {
        let config = &self.config;
        let rest = Rest::new(self.client.clone());
        let objects = Arc::new(Objects::new(self.client.clone(), cancel.clone()));
        let tokens = Tokens::new(rest.clone(), self.clock.clone());
        let host = sandbox::parse_resolv_conf(&std::fs::read_to_string(&config.resolv_conf).unwrap_or_default());
        let notified = node.clone();
        Arc::new(Agent {
            node_name: config.node_name.clone(),
            node_ips: config.node_ips.iter().map(IpAddr::to_string).collect(),
            longest_restart_wait: SignedDuration::try_from(config.max_container_restart_period).unwrap_or(SignedDuration::MAX),
            data_dir: config.data_dir.clone(),
            log_dir: config.log_dir.clone(),
            resolver: sandbox::Resolver {
                cluster_dns: config.cluster_dns.iter().map(IpAddr::to_string).collect(),
                cluster_domain: config.cluster_domain.clone(),
                host,
            },
            allocatable_cpu_millis: machine.cpus * 1000 - config.system_reserved_cpu_millis,
            allocatable_memory_bytes: machine.memory_bytes - config.system_reserved_memory_bytes,
            machine: machine.clone(),
            volumes: Volumes { rest: rest.clone(), objects: objects.clone(), tokens: tokens.clone(), clock: self.clock.clone(), data_dir: config.data_dir.clone() },
            rest,
            runtime: self.runtime.clone(),
            images: self.images.clone(),
            clock: self.clock.clone(),
            recorder,
            objects,
            tokens,
            services: Informer::<Service>::start(&self.client, Scope::default(), cancel.clone()),
            cgroups: Cgroups::detect(&config.cgroup_root, config.pod_pids_limit),
            images_changed: Arc::new(move || notified.changed.notify_one()),
            started: tokio::time::Instant::now(),
            cancel,
        })
    }
}
