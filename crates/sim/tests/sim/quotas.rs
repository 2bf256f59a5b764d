//! Quotas: what counts, what is refused, and that what is gone counts no more.

use serde_json::{Value, json};
use sim::NodeConfig;

use crate::api::{Api, asking, pod, replicated, scenario};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A quota with what it counts for now.
async fn quota(api: &Api, spec: Value) {
    api.create(QUOTAS, json!({"metadata": {"name": "quota"}, "spec": spec})).await;
    api.until(&format!("{QUOTAS}/quota"), "it must be counted", |found| found.is_some_and(|quota| quota["status"]["used"].is_object())).await;
}

async fn until_used(api: &Api, name: &str, resource: &str, amount: &str) {
    let what = format!("{amount} of {resource}");
    api.until(&format!("{QUOTAS}/{name}"), &what, |found| found.is_some_and(|quota| quota["status"]["used"][resource] == amount)).await;
}

/// One object of a kind comes, counts, goes, and counts no more.
async fn lives(api: Api, resource: &str, collection: &str, object: Value, before: &str, with: &str) {
    quota(&api, json!({"hard": {resource: "5"}})).await;
    until_used(&api, "quota", resource, before).await;
    api.create(collection, object.clone()).await;
    until_used(&api, "quota", resource, with).await;
    let name = object["metadata"]["name"].as_str().expect("a name");
    api.delete(&format!("{collection}/{name}"), None).await;
    until_used(&api, "quota", resource, before).await;
}

// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a configMap.
#[test]
fn a_config_map_counts_while_it_lives() {
    // The CA's certificate is one already.
    let object = json!({"metadata": {"name": "settings"}});
    scenario(async |api| {
        api.until_items("/api/v1/namespaces/default/configmaps", 1, |_| true).await;
        lives(api, "configmaps", "/api/v1/namespaces/default/configmaps", object.clone(), "1", "2").await;
    });
}

// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a secret.
#[test]
fn a_secret_counts_while_it_lives() {
    let object = json!({"metadata": {"name": "password"}, "stringData": {"a": "b"}});
    scenario(async |api| lives(api, "secrets", "/api/v1/namespaces/default/secrets", object.clone(), "0", "1").await);
}

// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a service.
#[test]
fn a_service_counts_while_it_lives() {
    scenario(async |api| {
        const SERVICES: &str = "/api/v1/namespaces/default/services";
        let service = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"port": 80}]}});
        // The cluster's own is one.
        quota(&api, json!({"hard": {"services": "3", "services.nodeports": "1", "services.loadbalancers": "0"}})).await;
        until_used(&api, "quota", "services", "1").await;
        api.create(SERVICES, service("inner", "ClusterIP")).await;
        api.create(SERVICES, service("outer", "NodePort")).await;
        until_used(&api, "quota", "services", "3").await;
        until_used(&api, "quota", "services.nodeports", "1").await;
        assert_eq!(api.refused(SERVICES, service("more", "ClusterIP")).await, 403);
        api.delete(&format!("{SERVICES}/inner"), None).await;
        until_used(&api, "quota", "services", "2").await;
        assert_eq!(api.refused(SERVICES, service("another", "NodePort")).await, 403);
        assert_eq!(api.refused(SERVICES, service("balanced", "LoadBalancer")).await, 403);
        api.delete(&format!("{SERVICES}/outer"), None).await;
        until_used(&api, "quota", "services", "1").await;
        until_used(&api, "quota", "services.nodeports", "0").await;
    });
}

// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replica set.
#[test]
fn a_replica_set_counts_while_it_lives() {
    let mut object = replicated("web", 0);
    object["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    scenario(async |api| lives(api, "count/replicasets.apps", sets, object.clone(), "0", "1").await);
}

// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replication controller.
#[test]
fn a_replication_controller_counts_while_it_lives() {
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    scenario(async |api| lives(api, "replicationcontrollers", controllers, replicated("rc", 0), "0", "1").await);
}

// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and ensure its status is promptly calculated.
#[test]
fn a_new_quota_is_counted_at_once() {
    scenario(async |api| {
        let hard = json!({"pods": "5", "services": "10", "cpu": "1", "memory": "500Mi", "requests.example.com/dongle": "3"});
        quota(&api, json!({"hard": hard})).await;
        let found = api.get(&format!("{QUOTAS}/quota")).await.expect("is there");
        assert_eq!(found["status"]["hard"], hard);
        let used = json!({"pods": "0", "services": "1", "cpu": "0", "memory": "0", "requests.example.com/dongle": "0"});
        assert_eq!(found["status"]["used"], used);
    });
}

// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a pod.
#[test]
fn a_pods_requests_count_while_it_lives() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("node"));
        let hard = json!({"pods": "5", "cpu": "1", "memory": "500Mi", "ephemeral-storage": "50Gi", "requests.example.com/dongle": "3"});
        quota(&api, json!({"hard": hard})).await;
        let container = |requests: Value, limits: Value| json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": requests, "limits": limits}}]});
        let first = container(
            json!({"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"}),
            json!({"example.com/dongle": "2"}),
        );
        api.create(PODS, pod("first", first)).await;
        for (resource, amount) in [("pods", "1"), ("cpu", "500m"), ("memory", "252Mi"), ("ephemeral-storage", "30Gi"), ("requests.example.com/dongle", "2")] {
            until_used(&api, "quota", resource, amount).await;
        }
        let much = container(json!({"cpu": "600m", "memory": "100Mi"}), json!({}));
        assert_eq!(api.refused(PODS, pod("much", much)).await, 403);
        let dongles = container(json!({"cpu": "500m", "memory": "100Mi", "ephemeral-storage": "10Gi", "example.com/dongle": "2"}), json!({"example.com/dongle": "2"}));
        assert_eq!(api.refused(PODS, pod("dongles", dongles)).await, 403);
        // A pod's requests stand: the change is refused, and nothing is counted anew.
        let change = client::Patch::Strategic(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "200m"}}}]}}));
        let refused = api.cluster.rest.patch_at::<Value>(format!("{PODS}/first"), &change).await;
        assert!(refused.is_err(), "requests cannot be changed so");
        until_used(&api, "quota", "cpu", "500m").await;
        api.delete(&format!("{PODS}/first"), None).await;
        for (resource, amount) in [("pods", "0"), ("cpu", "0"), ("memory", "0"), ("ephemeral-storage", "0"), ("requests.example.com/dongle", "0")] {
            until_used(&api, "quota", resource, amount).await;
        }
    });
}

