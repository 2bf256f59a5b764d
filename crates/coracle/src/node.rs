//! The node's half of a server, and all of an agent: images, runtime, network, kubelet, proxy, DNS; and taking it all down again.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::clock::Clock;
use client::Informers;
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Node;
use kubelet::{Kubelet, KubeletConfig, ServerConfig};
use net::cni::{Cni, CniConfig};
use net::pod_network::BridgeNetwork;
use nix::mount::{MntFlags, umount2};
use proxy::{PolicyConfig, PolicyEnforcer, Proxy, ProxyConfig};
use runtime::cri::RuntimeService;
use runtime::embedded::{EmbeddedConfig, EmbeddedRuntime};
use runtime::image::{ImageStore, RegistriesConfig};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::flat_network::FlatNetwork;
use crate::instance::Instance;
use crate::pod_network::{Bridge, Leaving, Plugins};
use crate::{announce, flat_network, local};

const NODE_PREFIX_LENGTH: u8 = 24;
const DNS_PORT: u16 = 53;

/// What the node needs of the control plane that it lives with.
pub struct ControlPlane {
    /// As `system:node:<name>`.
    pub node_client: kube::Client,
    /// Shared caches, for proxy and DNS.
    pub informers: Arc<Informers>,
    pub kubelet_server: ServerConfig,
    pub clock: Clock,
}

/// Starts everything in the background; returns once the pieces stand.
pub async fn start(
    config: &Config,
    instance: &Instance,
    node_ip: IpAddr,
    control_plane: ControlPlane,
    cancel: &CancellationToken,
) -> Result<(), String> {
    make_private(&instance.run())?;
    let registries = RegistriesConfig::read(&config.private_registry)?;
    let images = ImageStore::open(&instance.image_store(), registries).map_err(named(&instance.image_store()))?;
    let network = Arc::new(Bridge::default());
    let plugins = CniConfig { state_dir: cni_state(instance), plugin_dirs: config.cni_bin_dirs.clone() };
    let plugins = Cni::load(&config.cni_conf_dir, plugins).map_err(|cause| format!("pod network: {cause}"))?;
    let embedded = EmbeddedConfig {
        root_dir: instance.runtime(),
        state_dir: instance.run(),
        network: match &plugins {
            Some(plugins) => Arc::new(Plugins(plugins.clone())),
            None => network.clone(),
        },
        images: images.clone(),
        shim_exe: PathBuf::from("/proc/self/exe"),
    };
    let runtime = EmbeddedRuntime::start(embedded).await.map_err(|cause| format!("container runtime: {cause}"))?;

    let flat = FlatNetwork {
        config: config.clone(),
        instance: instance.clone(),
        node_ip,
        bridge: network.clone(),
        runtime: runtime.clone(),
        plugins,
    };
    tokio::spawn(flat.run(control_plane.informers.of::<Node>(), cancel.clone()));
    tokio::spawn(import_archives(images.clone(), instance.image_archives()));
    local::serve(instance.socket(), local::Subjects { images: Some(images.clone()), ..Default::default() }, cancel);
    let node_changed = Arc::new(Notify::new());
    start_kubelet(config, instance, node_ip, &control_plane, (runtime, images), node_changed.clone(), cancel);
    if config.enables("proxy") {
        start_proxy(config, instance, &control_plane.informers, cancel)?;
    }
    if config.enables("network-policy") {
        start_policies(config, instance, &control_plane.informers, cancel)?;
    }
    let (config, informers, cancel) = (config.clone(), control_plane.informers, cancel.clone());
    tokio::spawn(async move {
        let bridge = network.up().await;
        node_changed.notify_one();
        start_on_bridge(&config, bridge, &informers, &cancel);
    });
    Ok(())
}

/// What lives on the pods' bridge and so comes after it.
fn start_on_bridge(config: &Config, bridge: BridgeNetwork, informers: &Arc<Informers>, cancel: &CancellationToken) {
    tokio::spawn(keep_rules(bridge.clone(), cancel.clone()));
    if config.enables("dns") {
        match bridge.add_local_address(config.cluster_dns) {
            Ok(()) => start_dns(config, informers, cancel),
            Err(cause) => tracing::error!(%cause, "cluster DNS has no address"),
        }
    }
    if config.enables("servicelb") {
        let (node, dns) = (config.node_name.clone(), config.cluster_dns);
        tokio::spawn(announce::run(bridge, informers.clone(), node, dns, cancel.clone()));
    }
}

