//! Measurements of the scheduler over the real API server, in real time and with all cores:
//! `cargo test --release -p sim -- --ignored --nocapture speed::`. They tell figures and fail on none.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::clock::Clock;
use apiserver::ApiServer;
use client::{Change, EventRecorder, Informers, Patch, Rest};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use scheduler::{Scheduler, SchedulerConfig};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use store::memory::MemoryStore;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const CREATORS: usize = 64;

/// Pods a second from the first creation to the last binding, API writes and all.
fn measure(what: &str, nodes: usize, pods: usize, spec: Value) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (clock, cancel) = (Clock::system(), CancellationToken::new());
        let config = apiserver::Config::new(Arc::new(MemoryStore::new()), clock.clone(), crate::service_account_key());
        let server = ApiServer::new(config).await.expect("starts");
        let rest = Rest::new(client::in_process(server.in_process("sim", &["system:masters"])));
        let make = async |path: &str, count: usize, object: &dyn Fn(usize) -> Value| {
            let objects = futures::stream::iter((0..count).map(object).collect::<Vec<_>>());
            objects
                .for_each_concurrent(CREATORS, |object| {
                    let rest = rest.clone();
                    async move {
                        rest.post_at::<IgnoredAny>(path.to_owned(), &object).await.expect("is created");
                    }
                })
                .await;
        };
        rest.post_at::<Value>("/api/v1/namespaces/default/serviceaccounts".into(), &json!({"metadata": {"name": "default"}})).await.expect("is created");
        make("/api/v1/nodes", nodes, &|index| {
            json!({"metadata": {"name": format!("node-{index}"), "labels": {
                "kubernetes.io/hostname": format!("node-{index}"), "topology.kubernetes.io/zone": format!("zone-{}", index % 10),
            }}, "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}, "capacity": {"cpu": "4", "memory": "32Gi", "pods": "110"}}})
        })
        .await;
        // Admission takes new nodes for not ready, and there is no controller here that would let pods in.
        futures::stream::iter(0..nodes)
            .for_each_concurrent(CREATORS, |index| {
                let (rest, open) = (rest.clone(), Patch::Merge(json!({"spec": {"taints": null}})));
                async move {
                    rest.patch_at::<IgnoredAny>(format!("/api/v1/nodes/node-{index}"), &open).await.expect("is opened");
                }
            })
            .await;
        let client = client::in_process_as(server.in_process("system:kube-scheduler", &[]), "kube-scheduler");
        let informers = Informers::new(client.clone(), cancel.clone());
        let recorder = EventRecorder::new(client.clone(), clock.clone(), "default-scheduler", "");
        tokio::spawn(Scheduler::new(client, informers.clone(), recorder, clock, SchedulerConfig::default()).run(cancel.clone()));
        let seen = informers.of::<Pod>();
        seen.synced().await;
        let bound = Arc::new((Mutex::new(HashSet::new()), Notify::new()));
        let counter = bound.clone();
        seen.subscribe(move |change: &Change<Pod>| {
            let pod = change.object();
            if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
                let mut names = counter.0.lock().expect("no thread panics with it");
                if names.insert(pod.metadata.name.clone()) && names.len() == pods {
                    counter.1.notify_one();
                }
            }
        });
        // The first few warm it up.
        let began = Instant::now();
        make("/api/v1/namespaces/default/pods", pods, &|index| {
            json!({"metadata": {"name": format!("pod-{index}"), "labels": {"app": "web"}}, "spec": spec})
        })
        .await;
        let created = began.elapsed();
        while tokio::time::timeout(Duration::from_secs(60), bound.1.notified()).await.is_err() {
            let mut out = std::io::stderr();
            let placed = bound.0.lock().expect("no thread panics with it").len();
            writeln!(out, "{what}: after {:?} {placed} of {pods} are bound", began.elapsed()).expect("prints");
        }
        let rate = pods as f64 / began.elapsed().as_secs_f64();
        let mut out = std::io::stderr();
        writeln!(out, "{what}: {nodes} nodes, {pods} pods: {rate:.0} pods/s (created within {:.2} s)", created.as_secs_f64()).expect("prints");
        cancel.cancel();
    });
    runtime.shutdown_background();
}

fn containers() -> Value {
    json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}])
}

#[test]
#[ignore = "a measurement"]
fn basic() {
    measure("basic", 500, 1_000, json!({"containers": containers()}));
    measure("basic", 5_000, 10_000, json!({"containers": containers()}));
}

#[test]
#[ignore = "a measurement"]
fn anti_affinity() {
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    measure("required anti-affinity", 5_000, 2_000, json!({"containers": containers(), "affinity": affinity}));
}

#[test]
#[ignore = "a measurement"]
fn topology_spread() {
    let constraint = |key: &str| json!({"maxSkew": 5, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
    measure("spread over zones", 5_000, 5_000, json!({"containers": containers(), "topologySpreadConstraints": [constraint("topology.kubernetes.io/zone")]}));
    measure("spread over nodes", 5_000, 2_000, json!({"containers": containers(), "topologySpreadConstraints": [constraint("kubernetes.io/hostname")]}));
}
