//! A whole cluster of one node: how soon it is up, what it needs when idle, how fast pods are.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use futures::stream::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::json;
use testbed::cluster::{Cluster, NODE};

use crate::measure::{Outcome, row, table, usage};

const IDLE: Duration = Duration::from_secs(20);

pub fn run(runtime: &tokio::runtime::Runtime) -> Outcome<()> {
    table("A cluster of one node");
    let mut cluster = Cluster::start()?;
    row("first start: node Ready", &format!("{:.2} s", cluster.ready_after.as_secs_f64()), "about 3 s");
    runtime.block_on(async {
        let client = client::from_kubeconfig(&cluster.kubeconfig()).await?;
        idle(&cluster).await;
        pods(&cluster, &client).await
    })?;
    cluster.kill_server()?;
    cluster.start_server()?;
    let text = format!("{:.2} s", cluster.ready_after.as_secs_f64());
    row("restart after kill -9: node Ready", &text, "1.9 s (API server alone)");
    Ok(())
}

async fn idle(cluster: &Cluster) {
    tokio::time::sleep(Duration::from_secs(5)).await; // Start-up work settles.
    let before = usage(cluster);
    tokio::time::sleep(IDLE).await;
    let after = usage(cluster);
    let share = (after.cpu - before.cpu).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    row("idle: resident memory", &format!("{} MiB", after.resident >> 20), "627 MiB");
    row("idle: CPU", &format!("{share:.2} % of a core"), "4 % (control plane alone)");
}

async fn pods(cluster: &Cluster, client: &Client) -> Outcome<()> {
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    run_pods(&pods, "warm", 1).await?; // Pulls the image.
    let mut single = Vec::new();
    for index in 0..5 {
        single.push(run_pods(&pods, &format!("one-{index}"), 1).await?.as_secs_f64() * 1e3);
    }
    single.sort_by(f64::total_cmp);
    row("pod create to Running, image present (median of 5)", &format!("{:.0} ms", single[2]), "1,050 ms");
    let before = usage(cluster);
    let took = run_pods(&pods, "many", 30).await?;
    let cpu = (usage(cluster).cpu - before.cpu).as_secs_f64() * 1e3 / 30.0;
    let text = format!("{:.1} pods/s; {cpu:.1} ms CPU of the server each", 30.0 / took.as_secs_f64());
    row("30 pods at once", &text, "8 to 9 pods/s");
    Ok(())
}

/// Creates pods at once and waits until all run; then removes them.
async fn run_pods(pods: &Api<Pod>, prefix: &str, count: usize) -> Outcome<Duration> {
    let version = pods.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
    let started = Instant::now();
    let specs = (0..count).map(|index| {
        serde_json::from_value::<Pod>(json!({
            "metadata": {"name": format!("{prefix}-{index}")},
            "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 0, "containers": [
                {"name": "main", "image": "busybox:1.35", "command": ["sleep", "3600"]}
            ]},
        }))
    });
    let specs = specs.collect::<Result<Vec<_>, _>>()?;
    let parameters = PostParams::default();
    try_join_all(specs.iter().map(|pod| pods.create(&parameters, pod))).await?;
    let mut events = pods.watch(&WatchParams::default(), &version).await?.boxed();
    let mut running = std::collections::BTreeSet::new();
    while running.len() < count {
        let event = tokio::time::timeout(Duration::from_secs(60), events.try_next()).await??;
        if let Some(WatchEvent::Modified(pod) | WatchEvent::Added(pod)) = event
            && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
        {
            running.insert(pod.metadata.name);
        }
    }
    let took = started.elapsed();
    let delete = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    for index in 0..count {
        pods.delete(&format!("{prefix}-{index}"), &delete).await?;
    }
    Ok(took)
}
