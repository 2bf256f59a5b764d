//! Priority and fairness, the audit log, timeouts.

use std::time::Duration;

use apiserver::audit::{AuditSettings, LogSettings, Policy};
use apiserver::{Config, FlowSettings};
use serde_json::{Value, json};

use crate::harness::{TestServer, config, config_map, send};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

#[tokio::test]
async fn a_request_is_told_its_flow_schema_and_priority_level() {
    let server = TestServer::start().await;
    let check = async |user: &str, groups: &[&str], path: &str, schema: &str, level: &str| {
        let answer = send(server.service(user, groups), &format!("GET {path}"), "", "").await;
        let uid = async |plural: &str, name: &str| {
            let object = server.get(&format!("{GROUP}/{plural}/{name}")).await.expect(200);
            object["metadata"]["uid"].as_str().unwrap_or("").to_owned()
        };
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        assert_eq!(header("x-kubernetes-pf-flowschema-uid"), uid("flowschemas", schema).await, "{path}");
        assert_eq!(header("x-kubernetes-pf-prioritylevel-uid"), uid("prioritylevelconfigurations", level).await, "{path}");
        assert!(!header("audit-id").is_empty());
    };
    check("admin", &["system:masters"], "/api/v1/pods", "exempt", "exempt").await;
    check("system:kube-scheduler", &[], "/api/v1/pods", "kube-scheduler", "workload-high").await;
    check("alice", &[], "/api/v1/pods", "global-default", "global-default").await; // 403, too
    check("alice", &[], "/healthz", "probes", "exempt").await;
    check("system:serviceaccount:a:b", &["system:serviceaccounts"], "/api/v1/pods", "service-accounts", "workload-low").await;

    let metrics = server.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes);
    for line in [
        r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="workload-low"} 245"#,
        r#"apiserver_flowcontrol_dispatched_requests_total{flow_schema="kube-scheduler",priority_level="workload-high"} 1"#,
        r#"apiserver_current_inflight_requests{request_kind="mutating"} 0"#,
        r#"apiserver_current_inflight_requests{request_kind="readOnly"} 1"#,
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

/// Waits until the object is as wanted.
async fn until(server: &TestServer, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..500 {
        let answer = server.get(path).await;
        if answer.code == 200 && wanted(&answer.json()) {
            return answer.json();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path}: {}", server.get(path).await.json());
}

#[tokio::test]
async fn built_in_schemas_come_back_and_dangling_ones_are_marked() {
    let server = TestServer::start().await;
    let exempt = format!("{GROUP}/flowschemas/exempt");
    let before = server.get(&exempt).await.expect(200);
    assert_eq!(before["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"], "true");
    server.delete(&exempt).await.expect(200);
    let after = until(&server, &exempt, |_| true).await;
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"], before["spec"]);

    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "lost"},
        "spec": {"priorityLevelConfiguration": {"name": "nowhere"}, "matchingPrecedence": 50},
    });
    server.post(&format!("{GROUP}/flowschemas"), schema).await.expect(201);
    let dangling = |status: &'static str| move |schema: &Value| schema["status"]["conditions"][0]["status"] == status;
    let lost = until(&server, &format!("{GROUP}/flowschemas/lost"), dangling("True")).await;
    assert_eq!(lost["status"]["conditions"][0]["reason"], "NotFound");
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "nowhere"},
        "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}},
    });
    server.post(&format!("{GROUP}/prioritylevelconfigurations"), level).await.expect(201);
    let found = until(&server, &format!("{GROUP}/flowschemas/lost"), dangling("False")).await;
    assert_eq!(
        found["status"]["conditions"][0]["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"nowhere\" and it exists"
    );
}

async fn level_for_bob(server: &TestServer, limited: Value) {
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": "bob"},
        "spec": {"type": "Limited", "limited": limited},
    });
    server.post(&format!("{GROUP}/prioritylevelconfigurations"), level).await.expect(201);
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "bob"},
        "spec": {
            "priorityLevelConfiguration": {"name": "bob"}, "matchingPrecedence": 50,
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "bob"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }],
        },
    });
    server.post(&format!("{GROUP}/flowschemas"), schema).await.expect(201);
}

