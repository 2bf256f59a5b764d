//! `coracle status`: what runs, its version, and the health of node and components.

use std::path::PathBuf;

use clap::{ArgMatches, Command};
use client::remote::{Identity, Remote};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{ListParams, PostParams};

use super::{VERSION, block_on, data_dir_argument, instance, process, say};
use crate::agent;
use crate::instance::Instance;

pub fn command() -> Command {
    Command::new("status").about("Show what runs and how it is").arg(data_dir_argument())
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let instance = instance(matches)?;
    say(&format!("coracle   {VERSION}"));
    say(&format!("data dir  {}", instance.data_dir.display()));
    let is_server = instance.admin_kubeconfig().exists();
    let role = if is_server { "server" } else { "agent " };
    let Some(pid) = process::running(&instance.lock()) else {
        say(&format!("{role}    not running"));
        return Err("not running; start it with: coracle up".into());
    };
    let memory = resident_bytes(pid).map_or("?".into(), |bytes| format!("{} MiB", bytes >> 20));
    say(&format!("{role}    pid {pid}, {memory} resident"));
    if is_server { block_on(cluster(&instance)) } else { block_on(worker(&instance)) }
}

/// What a node may know of itself, with its own certificate.
async fn worker(instance: &Instance) -> Result<(), String> {
    let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(|cause| format!("{}: {cause}", path.display()));
    let pair = read(instance.pki().join("kubelet-client-current.pem"))?;
    let identity = Identity { certificate_pem: pair.clone(), key_pem: pair };
    let servers = agent::kept_servers(instance);
    let remote = Remote::new(&read(instance.pki().join("ca.crt"))?, servers.clone(), Some(&identity)).map_err(|cause| cause.to_string())?;
    let client = remote.client("coracle-status", None).map_err(|cause| cause.to_string())?;
    say(&format!("servers   {}", servers.join(", ")));
    let told = |cause: kube::Error| format!("API server: {cause}");
    let (reviews, nobody) = (Api::<SelfSubjectReview>::all(client.clone()), SelfSubjectReview::default());
    let review = reviews.create(&PostParams::default(), &nobody).await.map_err(told)?;
    let user = review.status.and_then(|status| status.user_info?.username).unwrap_or_default();
    let name = user.strip_prefix("system:node:").ok_or_else(|| format!("{user:?} is no node"))?;
    let node = Api::<Node>::all(client.clone()).get(name).await.map_err(told)?;
    say_node(node);
    let own = ListParams::default().fields(&format!("spec.nodeName={name}"));
    say_pods(&Api::<Pod>::all(client).list(&own).await.map_err(told)?.items);
    Ok(())
}

async fn cluster(instance: &Instance) -> Result<(), String> {
    let client = client::from_kubeconfig(&instance.admin_kubeconfig()).await.map_err(|cause| cause.to_string())?;
    let readyz = http::Request::get("/readyz?verbose").body(Vec::new()).map_err(|cause| cause.to_string())?;
    match client.request_text(readyz).await {
        Ok(text) => {
            for line in text.lines().filter(|line| !line.is_empty()) {
                say(&format!("  {line}"));
            }
        }
        Err(cause) => return Err(format!("API server: {cause}")),
    }
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.map_err(|cause| cause.to_string())?;
    nodes.into_iter().for_each(say_node);
    let pods = Api::<Pod>::all(client).list(&ListParams::default()).await.map_err(|cause| cause.to_string())?;
    say_pods(&pods.items);
    Ok(())
}

fn say_node(node: Node) {
    let name = node.metadata.name.unwrap_or_default();
    let status = node.status.unwrap_or_default();
    let ready = status.conditions.iter().flatten().find(|it| it.type_ == "Ready");
    let version = status.node_info.map(|info| info.kubelet_version).unwrap_or_default();
    let state = match ready {
        Some(condition) if condition.status == "True" => "Ready".to_string(),
        Some(condition) => format!("NotReady ({})", condition.message.as_deref().unwrap_or_default()),
        None => "NotReady".to_string(),
    };
    say(&format!("node      {name} {state} {version}"));
}

fn say_pods(pods: &[Pod]) {
    let running = pods.iter().filter(|pod| pod.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Running"));
    say(&format!("pods      {} of {} running", running.count(), pods.len()));
}

fn resident_bytes(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
