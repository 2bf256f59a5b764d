//! The API server alone: ConfigMaps of 1 KiB, created, changed, read, listed, watched and kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use testbed::cluster::Cluster;

use crate::measure::{Outcome, percentile, row, table, usage};

const CLIENTS: usize = 32;
const OBJECTS: usize = 5_000;
const MANY: usize = 100_000;
const GETS: usize = 10_000;
const LISTS: usize = 20;
const WATCHERS: usize = 1_000;
const BURST: usize = 200;
const MIXED: Duration = Duration::from_secs(10);
const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";

pub fn run(runtime: &tokio::runtime::Runtime) -> Outcome<()> {
    table("The API server, 32 clients over TLS, every write durable");
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    runtime.block_on(async {
        let client = client::from_kubeconfig(&cluster.kubeconfig()).await?;
        tokio::time::sleep(Duration::from_secs(3)).await; // Start-up work settles.
        let idle = usage(&cluster).resident;
        row("idle: resident memory", &format!("{} MiB", idle >> 20), "270 MiB (API server alone)");
        create(&cluster, &client).await?;
        patch(&cluster, &client).await?;
        get(&cluster, &client).await?;
        list(&cluster, &client, "JSON", "application/json", "82 ms CPU each, 123 MB/s").await?;
        list(&cluster, &client, "protobuf", "application/vnd.kubernetes.protobuf", "33.5 ms each").await?;
        watch(&cluster, &client).await?;
        namespace(&cluster, &client).await?;
        mixed(&cluster, &client).await?;
        memory(&cluster, &client, idle).await
    })
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "default")
}

fn map(name: &str) -> kube::Result<ConfigMap> {
    let object = json!({"metadata": {"name": name}, "data": {"value": "x".repeat(1024)}});
    serde_json::from_value(object).map_err(kube::Error::SerdeError)
}

/// CPU of the server for each of `count` operations, 32 at a time, and how many there were a second.
async fn each<F>(cluster: &Cluster, count: usize, operation: impl Fn(usize) -> F) -> Outcome<(Duration, f64)>
where
    F: Future<Output = kube::Result<()>>,
{
    let before = usage(cluster);
    let started = Instant::now();
    futures::stream::iter(0..count).map(operation).buffer_unordered(CLIENTS).try_for_each(|()| async { Ok(()) }).await?;
    let took = started.elapsed();
    let cpu = usage(cluster).cpu - before.cpu;
    Ok((cpu / u32::try_from(count)?, count as f64 / took.as_secs_f64()))
}

fn costs(cpu: Duration, upstream_ms: f64, rate: f64) -> String {
    let ours = cpu.as_secs_f64() * 1e3;
    format!("{ours:.3} ms CPU each ({:.1} times less); {rate:.0}/s", upstream_ms / ours)
}

async fn create(cluster: &Cluster, client: &Client) -> Outcome<()> {
    let maps = maps(client);
    let (cpu, rate) = each(cluster, OBJECTS, |index| {
        let maps = &maps;
        async move { maps.create(&PostParams::default(), &map(&format!("load-{index}"))?).await.map(|_| ()) }
    })
    .await?;
    row("create", &costs(cpu, 1.14, rate), "1.14 ms CPU each; 1,450/s");
    Ok(())
}

async fn patch(cluster: &Cluster, client: &Client) -> Outcome<()> {
    let maps = maps(client);
    let (cpu, rate) = each(cluster, OBJECTS, |index| {
        let maps = &maps;
        let patch = Patch::Merge(json!({"data": {"changed": index.to_string()}}));
        async move { maps.patch(&format!("load-{index}"), &PatchParams::default(), &patch).await.map(|_| ()) }
    })
    .await?;
    row("merge patch", &costs(cpu, 1.26, rate), "1.26 ms CPU each; 1,080/s");
    Ok(())
}

async fn get(cluster: &Cluster, client: &Client) -> Outcome<()> {
    let maps = maps(client);
    let (cpu, rate) = each(cluster, GETS, |index| {
        let maps = &maps;
        async move { maps.get(&format!("load-{}", index % OBJECTS)).await.map(|_| ()) }
    })
    .await?;
    row("get", &costs(cpu, 0.49, rate), "0.49 ms CPU each; 3,170/s");
    Ok(())
}

async fn list(cluster: &Cluster, client: &Client, form: &str, accept: &str, theirs: &str) -> Outcome<()> {
    let before = usage(cluster);
    let started = Instant::now();
    let mut bytes = 0;
    for _ in 0..LISTS {
        let request = http::Request::get(COLLECTION).header("accept", accept).body(kube::client::Body::empty())?;
        let mut body = client.send(request).await?.into_body();
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, |data| data.len());
        }
    }
    let (took, cpu) = (started.elapsed(), usage(cluster).cpu - before.cpu);
    let ours = cpu.as_secs_f64() * 1e3 / LISTS as f64;
    let ratio = if form == "JSON" { format!(" ({:.1} times less)", 82.0 / ours) } else { String::new() };
    let text = format!("{ours:.2} ms CPU each{ratio}; {:.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64());
    row(&format!("list {OBJECTS}, {form}"), &text, theirs);
    Ok(())
}