/// Ends every pod and takes everything of this instance out of the kernel. Needs no server, and may be repeated.
pub async fn tear_down(instance: &Instance) -> Result<(), String> {
    if instance.run().exists() && instance.image_store().exists() {
        let images = ImageStore::open(&instance.image_store(), RegistriesConfig::default())
            .map_err(named(&instance.image_store()))?;
        let embedded = EmbeddedConfig {
            root_dir: instance.runtime(),
            state_dir: instance.run(),
            network: Arc::new(Leaving),
            images,
            shim_exe: PathBuf::from("/proc/self/exe"),
        };
        let runtime = EmbeddedRuntime::start(embedded).await.map_err(|cause| format!("container runtime: {cause}"))?;
        let pods = runtime.list_pod_sandboxes().await.map_err(|cause| cause.to_string())?;
        let ends = pods.iter().map(|pod| async {
            runtime.stop_pod_sandbox(&pod.id).await?;
            runtime.remove_pod_sandbox(&pod.id).await
        });
        for outcome in futures::future::join_all(ends).await {
            outcome.map_err(|cause| format!("a pod cannot be ended: {cause}"))?;
        }
    }
    let plugins = Cni::of_the_past(cni_state(instance));
    plugins.collect_garbage(&[]).await.map_err(|cause| format!("pod network: {cause}"))?;
    flat_network::tear_down(instance)?;
    for table in [instance.name.clone(), policy_table(instance)] {
        Proxy::clean_up(&table).map_err(|cause| format!("service rules: {cause}"))?;
    }
    unmount_below(&[&instance.data_dir, &instance.run()])?;
    remove_cgroups(instance);
    match fs::remove_dir_all(instance.run()) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(named(&instance.run())(cause)),
        _ => Ok(()),
    }
}

fn start_kubelet(
    config: &Config,
    instance: &Instance,
    node_ip: IpAddr,
    control_plane: &ControlPlane,
    (runtime, images): (Arc<EmbeddedRuntime>, Arc<ImageStore>),
    node_changed: Arc<Notify>,
    cancel: &CancellationToken,
) {
    let settings = KubeletConfig {
        node_name: config.node_name.clone(),
        node_ips: vec![node_ip],
        data_dir: instance.kubelet(),
        log_dir: instance.data_dir.join("agent/logs"),
        cluster_dns: vec![config.cluster_dns],
        cluster_domain: config.cluster_domain.clone(),
        // The node IPAM controller gives each node its own; without it there is one node, and it takes the first.
        pod_cidr: own_pod_cidr(config),
        max_pods: i64::from(config.max_pods),
        cgroup_root: cgroup_root(instance),
        port: config.kubelet_port,
        node_lease_duration: config.node_lease_duration,
        max_container_restart_period: config.max_container_restart_period,
        server: Some(control_plane.kubelet_server.clone()),
        node_changed,
        ..KubeletConfig::default()
    };
    let client = control_plane.node_client.clone();
    let kubelet = Kubelet::new(settings, client, runtime, images, control_plane.clock.clone());
    tokio::spawn(kubelet.run(cancel.clone()));
}

pub fn start_proxy(
    config: &Config,
    instance: &Instance,
    informers: &Arc<Informers>,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let settings = ProxyConfig {
        table: instance.name.clone(),
        node_name: config.node_name.clone(),
        cluster_cidrs: vec![config.cluster_cidr],
        node_port_addresses: config.nodeport_addresses.clone(),
        skip_cluster_ips: vec![config.cluster_dns],
    };
    let proxy = Proxy::new(settings, informers.clone()).map_err(|cause| format!("service proxy: {cause}"))?;
    tokio::spawn(proxy.run(cancel.clone()));
    Ok(())
}

pub fn start_policies(
    config: &Config,
    instance: &Instance,
    informers: &Arc<Informers>,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let settings = PolicyConfig {
        table: policy_table(instance),
        node_name: config.node_name.clone(),
        cluster_dns: vec![config.cluster_dns],
    };
    let enforcer =
        PolicyEnforcer::new(settings, informers.clone()).map_err(|cause| format!("network policies: {cause}"))?;
    tokio::spawn(enforcer.run(cancel.clone()));
    Ok(())
}