#[tokio::test]
async fn without_a_seat_a_request_is_refused() {
    let server = TestServer::start().await;
    assert_eq!(send(server.service("bob", &[]), "GET /version", "", "").await.code, 200);
    let limited = json!({
        "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"},
    });
    level_for_bob(&server, limited).await;
    let answer = send(server.service("bob", &[]), "GET /version", "", "").await;
    assert_eq!((answer.code, &answer.bytes[..]), (429, &b"Too many requests, please try again later.\n"[..]));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert!(answer.headers.contains_key("x-kubernetes-pf-flowschema-uid"));
    let metrics = server.get("/metrics").await;
    let line = r#"apiserver_flowcontrol_rejected_requests_total{flow_schema="bob",priority_level="bob",reason="concurrency-limit"} 1"#;
    assert!(String::from_utf8_lossy(&metrics.bytes).contains(line));
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_for_a_seat_is_refused_and_a_change_of_limits_lets_it_in() {
    let server = TestServer::start().await;
    let queuing = json!({"queues": 1, "handSize": 1, "queueLengthLimit": 1});
    let limited = json!({
        "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Queue", "queuing": queuing},
    });
    level_for_bob(&server, limited).await;
    let started = tokio::time::Instant::now();
    let bob = || send(server.service("bob", &[]), "GET /version", "", "");
    let (first, second) = tokio::join!(bob(), bob());
    assert_eq!((first.code, second.code), (429, 429)); // One waited in vain, one found the queue full.
    assert_eq!(started.elapsed().as_secs(), 15);
    let more = json!({"spec": {"limited": {"nominalConcurrencyShares": 30}}});
    let change = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        server.patch(&format!("{GROUP}/prioritylevelconfigurations/bob"), "merge", more).await.expect(200);
        server.get("/version").await;
        // Limits are looked at when somebody comes.
        assert_eq!(send(server.service("alice", &[]), "GET /version", "", "").await.code, 200);
    };
    let (waiting, ()) = tokio::join!(bob(), change);
    assert_eq!(waiting.code, 200);
}

#[tokio::test]
async fn plain_limits_without_priority_and_fairness() {
    let flow = FlowSettings { priority_and_fairness: false, ..FlowSettings::default() };
    let server = TestServer::with(Config { flow, ..config() }).await;
    let answer = server.get("/version").await;
    assert!(answer.code == 200 && !answer.headers.contains_key("x-kubernetes-pf-flowschema-uid"));
}

#[tokio::test(start_paused = true)]
async fn timeouts() {
    let server = TestServer::start().await;
    let bad = server.get("/api/v1/pods?timeout=ten").await;
    let message = "invalid timeout specified in the request URL - time: invalid duration \"ten\"";
    assert_eq!((bad.code, bad.message().as_str()), (400, message));
    assert_eq!(server.get("/api/v1/pods?timeout=5s").await.code, 200);
    // A request that cannot be done: it waits for a revision that does not come, 3 s unless it has less.
    let late = server.get("/api/v1/pods?resourceVersion=1000000&timeout=1s").await;
    assert_eq!((late.code, late.json()["reason"].as_str()), (504, Some("Timeout")));
    assert_eq!(late.message(), "Timeout: request did not complete within the allotted timeout");
}

#[tokio::test]
async fn the_audit_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let policy = Policy::parse(
        br#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitManagedFields": true, "rules": [
            {"level": "RequestResponse", "resources": [{"group": "", "resources": ["configmaps"]}], "omitStages": ["RequestReceived"]},
            {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]}]}"#,
    );
    let log = LogSettings { path: path.clone(), ..LogSettings::default() };
    let audit = AuditSettings { policy: policy.expect("valid"), log };
    let server = TestServer::with(Config { audit: Some(audit), ..config() }).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    server.post(maps, config_map("a")).await.expect(201);
    let headers = "impersonate-user: alice\naudit-id: my-own\nuser-agent: test/1";
    server.send("GET /api/v1/namespaces/default/secrets/x", headers, "").await.expect(403);
    server.get("/api/v1/namespaces/default/pods").await.expect(200);

    let mut events: Vec<Value> = Vec::new();
    for _ in 0..500 {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        events = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if events.len() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let summary: Vec<String> = events
        .iter()
        .map(|event| {
            let text = |path: &str| event.pointer(path).map(Value::to_string).unwrap_or_default().replace('"', "");
            let fields = ["/level", "/stage", "/verb", "/objectRef/resource", "/responseStatus/code", "/annotations/authorization.k8s.io~1decision"];
            fields.map(text).join(" ")
        })
        .collect();
    assert_eq!(summary, [
        "RequestResponse ResponseComplete create configmaps 201 allow",
        "Metadata RequestReceived get secrets  ",
        "Metadata ResponseComplete get secrets 403 forbid",
    ]);
    assert_eq!(events[0]["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(events[0]["responseObject"]["metadata"]["name"], "a");
    assert!(events[0]["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(events[2]["user"]["username"], "admin");
    assert_eq!(events[2]["impersonatedUser"]["username"], "alice");
    assert_eq!((&events[2]["auditID"], &events[2]["userAgent"]), (&json!("my-own"), &json!("test/1")));
    assert_eq!(events[2]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(events[2]["requestReceivedTimestamp"].as_str().map(str::len), Some("2026-01-01T00:00:00.000000Z".len()));
}

#[tokio::test]
async fn what_is_mandatory_cannot_be_changed() {
    let server = TestServer::start().await;
    let refused = server.patch(&format!("{GROUP}/flowschemas/catch-all"), "merge", json!({"spec": {"matchingPrecedence": 9}})).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().ends_with(": spec of 'catch-all' must equal the fixed value"), "{}", refused.message());
    let level = format!("{GROUP}/prioritylevelconfigurations/exempt");
    server.patch(&level, "merge", json!({"spec": {"exempt": {"nominalConcurrencyShares": 5}}})).await.expect(200);
    let refused = server.patch(&level, "merge", json!({"spec": {"type": "Limited", "exempt": null}})).await;
    assert!(refused.message().contains("spec of 'exempt' except the 'spec.exempt' field must equal the fixed value"), "{}", refused.message());
}
