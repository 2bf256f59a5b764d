//! Control plane and node in one process: what is made in which order, and who is given what.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use api::clock::Clock;
use apiserver::pki::{self, ClientName, Pki};
use apiserver::{ApiServer, KubeletAccess, TlsConfig};
use client::remote::Identity;
use client::Informers;
use ipnet::IpNet;
use kubelet::ServerConfig;
use kubelet::certificates::Serving;
use store::SharedStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cluster_settings::ClusterSettings;
use crate::config::Config;
use crate::control_plane::{self, Authority, Turns};
use crate::instance::Instance;
use crate::own_address::{self, Ended};
use crate::{datastore, kubeconfig, local, manifests, node, peers, snapshot};

/// Runs until cancelled. Containers go on after it returns.
pub async fn run(mut config: Config, instance: Instance, cancel: CancellationToken) -> Result<Ended, String> {
    let clock = Clock::system();
    let node_ip = own_address::node_ip(&config)?;
    let listener = TcpListener::bind(SocketAddr::new(config.bind_address, config.https_listen_port))
        .await
        .map_err(|cause| format!("{}:{}: {cause}", config.bind_address, config.https_listen_port))?;
    let store = datastore::open(&config, &instance).await?;
    let pki = datastore::pki(&config, &instance, &store, clock.now()).await?;
    let authority_hash = client::remote::authority_hash(pki.authority_pem()).map_err(|cause| cause.to_string())?;
    let settings = ClusterSettings::of(&config, &authority_hash);
    settings.apply_to(&mut config);
    let snapshots = Arc::new(snapshot::Source { store: store.clone(), tls: instance.tls(), clock: clock.clone() });
    let server = api_server(&config, store, &pki, node_ip, &clock, &cancel).await?;
    let tls = serving_certificate(&config, &pki, node_ip)?;
    let serving = tokio::spawn(server.clone().serve(listener, tls, cancel.clone()));
    write_kubeconfigs(&config, &instance, &pki)?;
    tracing::info!(port = config.https_listen_port, "API server is ready");

    let manager = client::in_process_as(server.in_process("system:kube-controller-manager", &[]), "kube-controller-manager");
    let informers = Informers::new(manager.clone(), cancel.clone());
    start_control_plane(&config, &server, &pki, &informers, manager, &clock, &cancel);
    node::make_private(&instance.run())?;
    local::serve(instance.server_socket(), local::Subjects { store: Some(snapshots), ..Default::default() }, &cancel);
    if !config.disable_agent {
        let user = format!("system:node:{}", config.node_name);
        let control_plane = node::ControlPlane {
            node_client: client::in_process_as(server.in_process(&user, &["system:nodes"]), "kubelet"),
            informers: informers.clone(),
            kubelet_server: kubelet_server(&config, &pki, node_ip)?,
            clock: clock.clone(),
        };
        node::start(&config, &instance, node_ip, control_plane, &cancel).await?;
    }
    let administrator = client::in_process_as(server.in_process("system:admin", &["system:masters"]), "coracle");
    tokio::spawn(cluster_dns_service(administrator.clone(), config.cluster_dns));
    tokio::spawn(publish_settings(administrator.clone(), settings));
    if config.datastore.is_shared() {
        let address = config.advertise_address.unwrap_or(node_ip);
        let me = peers::Peer { name: config.node_name.clone(), address, port: config.https_listen_port };
        tokio::spawn(peers::run(administrator.clone(), me, cancel.clone()));
    }
    tokio::spawn(manifests::run(administrator, instance.manifests(), cancel.clone()));

    tokio::select! {
        () = cancel.cancelled() => Ok(Ended::Stopped),
        () = own_address::moved(&config, &instance, node_ip) => Ok(Ended::Moved),
        ended = serving => match ended {
            Ok(Ok(())) => Ok(Ended::Stopped),
            Ok(Err(cause)) => Err(format!("API server: {cause}")),
            Err(cause) => Err(format!("API server: {cause}")),
        },
    }
}

async fn api_server(
    config: &Config,
    store: SharedStore,
    pki: &Pki,
    node_ip: IpAddr,
    clock: &Clock,
    cancel: &CancellationToken,
) -> Result<Arc<ApiServer>, String> {
    let failed = |cause: pki::PkiError| cause.to_string();
    let kubelet_client = ClientName {
        file: "apiserver-kubelet-client",
        user: "kube-apiserver-kubelet-client",
        groups: &["system:masters"],
    };
    let settings = apiserver::Config {
        service_cidrs: vec![config.service_cidr],
        node_ports: config.node_ports.0..=config.node_ports.1,
        advertise_address: config.advertise_address.unwrap_or(node_ip),
        advertise_port: config.https_listen_port,
        cluster_domain: config.cluster_domain.clone(),
        kubelet: Some(KubeletAccess {
            identity: pki.client(kubelet_client).map_err(failed)?,
            authority_pem: Some(pki.authority_pem().to_string()),
        }),
        client_authority_pem: Some(pki.authority_pem().to_string()),
        more_metrics: Some(client::metrics::print),
        cancel: cancel.clone(),
        ..apiserver::Config::new(store, clock.clone(), pki.service_account_key().map_err(failed)?)
    };
    ApiServer::new(config.api.apply(settings)?).await.map_err(|cause| format!("API server: {cause}"))
}