fn cni_state(instance: &Instance) -> PathBuf {
    instance.network().join("cni")
}

fn policy_table(instance: &Instance) -> String {
    format!("{}-policy", instance.name)
}

fn start_dns(config: &Config, informers: &Arc<Informers>, cancel: &CancellationToken) {
    let settings = dns::DnsConfig {
        listen: vec![SocketAddr::new(config.cluster_dns, DNS_PORT)],
        domain: config.cluster_domain.clone(),
        upstreams: dns::Upstreams::ResolvConf("/etc/resolv.conf".into()),
        stub_domains: config.dns_stub_domains.0.clone(),
    };
    let (server, cancel) = (dns::DnsServer::new(settings, informers.clone()), cancel.clone());
    tokio::spawn(async move {
        if let Err(cause) = server.run(cancel).await {
            tracing::error!(%cause, "cluster DNS ended");
        }
    });
}

/// Puts the pod network's rules back when somebody flushes them.
async fn keep_rules(bridge: BridgeNetwork, cancel: CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => {}
        ended = bridge.keep_rules() => {
            if let Err(cause) = ended {
                tracing::warn!(%cause, "the pod network's rules are no longer watched");
            }
        }
    }
}

async fn import_archives(images: Arc<ImageStore>, directory: PathBuf) {
    let Ok(entries) = fs::read_dir(&directory) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        match images.import(path.clone()).await {
            Ok(names) => tracing::info!(archive = %path.display(), ?names, "imported images"),
            Err(cause) => tracing::warn!(archive = %path.display(), %cause, "images not imported"),
        }
    }
}

fn own_pod_cidr(config: &Config) -> Option<String> {
    let nobody_gives = !config.enables("controller-manager");
    nobody_gives.then(|| first_pod_cidr(config.cluster_cidr).ok()).flatten().map(|range| range.to_string())
}

fn first_pod_cidr(cluster: IpNet) -> Result<Ipv4Net, String> {
    let IpNet::V4(cluster) = cluster else { return Err("an IPv6 --cluster-cidr is not supported yet".into()) };
    Ipv4Net::new(cluster.network(), NODE_PREFIX_LENGTH.max(cluster.prefix_len()))
        .map_err(|cause| format!("--cluster-cidr {cluster}: {cause}"))
}

/// The address that the first node's bridge will have, for a host that has none of its own.
pub fn bridge_address(config: &Config) -> Result<IpAddr, String> {
    let first = first_pod_cidr(config.cluster_cidr)?.network();
    Ok(Ipv4Addr::from(u32::from(first) + 1).into())
}

/// Plain for the installation that owns the machine, a name of its own for any other.
fn cgroup_root(instance: &Instance) -> String {
    if instance.is_default() { "/".into() } else { format!("/{}", instance.name) }
}

fn remove_cgroups(instance: &Instance) {
    let own = if instance.is_default() { "kubepods" } else { instance.name.as_str() };
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(base).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    for hierarchy in hierarchies.chain([base.to_path_buf()]) {
        remove_cgroup(&hierarchy.join(own));
    }
}

/// Deepest first; a cgroup that still has processes stays, and the kernel says so.
fn remove_cgroup(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for child in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&child.path());
    }
    if let Err(cause) = fs::remove_dir(path) {
        tracing::warn!(cgroup = %path.display(), %cause, "not removed");
    }
}

fn unmount_below(directories: &[&Path]) -> Result<(), String> {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|cause| format!("/proc/self/mountinfo: {cause}"))?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| directories.iter().any(|directory| point.starts_with(directory)))
        .collect();
    points.reverse();
    for point in points {
        umount2(&point, MntFlags::MNT_DETACH).map_err(|cause| format!("unmount {}: {cause}", point.display()))?;
    }
    Ok(())
}

pub fn make_private(directory: &Path) -> Result<(), String> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(named(directory))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(named(directory))
}

fn named(path: &Path) -> impl Fn(io::Error) -> String {
    move |cause| format!("{}: {cause}", path.display())
}