/// What a burst of creations costs for each of those who watch.
async fn watch(cluster: &Cluster, client: &Client) -> Outcome<()> {
    let maps = maps(client);
    let version = maps.list(&kube::api::ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    let seen = Arc::new(AtomicUsize::new(0));
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let request = http::Request::get(format!("{COLLECTION}?watch=1&resourceVersion={version}")).body(kube::client::Body::empty())?;
        let mut body = client.send(request).await?.into_body();
        let seen = seen.clone();
        watchers.push(tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
                seen.fetch_add(lines, Ordering::Relaxed);
            }
        }));
    }
    let before = usage(cluster);
    let started = Instant::now();
    let (_, _) = each(cluster, BURST, |index| {
        let maps = &maps;
        async move { maps.create(&PostParams::default(), &map(&format!("watched-{index}"))?).await.map(|_| ()) }
    })
    .await?;
    let wanted = WATCHERS * BURST;
    while seen.load(Ordering::Relaxed) < wanted && started.elapsed() < Duration::from_secs(120) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (took, cpu) = (started.elapsed(), usage(cluster).cpu - before.cpu);
    watchers.iter().for_each(tokio::task::JoinHandle::abort);
    let delivered = seen.load(Ordering::Relaxed);
    let ours = cpu.as_secs_f64() * 1e6 / delivered.max(1) as f64;
    let text = format!(
        "{ours:.2} us CPU each ({:.1} times less); {:.0} deliveries/s{}",
        8.9 / ours,
        delivered as f64 / took.as_secs_f64(),
        if delivered < wanted { format!("; only {delivered} of {wanted} came") } else { String::new() },
    );
    row(&format!("{WATCHERS} watchers, {BURST} creations in a burst"), &text, "8.9 us CPU each; 176,000 deliveries/s");
    Ok(())
}

/// Until a namespace that holds many objects is gone.
async fn namespace(cluster: &Cluster, client: &Client) -> Outcome<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": "crowded"}}))?;
    namespaces.create(&PostParams::default(), &object).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "crowded");
    each(cluster, OBJECTS, |index| {
        let maps = &maps;
        async move { maps.create(&PostParams::default(), &map(&format!("load-{index}"))?).await.map(|_| ()) }
    })
    .await?;
    let before = usage(cluster);
    let started = Instant::now();
    namespaces.delete("crowded", &DeleteParams::default()).await?;
    while namespaces.get_opt("crowded").await?.is_some() && started.elapsed() < Duration::from_secs(120) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (took, cpu) = (started.elapsed(), usage(cluster).cpu - before.cpu);
    let text = format!("{:.2} s; {:.3} ms CPU for each object", took.as_secs_f64(), cpu.as_secs_f64() * 1e3 / OBJECTS as f64);
    row(&format!("a namespace that holds {OBJECTS} is deleted"), &text, "14 s");
    Ok(())
}

/// How long a read takes while 32 write. The reader has a thread and a connection of its own: what the writers' side
/// does on its threads is not the server's time.
async fn mixed(cluster: &Cluster, client: &Client) -> Outcome<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..CLIENTS)
        .map(|writer| {
            let (maps, stop) = (maps(client), stop.clone());
            tokio::spawn(async move {
                for index in 0.. {
                    let patch = Patch::Merge(json!({"data": {"changed": format!("{writer}-{index}")}}));
                    let name = format!("load-{}", (writer * 131 + index) % OBJECTS);
                    if stop.load(Ordering::Relaxed) || maps.patch(&name, &PatchParams::default(), &patch).await.is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    let kubeconfig = cluster.kubeconfig();
    let reader = move || -> Result<Vec<f64>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|cause| cause.to_string())?;
        runtime.block_on(read_for(MIXED, &kubeconfig)).map_err(|cause| cause.to_string())
    };
    let mut times = tokio::task::spawn_blocking(reader).await??;
    stop.store(true, Ordering::Relaxed);
    futures::future::join_all(writers).await;
    times.sort_by(f64::total_cmp);
    let text = format!("p50 {:.2} ms, p99 {:.2} ms", percentile(&times, 0.5), percentile(&times, 0.99));
    row(&format!("get while {CLIENTS} write"), &text, "p50 9.0 ms with 32 readers");
    Ok(())
}

/// How long each read took, in milliseconds.
async fn read_for(time: Duration, kubeconfig: &std::path::Path) -> Outcome<Vec<f64>> {
    let maps = maps(&client::from_kubeconfig(kubeconfig).await?);
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let asked = Instant::now();
        maps.get(&format!("load-{}", times.len() % OBJECTS)).await?;
        times.push(asked.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(times)
}

async fn memory(cluster: &Cluster, client: &Client, idle: u64) -> Outcome<()> {
    let maps = maps(client);
    each(cluster, MANY - OBJECTS - BURST, |index| {
        let maps = &maps;
        async move { maps.create(&PostParams::default(), &map(&format!("many-{index}"))?).await.map(|_| ()) }
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let resident = usage(cluster).resident;
    let request = http::Request::get(format!("{COLLECTION}/many-0")).body(Vec::new())?;
    let bytes = (client.request_text(request).await?.len() * MANY) as f64;
    let text = format!(
        "{} MiB: {:.2} times the objects' bytes, {:.2} times those of their values, above idle",
        resident >> 20,
        (resident - idle) as f64 / bytes,
        (resident - idle) as f64 / (MANY * 1024) as f64,
    );
    row(&format!("resident memory with {MANY}"), &text, "458 MiB with 5,000 (API server alone)");
    Ok(())
}
