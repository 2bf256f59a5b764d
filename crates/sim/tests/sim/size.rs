//! What a large simulated cluster costs: memory, CPU at rest, the time to the first Ready pod and that of a roll.
//! `cargo test --release -p sim -- --ignored --nocapture size::`; `CORACLE_NODES` and `CORACLE_PODS` say how large. It
//! tells figures and fails on none.

use std::io::Write as _;
use std::time::{Duration, Instant};

use client::{Patch, Rest};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sim::{NodeConfig, ServeConfig};
use tokio_util::sync::CancellationToken;

/// Of each Deployment.
const REPLICAS: usize = 10_000;
const ZONES: usize = 3;
const REST: Duration = Duration::from_secs(60);
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

struct Meter {
    began: Instant,
}

impl Meter {
    fn tell(&self, what: &str) {
        let (cpu, rss) = (cpu_seconds(), resident_mib());
        let line = format!("{:7.1} s, CPU {cpu:7.1} s, memory {rss:6.0} MiB: {what}\n", self.began.elapsed().as_secs_f64());
        std::io::stderr().write_all(line.as_bytes()).expect("prints");
    }
}

/// Of this process, which is all of the cluster.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn wanted(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
#[ignore = "a measurement"]
fn size() {
    let (nodes, pods) = (wanted("CORACLE_NODES", 5_000), wanted("CORACLE_PODS", 150_000));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let directory = std::env::temp_dir().join(format!("coracle-size-{}", std::process::id()));
    let cancel = CancellationToken::new();
    let outcome = runtime.block_on(measure(nodes, pods, directory.clone(), cancel.clone()));
    cancel.cancel();
    runtime.shutdown_background();
    std::fs::remove_dir_all(&directory).expect("was made");
    outcome.expect("every request is answered");
}

async fn measure(nodes: usize, pods: usize, directory: std::path::PathBuf, cancel: CancellationToken) -> Result<(), client::Error> {
    std::fs::create_dir_all(&directory).expect("is made");
    let meter = Meter { began: Instant::now() };
    let node = |index: usize| {
        let config = NodeConfig { cpu: "32".into(), memory: "256Gi".into(), ..NodeConfig::named(format!("node-{index}")) };
        config.label("topology.kubernetes.io/zone", &format!("zone-{}", index % ZONES))
    };
    let kubeconfig = directory.join("kubeconfig");
    let config = ServeConfig { nodes: (0..nodes).map(node).collect(), port: 0, directory, kubeconfig_out: kubeconfig.clone() };
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    tokio::spawn(sim::serve(config, cancel, move |_| ready.send(()).expect("is waited for")));
    is_ready.await.expect("it starts");
    let rest = Rest::new(client::from_kubeconfig(&kubeconfig).await.expect("was just written"));
    while ready_nodes(&rest).await? < nodes {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    meter.tell(&format!("{nodes} nodes are Ready"));

    let replicas = REPLICAS.min(pods);
    let deployments = pods.div_ceil(replicas);
    let asked = Instant::now();
    for index in 0..deployments {
        let name = format!("web-{index}");
        let container = json!({"name": "c", "image": "nginx:1.16", "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}});
        let template = json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}});
        let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template});
        rest.post_at::<IgnoredAny>(DEPLOYMENTS.into(), &json!({"metadata": {"name": name}, "spec": spec})).await?;
    }
    let (mut first, mut told) = (false, Instant::now());
    loop {
        let list: Value = rest.get_at(DEPLOYMENTS.into()).await?;
        let items = list["items"].as_array().into_iter().flatten();
        let ready: u64 = items.filter_map(|item| item["status"]["readyReplicas"].as_u64()).sum();
        let after = asked.elapsed().as_secs_f64();
        if ready > 0 && !std::mem::replace(&mut first, true) {
            meter.tell(&format!("a first pod is Ready after {after:.1} s"));
        }
        if ready as usize >= deployments * replicas {
            meter.tell(&format!("all {ready} pods are Ready after {after:.0} s"));
            break;
        }
        if told.elapsed() > REST {
            told = Instant::now();
            meter.tell(&format!("{ready} pods are Ready"));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    tokio::time::sleep(REST / 4).await; // What was under way ends.
    let before = cpu_seconds();
    tokio::time::sleep(REST).await;
    let share = (cpu_seconds() - before) / REST.as_secs_f64() * 100.0;
    meter.tell(&format!("at rest it takes {share:.1} % of a core"));

    let (asked, cpu) = (Instant::now(), cpu_seconds());
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "nginx:1.17"}]}}}});
    let path = format!("{DEPLOYMENTS}/web-0");
    rest.patch_at::<IgnoredAny>(path.clone(), &Patch::Strategic(image)).await?;
    loop {
        let object: Value = rest.get_at(path.clone()).await?;
        let status = &object["status"];
        let all = |field: &str| status[field].as_u64() == Some(replicas as u64);
        if all("updatedReplicas") && all("replicas") && all("availableReplicas") && status["observedGeneration"] == object["metadata"]["generation"] {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let spent = cpu_seconds() - cpu;
    meter.tell(&format!("a Deployment of {replicas} is rolled after {:.0} s and {spent:.0} s of CPU", asked.elapsed().as_secs_f64()));
    Ok(())
}

async fn ready_nodes(rest: &Rest) -> Result<usize, client::Error> {
    let list: Value = rest.get_at("/api/v1/nodes".into()).await?;
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    Ok(list["items"].as_array().into_iter().flatten().filter(is_ready).count())
}
