//! Deployments in virtual time: what must hold at every moment of a roll.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use sim::{NodeConfig, SimulatedCluster};

use crate::{MINUTE, for_each_seed, is_ready, pods};

fn web(replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "nginx", "image": "nginx:1"}]},
            },
        },
    }))
    .expect("a deployment")
}

async fn start(cluster: &SimulatedCluster, replicas: i32) -> Api<Deployment> {
    for index in 0..3 {
        cluster.add_node(NodeConfig::named(format!("node-{index}")));
    }
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), "default");
    deployments.create(&PostParams::default(), &web(replicas)).await.expect("creates");
    rolled_out(cluster, replicas).await;
    deployments
}

async fn rolled_out(cluster: &SimulatedCluster, replicas: i32) {
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), "default");
    let done = cluster.eventually(5 * MINUTE, async || {
        let deployment = deployments.get("web").await.ok()?;
        let status = deployment.status?;
        (status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == Some(replicas)
            && status.available_replicas == Some(replicas)
            && status.replicas == Some(replicas))
        .then_some(())
    });
    if done.await.is_none() {
        let deployment = deployments.get("web").await.expect("is there");
        panic!("not rolled out: {}", serde_json::to_string_pretty(&deployment.status).expect("prints"));
    }
}

async fn set_image(deployments: &Api<Deployment>, image: &str) {
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "nginx", "image": image}]}}}});
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.expect("patches");
}

#[test]
fn a_roll_never_surges_beyond_nor_falls_below() {
    for_each_seed(async |cluster| {
        let deployments = start(&cluster, 6).await;
        set_image(&deployments, "nginx:2").await;
        let watching = async {
            loop {
                let all = pods(&cluster, "app=web").await;
                let ready = all.iter().filter(|pod| is_ready(pod)).count();
                assert!(all.len() <= 8, "{} pods: more than maxSurge allows", all.len());
                assert!(ready >= 5, "{ready} ready pods: fewer than maxUnavailable allows");
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
        };
        tokio::select! {
            () = watching => {}
            () = rolled_out(&cluster, 6) => {}
        }
        let sets = Api::<ReplicaSet>::namespaced(cluster.client.clone(), "default");
        let sets = sets.list(&ListParams::default()).await.expect("lists");
        let mut sizes: Vec<_> = sets.items.iter().filter_map(|set| set.spec.as_ref()?.replicas).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [0, 6]);
    });
}

#[test]
fn a_rollover_ends_with_the_last_template() {
    for_each_seed(async |cluster| {
        let deployments = start(&cluster, 5).await;
        for image in ["nginx:2", "nginx:3", "nginx:4"] {
            set_image(&deployments, image).await;
            tokio::time::sleep(Duration::from_millis(300 + cluster.seed * 41)).await;
        }
        rolled_out(&cluster, 5).await;
        for pod in pods(&cluster, "app=web").await {
            assert_eq!(pod.spec.expect("a spec").containers[0].image.as_deref(), Some("nginx:4"));
        }
    });
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    for_each_seed(async |cluster| {
        let deployments = start(&cluster, 2).await;
        let pause = json!({"spec": {"paused": true}});
        deployments.patch("web", &PatchParams::default(), &Patch::Merge(pause)).await.expect("patches");
        set_image(&deployments, "nginx:2").await;
        let scale = json!({"spec": {"replicas": 4}});
        deployments.patch("web", &PatchParams::default(), &Patch::Merge(scale)).await.expect("patches");
        tokio::time::sleep(MINUTE).await;
        let running = pods(&cluster, "app=web").await;
        assert_eq!(running.len(), 4);
        assert!(running.iter().all(|pod| pod.spec.as_ref().expect("a spec").containers[0].image.as_deref() == Some("nginx:1")));
    });
}

#[test]
fn deleting_a_deployment_leaves_no_orphan() {
    for_each_seed(async |cluster| {
        let deployments = start(&cluster, 3).await;
        deployments.delete("web", &Default::default()).await.expect("deletes");
        let sets = Api::<ReplicaSet>::namespaced(cluster.client.clone(), "default");
        let gone = cluster.eventually(2 * MINUTE, async || {
            let sets = sets.list(&ListParams::default()).await.ok()?;
            (sets.items.is_empty() && pods(&cluster, "app=web").await.is_empty()).then_some(())
        });
        assert!(gone.await.is_some(), "the garbage collector must take ReplicaSets and pods");
    });
}
