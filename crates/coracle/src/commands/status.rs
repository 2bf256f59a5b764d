//! `coracle status`: what runs, its version, and the health of node and components.

use clap::{ArgMatches, Command};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;

use super::{VERSION, block_on, data_dir_argument, instance, process, say};
use crate::instance::Instance;

pub fn command() -> Command {
    Command::new("status").about("Show what runs and how it is").arg(data_dir_argument())
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let instance = instance(matches)?;
    say(&format!("coracle   {VERSION}"));
    say(&format!("data dir  {}", instance.data_dir.display()));
    let Some(pid) = process::running(&instance.lock()) else {
        say("server    not running");
        return Err("not running; start it with: coracle up".into());
    };
    let memory = resident_bytes(pid).map_or("?".into(), |bytes| format!("{} MiB", bytes >> 20));
    say(&format!("server    pid {pid}, {memory} resident"));
    block_on(cluster(&instance))
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
    for node in nodes {
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
    let pods = Api::<Pod>::all(client).list(&ListParams::default()).await.map_err(|cause| cause.to_string())?;
    let running = pods.iter().filter(|pod| pod.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Running"));
    say(&format!("pods      {} of {} running", running.count(), pods.items.len()));
    Ok(())
}

fn resident_bytes(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
