//! Discovery, OpenAPI, health, version, metrics.

use serde_json::json;

use crate::harness::TestServer;

#[tokio::test]
async fn what_is_offered() {
    let server = TestServer::start().await;
    let version = server.get("/version").await.expect(200);
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("35")));
    let groups = server.get("/apis").await.expect(200);
    assert_eq!(groups["kind"], "APIGroupList");
    let autoscaling = server.get("/apis/autoscaling").await.expect(200);
    assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
    let core = server.get("/api/v1").await.expect(200);
    let resources = core["resources"].as_array().expect("a list");
    let pods = resources.iter().find(|resource| resource["name"] == "pods").expect("pods");
    assert_eq!((&pods["shortNames"], &pods["kind"]), (&json!(["po"]), &json!("Pod")));
    let eviction = resources.iter().find(|resource| resource["name"] == "pods/eviction").expect("eviction");
    assert_eq!((&eviction["group"], &eviction["kind"]), (&json!("policy"), &json!("Eviction")));
    server.get("/apis/nonsense").await.expect(404);

    let accept = "accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = server.send("GET /apis", accept, "").await;
    assert_eq!(
        aggregated.headers.get("content-type").and_then(|value| value.to_str().ok()),
        Some("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
    );
    let etag = aggregated.headers.get("etag").and_then(|value| value.to_str().ok()).map(str::to_owned).expect("an etag");
    assert_eq!(aggregated.json()["kind"], "APIGroupDiscoveryList");
    let again = server.send("GET /apis", &format!("{accept}\nif-none-match: {etag}"), "").await;
    assert_eq!(again.code, 304);
}

#[tokio::test]
async fn openapi() {
    let server = TestServer::start().await;
    let index = server.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a URL");
    let apps = server.get(url).await.expect(200);
    let post = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"]["post"];
    assert_eq!(post["x-kubernetes-group-version-kind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
    assert_eq!(post["operationId"], "createAppsV1NamespacedDeployment");
    assert!(post["parameters"].as_array().is_some_and(|list| list.iter().any(|own| own["name"] == "fieldValidation")));
    assert!(apps["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"].is_object());
    let two = server.get("/openapi/v2").await.expect(200);
    assert!(two["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    let protobuf = "accept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    assert_eq!(server.send("GET /openapi/v2", protobuf, "").await.code, 200);
    assert_eq!(server.send("GET /openapi/v2", "accept: text/html", "").await.code, 406);
}

#[tokio::test]
async fn health_and_metrics() {
    let server = TestServer::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        let answer = server.get(path).await;
        assert_eq!((answer.code, &answer.bytes[..]), (200, &b"ok"[..]), "{path}");
    }
    let verbose = server.get("/readyz?verbose").await;
    let text = String::from_utf8_lossy(&verbose.bytes).into_owned();
    assert!(text.starts_with("[+]ping ok\n") && text.ends_with("readyz check passed\n"), "{text}");
    server.get("/readyz/nonsense").await.expect(404);
}

/// By what dashboards and alerts look at an API server.
#[tokio::test]
async fn dashboards_find_their_metrics() {
    let server = TestServer::start().await;
    server.post("/api/v1/namespaces/default/configmaps", crate::harness::config_map("a")).await.expect(201);
    server.get("/api/v1/namespaces/default/configmaps").await.expect(200);
    server.get("/api/v1/namespaces/default/configmaps/a").await.expect(200);
    server.get("/api/v1/namespaces/default/endpoints").await.expect(200);
    let metrics = server.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    for sample in [
        r#"aggregator_unavailable_apiservice{name="v1.apps"} 0"#,
        r#"apiserver_admission_controller_admission_duration_seconds_count{name="NamespaceLifecycle",operation="CREATE",rejected="false",type="validate"} 1"#,
        r#"apiserver_admission_step_admission_duration_seconds_bucket{operation="CREATE",rejected="false",type="admit",le="0.1"}"#,
        r#"apiserver_current_inflight_requests{request_kind="mutating"}"#,
        "apiserver_flowcontrol_current_inqueue_requests{",
        "# TYPE apiserver_flowcontrol_request_wait_duration_seconds histogram",
        "# TYPE apiserver_longrunning_requests gauge",
        r#"apiserver_request_duration_seconds_bucket{component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1",le="0.4"}"#,
        r#"apiserver_request_sli_duration_seconds_bucket{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1",le="30"}"#,
        r#"apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 1"#,
        r#"apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"} 1"#,
        r#"apiserver_resource_objects{group="",resource="configmaps"}"#,
        r#"apiserver_response_sizes_count{component="apiserver",group="",resource="configmaps",scope="resource",subresource="",verb="GET",version="v1"} 1"#,
        r#"apiserver_storage_objects{resource="configmaps"}"#,
        r#"etcd_request_duration_seconds_bucket{group="",operation="create",resource="configmaps",le="0.005"}"#,
        "etcd_requests_total{",
        "kubernetes_build_info{",
        "process_cpu_seconds_total ",
        "process_open_fds ",
        "process_resident_memory_bytes ",
        "process_start_time_seconds ",
    ] {
        assert!(text.lines().any(|line| line.starts_with(sample)), "{sample} in\n{text}");
    }
    // Each name is introduced once, as parsers insist.
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[tokio::test]
async fn every_kind_lists() {
    let server = TestServer::start().await;
    for kind in apiserver::kinds::registry::REGISTRY {
        if !kind.verbs.names().contains(&"list") {
            continue;
        }
        let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
        let path = format!("{root}/{}/{}", kind.version, kind.plural);
        let list = server.get(&path).await.expect(200);
        assert_eq!(list["kind"], format!("{}List", kind.kind), "{path}");
        let table = server.send(&format!("GET {path}"), "accept: application/json;as=Table;v=v1;g=meta.k8s.io", "").await;
        assert_eq!(table.expect(200)["kind"], "Table", "{path}");
    }
}
