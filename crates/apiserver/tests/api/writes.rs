//! Create, update, patch, delete.

use serde_json::{Value, json};

use crate::harness::{TestServer, config_map, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let server = TestServer::start().await;
    let created = server.post(MAPS, config_map("x")).await.expect(201);
    assert_eq!(created["metadata"]["namespace"], "default");
    assert_eq!(created["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["resourceVersion"].is_string());

    let read = server.get(&format!("{MAPS}/x")).await.expect(200);
    assert_eq!(read, created);

    let mut changed = read.clone();
    changed["data"]["a"] = "c".into();
    let changed = server.put(&format!("{MAPS}/x"), changed).await.expect(200);
    assert_eq!(changed["data"]["a"], "c");
    assert_ne!(changed["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);

    // The same again changes nothing.
    let same = server.put(&format!("{MAPS}/x"), changed.clone()).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);

    let stale = server.put(&format!("{MAPS}/x"), read).await;
    assert_eq!(stale.message(), "Operation cannot be fulfilled on configmaps \"x\": the object has been modified; please apply your changes to the latest version and try again");

    let gone = server.delete(&format!("{MAPS}/x")).await.expect(200);
    assert_eq!((&gone["kind"], &gone["status"], &gone["details"]["kind"]), (&json!("Status"), &json!("Success"), &json!("configmaps")));
    server.get(&format!("{MAPS}/x")).await.expect(404);
}

#[tokio::test]
async fn refusals_are_worded_as_the_original() {
    let server = TestServer::start().await;
    server.post(MAPS, config_map("there")).await.expect(201);
    let check = async |request: &str, body: Value, code: u16, reason: &str, message: &str| {
        let answer = server.send(request, "content-type: application/json", body.to_string()).await;
        let status = answer.json();
        assert_eq!(
            (answer.code, status["reason"].as_str().unwrap_or(""), status["message"].as_str().unwrap_or("")),
            (code, reason, message),
            "{request}"
        );
    };
    check(&format!("GET {MAPS}/x"), json!(null), 404, "NotFound", "configmaps \"x\" not found").await;
    check(
        "GET /apis/apps/v1/namespaces/default/deployments/x",
        json!(null),
        404,
        "NotFound",
        "deployments.apps \"x\" not found",
    )
    .await;
    check(&format!("POST {MAPS}"), config_map("there"), 409, "AlreadyExists", "configmaps \"there\" already exists").await;
    check(
        "GET /api/v1/namespaces/default/nonsense",
        json!(null),
        404,
        "NotFound",
        "the server could not find the requested resource",
    )
    .await;
    check(
        &format!("POST {MAPS}?fieldValidation=Strict"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "foo": 1}),
        400,
        "BadRequest",
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"foo\"",
    )
    .await;
    check(
        &format!("POST {MAPS}"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "other"}}),
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    )
    .await;
    check(
        &format!("POST {MAPS}"),
        pod("x"),
        400,
        "BadRequest",
        "Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion",
    )
    .await;
    check(
        &format!("PUT {MAPS}/other"),
        config_map("there"),
        404,
        "NotFound",
        "configmaps \"other\" not found",
    )
    .await;
    check(
        &format!("PUT {MAPS}/there"),
        config_map("other"),
        400,
        "BadRequest",
        "the name of the object (other) does not match the name on the URL (there)",
    )
    .await;
    check(
        &format!("POST {MAPS}"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}),
        422,
        "Invalid",
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
    )
    .await;
    check(
        "POST /api/v1/configmaps",
        config_map("x"),
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
    .await;
    let big = "x".repeat(3 << 20);
    check(
        &format!("POST {MAPS}"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"x": big}}),
        413,
        "RequestEntityTooLarge",
        "Request entity too large: limit is 3145728",
    )
    .await;
    check(&format!("POST {MAPS}?dryRun=Some"), config_map("x"), 422, "Invalid", "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\"").await;
}

#[tokio::test]
async fn unknown_fields_are_warned_about() {
    let server = TestServer::start().await;
    let mut object = config_map("x");
    object["foo"] = 1.into();
    let answer = server.post(MAPS, object).await;
    assert_eq!(answer.headers.get("warning").and_then(|value| value.to_str().ok()), Some("299 - \"unknown field \\\"foo\\\"\""));
    assert!(answer.expect(201).get("foo").is_none());
}

