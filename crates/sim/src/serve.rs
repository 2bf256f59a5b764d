//! A simulated cluster in real time behind a real endpoint: for kubectl, for load tests, and to see what a size costs.
//!
//! Invariant: API server, controllers and scheduler are the real ones, over the store in memory; only the nodes are
//! pretended. Deliberately absent: faults, and anything on disk but certificates and the kubeconfig.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use api::clock::Clock;
use apiserver::pki::{self, ClientName, Pki};
use apiserver::{ApiServer, TlsConfig};
use client::{EventRecorder, Informers};
use controllers::{ControllerManager, ControllersConfig};
use scheduler::{Scheduler, SchedulerConfig};
use store::memory::MemoryStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::node::{NodeConfig, SimulatedNode};

pub struct ServeConfig {
    pub nodes: Vec<NodeConfig>,
    /// On loopback; 0 takes any.
    pub port: u16,
    /// For certificates.
    pub directory: PathBuf,
    /// Where the administrator's kubeconfig goes.
    pub kubeconfig_out: PathBuf,
}

#[derive(Debug)]
pub enum ServeError {
    Listen { port: u16, cause: std::io::Error },
    Certificates(pki::PkiError),
    Start(apiserver::StartError),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Listen { port, cause } => write!(f, "127.0.0.1:{port}: {cause}"),
            ServeError::Certificates(cause) => cause.fmt(f),
            ServeError::Start(cause) => write!(f, "API server: {cause}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<pki::PkiError> for ServeError {
    fn from(cause: pki::PkiError) -> Self {
        ServeError::Certificates(cause)
    }
}

/// Runs until cancelled; `ready` is told where once the kubeconfig is written.
pub async fn serve(config: ServeConfig, cancel: CancellationToken, ready: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let clock = Clock::system();
    let listen = |cause| ServeError::Listen { port: config.port, cause };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, config.port)).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let pki = Pki::open(&config.directory, clock.now())?;
    let settings = apiserver::Config {
        advertise_port: address.port(),
        client_authority_pem: Some(pki.authority_pem().to_owned()),
        cancel: cancel.clone(),
        ..apiserver::Config::new(Arc::new(MemoryStore::new()), clock.clone(), pki.service_account_key()?)
    };
    let server = ApiServer::new(settings).await.map_err(ServeError::Start)?;
    let identity = pki.serving("apiserver", "kube-apiserver", &["localhost".into(), Ipv4Addr::LOCALHOST.to_string()])?;
    let tls = TlsConfig {
        certificate_pem: identity.certificate_pem,
        key_pem: identity.key_pem,
        client_authority_pem: pki.authority_pem().to_owned(),
    };
    let administrator = pki.client(ClientName { file: "admin", user: "kubernetes-admin", groups: &["system:masters"] })?;
    let kubeconfig = pki::kubeconfig("coracle-sim", &format!("https://{address}"), pki.authority_pem(), &administrator);
    pki::write_private(&config.kubeconfig_out, &api::yaml::to_yaml(&kubeconfig))?;

    let manager = client::in_process_as(server.in_process("system:kube-controller-manager", &[]), "kube-controller-manager");
    let informers = Informers::new(manager.clone(), cancel.clone());
    let settings = ControllersConfig { ca_pem: pki.authority_pem().to_owned() };
    let controllers = ControllerManager::new(manager, informers.clone(), clock.clone(), settings);
    tokio::spawn(controllers.run(cancel.clone()));
    let client = client::in_process_as(server.in_process("system:kube-scheduler", &[]), "kube-scheduler");
    let recorder = EventRecorder::new(client.clone(), clock.clone(), "default-scheduler", "");
    let scheduler = Scheduler::new(client, informers.clone(), recorder, clock.clone(), SchedulerConfig::default());
    tokio::spawn(scheduler.run(cancel.clone()));
    // One client for all nodes, with rights that no single node's user has; and one copy of all pods with the control
    // plane, for whose size the nodes are not to count.
    let fleet = client::in_process_as(server.in_process("sim", &["system:masters"]), "kubelet");
    let fleet = SimulatedNode::run_fleet(config.nodes, fleet, informers.of(), clock, cancel.clone());
    tokio::spawn(fleet);
    ready(address);
    server.serve(listener, tls, cancel).await.map_err(ServeError::Start)
}
