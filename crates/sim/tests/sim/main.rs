//! The control plane in virtual time. `CORACLE_SEED` repeats one run, `CORACLE_SEEDS` asks for more of them,
//! `CORACLE_LOG=debug` tells what the components have to say.

mod api;
mod autoscaling;
mod conformance_apps;
mod controllers;
mod deployment;
mod garbage;
mod leaders;
mod mixed;
mod namespaces;
mod nodes;
mod quotas;
mod scheduling;
mod size;
mod speed;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use sim::SimulatedCluster;

const SEEDS: u64 = 5;

/// The seeds to run: the one that is asked for, or as many as are asked for, or `from-until`.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let text = |name: &str| std::env::var(name).unwrap_or_default();
    if let Ok(seed) = text("CORACLE_SEED").parse() {
        return seed..seed + 1;
    }
    let asked = text("CORACLE_SEEDS");
    let (from, until) = asked.split_once('-').unwrap_or(("0", &asked));
    from.parse().unwrap_or(0)..until.parse().unwrap_or(default)
}

fn service_account_key() -> String {
    rcgen::KeyPair::generate().expect("a key").serialize_pem()
}

fn with_virtual_time<T>(scenario: impl Future<Output = T>) -> T {
    if let Ok(filter) = std::env::var("CORACLE_LOG") {
        // Of several runs the first has set it already.
        let _ = tracing_subscriber::fmt().without_time().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(scenario)
}

/// Runs a scenario for each seed on a paused clock of its own; a failure names its seed.
fn for_each_seed(scenario: impl AsyncFn(SimulatedCluster)) {
    let key = service_account_key();
    for seed in seeds(SEEDS).take(SEEDS as usize) {
        let told = Told(seed);
        with_virtual_time(async {
            let cluster = SimulatedCluster::start(seed, key.clone()).await.expect("starts");
            scenario(cluster).await;
        });
        std::mem::forget(told);
    }
}

/// Says the seed when a scenario panics.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("failed with CORACLE_SEED={}", self.0);
    }
}

/// The pods of the default namespace that are not on their way out.
async fn pods(cluster: &SimulatedCluster, labels: &str) -> Vec<Pod> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), "default");
    let list = pods.list(&ListParams::default().labels(labels)).await.expect("lists pods");
    list.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}

const MINUTE: Duration = Duration::from_secs(60);