async fn scoped(api: &Api, name: &str, scope: &str) {
    api.create(QUOTAS, json!({"metadata": {"name": name}, "spec": {"hard": {"pods": "5"}, "scopes": [scope]}})).await;
    until_used(api, name, "pods", "0").await;
}

// Conformance: [sig-api-machinery] ResourceQuota should verify ResourceQuota with best effort scope.
#[test]
fn best_effort_pods_count_apart() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("node"));
        scoped(&api, "best-effort", "BestEffort").await;
        scoped(&api, "others", "NotBestEffort").await;
        api.create(PODS, pod("free", json!({}))).await;
        until_used(&api, "best-effort", "pods", "1").await;
        until_used(&api, "others", "pods", "0").await;
        api.delete(&format!("{PODS}/free"), None).await;
        until_used(&api, "best-effort", "pods", "0").await;
        api.create(PODS, pod("asking", asking(json!({"cpu": "500m", "memory": "200Mi"})))).await;
        until_used(&api, "others", "pods", "1").await;
        until_used(&api, "best-effort", "pods", "0").await;
        api.delete(&format!("{PODS}/asking"), None).await;
        until_used(&api, "others", "pods", "0").await;
    });
}

// Conformance: [sig-api-machinery] ResourceQuota should verify ResourceQuota with terminating scopes.
#[test]
fn pods_with_a_deadline_count_apart() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("node"));
        for (name, scope) in [("terminating", "Terminating"), ("lasting", "NotTerminating")] {
            let hard = json!({"pods": "5", "requests.cpu": "1", "requests.memory": "500Mi", "limits.cpu": "2", "limits.memory": "2Gi"});
            api.create(QUOTAS, json!({"metadata": {"name": name}, "spec": {"hard": hard, "scopes": [scope]}})).await;
            until_used(&api, name, "pods", "0").await;
        }
        let resources = json!({"requests": {"cpu": "500m", "memory": "200Mi"}, "limits": {"cpu": "1", "memory": "400Mi"}});
        let spec = json!({"containers": [{"name": "c", "image": "i", "resources": resources}]});
        api.create(PODS, pod("long", spec.clone())).await;
        for (resource, amount) in [("pods", "1"), ("requests.cpu", "500m"), ("requests.memory", "200Mi"), ("limits.cpu", "1"), ("limits.memory", "400Mi")] {
            until_used(&api, "lasting", resource, amount).await;
        }
        until_used(&api, "terminating", "pods", "0").await;
        api.delete(&format!("{PODS}/long"), None).await;
        until_used(&api, "lasting", "pods", "0").await;
        until_used(&api, "lasting", "limits.memory", "0").await;
        let mut short = spec;
        short["activeDeadlineSeconds"] = json!(3600);
        api.create(PODS, pod("short", short)).await;
        for (resource, amount) in [("pods", "1"), ("requests.cpu", "500m"), ("limits.memory", "400Mi")] {
            until_used(&api, "terminating", resource, amount).await;
        }
        until_used(&api, "lasting", "pods", "0").await;
        api.delete(&format!("{PODS}/short"), None).await;
        until_used(&api, "terminating", "pods", "0").await;
    });
}

// Conformance: [sig-api-machinery] ResourceQuota should be able to update and delete ResourceQuota.
#[test]
fn a_quota_changes_and_goes() {
    scenario(async |api| {
        quota(&api, json!({"hard": {"cpu": "1", "memory": "500Mi"}})).await;
        let path = format!("{QUOTAS}/quota");
        let mut found = api.get(&path).await.expect("is there");
        found["spec"]["hard"] = json!({"cpu": "2", "memory": "1Gi"});
        let updated = api.put(&path, found).await;
        assert_eq!(updated["spec"]["hard"], json!({"cpu": "2", "memory": "1Gi"}));
        api.until(&path, "the new limits", |found| found.is_some_and(|quota| quota["status"]["hard"] == json!({"cpu": "2", "memory": "1Gi"}))).await;
        api.delete(&path, None).await;
        api.until_gone(&path).await;
    });
}
