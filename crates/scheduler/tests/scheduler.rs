//! The whole scheduler against a pretended API server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use bytes::Bytes;
use client::{EventRecorder, Informers};
use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use parking_lot::Mutex;
use scheduler::{Scheduler, SchedulerConfig};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Lists what it was given, streams what is sent to a collection, and notes every write.
#[derive(Clone)]
struct Server {
    lists: Arc<HashMap<&'static str, Vec<Value>>>,
    watches: Arc<Mutex<HashMap<String, mpsc::UnboundedSender<String>>>>,
    written: mpsc::UnboundedSender<(String, Value)>,
}

type AnswerBody = UnsyncBoxBody<Bytes, std::convert::Infallible>;

impl Server {
    async fn answer(self, request: Request<Body>) -> Result<Response<AnswerBody>, std::convert::Infallible> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        if parts.method != Method::GET {
            let body = body.collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let answer = if path.ends_with("/binding") { json!({"kind": "Status", "status": "Success"}) } else { body.clone() };
            self.written.send((format!("{} {path}", parts.method), body)).ok();
            return Ok(Response::new(whole(answer)));
        }
        if parts.uri.query().unwrap_or_default().contains("watch") {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.watches.lock().insert(path, sender);
            let lines = futures::stream::unfold(receiver, |mut receiver| async {
                let line: String = receiver.recv().await?;
                Some((Ok(http_body::Frame::data(Bytes::from(line))), receiver))
            });
            return Ok(Response::new(BodyExt::boxed_unsync(StreamBody::new(lines.boxed()))));
        }
        let items = self.lists.get(path.as_str()).cloned().unwrap_or_default();
        Ok(Response::new(whole(json!({"metadata": {"resourceVersion": "10"}, "items": items}))))
    }

    fn send(&self, path: &str, kind: &str, object: Value) {
        let line = json!({"type": kind, "object": object}).to_string() + "\n";
        self.watches.lock()[path].send(line).unwrap();
    }
}

fn whole(value: Value) -> AnswerBody {
    http_body_util::Full::new(Bytes::from(value.to_string())).boxed_unsync()
}

fn node(name: &str, version: u32) -> Value {
    json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": version.to_string()},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}
    })
}

fn pod(name: &str, cpu: &str, version: u32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": version.to_string()},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        "status": {"phase": "Pending"}
    })
}

struct Run {
    server: Server,
    written: mpsc::UnboundedReceiver<(String, Value)>,
    cancel: CancellationToken,
}

async fn start(nodes: Vec<Value>, pods: Vec<Value>) -> Run {
    let (sender, written) = mpsc::unbounded_channel();
    let lists = HashMap::from([("/api/v1/nodes", nodes), ("/api/v1/pods", pods)]);
    let server = Server { lists: Arc::new(lists), watches: Arc::default(), written: sender };
    let service = server.clone();
    let client = client::in_process(tower::service_fn(move |request| service.clone().answer(request)));
    let cancel = CancellationToken::new();
    let informers = Informers::new(client.clone(), cancel.clone());
    let clock = Clock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let recorder = EventRecorder::new(client.clone(), clock.clone(), "default-scheduler", "");
    let scheduler = Scheduler::new(client, informers, recorder, clock, SchedulerConfig::default());
    tokio::spawn(scheduler.run(cancel.clone()));
    Run { server, written, cancel }
}

impl Run {
    /// The next write whose path holds `part`.
    async fn written(&mut self, part: &str) -> (String, Value) {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(5), self.written.recv()).await;
            let write = next.unwrap_or_else(|_| panic!("no write to {part}")).unwrap();
            if write.0.contains(part) {
                return write;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn binds_what_fits_and_the_rest_when_there_is_room() {
    let mut run = start(vec![node("n1", 1)], vec![pod("a", "600m", 2), pod("b", "600m", 3)]).await;
    let (path, binding) = run.written("/binding").await;
    assert_eq!(path, "POST /api/v1/namespaces/default/pods/a/binding");
    assert_eq!(binding["target"]["name"], "n1");
    assert_eq!(binding["metadata"]["uid"], "a");

    let (path, patch) = run.written("/status").await;
    assert_eq!(path, "PATCH /api/v1/namespaces/default/pods/b/status");
    let condition = &patch["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
    assert_eq!((&condition["reason"], &condition["lastTransitionTime"]), (&json!("Unschedulable"), &json!("2026-01-01T00:00:00Z")));
    let why = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: \
               0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(condition["message"], why);

    run.server.send("/api/v1/nodes", "ADDED", node("n2", 11));
    let (path, binding) = run.written("/binding").await;
    assert_eq!(path, "POST /api/v1/namespaces/default/pods/b/binding");
    assert_eq!(binding["target"]["name"], "n2");
    run.cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn tells_events_about_it() {
    let mut run = start(vec![node("n1", 1)], vec![pod("a", "600m", 2), pod("b", "2", 3)]).await;
    let mut told = Vec::new();
    for _ in 0..2 {
        let (_, event) = run.written("/events").await;
        told.push(format!("{} {} {}", event["type"], event["reason"], event["message"]).replace('"', ""));
    }
    told.sort();
    let not_helpful = "0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(told, [
        "Normal Scheduled Successfully assigned default/a to n1".to_owned(),
        format!("Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: {not_helpful}"),
    ]);
    run.cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn makes_room_for_the_important() {
    let mut important = pod("important", "600m", 3);
    important["spec"]["priority"] = json!(1000);
    let mut humble = pod("humble", "600m", 2);
    humble["spec"]["nodeName"] = json!("n1");
    let mut run = start(vec![node("n1", 1)], vec![humble.clone(), important]).await;
    let (_, patch) = run.written("pods/important/status").await;
    assert_eq!(patch["status"]["nominatedNodeName"], "n1");
    let (_, patch) = run.written("pods/humble/status").await;
    assert_eq!(patch["status"]["conditions"][0]["reason"], "PreemptionByScheduler");
    let (path, _) = run.written("DELETE").await;
    assert_eq!(path, "DELETE /api/v1/namespaces/default/pods/humble");

    humble["metadata"]["resourceVersion"] = json!("12");
    run.server.send("/api/v1/pods", "DELETED", humble);
    let (path, _) = run.written("/binding").await;
    assert_eq!(path, "POST /api/v1/namespaces/default/pods/important/binding");
    run.cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn leaves_others_pods_and_gated_ones_alone() {
    let mut other = pod("other", "1m", 2);
    other["spec"]["schedulerName"] = json!("mine");
    let mut gated = pod("gated", "1m", 3);
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    let mut run = start(vec![node("n1", 1)], vec![other, gated.clone()]).await;
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(run.written.try_recv().is_err());
    gated["spec"]["schedulingGates"] = json!([]);
    gated["metadata"]["resourceVersion"] = json!("12");
    run.server.send("/api/v1/pods", "MODIFIED", gated);
    let (path, _) = run.written("/binding").await;
    assert_eq!(path, "POST /api/v1/namespaces/default/pods/gated/binding");
    run.cancel.cancel();
}