#[tokio::test]
async fn names_are_generated() {
    let server = TestServer::start().await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}});
    let name = server.post(MAPS, object).await.expect(201)["metadata"]["name"].as_str().map(str::to_owned).expect("a name");
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let server = TestServer::start().await;
    server.post(&format!("{MAPS}?dryRun=All"), config_map("x")).await.expect(201);
    server.get(&format!("{MAPS}/x")).await.expect(404);
}

#[tokio::test]
async fn patches() {
    let server = TestServer::start().await;
    server.post(MAPS, config_map("x")).await.expect(201);
    let path = format!("{MAPS}/x");
    let merged = server.patch(&path, "merge", json!({"data": {"a": null, "c": "d"}})).await.expect(200);
    assert_eq!(merged["data"], json!({"c": "d"}));
    let patched = server.patch(&path, "json", json!([{"op": "add", "path": "/data/e", "value": "f"}])).await.expect(200);
    assert_eq!(patched["data"], json!({"c": "d", "e": "f"}));
    let merged = server.patch(&path, "strategic-merge", json!({"metadata": {"labels": {"l": "1"}}})).await.expect(200);
    assert_eq!(merged["metadata"]["labels"], json!({"l": "1"}));
    let refused = server.patch(&path, "json", json!([{"op": "test", "path": "/data/e", "value": "x"}])).await;
    assert_eq!((refused.code, refused.message()), (422, "the server rejected our request due to an error in our request".into()));
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"z": "z"}});
    server.patch(&path, "merge", stale).await.expect(409);
    let answer = server.send(&format!("PATCH {path}"), "content-type: application/json", "{}").await;
    assert_eq!(answer.code, 415);
    server.patch(&format!("{MAPS}/none"), "merge", json!({})).await.expect(404);
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let server = TestServer::start().await;
    let mut object = config_map("x");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(MAPS, object).await.expect(201);
    let path = format!("{MAPS}/x");
    let held = server.delete(&path).await.expect(200);
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    let again = server.post(MAPS, config_map("x")).await;
    assert_eq!(again.message(), "object is being deleted: configmaps \"x\" already exists");
    server.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await.expect(200);
    server.get(&path).await.expect(404);
}

#[tokio::test]
async fn pods_are_deleted_with_grace() {
    let server = TestServer::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
    server.post(PODS, pod("x")).await.expect(201);
    let path = format!("{PODS}/x");
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "x"}, "target": {"kind": "Node", "name": "n"},
    });
    server.post(&format!("{path}/binding"), binding.clone()).await.expect(201);
    let bound = server.get(&path).await.expect(200);
    assert_eq!((&bound["spec"]["nodeName"], &bound["status"]["conditions"][0]["type"]), (&json!("n"), &json!("PodScheduled")));
    let again = server.post(&format!("{path}/binding"), binding).await;
    assert_eq!(again.message(), "Operation cannot be fulfilled on pods/binding \"x\": pod x is already assigned to node \"n\"");

    let waiting = server.delete(&path).await.expect(200);
    assert_eq!(waiting["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(waiting["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    let shorter = server.delete(&format!("{path}?gracePeriodSeconds=10")).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
    server.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200);
    server.get(&path).await.expect(404);

    // One that has no node goes at once.
    server.post(PODS, pod("y")).await.expect(201);
    server.delete(&format!("{PODS}/y")).await.expect(200);
    server.get(&format!("{PODS}/y")).await.expect(404);
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let server = TestServer::start().await;
    let check = async |name: &str, query: &str, expected: Value| {
        server.post(MAPS, config_map(name)).await.expect(201);
        let answer = server.delete(&format!("{MAPS}/{name}?propagationPolicy={query}")).await.json();
        assert_eq!(answer["metadata"]["finalizers"], expected, "{query}");
    };
    check("a", "Orphan", json!(["orphan"])).await;
    check("b", "Foreground", json!(["foregroundDeletion"])).await;
    check("c", "Background", Value::Null).await;
}

