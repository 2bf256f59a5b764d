//! Events, in their two groups.

use serde_json::{Value, json};

use super::{items, revision};
use crate::harness::TestServer;

const OLD: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn old(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "labels": {"testevent-set": "true"}},
        "message": "This is a test event", "reason": "Test", "type": "Normal", "source": {"component": "event-test"},
        "involvedObject": {"namespace": "default", "kind": "Pod", "name": "web"},
    })
}

fn new(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name, "labels": {"testevent-set": "true"}},
        "regarding": {"namespace": "default", "kind": "Pod", "name": "web"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "note": "This is a test event", "action": "Do", "reason": "Test", "type": "Normal",
        "reportingController": "test-controller", "reportingInstance": "test-node",
    })
}

// Conformance: [sig-instrumentation] Events should manage the lifecycle of an event
#[tokio::test]
async fn an_event_of_the_core() {
    let server = TestServer::start().await;
    server.post(OLD, old("one")).await.expect(201);
    let everywhere = "/api/v1/events?labelSelector=testevent-set=true";
    assert_eq!(items(&server.get(everywhere).await.expect(200)).len(), 1);
    let path = format!("{OLD}/one");
    server.patch(&path, "strategic-merge", json!({"message": "This is a test event - patched"})).await.expect(200);
    let mut event = server.get(&path).await.expect(200);
    assert_eq!(event["message"], "This is a test event - patched");
    event["series"] = json!({"count": 100, "lastObservedTime": "2026-01-01T00:00:00.000001Z"});
    server.put(&path, event).await.expect(200);
    let event = server.get(&path).await.expect(200);
    assert_eq!(event["series"], json!({"count": 100, "lastObservedTime": "2026-01-01T00:00:00.000001Z"}));
    server.delete(&path).await.expect(200);
    assert_eq!(items(&server.get(everywhere).await.expect(200)).len(), 0);
}

// Conformance: [sig-instrumentation] Events should delete a collection of events
#[tokio::test]
async fn a_set_of_events_of_the_core() {
    delete_set(OLD, old).await;
}

// Conformance: [sig-instrumentation] Events API should delete a collection of events
#[tokio::test]
async fn a_set_of_events() {
    delete_set(NEW, new).await;
}

async fn delete_set(events: &str, event: fn(&str) -> Value) {
    let server = TestServer::start().await;
    for name in ["one", "two", "three"] {
        server.post(events, event(name)).await.expect(201);
    }
    let selected = format!("{events}?labelSelector=testevent-set=true");
    assert_eq!(items(&server.get(&selected).await.expect(200)).len(), 3);
    server.delete(&selected).await.expect(200);
    assert_eq!(items(&server.get(&selected).await.expect(200)).len(), 0);
    assert_eq!(items(&server.get(events).await.expect(200)).len(), 0);
}

// Conformance: [sig-instrumentation] Events API should ensure that an event can be fetched, patched, deleted, and listed
#[tokio::test]
async fn an_event() {
    let server = TestServer::start().await;
    let created = server.post(NEW, new("one")).await.expect(201);
    for list in [NEW, "/apis/events.k8s.io/v1/events", OLD] {
        assert_eq!(items(&server.get(list).await.expect(200)).len(), 1, "{list}");
    }
    let path = format!("{NEW}/one");
    assert_eq!(server.get(&path).await.expect(200), created);
    let source = format!("{NEW}?fieldSelector=reportingController=test-controller");
    assert_eq!(items(&server.get(&source).await.expect(200)).len(), 1);
    server.patch(&path, "strategic-merge", json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}})).await.expect(200);
    let mut event = server.get(&path).await.expect(200);
    assert_eq!((&event["series"]["count"], &event["note"]), (&json!(2), &created["note"]));
    event["series"] = json!({"count": 100, "lastObservedTime": "2026-01-01T00:00:02.000000Z"});
    let updated = server.put(&path, event).await.expect(200);
    assert_eq!(updated["series"]["count"], 100);
    assert_ne!(revision(&updated), revision(&created));
    // What happened does not change: only how often it did.
    let refused = server.patch(&path, "merge", json!({"note": "patched"})).await;
    assert_eq!(refused.code, 422);
    server.delete(&path).await.expect(200);
    assert_eq!(items(&server.get(NEW).await.expect(200)).len(), 0);
}
