//! `coracle agent`: a further node of a cluster whose servers are elsewhere.
//!
//! ```text
//! join token ──► the CA (by its hash) ──► node certificate (by request) ──► settings of the cluster ──► the node
//! ```
//!
//! Invariants: each step leaves a file, and what is there is not asked for again, so that a node that has joined starts
//! without its token and without servers. Servers are learnt from the `kubernetes` endpoints and kept.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use client::remote::{self, Identity, Remote, RemoteError};
use client::{Change, ErrorKind, Informer, Informers, Rest, Scope, error_kind};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kubelet::ServerConfig;
use kubelet::certificates::{CertificateError, Certificates, Purpose, Serving};
use tokio_util::sync::CancellationToken;

use crate::cluster_settings::{ClusterSettings, FetchError};
use crate::config::Config;
use crate::instance::Instance;
use crate::join_token::JoinToken;
use crate::own_address::{self, Ended};
use crate::node;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How long a start waits for a server before it goes on with what it knows.
const SERVERS_PATIENCE: Duration = Duration::from_secs(5);

/// Runs until cancelled. Containers go on after it returns.
pub async fn run(mut config: Config, instance: Instance, server: Option<String>, cancel: CancellationToken) -> Result<Ended, String> {
    let server = server.as_deref().map(server_address).transpose()?;
    let certificates = Certificates { directory: instance.pki(), node_name: config.node_name.clone(), clock: Clock::system() };
    let joined = tokio::select! {
        () = cancel.cancelled() => return Ok(Ended::Stopped),
        joined = join(&config, &instance, server, &certificates) => joined?,
    };
    joined.settings.apply_to(&mut config);
    let remote = joined.remote;
    let failed = |cause: RemoteError| cause.to_string();
    let node_client = remote.client("kubelet", None).map_err(failed)?;
    let informers = Informers::new(remote.client("coracle-agent", None).map_err(failed)?, cancel.clone());
    follow_servers(&remote, &informers, &instance, &cancel);
    tokio::spawn(renew_client(certificates.clone(), remote.clone(), node_client.clone(), cancel.clone()));
    run_node(config, instance, certificates, node_client, informers, joined.authority_pem.into_bytes(), cancel).await
}

/// A kubelet alone: as the node that the kubeconfig speaks for, without proxy, DNS and network policies.
pub async fn run_kubelet(
    mut config: Config,
    instance: Instance,
    client: kube::Client,
    client_ca_pem: Vec<u8>,
    cancel: CancellationToken,
) -> Result<Ended, String> {
    config.disable.extend(["proxy", "dns", "network-policy", "servicelb"].map(str::to_owned));
    let certificates = Certificates { directory: instance.pki(), node_name: config.node_name.clone(), clock: Clock::system() };
    let informers = Informers::new(client.clone(), cancel.clone());
    run_node(config, instance, certificates, client, informers, client_ca_pem, cancel).await
}

/// The node, with a serving certificate by request, until cancelled.
async fn run_node(
    config: Config,
    instance: Instance,
    certificates: Certificates,
    node_client: kube::Client,
    informers: Arc<Informers>,
    client_ca_pem: Vec<u8>,
    cancel: CancellationToken,
) -> Result<Ended, String> {
    let node_ip = own_address::node_ip(&config)?;
    let clock = certificates.clock.clone();
    let serving = Arc::new(Serving::default());
    let listen = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), config.kubelet_port);
    let kubelet_server = ServerConfig { listen, serving: serving.clone(), client_ca_pem };
    let names = vec![config.node_name.clone(), node_ip.to_string()];
    tokio::spawn(keep_serving(certificates, node_client.clone(), names, serving, cancel.clone()));
    let control_plane = node::ControlPlane { node_client, informers, kubelet_server, clock };
    node::start(&config, &instance, node_ip, control_plane, &cancel).await?;
    tokio::select! {
        () = cancel.cancelled() => Ok(Ended::Stopped),
        () = own_address::moved(&config, &instance, node_ip) => Ok(Ended::Moved),
    }
}

struct Joined {
    remote: Arc<Remote>,
    authority_pem: String,
    settings: ClusterSettings,
}

