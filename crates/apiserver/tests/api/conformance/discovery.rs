//! What the server tells about itself.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::TestServer;

// Conformance: [sig-api-machinery] server version should find the server version
#[tokio::test]
async fn its_version() {
    let server = TestServer::start().await;
    let version = server.get("/version").await.expect(200);
    for part in ["major", "minor"] {
        assert!(version[part].as_str().is_some_and(|text| text.parse::<u32>().is_ok()), "{version}");
    }
}

// Conformance: [sig-api-machinery] Discovery should validate PreferredVersion for each APIGroup
// Conformance: [sig-api-machinery] Discovery should locate the groupVersion and a resource within each APIGroup
#[tokio::test]
async fn every_group_and_version() {
    let server = TestServer::start().await;
    let groups = server.get("/apis").await.expect(200);
    let groups = groups["groups"].as_array().expect("groups");
    assert!(groups.len() > 20);
    for listed in groups {
        let name = listed["name"].as_str().expect("a name");
        let group = server.get(&format!("/apis/{name}")).await.expect(200);
        assert_eq!((&group["name"], &group["preferredVersion"]), (&listed["name"], &listed["preferredVersion"]));
        let versions = group["versions"].as_array().expect("versions");
        assert!(versions.contains(&group["preferredVersion"]), "{name}");
        for version in versions {
            let group_version = version["groupVersion"].as_str().expect("a groupVersion");
            let resources = server.get(&format!("/apis/{group_version}")).await.expect(200);
            assert_eq!(resources["groupVersion"], group_version);
            let resource = &resources["resources"][0];
            assert!(resource["name"].is_string() && resource["kind"].is_string(), "{group_version}");
        }
    }
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `group/version/resource`
fn aggregated_resources(document: &Value) -> BTreeSet<String> {
    assert_eq!((&document["kind"], &document["apiVersion"]), (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2")));
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = BTreeSet::new();
    for group in list(&document["items"]) {
        for version in list(&group["versions"]) {
            assert_eq!(version["freshness"], "Current");
            for resource in list(&version["resources"]) {
                let parts = [&group["metadata"]["name"], &version["version"], &resource["resource"]];
                found.insert(parts.map(|part| part.as_str().unwrap_or_default()).join("/"));
            }
        }
    }
    found
}

// Conformance: [sig-api-machinery] AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers
// Conformance: [sig-api-machinery] AggregatedDiscovery should support aggregated discovery interface
#[tokio::test]
async fn all_at_once() {
    let server = TestServer::start().await;
    let mut found = BTreeSet::new();
    for path in ["/api", "/apis"] {
        let answer = server.send(&format!("GET {path}"), &format!("accept: {AGGREGATED},application/json"), "").await;
        assert_eq!(answer.headers["content-type"], AGGREGATED, "{path}");
        found.extend(aggregated_resources(&answer.expect(200)));
    }
    for kind in apiserver::kinds::registry::REGISTRY {
        let resource = format!("{}/{}/{}", kind.group, kind.version, kind.plural);
        assert!(found.contains(&resource), "{resource}");
    }
    // Who does not ask for it gets the plain form.
    for accept in ["application/json", "*/*", "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json"] {
        let plain = server.send("GET /apis", &format!("accept: {accept}"), "").await.expect(200);
        assert_eq!(plain["kind"], "APIGroupList", "{accept}");
    }
}