#[tokio::test]
async fn a_namespace_ends_in_two_steps() {
    let server = TestServer::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    server.post("/api/v1/namespaces", namespace).await.expect(201);
    let terminating = server.delete("/api/v1/namespaces/n").await.expect(200);
    assert_eq!(terminating["status"]["phase"], "Terminating");
    let refused = server.post("/api/v1/namespaces/n/configmaps", config_map("x")).await;
    assert_eq!(refused.message(), "configmaps \"x\" is forbidden: unable to create new content in namespace n because it is being terminated");
    let mut finalized = terminating;
    finalized["spec"]["finalizers"] = json!([]);
    server.put("/api/v1/namespaces/n/finalize", finalized).await.expect(200);
    server.get("/api/v1/namespaces/n").await.expect(404);
}

#[tokio::test]
async fn scale_and_status_are_written_apart() {
    let server = TestServer::start().await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}, "creationTimestamp": null},
                "spec": {"containers": [{"name": "nginx", "image": "nginx", "resources": {}}]},
            },
            "strategy": {},
        },
        "status": {},
    });
    let root = "/apis/apps/v1/namespaces/default/deployments";
    let created = server.post(&format!("{root}?fieldValidation=Strict"), deployment).await.expect(201);
    assert_eq!((&created["metadata"]["generation"], &created["spec"]["replicas"]), (&json!(1), &json!(1)));
    let scale = server.get(&format!("{root}/web/scale")).await.expect(200);
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(1), &json!("app=web")));
    let scaled = server.patch(&format!("{root}/web/scale"), "merge", json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    let mut object = server.get(&format!("{root}/web")).await.expect(200);
    assert_eq!((&object["metadata"]["generation"], &object["spec"]["replicas"]), (&json!(2), &json!(3)));
    object["spec"]["replicas"] = 9.into();
    object["status"]["replicas"] = 2.into();
    let written = server.put(&format!("{root}/web/status"), object).await.expect(200);
    assert_eq!((&written["spec"]["replicas"], &written["status"]["replicas"]), (&json!(3), &json!(2)));
}

#[tokio::test]
async fn eviction_asks_the_budget() {
    let server = TestServer::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
    server.post(PODS, pod("x")).await.expect(201);
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    server.patch(&format!("{PODS}/x/status"), "merge", running).await.expect(200);
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    });
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    server.post(budgets, budget).await.expect(201);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 0, "desiredHealthy": 1, "currentHealthy": 1, "expectedPods": 1}});
    server.patch(&format!("{budgets}/b/status"), "merge", status).await.expect(200);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "x"}});
    let refused = server.post(&format!("{PODS}/x/eviction"), eviction.clone()).await;
    assert_eq!((refused.code, refused.message()), (429, "Cannot evict pod as it would violate the pod's disruption budget.".into()));
    server.patch(&format!("{budgets}/b/status"), "merge", json!({"status": {"disruptionsAllowed": 1}})).await.expect(200);
    server.post(&format!("{PODS}/x/eviction"), eviction).await.expect(201);
    server.get(&format!("{PODS}/x")).await.expect(404);
}

#[tokio::test]
async fn server_side_apply() {
    let server = TestServer::start().await;
    let path = format!("{MAPS}/x");
    let refused = server.patch(&path, "apply", config_map("x")).await;
    assert_eq!(refused.message(), "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch");
    let created = server.patch(&format!("{path}?fieldManager=one"), "apply", config_map("x")).await.expect(201);
    assert_eq!(created["metadata"]["managedFields"][0]["manager"], "one");
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = server.patch(&format!("{path}?fieldManager=one"), "apply", config_map("x")).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);

    let mut other = config_map("x");
    other["data"]["a"] = "z".into();
    let conflict = server.patch(&format!("{path}?fieldManager=two"), "apply", other.clone()).await;
    assert_eq!((conflict.code, conflict.message()), (409, "Apply failed with 1 conflict: conflict with \"one\": .data.a".into()));
    let forced = server.patch(&format!("{path}?fieldManager=two&force=true"), "apply", other).await.expect(200);
    assert_eq!(forced["data"]["a"], "z");

    let read = server.send(&format!("POST {MAPS}"), "content-type: application/json\nuser-agent: kubectl/v1.33 (linux/amd64)", config_map("y").to_string()).await.expect(201);
    let manager = &read["metadata"]["managedFields"][0];
    assert_eq!((&manager["manager"], &manager["operation"]), (&json!("kubectl"), &json!("Update")));
}

