//! Controllers: how soon a Deployment's pods exist, and a full namespace is gone.

use std::time::{Duration, Instant};

use futures::stream::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use testbed::cluster::Cluster;

use crate::measure::{Outcome, row, table};

const REPLICAS: usize = 200;
const OBJECTS: usize = 5_000;
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(runtime: &tokio::runtime::Runtime) -> Outcome<()> {
    table("Controllers");
    let cluster = Cluster::start_with(&["--disable-agent"])?;
    let session = cluster.session();
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "busybox:1.35"}]}});
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    });
    let started = Instant::now();
    session.create("apps/v1/deployments", &deployment);
    session.eventually_within("apps/v1/deployments/web", PATIENCE, |it| it["status"]["replicas"] == REPLICAS);
    let text = format!("{:.2} s", started.elapsed().as_secs_f64());
    row("a Deployment of 200: all pods exist", &text, "9.3 s");

    session.create("/api/v1/namespaces", &json!({"metadata": {"name": "full"}}));
    runtime.block_on(async {
        let client = client::from_kubeconfig(&cluster.kubeconfig()).await?;
        let maps = Api::<ConfigMap>::namespaced(client, "full");
        let create = |index: usize| {
            let maps = &maps;
            async move {
                let object = json!({"metadata": {"name": format!("map-{index}")}, "data": {"value": "x".repeat(1024)}});
                let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
                maps.create(&PostParams::default(), &object).await.map(|_| ())
            }
        };
        futures::stream::iter(0..OBJECTS).map(create).buffer_unordered(AT_ONCE).try_for_each(|()| async { Ok(()) }).await?;
        Outcome::Ok(())
    })?;
    let started = Instant::now();
    session.delete("/api/v1/namespaces/full");
    session.eventually_within("/api/v1/namespaces/full", PATIENCE, |it| it["code"] == 404);
    let text = format!("{:.2} s", started.elapsed().as_secs_f64());
    row("a namespace with 5,000 ConfigMaps is gone", &text, "14 s");
    Ok(())
}
