//! "API operations": that a resource is told of in discovery, and all that can be done with its objects.

use serde_json::{Value, json};

use super::{items, revision, told, watched};
use crate::harness::TestServer;

struct Resource {
    group: &'static str,
    plural: &'static str,
    namespaced: bool,
    /// What PUT and PATCH of `status` write.
    status: Option<Value>,
    /// Three objects, of kind and with names.
    objects: [Value; 3],
}

impl Resource {
    fn root(&self) -> String {
        if self.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/v1", self.group) }
    }

    fn collection(&self) -> String {
        let place = if self.namespaced { "/namespaces/default" } else { "" };
        format!("{}{place}/{}", self.root(), self.plural)
    }

    async fn check(self) {
        let server = TestServer::start().await;
        self.is_discovered(&server).await;
        let collection = self.collection();
        let selected = format!("{collection}?labelSelector=suite=operations");
        let mut names = Vec::new();
        for object in &self.objects {
            let mut object = object.clone();
            object["metadata"]["labels"] = json!({"suite": "operations"});
            let created = server.post(&collection, object).await.expect(201);
            names.push(created["metadata"]["name"].as_str().expect("a name").to_owned());
        }
        let first = format!("{collection}/{}", names[0]);
        let got = server.get(&first).await.expect(200);
        assert_eq!(got["metadata"]["name"], names[0].as_str());
        let list = server.get(&selected).await.expect(200);
        assert_eq!(items(&list).len(), 3);
        if self.namespaced {
            let everywhere = format!("{}/{}?labelSelector=suite=operations", self.root(), self.plural);
            assert_eq!(items(&server.get(&everywhere).await.expect(200)).len(), 3);
        }

        let from = revision(&list);
        let events = watched(&server, &format!("{selected}&resourceVersion={from}"), async {
            let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
            let patched = server.patch(&first, "merge", patch).await.expect(200);
            assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
            let mut updated = patched;
            updated["metadata"]["annotations"]["updated"] = "true".into();
            let updated = server.put(&first, updated).await.expect(200);
            assert_eq!(updated["metadata"]["annotations"], json!({"patched": "true", "updated": "true"}));
            self.status(&server, &first).await;
            server.delete(&first).await.expect(200);
        })
        .await;
        let written = if self.status.is_some() { 4 } else { 2 };
        let mut expected = vec![format!("MODIFIED {}", names[0]); written];
        expected.push(format!("DELETED {}", names[0]));
        assert_eq!(told(&events), expected.join(", "));

        server.get(&first).await.expect(404);
        assert_eq!(items(&server.get(&selected).await.expect(200)).len(), 2);
        server.delete(&selected).await.expect(200);
        assert_eq!(items(&server.get(&selected).await.expect(200)).len(), 0);
    }

    async fn status(&self, server: &TestServer, first: &str) {
        let Some(status) = &self.status else { return };
        let path = format!("{first}/status");
        let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": status});
        let patched = server.patch(&path, "merge", patch).await.expect(200);
        assert_eq!((&patched["status"], &patched["metadata"]["annotations"]["patchedstatus"]), (status, &json!("true")));
        let mut updated = server.get(&path).await.expect(200);
        updated["metadata"]["annotations"]["updatedstatus"] = "true".into();
        let updated = server.put(&path, updated).await.expect(200);
        assert_eq!(updated["metadata"]["annotations"]["updatedstatus"], "true");
    }

    async fn is_discovered(&self, server: &TestServer) {
        let groups = server.get("/apis").await.expect(200);
        let named = |list: &Value, key: &str, name: &str| list.as_array().is_some_and(|list| list.iter().any(|own| own[key] == name));
        assert!(named(&groups["groups"], "name", self.group));
        let group = server.get(&format!("/apis/{}", self.group)).await.expect(200);
        assert!(named(&group["versions"], "version", "v1"));
        let resources = server.get(&self.root()).await.expect(200);
        assert!(named(&resources["resources"], "name", self.plural));
        if self.status.is_some() {
            assert!(named(&resources["resources"], "name", &format!("{}/status", self.plural)));
        }
    }
}

/// The same object under three names.
fn thrice(object: Value) -> [Value; 3] {
    ["one", "two", "three"].map(|name| {
        let mut object = object.clone();
        object["metadata"] = json!({"name": name});
        object
    })
}

// Conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicy API operations
#[tokio::test(start_paused = true)]
async fn validating_admission_policies() {
    let condition = json!({"type": "PolicyReady", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let objects = thrice(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]},
            "validations": [{"expression": "object.spec.replicas <= 100"}],
        },
    }));
    let status = Some(json!({"observedGeneration": 1, "conditions": [condition]}));
    Resource { group: "admissionregistration.k8s.io", plural: "validatingadmissionpolicies", namespaced: false, status, objects }.check().await;
}

// Conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicyBinding API operations
#[tokio::test(start_paused = true)]
async fn validating_admission_policy_bindings() {
    let objects = thrice(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "spec": {"policyName": "replicas", "validationActions": ["Deny"]},
    }));
    Resource { group: "admissionregistration.k8s.io", plural: "validatingadmissionpolicybindings", namespaced: false, status: None, objects }
        .check()
        .await;
}

// Conformance: [sig-apps] CronJob should support CronJob API operations
#[tokio::test(start_paused = true)]
async fn cron_jobs() {
    let objects = thrice(json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "spec": {"schedule": "*/1 * * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "busybox"}],
        }}}}},
    }));
    let status = Some(json!({"lastScheduleTime": "2026-01-01T00:00:00Z"}));
    Resource { group: "batch", plural: "cronjobs", namespaced: true, status, objects }.check().await;
}

// Conformance: [sig-network] EndpointSlice should support creating EndpointSlice API operations
#[tokio::test(start_paused = true)]
async fn endpoint_slices() {
    let objects = thrice(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"]}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    }));
    Resource { group: "discovery.k8s.io", plural: "endpointslices", namespaced: true, status: None, objects }.check().await;
}

// Conformance: [sig-network] Ingress API should support creating Ingress API operations
#[tokio::test(start_paused = true)]
async fn ingresses() {
    let objects = thrice(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "spec": {"defaultBackend": {"service": {"name": "default-backend", "port": {"number": 80}}}},
    }));
    let status = Some(json!({"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}));
    Resource { group: "networking.k8s.io", plural: "ingresses", namespaced: true, status, objects }.check().await;
}

// Conformance: [sig-network] IngressClass API should support creating IngressClass API operations
#[tokio::test(start_paused = true)]
async fn ingress_classes() {
    let objects = thrice(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "spec": {"controller": "example.com/controller"},
    }));
    Resource { group: "networking.k8s.io", plural: "ingressclasses", namespaced: false, status: None, objects }.check().await;
}

// Conformance: [sig-network] ServiceCIDR and IPAddress API should support IPAddress API operations
#[tokio::test(start_paused = true)]
async fn ip_addresses() {
    let objects = ["10.43.7.1", "10.43.7.2", "10.43.7.3"].map(|address| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": address},
            "spec": {"parentRef": {"group": "", "resource": "services", "name": "web", "namespace": "default"}},
        })
    });
    Resource { group: "networking.k8s.io", plural: "ipaddresses", namespaced: false, status: None, objects }.check().await;
}

// Conformance: [sig-network] ServiceCIDR and IPAddress API should support ServiceCIDR API operations
#[tokio::test(start_paused = true)]
async fn service_cidrs() {
    let objects = [("one", "10.97.0.0/16"), ("two", "10.98.0.0/16"), ("three", "10.99.0.0/16")].map(|(name, cidr)| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [cidr]}})
    });
    let condition = json!({"type": "Ready", "status": "False", "reason": "NotSet", "message": "set", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = Some(json!({"conditions": [condition]}));
    Resource { group: "networking.k8s.io", plural: "servicecidrs", namespaced: false, status, objects }.check().await;
}

// Conformance: [sig-network] Endpoints should test the lifecycle of an Endpoint
#[tokio::test(start_paused = true)]
async fn an_endpoint() {
    let server = TestServer::start().await;
    let collection = "/api/v1/namespaces/default/endpoints";
    let path = format!("{collection}/web");
    let object = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "labels": {"static": "true"}},
        "subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}],
    });
    let mut created = server.post(collection, object).await.expect(201);
    created["metadata"]["labels"]["updated"] = "true".into();
    server.put(&path, created).await.expect(200);
    assert_eq!(server.get(&path).await.expect(200)["metadata"]["labels"]["updated"], "true");
    let subsets = json!([{"addresses": [{"ip": "10.0.0.25"}], "ports": [{"name": "http-test", "port": 8080, "protocol": "TCP"}]}]);
    server.patch(&path, "strategic-merge", json!({"subsets": subsets})).await.expect(200);
    let patched = server.get(&path).await.expect(200);
    assert_eq!(patched["subsets"], subsets);
    let events = watched(&server, &format!("{collection}?resourceVersion={}", revision(&patched)), async {
        server.delete(&format!("{collection}?labelSelector=static=true")).await.expect(200);
    })
    .await;
    assert_eq!(told(&events), "DELETED web");
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"group": "some"}},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "targetPort": 80}], "loadBalancerClass": "example.com/internal"},
    })
}