/// As kubectl goes over from one kind of apply to the other.
#[tokio::test]
async fn server_side_apply_after_client_side_apply() {
    const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let server = TestServer::start().await;
    let with = |a: &str, b: &str| {
        let mut map = config_map("x");
        map["data"] = json!({"a": a, "b": b});
        map
    };
    let mut first = with("1", "1");
    first["metadata"]["annotations"] = json!({LAST_APPLIED: first.to_string()});
    server.post(&format!("{MAPS}?fieldManager=kubectl-client-side-apply"), first).await.expect(201);

    // Another applier meets kubectl's fields as anybody's.
    let path = format!("{MAPS}/x");
    let conflict = server.patch(&format!("{path}?fieldManager=other"), "apply", with("2", "1")).await;
    let sentence = "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.a";
    assert_eq!((conflict.code, conflict.message()), (409, sentence.into()));

    // kubectl's own may change them, and notes for the other kind of apply what it applied last.
    let applied = server.patch(&format!("{path}?fieldManager=kubectl"), "apply", with("2", "1")).await.expect(200);
    assert_eq!(applied["data"], json!({"a": "2", "b": "1"}));
    let noted = applied["metadata"]["annotations"][LAST_APPLIED].as_str().expect("the annotation");
    assert_eq!(serde_json::from_str::<Value>(noted).expect("JSON")["data"]["a"], "2");
    let managers: Vec<(&Value, &Value)> = applied["metadata"]["managedFields"]
        .as_array()
        .expect("managers")
        .iter()
        .map(|entry| (&entry["manager"], &entry["operation"]))
        .collect();
    let (apply, update) = (json!("Apply"), json!("Update"));
    assert_eq!(managers, [(&json!("kubectl"), &apply), (&json!("kubectl-client-side-apply"), &update)]);

    // What somebody else has changed since is theirs.
    server.patch(&format!("{path}?fieldManager=hand"), "merge", json!({"data": {"b": "3"}})).await.expect(200);
    let conflict = server.patch(&format!("{path}?fieldManager=kubectl"), "apply", with("2", "4")).await;
    assert_eq!(conflict.message(), "Apply failed with 1 conflict: conflict with \"hand\" using v1: .data.b");
    let forced = server.patch(&format!("{path}?fieldManager=kubectl&force=true"), "apply", with("2", "4")).await.expect(200);
    assert_eq!(forced["data"], json!({"a": "2", "b": "4"}));

    // Back again: the patch that client-side apply makes of its note and its file.
    let back = json!({"data": {"a": null}, "metadata": {"annotations": {LAST_APPLIED: "{}"}}});
    let back = server.patch(&format!("{path}?fieldManager=kubectl-client-side-apply"), "strategic-merge", back).await.expect(200);
    assert_eq!(back["data"], json!({"b": "4"}));
}

#[tokio::test(start_paused = true)]
async fn events_live_for_an_hour() {
    let server = TestServer::start().await;
    let events = "/api/v1/namespaces/default/events";
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Test", "type": "Normal",
        "involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"},
    });
    server.post(events, event).await.expect(201);
    tokio::time::sleep(std::time::Duration::from_secs(3500)).await;
    server.get(&format!("{events}/e")).await.expect(200);
    tokio::time::sleep(std::time::Duration::from_secs(200)).await;
    server.get(&format!("{events}/e")).await.expect(404);
}

#[tokio::test]
async fn nothing_is_lost_between_writers() {
    let server = std::sync::Arc::new(TestServer::start().await);
    server.post(MAPS, config_map("x")).await.expect(201);
    let writers = (0..50).map(|at| {
        let server = server.clone();
        tokio::spawn(async move {
            let patch = json!({"data": {format!("k{at}"): "v"}});
            server.patch(&format!("{MAPS}/x"), "merge", patch).await.expect(200);
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    let object = server.get(&format!("{MAPS}/x")).await.expect(200);
    assert_eq!(object["data"].as_object().map(|data| data.len()), Some(51));
}
