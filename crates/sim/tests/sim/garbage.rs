//! What goes with its owner, what stays, and in which order.

use client::Propagation;
use serde_json::{Value, json};
use sim::NodeConfig;

use crate::api::{Api, is_ready, pod, replicated, scenario};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";

async fn controller_with(api: &Api, replicas: u32) -> Vec<Value> {
    api.cluster.add_node(NodeConfig::named("node"));
    api.create(CONTROLLERS, replicated("rc", replicas)).await;
    api.until_items(PODS, replicas as usize, is_ready).await
}

async fn deployment(api: &Api) {
    api.cluster.add_node(NodeConfig::named("node"));
    let mut web = replicated("web", 2);
    web["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
    api.create(DEPLOYMENTS, web).await;
    api.until_items(PODS, 2, is_ready).await;
    api.until_items(SETS, 1, |_| true).await;
}

// Conformance: [sig-api-machinery] Garbage collector should delete RS created by deployment when not orphaning
#[test]
fn a_deployments_sets_and_pods_go_with_it() {
    scenario(async |api| {
        deployment(&api).await;
        api.delete(&format!("{DEPLOYMENTS}/web"), Some(Propagation::Background)).await;
        api.until_items(SETS, 0, |_| true).await;
        api.until_items(PODS, 0, |_| true).await;
    });
}

// Conformance: [sig-api-machinery] Garbage collector should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan
#[test]
fn an_orphaned_set_stays_with_its_pods() {
    scenario(async |api| {
        deployment(&api).await;
        api.delete(&format!("{DEPLOYMENTS}/web"), Some(Propagation::Orphan)).await;
        api.until_gone(&format!("{DEPLOYMENTS}/web")).await;
        api.seconds(60).await;
        let sets = api.items(SETS).await;
        assert_eq!(sets.len(), 1);
        assert!(sets[0]["metadata"]["ownerReferences"].is_null(), "{}", sets[0]["metadata"]);
        assert_eq!(api.items(PODS).await.len(), 2);
    });
}

// Conformance: [sig-api-machinery] Garbage collector should delete pods created by rc when not orphaning
#[test]
fn a_controllers_pods_go_with_it() {
    scenario(async |api| {
        controller_with(&api, 2).await;
        api.delete(&format!("{CONTROLLERS}/rc"), Some(Propagation::Background)).await;
        api.until_items(PODS, 0, |_| true).await;
    });
}

// Conformance: [sig-api-machinery] Garbage collector should orphan pods created by rc if delete options say so
#[test]
fn orphaned_pods_stay() {
    scenario(async |api| {
        controller_with(&api, 10).await;
        api.delete(&format!("{CONTROLLERS}/rc"), Some(Propagation::Orphan)).await;
        api.until_gone(&format!("{CONTROLLERS}/rc")).await;
        api.seconds(60).await;
        let pods = api.items(PODS).await;
        assert_eq!(pods.len(), 10);
        assert!(pods.iter().all(|pod| pod["metadata"]["ownerReferences"].is_null() && pod["metadata"]["deletionTimestamp"].is_null()));
    });
}

// Conformance: [sig-api-machinery] Garbage collector should keep the rc around until all its pods are deleted if the deleteOptions says so
#[test]
fn in_the_foreground_the_owner_goes_last() {
    scenario(async |api| {
        controller_with(&api, 10).await;
        let path = format!("{CONTROLLERS}/rc");
        api.delete(&path, Some(Propagation::Foreground)).await;
        let mut seen_deleting = false;
        while let Some(owner) = api.get(&path).await {
            assert_eq!(owner["metadata"]["finalizers"], json!(["foregroundDeletion"]));
            seen_deleting |= !owner["metadata"]["deletionTimestamp"].is_null();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(seen_deleting, "it must be there while its pods are");
        assert_eq!(api.items(PODS).await.len(), 0, "no pod may be there when its owner is gone");
    });
}

// Conformance: [sig-api-machinery] Garbage collector should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted
#[test]
fn a_pod_with_another_owner_stays() {
    scenario(async |api| {
        let pods = controller_with(&api, 10).await;
        let mut other = replicated("other", 0);
        other["spec"]["selector"] = json!({"app": "other"});
        let other = api.create(CONTROLLERS, other).await;
        let owner = json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "other", "uid": other["metadata"]["uid"]});
        for pod in &pods[..5] {
            let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().expect("a name"));
            api.patch(&path, json!({"metadata": {"ownerReferences": [owner]}})).await;
        }
        api.delete(&format!("{CONTROLLERS}/rc"), Some(Propagation::Foreground)).await;
        api.until_gone(&format!("{CONTROLLERS}/rc")).await;
        api.seconds(60).await;
        let left = api.items(PODS).await;
        assert_eq!(left.len(), 5);
        for pod in left {
            assert!(pod["metadata"]["deletionTimestamp"].is_null());
            let owners = pod["metadata"]["ownerReferences"].as_array().expect("owners").clone();
            assert_eq!(owners.len(), 1, "{owners:?}");
            assert_eq!(owners[0]["name"], "other");
        }
    });
}

// Conformance: [sig-api-machinery] Garbage collector should not be blocked by dependency circle
#[test]
fn a_circle_of_owners_goes_as_a_whole() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("node"));
        let mut uids = Vec::new();
        for name in ["pod1", "pod2", "pod3"] {
            uids.push(api.create(PODS, pod(name, json!({}))).await["metadata"]["uid"].clone());
        }
        for (dependent, owner) in [("pod1", 2), ("pod2", 0), ("pod3", 1)] {
            let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": format!("pod{}", owner + 1), "uid": uids[owner],
                "controller": true, "blockOwnerDeletion": true});
            api.patch(&format!("{PODS}/{dependent}"), json!({"metadata": {"ownerReferences": [reference]}})).await;
        }
        api.delete(&format!("{PODS}/pod1"), Some(Propagation::Foreground)).await;
        api.until_items(PODS, 0, |_| true).await;
    });
}