async fn join(config: &Config, instance: &Instance, server: Option<String>, certificates: &Certificates) -> Result<Joined, String> {
    let token = Some(config.token.as_str()).filter(|token| !token.is_empty()).map(str::parse::<JoinToken>).transpose()?;
    let mut servers = kept_servers(instance);
    // The one that was named comes first, though the others are as good.
    if let Some(server) = &server {
        servers.retain(|known| known != server);
        servers.insert(0, server.clone());
    }
    let Some(first) = servers.first() else {
        return Err("--server is needed: https://HOST:6443 of a server of the cluster".into());
    };
    let authority_pem = authority(instance, first, token.as_ref()).await?;
    let kept = certificates.kept(&Purpose::Client);
    let identity = kept.as_ref().map(|kept| &kept.identity);
    let remote = Remote::new(&authority_pem, servers.clone(), identity).map_err(|cause| cause.to_string())?;
    if kept.is_none() {
        let Some(token) = token else {
            return Err("--token is needed: this machine has not joined yet, or its certificate has expired \
                        (coracle token create, on a server, prints one)"
                .into());
        };
        let bootstrap = remote.client("coracle-agent", Some(&token.bootstrap.to_string())).map_err(|cause| cause.to_string())?;
        let settings = first_contact(config, &bootstrap).await?;
        settings.keep(&instance.cluster_settings())?;
        let made = certificates.request(&bootstrap, &Purpose::Client, "node-csr-").await;
        remote.set_identity(&made.map_err(|cause| refusal(&cause))?.identity).map_err(|cause| cause.to_string())?;
        keep_servers(instance, &servers);
        tracing::info!(server = %first, node = config.node_name, "joined the cluster");
        return Ok(Joined { remote, authority_pem, settings });
    }
    let client = remote.client("coracle-agent", None).map_err(|cause| cause.to_string())?;
    let settings = match tokio::time::timeout(SERVERS_PATIENCE, ClusterSettings::fetch(client)).await {
        Ok(Ok(settings)) => {
            settings.keep(&instance.cluster_settings())?;
            settings
        }
        Ok(Err(cause)) => known_settings(instance, &cause)?,
        Err(_) => known_settings(instance, &"no answer")?,
    };
    Ok(Joined { remote, authority_pem, settings })
}

fn known_settings(instance: &Instance, cause: &dyn std::fmt::Display) -> Result<ClusterSettings, String> {
    tracing::warn!(%cause, "no server says how the cluster is set up; going on with what is known");
    ClusterSettings::kept(&instance.cluster_settings())
}

/// The CA that this node trusts: as kept, else as the server shows it, if the token says so.
async fn authority(instance: &Instance, server: &str, token: Option<&JoinToken>) -> Result<String, String> {
    let path = instance.pki().join("ca.crt");
    if let Ok(kept) = std::fs::read_to_string(&path) {
        let hash = remote::authority_hash(&kept).map_err(|cause| format!("{}: {cause}", path.display()))?;
        let wanted = token.map(|token| token.authority_sha256.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        return match wanted {
            Some(wanted) if wanted != hash => Err(format!(
                "the token is for another cluster (CA sha256:{wanted}) than the one that this machine belongs to (CA \
                 sha256:{hash}); to leave that one: coracle down --purge"
            )),
            _ => Ok(kept),
        };
    }
    let Some(token) = token else {
        return Err("--token is needed to join (coracle token create, on a server, prints one)".into());
    };
    let mut delay = RETRY_FIRST;
    let found = loop {
        match remote::authority_of(server, token.authority_sha256).await {
            Ok(found) => break found,
            Err(cause @ RemoteError::Unreachable { .. }) => {
                tracing::warn!(%cause, "the server does not answer yet");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_LONGEST);
            }
            Err(cause) => return Err(cause.to_string()),
        }
    };
    std::fs::create_dir_all(instance.pki()).map_err(|cause| format!("{}: {cause}", instance.pki().display()))?;
    apiserver::pki::write_private(&path, &found).map_err(|cause| cause.to_string())?;
    Ok(found)
}

/// What is asked with the token alone: is it good, is the name free, what is the cluster like?
async fn first_contact(config: &Config, client: &kube::Client) -> Result<ClusterSettings, String> {
    let mut delay = RETRY_FIRST;
    let settings = loop {
        match ClusterSettings::fetch(client.clone()).await {
            Ok(settings) => break settings,
            Err(FetchError::Api(cause)) if is_passing(&cause) => {
                tracing::warn!(%cause, "the server does not answer yet");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_LONGEST);
            }
            Err(FetchError::Api(cause)) => return Err(token_refusal(&cause)),
            Err(cause) => return Err(cause.to_string()),
        }
    };
    let name = &config.node_name;
    match Rest::new(client.clone()).get::<Node>(&client::ObjectKey::cluster(name.clone())).await {
        Ok(node) if is_ready(&node) => Err(format!(
            "a Node with name {name:?} and status \"Ready\" already exists in the cluster. You must delete the existing \
             Node or change the name of this new joining Node (--node-name)"
        )),
        Ok(_) => Ok(settings),
        Err(cause) if error_kind(&cause) == ErrorKind::NotFound => Ok(settings),
        Err(cause) => Err(token_refusal(&cause)),
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether it may well go by itself: the server is away or starting.
fn is_passing(cause: &kube::Error) -> bool {
    match cause {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429 || status.code == 404,
        _ => true,
    }
}

fn token_refusal(cause: &kube::Error) -> String {
    match cause {
        kube::Error::Api(status) if status.code == 401 => {
            "the token is not valid: it is unknown to the cluster, or it has expired (coracle token list shows those that \
             are left, coracle token create makes another)"
                .into()
        }
        kube::Error::Api(status) if status.code == 403 => {
            format!("the token does not allow to join, see its usages and groups: {}", status.message)
        }
        cause => cause.to_string(),
    }
}

fn refusal(cause: &CertificateError) -> String {
    match cause {
        CertificateError::Api(cause) => token_refusal(cause),
        cause => cause.to_string(),
    }
}

/// `https://HOST[:PORT]` as `HOST:PORT`.
fn server_address(text: &str) -> Result<String, String> {
    let wrong = || format!("--server {text:?}: expected https://HOST:PORT");
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
        return Err(wrong());
    }
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(6443)))
}