fn start_control_plane(
    config: &Config,
    server: &Arc<ApiServer>,
    pki: &Pki,
    informers: &Arc<Informers>,
    manager: kube::Client,
    clock: &Clock,
    cancel: &CancellationToken,
) {
    let turns = match config.datastore.is_shared() {
        true => Turns::by_lease(&config.node_name, clock, cancel),
        false => Turns::alone(informers, cancel),
    };
    if config.enables("controller-manager") {
        let authority = Authority { certificate_pem: pki.authority_pem().to_string(), key_pem: pki.authority_key_pem() };
        let administrator = client::in_process_as(server.in_process("system:admin", &["system:masters"]), "local-path-provisioner");
        control_plane::controller_manager(config, &turns, manager, administrator, authority, clock);
    }
    if config.enables("scheduler") {
        let client = client::in_process_as(server.in_process("system:kube-scheduler", &[]), "kube-scheduler");
        control_plane::scheduler(config, &turns, client, clock);
    }
}

fn serving_certificate(config: &Config, pki: &Pki, node_ip: IpAddr) -> Result<TlsConfig, String> {
    let mut names: Vec<String> = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .into_iter()
        .map(String::from)
        .collect();
    names.push(format!("kubernetes.default.svc.{}", config.cluster_domain));
    names.push(config.node_name.clone());
    names.push(Ipv4Addr::LOCALHOST.to_string());
    names.extend([Some(node_ip), config.advertise_address, first_service_address(config.service_cidr)].into_iter().flatten().map(|it| it.to_string()));
    if !config.bind_address.is_unspecified() {
        names.push(config.bind_address.to_string());
    }
    names.extend(config.tls_san.iter().cloned());
    names.sort();
    names.dedup();
    let identity = pki.serving("apiserver", "kube-apiserver", &names).map_err(|cause| cause.to_string())?;
    Ok(TlsConfig {
        // With the authority, by whose hash a node that joins knows it.
        certificate_pem: identity.certificate_pem + pki.authority_pem(),
        key_pem: identity.key_pem,
        client_authority_pem: pki.authority_pem().to_string(),
    })
}

fn kubelet_server(config: &Config, pki: &Pki, node_ip: IpAddr) -> Result<ServerConfig, String> {
    let names = [config.node_name.clone(), node_ip.to_string()];
    let user = format!("system:node:{}", config.node_name);
    let identity = pki.serving("kubelet", &user, &names).map_err(|cause| cause.to_string())?;
    let serving = Arc::new(Serving::default());
    serving.set(&Identity { certificate_pem: identity.certificate_pem, key_pem: identity.key_pem })?;
    Ok(ServerConfig {
        listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), config.kubelet_port),
        serving,
        client_ca_pem: pki.authority_pem().as_bytes().to_vec(),
    })
}

/// The address of the `kubernetes` Service.
fn first_service_address(services: IpNet) -> Option<IpAddr> {
    services.hosts().next()
}

fn write_kubeconfigs(config: &Config, instance: &Instance, pki: &Pki) -> Result<(), String> {
    let admin = ClientName { file: "admin", user: "kubernetes-admin", groups: &["system:masters"] };
    let identity = pki.client(admin).map_err(|cause| cause.to_string())?;
    let host = match config.bind_address {
        address if address.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        address => address.to_string(),
    };
    let server = format!("https://{host}:{}", config.https_listen_port);
    let document = pki::kubeconfig(&instance.name, &server, pki.authority_pem(), &identity);
    kubeconfig::write(&instance.admin_kubeconfig(), &document)?;
    match &config.write_kubeconfig {
        Some(path) => kubeconfig::write(path, &document),
        None => Ok(()),
    }
}

/// For the nodes that are to join.
async fn publish_settings(client: kube::Client, settings: ClusterSettings) {
    if let Err(cause) = settings.publish(client).await {
        tracing::error!(%cause, "nodes cannot learn how the cluster is set up");
    }
}

/// Users look for `kube-dns` in `kube-system`; Coracle itself answers at its address on every node.
async fn cluster_dns_service(client: kube::Client, address: IpAddr) {
    let services = kube::Api::<k8s_openapi::api::core::v1::Service>::namespaced(client, "kube-system");
    let port = |name: &str, protocol: &str| serde_json::json!({"name": name, "port": 53, "protocol": protocol});
    let service = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}},
        "spec": {"clusterIP": address.to_string(), "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]},
    }));
    let made = async {
        if services.get_opt("kube-dns").await?.is_none() {
            let service = service.map_err(kube::Error::SerdeError)?;
            services.create(&kube::api::PostParams::default(), &service).await?;
        }
        Ok::<(), kube::Error>(())
    };
    if let Err(cause) = made.await {
        tracing::warn!(%cause, "the kube-dns Service could not be made");
    }
}
