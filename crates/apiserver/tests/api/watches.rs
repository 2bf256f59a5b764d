//! Watches: order, selection, bookmarks, ends.

use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::Service;

use crate::harness::{TestServer, config, config_map, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Watching {
    body: apiserver::http::body::Body,
    pending: Vec<u8>,
}

impl Watching {
    async fn start(server: &TestServer, query: &str) -> Watching {
        let mut service = server.service("admin", &["system:masters"]);
        let response = service.call(request(&format!("GET {MAPS}?watch=1&{query}"), "", "")).await.expect("answers");
        assert_eq!(response.status(), 200);
        Watching { body: response.into_body(), pending: Vec::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a JSON frame"));
            }
            let frame = self.body.frame().await?.expect("no failure");
            self.pending.extend_from_slice(&frame.into_data().expect("data"));
        }
    }

    /// `ADDED a`
    async fn short(&mut self) -> String {
        let event = self.next().await.expect("an event");
        format!("{} {}", event["type"].as_str().unwrap_or(""), event["object"]["metadata"]["name"].as_str().unwrap_or(""))
    }
}

#[tokio::test]
async fn events_come_in_order() {
    let server = TestServer::start().await;
    let before = server.post(MAPS, config_map("a")).await.expect(201);
    let revision = before["metadata"]["resourceVersion"].as_str().expect("a revision");
    let mut all = Watching::start(&server, "").await;
    let mut later = Watching::start(&server, &format!("resourceVersion={revision}")).await;
    server.post(MAPS, config_map("b")).await.expect(201);
    server.patch(&format!("{MAPS}/a"), "merge", json!({"data": {"z": "z"}})).await.expect(200);
    server.delete(&format!("{MAPS}/a")).await.expect(200);
    for expected in ["ADDED a", "ADDED b", "MODIFIED a", "DELETED a"] {
        assert_eq!(all.short().await, expected);
    }
    for expected in ["ADDED b", "MODIFIED a", "DELETED a"] {
        assert_eq!(later.short().await, expected);
    }
}

#[tokio::test]
async fn leaving_the_selection_is_a_deletion() {
    let server = TestServer::start().await;
    let mut watch = Watching::start(&server, "labelSelector=in%3Dyes").await;
    server.post(MAPS, config_map("a")).await.expect(201);
    let label = async |value: Value| {
        server.patch(&format!("{MAPS}/a"), "merge", json!({"metadata": {"labels": {"in": value}}})).await.expect(200)
    };
    label("yes".into()).await;
    let left = label("no".into()).await;
    assert_eq!(watch.short().await, "ADDED a");
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["metadata"]["labels"]["in"]), (&json!("DELETED"), &json!("yes")));
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_and_the_end() {
    let server = TestServer::start().await;
    server.post(MAPS, config_map("a")).await.expect(201);
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=90";
    let mut watch = Watching::start(&server, query).await;
    assert_eq!(watch.short().await, "ADDED a");
    let mark = watch.next().await.expect("a bookmark");
    assert_eq!((&mark["type"], &mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"]), (&json!("BOOKMARK"), &json!("true")));
    let started = tokio::time::Instant::now();
    for _ in 0..2 {
        assert_eq!(watch.next().await.expect("a bookmark")["type"], "BOOKMARK");
    }
    assert!(watch.next().await.is_none());
    assert!(started.elapsed() >= Duration::from_secs(89), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_revision_that_is_forgotten() {
    let first = TestServer::start().await;
    first.post(MAPS, config_map("a")).await.expect(201);
    // A server that starts later has no history of its own, but all that is stored.
    let server = TestServer::with(apiserver::Config { store: first.store.clone(), ..config() }).await;
    let mut watch = Watching::start(&server, "resourceVersion=1").await;
    let event = watch.next().await.expect("an error");
    assert_eq!((&event["type"], &event["object"]["code"], &event["object"]["reason"]), (&json!("ERROR"), &json!(410), &json!("Expired")));
    assert!(event["object"]["message"].as_str().is_some_and(|text| text.starts_with("too old resource version: 1 (")));
    assert!(watch.next().await.is_none());
    // Each sees what the other writes.
    let mut watch = Watching::start(&server, "").await;
    first.post(MAPS, config_map("b")).await.expect(201);
    assert_eq!((watch.short().await, watch.short().await), ("ADDED a".into(), "ADDED b".into()));
    server.get(&format!("{MAPS}/b")).await.expect(200);
}