pub fn kept_servers(instance: &Instance) -> Vec<String> {
    let text = std::fs::read(instance.servers()).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn keep_servers(instance: &Instance, servers: &[String]) {
    let path = instance.servers();
    let written = serde_json::to_string(servers).map_err(|cause| cause.to_string()).and_then(|text| write(&path, &text));
    if let Err(cause) = written {
        tracing::warn!(cause, "the servers' addresses are not kept");
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    apiserver::pki::write_private(path, text).map_err(|cause| cause.to_string())
}

/// The servers are those that stand behind the `kubernetes` Service.
fn follow_servers(remote: &Arc<Remote>, informers: &Arc<Informers>, instance: &Instance, cancel: &CancellationToken) {
    let scope = Scope {
        namespace: Some("default".into()),
        label_selector: Some("kubernetes.io/service-name=kubernetes".into()),
        ..Scope::default()
    };
    let slices = Informer::<EndpointSlice>::start(informers.client(), scope, cancel.clone());
    let (remote, instance) = (remote.clone(), instance.clone());
    slices.subscribe(move |change: &Change<EndpointSlice>| {
        let Change::Deleted(_) = change else {
            let servers = addresses(change.object());
            if !servers.is_empty() && remote.servers() != servers {
                tracing::info!(?servers, "the cluster's servers");
                keep_servers(&instance, &servers);
                remote.set_servers(servers);
            }
            return;
        };
    });
}

fn addresses(slice: &EndpointSlice) -> Vec<String> {
    let port = slice.ports.iter().flatten().find_map(|port| port.port).unwrap_or(6443);
    let mut found: Vec<String> = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|it| it.ready) != Some(false))
        .flat_map(|endpoint| &endpoint.addresses)
        .map(|address| if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
        .collect();
    found.sort();
    found
}

async fn renew_client(certificates: Certificates, remote: Arc<Remote>, client: kube::Client, cancel: CancellationToken) {
    let current = certificates.kept(&Purpose::Client);
    let use_it = |identity: &Identity| {
        if let Err(cause) = remote.set_identity(identity) {
            tracing::error!(%cause, "the new node certificate cannot be used");
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = certificates.renew(&client, &Purpose::Client, current, use_it) => {}
    }
}

async fn keep_serving(
    certificates: Certificates,
    client: kube::Client,
    names: Vec<String>,
    serving: Arc<Serving>,
    cancel: CancellationToken,
) {
    let purpose = Purpose::Serving { names };
    let use_it = |identity: &Identity| {
        if let Err(cause) = serving.set(identity) {
            tracing::error!(cause, "the new serving certificate cannot be used");
        }
    };
    let current = certificates.kept(&purpose);
    if let Some(kept) = &current {
        use_it(&kept.identity);
    }
    tokio::select! {
        () = cancel.cancelled() => {}
        () = certificates.renew(&client, &purpose, current, use_it) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_addresses_with_a_port() {
        for (text, expected) in [
            ("https://192.0.2.1:6443", Ok("192.0.2.1:6443")),
            ("https://cluster.example/", Ok("cluster.example:6443")),
            ("https://[fd00::1]:7443", Ok("[fd00::1]:7443")),
            ("http://192.0.2.1", Err("expected https://HOST:PORT")),
            ("192.0.2.1:6443", Err("expected https://HOST:PORT")),
        ] {
            match (server_address(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn ready_endpoints_are_servers() {
        let slice = serde_json::json!({
            "addressType": "IPv4", "ports": [{"name": "https", "port": 7443}],
            "endpoints": [
                {"addresses": ["192.0.2.2"], "conditions": {"ready": true}},
                {"addresses": ["192.0.2.3"], "conditions": {"ready": false}},
                {"addresses": ["192.0.2.1"], "conditions": {}},
            ],
        });
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        assert_eq!(addresses(&slice), ["192.0.2.1:7443", "192.0.2.2:7443"]);
    }
}
