//! Behaviours that every Kubernetes must show and that need no more than the API server, each named as the original's
//! conformance suite names it.

mod discovery;
mod events;
mod lists;
mod operations;
mod quota;
mod validation;
mod watchers;

use serde_json::Value;

use crate::harness::TestServer;

/// Watches for ten seconds while `work` is done; `path` may have a query. Runs in virtual time.
async fn watched(server: &TestServer, path: &str, work: impl Future<Output = ()>) -> Vec<(String, Value)> {
    let sign = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{sign}watch=true&timeoutSeconds=10");
    let (answer, ()) = tokio::join!(server.get(&path), work);
    assert_eq!(answer.code, 200, "{path}");
    let lines = std::str::from_utf8(&answer.bytes).expect("text").lines();
    lines
        .map(|line| serde_json::from_str::<Value>(line).expect("an event a line"))
        .map(|event| (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].clone()))
        .collect()
}

/// `ADDED a, MODIFIED a`: what happened to which object.
fn told(events: &[(String, Value)]) -> String {
    let words: Vec<String> = events
        .iter()
        .map(|(event_type, object)| format!("{event_type} {}", object["metadata"]["name"].as_str().unwrap_or_default()))
        .collect();
    words.join(", ")
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).expect("a list")
}

fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("a resourceVersion").to_owned()
}
