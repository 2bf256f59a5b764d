//! What was acknowledged is there after the server was killed, however often.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use testbed::cluster::for_test;

/// Kills in a run; `CORACLE_KILLS` asks for more.
const KILLS: usize = 8;
const WRITERS: usize = 8;

#[test]
fn killed_servers_lose_no_acknowledged_write() {
    let kills = std::env::var("CORACLE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let Some(mut cluster) = for_test(&["--disable-agent"]) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut acknowledged = BTreeSet::new();
    for round in 0..kills {
        let kubeconfig = cluster.kubeconfig();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| runtime.spawn(write_until_refused(kubeconfig.clone(), format!("w{round}-{writer}"))))
            .collect();
        // Differs from round to round, so that the kill falls into all phases of a commit.
        std::thread::sleep(Duration::from_millis(60 + (round as u64 * 37) % 140));
        cluster.kill_server().expect("is killed");
        for writer in writers {
            acknowledged.extend(runtime.block_on(writer).expect("the writer ends"));
        }
        cluster.start_server().expect("starts again");
    }
    let present: BTreeSet<String> = runtime.block_on(async {
        let client = client::from_kubeconfig(cluster.kubeconfig()).await.expect("connects");
        let maps = Api::<ConfigMap>::namespaced(client, "default").list(&ListParams::default()).await.expect("lists");
        maps.items.into_iter().filter_map(|map| map.metadata.name).collect()
    });
    let lost: Vec<&String> = acknowledged.difference(&present).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged writes are lost after {kills} kills: {lost:?}", lost.len(), acknowledged.len());
    assert!(acknowledged.len() > kills * WRITERS, "only {} writes were made", acknowledged.len());
    eprintln!("{} acknowledged writes survived {kills} kills", acknowledged.len());
}

/// Creates objects one after the other until the server is gone; returns the names of those it acknowledged.
async fn write_until_refused(kubeconfig: std::path::PathBuf, prefix: String) -> Vec<String> {
    let client = client::from_kubeconfig(kubeconfig).await.expect("connects");
    let maps = Api::<ConfigMap>::namespaced(client, "default");
    let mut acknowledged = Vec::new();
    for index in 0..100_000 {
        let name = format!("{prefix}-{index}");
        let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": "v"}})).expect("a map");
        match maps.create(&PostParams::default(), &map).await {
            Ok(_) => acknowledged.push(name),
            Err(_) => break,
        }
    }
    acknowledged
}
