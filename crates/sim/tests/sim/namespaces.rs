//! Namespaces: made, changed, and emptied in order.

use serde_json::json;
use sim::NodeConfig;

use crate::api::{Api, is_ready, pod, scenario};

const NAMESPACES: &str = "/api/v1/namespaces";

async fn namespace(api: &Api) {
    api.create(NAMESPACES, json!({"metadata": {"name": "team"}})).await;
}

// Conformance: [sig-api-machinery] Namespaces should ensure that all pods are removed when a namespace is deleted
#[test]
fn a_namespaces_pods_go_with_it() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("node"));
        namespace(&api).await;
        api.create("/api/v1/namespaces/team/pods", pod("web", json!({}))).await;
        api.until_items("/api/v1/namespaces/team/pods", 1, is_ready).await;
        api.delete("/api/v1/namespaces/team", None).await;
        api.until_gone("/api/v1/namespaces/team").await;
        namespace(&api).await;
        assert_eq!(api.items("/api/v1/namespaces/team/pods").await.len(), 0);
    });
}

// Conformance: [sig-api-machinery] Namespaces should ensure that all services are removed when a namespace is deleted
#[test]
fn a_namespaces_services_go_with_it() {
    scenario(async |api| {
        namespace(&api).await;
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        api.create("/api/v1/namespaces/team/services", service).await;
        api.delete("/api/v1/namespaces/team", None).await;
        api.until_gone("/api/v1/namespaces/team").await;
        namespace(&api).await;
        assert_eq!(api.items("/api/v1/namespaces/team/services").await.len(), 0);
    });
}

// Conformance: [sig-api-machinery] OrderedNamespaceDeletion namespace deletion should delete pod first
#[test]
fn pods_go_before_all_else() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("node"));
        namespace(&api).await;
        let mut held = pod("held", json!({}));
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        api.create("/api/v1/namespaces/team/pods", held).await;
        api.create("/api/v1/namespaces/team/configmaps", json!({"metadata": {"name": "settings"}, "data": {"a": "b"}})).await;
        api.delete("/api/v1/namespaces/team", None).await;
        api.until("/api/v1/namespaces/team/pods/held", "it must be on its way out", |found| {
            found.is_some_and(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
        })
        .await;
        api.until("/api/v1/namespaces/team", "it must say what it waits for", |found| {
            let conditions = found.and_then(|namespace| namespace["status"]["conditions"].as_array());
            conditions.is_some_and(|all| all.iter().any(|it| it["type"] == "NamespaceContentRemaining" && it["status"] == "True"))
        })
        .await;
        api.seconds(30).await;
        let settings = api.get("/api/v1/namespaces/team/configmaps/settings").await.expect("it waits for the pod");
        assert!(settings["metadata"]["deletionTimestamp"].is_null());
        api.patch("/api/v1/namespaces/team/pods/held", json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/hold"]}})).await;
        api.until_gone("/api/v1/namespaces/team").await;
    });
}

// Conformance: [sig-api-machinery] Namespaces should patch a Namespace
// Conformance: [sig-api-machinery] Namespaces should apply an update to a Namespace
#[test]
fn its_labels_change() {
    scenario(async |api| {
        namespace(&api).await;
        let patched = api.patch("/api/v1/namespaces/team", json!({"metadata": {"labels": {"testLabel": "testValue"}}})).await;
        assert_eq!(patched["metadata"]["labels"]["testLabel"], "testValue");
        let mut namespace = api.get("/api/v1/namespaces/team").await.expect("is there");
        assert_eq!(namespace["metadata"]["labels"]["testLabel"], "testValue");
        namespace["metadata"]["labels"]["second"] = json!("updated");
        api.put("/api/v1/namespaces/team", namespace).await;
        let found = api.get("/api/v1/namespaces/team").await.expect("is there");
        assert_eq!(found["metadata"]["labels"]["second"], "updated");
    });
}

// Conformance: [sig-api-machinery] Namespaces should apply changes to a namespace status
#[test]
fn its_status_changes_apart() {
    scenario(async |api| {
        namespace(&api).await;
        let status = api.get("/api/v1/namespaces/team/status").await.expect("is there");
        assert_eq!(status["status"]["phase"], "Active");
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "Set by a test", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let patched = api.patch("/api/v1/namespaces/team/status", json!({"metadata": {"annotations": {"e2e-patched-ns-status": "team"}}, "status": {"conditions": [condition("StatusPatch")]}})).await;
        assert_eq!(patched["metadata"]["annotations"]["e2e-patched-ns-status"], "team");
        assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatch");
        let mut namespace = api.get("/api/v1/namespaces/team").await.expect("is there");
        namespace["status"]["conditions"].as_array_mut().expect("conditions").push(condition("StatusUpdate"));
        let updated = api.put("/api/v1/namespaces/team/status", namespace).await;
        let kinds: Vec<_> = updated["status"]["conditions"].as_array().expect("conditions").iter().map(|it| it["type"].clone()).collect();
        assert_eq!(kinds, [json!("StatusPatch"), json!("StatusUpdate")]);
    });
}

// Conformance: [sig-api-machinery] Namespaces should apply a finalizer to a Namespace
#[test]
fn a_finalizer_comes_and_goes() {
    scenario(async |api| {
        namespace(&api).await;
        let mut namespace = api.get("/api/v1/namespaces/team").await.expect("is there");
        assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
        namespace["spec"]["finalizers"] = json!(["kubernetes", "e2e.example.com/fakeFinalizer"]);
        let with = api.put("/api/v1/namespaces/team/finalize", namespace).await;
        assert_eq!(with["spec"]["finalizers"], json!(["kubernetes", "e2e.example.com/fakeFinalizer"]));
        let mut namespace = api.get("/api/v1/namespaces/team").await.expect("is there");
        namespace["spec"]["finalizers"] = json!(["kubernetes"]);
        let without = api.put("/api/v1/namespaces/team/finalize", namespace).await;
        assert_eq!(without["spec"]["finalizers"], json!(["kubernetes"]));
        api.delete("/api/v1/namespaces/team", None).await;
        api.until_gone("/api/v1/namespaces/team").await;
    });
}