// Conformance: [sig-network] Services should complete a service status lifecycle
#[tokio::test(start_paused = true)]
async fn the_status_of_a_service() {
    let server = TestServer::start().await;
    let services = "/api/v1/namespaces/default/services";
    server.post(services, service("web")).await.expect(201);
    let path = format!("{services}/web");
    let got = server.get(&format!("{path}/status")).await.expect(200);
    assert_eq!(got["status"], json!({"loadBalancer": {}}));
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}});
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": ingress});
    let mut patched = server.patch(&format!("{path}/status"), "merge", patch).await.expect(200);
    assert_eq!((&patched["status"], &patched["metadata"]["annotations"]["patchedstatus"]), (&ingress, &json!("true")));
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    patched["status"]["conditions"] = json!([condition]);
    let updated = server.put(&format!("{path}/status"), patched).await.expect(200);
    assert_eq!(updated["status"]["conditions"][0]["message"], "Set from e2e test");
    let patch = json!({"metadata": {"labels": {"test-service": "patched"}}});
    let patched = server.patch(&path, "strategic-merge", patch).await.expect(200);
    assert_eq!((&patched["metadata"]["labels"]["test-service"], &patched["status"]), (&json!("patched"), &updated["status"]));
    let events = watched(&server, &format!("{services}?resourceVersion={}", revision(&patched)), async {
        server.delete(&path).await.expect(200);
    })
    .await;
    assert_eq!(told(&events), "DELETED web");
}

// Conformance: [sig-network] Services should delete a collection of services
#[tokio::test(start_paused = true)]
async fn a_collection_of_services() {
    let server = TestServer::start().await;
    let services = "/api/v1/namespaces/team/services";
    let team = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    server.post("/api/v1/namespaces", team).await.expect(201);
    for (name, label) in [("one", "yes"), ("two", "yes"), ("three", "no")] {
        let mut object = service(name);
        object["metadata"]["labels"] = json!({"delete": label});
        server.post(services, object).await.expect(201);
    }
    assert_eq!(items(&server.get(services).await.expect(200)).len(), 3);
    server.delete(&format!("{services}?labelSelector=delete=yes")).await.expect(200);
    let left = server.get(services).await.expect(200);
    assert_eq!((items(&left).len(), &left["items"][0]["metadata"]["name"]), (1, &json!("three")));
}

// Conformance: [sig-network] Services should find a service from listing all namespaces
#[tokio::test]
async fn the_service_of_the_server_itself() {
    let server = TestServer::start().await;
    let services = server.get("/api/v1/services").await.expect(200);
    let found = items(&services).iter().find(|service| service["metadata"]["name"] == "kubernetes").expect("the Service");
    assert_eq!(found["metadata"]["namespace"], "default");
}

// Conformance: [sig-network] API Server should have Endpoints and EndpointSlices pointing to API Server
#[tokio::test]
async fn endpoints_point_to_the_server() {
    let server = TestServer::start().await;
    server.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    let endpoints = server.get("/api/v1/namespaces/default/endpoints/kubernetes").await.expect(200);
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "127.0.0.1");
    assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], 6443);
    let selected = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=kubernetes";
    let slices = server.get(selected).await.expect(200);
    assert_eq!(slices["items"][0]["endpoints"][0]["addresses"], json!(["127.0.0.1"]));
    assert_eq!(slices["items"][0]["ports"][0]["port"], 6443);
}
