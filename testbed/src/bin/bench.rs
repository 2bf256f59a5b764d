//! `bench`: measures a cluster made by `$CORACLE` (see `script/bench`) and prints a table beside upstream's figures.
//!
//! Never fails on a time: machines differ and are noisy. CPU per operation and ratios are what to compare.

use std::fs;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use futures::stream::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde_json::json;
use testbed::cluster::{Cluster, NODE};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const CLIENTS: usize = 32;
const OBJECTS: usize = 5_000;
const IDLE: Duration = Duration::from_secs(20);

fn main() -> Outcome<()> {
    if let Some(reason) = testbed::cluster::missing() {
        return Err(reason.into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("| what | Coracle | Kubernetes 1.35.6 on such a machine |\n| --- | --- | --- |");
    let mut cluster = Cluster::start()?;
    row("first start: node Ready", &format!("{:.2} s", cluster.ready_after.as_secs_f64()), "about 3 s");
    runtime.block_on(with_server(&cluster))?;
    cluster.kill_server()?;
    cluster.start_server()?;
    let text = format!("{:.2} s", cluster.ready_after.as_secs_f64());
    row(&format!("restart after kill -9 with {OBJECTS} objects: node Ready"), &text, "1.9 s (API server alone)");
    Ok(())
}

async fn with_server(cluster: &Cluster) -> Outcome<()> {
    let client = client::from_kubeconfig(&cluster.kubeconfig()).await?;
    idle(cluster).await;
    pods(cluster, &client).await?;
    objects(cluster, &client).await
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

async fn objects(cluster: &Cluster, client: &Client) -> Outcome<()> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "default");
    let value = "x".repeat(1024);
    let before = usage(cluster);
    let started = Instant::now();
    futures::stream::iter(0..OBJECTS)
        .map(|index| {
            let (maps, value) = (&maps, &value);
            async move {
                let map = serde_json::from_value(
                    json!({"metadata": {"name": format!("load-{index}")}, "data": {"value": value}}),
                )
                .map_err(kube::Error::SerdeError)?;
                maps.create(&PostParams::default(), &map).await
            }
        })
        .buffer_unordered(CLIENTS)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let (took, cpu) = (started.elapsed(), usage(cluster).cpu - before.cpu);
    let text = format!(
        "{:.0}/s; {:.3} ms CPU each, {:.0} per second of server CPU",
        OBJECTS as f64 / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e3 / OBJECTS as f64,
        OBJECTS as f64 / cpu.as_secs_f64(),
    );
    row("create ConfigMap of 1 KiB, 32 clients, TLS, durable", &text, "1,450/s; 1.14 ms CPU each, 877 per second");

    let before = usage(cluster);
    let started = Instant::now();
    const LISTS: usize = 20;
    let mut bytes = 0;
    for _ in 0..LISTS {
        let request = http::Request::get("/api/v1/namespaces/default/configmaps").body(Vec::new())?;
        bytes += client.request_text(request).await?.len();
    }
    let (took, cpu) = (started.elapsed(), usage(cluster).cpu - before.cpu);
    let text = format!(
        "{:.0} MB/s; {:.1} ms CPU each, {:.0} MB per second of server CPU",
        bytes as f64 / 1e6 / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e3 / LISTS as f64,
        bytes as f64 / 1e6 / cpu.as_secs_f64(),
    );
    row(&format!("list {OBJECTS} of them, JSON"), &text, "123 MB/s; 82 ms CPU each, 96 MB per second");

    let before = usage(cluster);
    const GETS: usize = 10_000;
    futures::stream::iter(0..GETS)
        .map(|index| {
            let maps = &maps;
            async move { maps.get(&format!("load-{}", index % OBJECTS)).await.map(|_| ()) }
        })
        .buffer_unordered(CLIENTS)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    let cpu = usage(cluster).cpu - before.cpu;
    row("get, 32 clients", &format!("{:.3} ms CPU each", cpu.as_secs_f64() * 1e3 / GETS as f64), "0.49 ms CPU each");
    row("resident memory with them", &format!("{} MiB", usage(cluster).resident >> 20), "837 MiB");
    Ok(())
}

struct Usage {
    cpu: Duration,
    resident: u64,
}

/// CPU time and resident memory of the server process.
fn usage(cluster: &Cluster) -> Usage {
    let pid = cluster.server_pid().unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|it| it.parse::<u64>().ok()).unwrap_or_default();
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
    Usage { cpu: Duration::from_millis((ticks(11) + ticks(12)) * 10), resident: pages * 4096 }
}

fn row(what: &str, ours: &str, theirs: &str) {
    println!("| {what} | {ours} | {theirs} |");
}
