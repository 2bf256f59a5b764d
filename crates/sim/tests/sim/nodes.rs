//! Nodes that die and return.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use sim::NodeConfig;

use crate::{MINUTE, for_each_seed, is_ready, pods};

#[test]
fn pods_of_a_dead_node_run_elsewhere_after_their_toleration() {
    for_each_seed(async |cluster| {
        let doomed = cluster.add_node(NodeConfig::named("doomed"));
        let nodes = Api::<Node>::all(cluster.client.clone());
        let set = serde_json::from_value::<ReplicaSet>(json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            }},
        }))
        .expect("a set");
        let sets = Api::<ReplicaSet>::namespaced(cluster.client.clone(), "default");
        sets.create(&PostParams::default(), &set).await.expect("creates");
        let all_ready = async || {
            let pods = pods(&cluster, "app=web").await;
            (pods.len() == 3 && pods.iter().all(is_ready)).then_some(())
        };
        assert!(cluster.eventually(MINUTE, all_ready).await.is_some(), "three pods run on the only node");
        cluster.add_node(NodeConfig::named("spare"));
        doomed.crash();

        let unknown = cluster.eventually(2 * MINUTE, async || {
            let node = nodes.get("doomed").await.ok()?;
            let ready = node.status?.conditions?.into_iter().find(|it| it.type_ == "Ready")?;
            (ready.status == "Unknown" && ready.reason.as_deref() == Some("NodeStatusUnknown")).then_some(())
        });
        assert!(unknown.await.is_some(), "the node lifecycle controller must notice");
        let tainted = nodes.get("doomed").await.expect("is there").spec.and_then(|spec| spec.taints).unwrap_or_default();
        assert!(tainted.iter().any(|it| it.key == "node.kubernetes.io/unreachable"), "{tainted:?}");
        let moved = cluster.eventually(10 * MINUTE, async || {
            let pods = pods(&cluster, "app=web").await;
            let elsewhere = |pod: &k8s_openapi::api::core::v1::Pod| {
                pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some("spare")
            };
            (pods.len() == 3 && pods.iter().all(|pod| is_ready(pod) && elsewhere(pod))).then_some(())
        });
        if moved.await.is_none() {
            let spare = nodes.get("spare").await.expect("is there");
            panic!("after 300 s of toleration the pods run elsewhere: {:?} {:?}", spare.spec, spare.status);
        }
    });
}
