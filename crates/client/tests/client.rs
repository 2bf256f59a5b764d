//! The client against a small API server that lives in this file: no network, paused clock.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::clock::Clock;
use bytes::Bytes;
use client::lease::{LeaseConfig, lead};
use client::{Change, EventRecorder, EventType, Informers, ObjectKey, in_process, object_ref};
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One flat space of objects by path, enough of LIST, WATCH, POST, PUT and PATCH for these tests.
#[derive(Clone, Default)]
struct FakeServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    history: Vec<(u64, &'static str, String, Value)>,
    watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    /// Watches from before this version are refused with 410.
    compacted: u64,
    page: Option<usize>,
    refuse: usize,
    requests: Vec<String>,
}

impl FakeServer {
    fn client(&self) -> kube::Client {
        let server = self.clone();
        in_process(tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        }))
    }

    async fn answer(&self, request: Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.replace("%2F", "/")))
            .collect();
        let mut state = self.0.lock();
        let watch = query.contains_key("watch");
        state.requests.push(format!("{} {path}{}", parts.method, if watch { " watch" } else { "" }));
        if state.refuse > 0 {
            state.refuse -= 1;
            return status(503, "ServiceUnavailable");
        }
        match parts.method.as_str() {
            "GET" if watch => state.watch(&path, &query["resourceVersion"]),
            "GET" if state.objects.contains_key(&path) => whole(200, &state.objects[&path]),
            "GET" if path.matches('/').count() > 5 => status(404, "NotFound"),
            "GET" => state.list(&path, query.get("continue").map_or("", String::as_str)),
            "POST" => {
                let object: Value = serde_json::from_slice(&body).unwrap();
                let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
                if state.objects.contains_key(&path) {
                    return status(409, "AlreadyExists");
                }
                whole(201, &state.put(path, object))
            }
            "PUT" => {
                let object: Value = serde_json::from_slice(&body).unwrap();
                if object["metadata"]["resourceVersion"] != state.objects[&path]["metadata"]["resourceVersion"] {
                    return status(409, "Conflict");
                }
                whole(200, &state.put(path, object))
            }
            "PATCH" => {
                let mut object = state.objects[&path].clone();
                let patch: Value = serde_json::from_slice(&body).unwrap();
                for (name, value) in patch.as_object().unwrap() {
                    object[name] = value.clone();
                }
                whole(200, &state.put(path, object))
            }
            _ => status(405, "MethodNotAllowed"),
        }
    }

    fn put(&self, name: &str) {
        let object = json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")}});
        self.0.lock().put(format!("/api/v1/configmaps/{name}"), object);
    }

    fn delete(&self, name: &str) {
        let mut state = self.0.lock();
        let path = format!("/api/v1/configmaps/{name}");
        state.version += 1;
        let mut object = state.objects.remove(&path).unwrap();
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.tell("DELETED", &path, object);
    }

    fn drop_watches(&self) {
        self.0.lock().watchers.clear();
    }

    fn count(&self, request: &str) -> usize {
        self.0.lock().requests.iter().filter(|known| *known == request).count()
    }
}

impl State {
    fn put(&mut self, path: String, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let kind = if self.objects.insert(path.clone(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(kind, &path, object.clone());
        object
    }

    fn tell(&mut self, kind: &'static str, path: &str, object: Value) {
        let line = event_line(kind, &object);
        self.watchers.retain(|(prefix, watcher)| !path.starts_with(prefix) || watcher.send(line.clone()).is_ok());
        self.history.push((self.version, kind, path.to_owned(), object));
    }

    fn list(&self, path: &str, after: &str) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let prefix = format!("{path}/");
        let mut items: Vec<(&String, &Value)> =
            self.objects.iter().filter(|(name, _)| name.starts_with(&prefix) && name.as_str() > after).collect();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if let Some(page) = self.page
            && items.len() > page
        {
            items.truncate(page);
            metadata["continue"] = json!(items.last().unwrap().0);
        }
        let items: Vec<&Value> = items.into_iter().map(|(_, object)| object).collect();
        whole(200, &json!({"metadata": metadata, "items": items}))
    }

    fn watch(&mut self, path: &str, from: &str) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let from: u64 = from.parse().unwrap();
        if from < self.compacted {
            return status(410, "Expired");
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for (version, kind, known, object) in &self.history {
            if *version > from && known.starts_with(path) {
                sender.send(event_line(kind, object)).unwrap();
            }
        }
        self.watchers.push((path.to_owned(), sender));
        let lines = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|line| (line, receiver))
        });
        // Cut in odd places, as networks do.
        let frames = lines.flat_map(|line| {
            let middle = line.len() / 2;
            futures::stream::iter([line.slice(..middle), line.slice(middle..)])
        });
        let body = StreamBody::new(frames.map(|bytes| Ok(http_body::Frame::data(bytes))));
        Response::new(body.boxed_unsync())
    }
}

fn event_line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

fn whole(code: u16, body: &Value) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let body = http_body_util::Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

fn status(code: u16, reason: &str) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    whole(code, &json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}))
}

struct Watched {
    server: FakeServer,
    informers: Arc<Informers>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Watched {
    fn start(server: FakeServer) -> Self {
        let informers = Informers::new(server.client(), CancellationToken::new());
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        informers.of::<ConfigMap>().subscribe(move |change| {
            let (sign, object) = match change {
                Change::Added(object) => ('+', object),
                Change::Updated { new, .. } => ('~', new),
                Change::Deleted(object) => ('-', object),
            };
            log.lock().push(format!("{sign}{}", object.metadata.name.as_deref().unwrap()));
        });
        Watched { server, informers, told }
    }

    #[track_caller]
    fn assert_told(&self, expected: &str) {
        assert_eq!(self.told.lock().join(" "), expected);
    }
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn lists_in_pages_then_follows_the_watch() {
    let server = FakeServer::default();
    for name in ["a", "b", "c", "d", "e"] {
        server.put(name);
    }
    server.0.lock().page = Some(2);
    let watched = Watched::start(server);
    watched.informers.synced().await;
    watched.assert_told("+a +b +c +d +e");
    assert_eq!(watched.server.count("GET /api/v1/configmaps"), 3);
    settle().await;
    watched.server.put("f");
    watched.server.put("a");
    watched.server.delete("b");
    settle().await;
    watched.assert_told("+a +b +c +d +e +f ~a -b");
    let informer = watched.informers.of::<ConfigMap>();
    assert_eq!(informer.len(), 5);
    assert!(informer.get(&ObjectKey::new("ns", "f")).is_some());
    assert_eq!(watched.server.count("GET /api/v1/configmaps watch"), 1); // Shared, not started anew.
}

#[tokio::test(start_paused = true)]
async fn a_dropped_watch_resumes_without_a_list() {
    let watched = Watched::start(FakeServer::default());
    watched.informers.synced().await;
    settle().await;
    watched.server.put("a");
    settle().await;
    watched.server.drop_watches();
    watched.server.put("b");
    tokio::time::sleep(Duration::from_secs(5)).await;
    watched.assert_told("+a +b");
    assert_eq!(watched.server.count("GET /api/v1/configmaps"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_again_and_reports_the_difference() {
    let watched = Watched::start(FakeServer::default());
    watched.informers.synced().await;
    settle().await;
    watched.server.put("a");
    watched.server.put("b");
    settle().await;
    watched.server.drop_watches();
    watched.server.put("c");
    watched.server.delete("a");
    watched.server.0.lock().compacted = 4;
    tokio::time::sleep(Duration::from_secs(5)).await;
    watched.assert_told("+a +b +c -a");
    assert_eq!(watched.server.count("GET /api/v1/configmaps"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_there_yet_is_awaited() {
    let server = FakeServer::default();
    server.put("a");
    server.0.lock().refuse = 4;
    let watched = Watched::start(server);
    watched.informers.synced().await;
    watched.assert_told("+a");
}

#[tokio::test(start_paused = true)]
async fn repeated_events_become_one_with_a_count() {
    let server = FakeServer::default();
    let clock = Clock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let recorder = EventRecorder::new(server.client(), clock, "test-controller", "");
    let mut about = ConfigMap::default();
    about.metadata.name = Some("web".into());
    about.metadata.namespace = Some("ns".into());
    for _ in 0..3 {
        recorder.event(&object_ref(&about), EventType::Warning, "Failed", "no luck");
        settle().await;
    }
    recorder.event(&object_ref(&about), EventType::Normal, "Done", "luck");
    settle().await;
    let events: Vec<Event> =
        server.0.lock().objects.values().map(|event| serde_json::from_value(event.clone()).unwrap()).collect();
    let summary: Vec<String> = events
        .iter()
        .map(|event| {
            format!(
                "{}x {} {} by {}",
                event.count.unwrap(),
                event.type_.as_deref().unwrap(),
                event.message.as_deref().unwrap(),
                event.reporting_component.as_deref().unwrap()
            )
        })
        .collect();
    assert_eq!(summary, ["3x Warning no luck by test-controller", "1x Normal luck by test-controller"]);
    assert!(events[0].metadata.name.as_deref().unwrap().starts_with("web.18867"));
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_one_leads_and_the_other_follows_a_crash() {
    let server = FakeServer::default();
    let clock = Clock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let log = Arc::new(Mutex::new(Vec::<&'static str>::new()));
    let cancel = CancellationToken::new();
    let mut tasks = Vec::new();
    for identity in ["one", "two"] {
        let config = LeaseConfig::new(ObjectKey::new("kube-system", "test"), identity);
        let (client, clock, cancel, log) = (server.client(), clock.clone(), cancel.clone(), log.clone());
        tasks.push(tokio::spawn(lead(client, clock, config, cancel, move |stop| async move {
            log.lock().push(identity);
            stop.cancelled().await;
        })));
        settle().await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*log.lock(), ["one"]);
    tasks[0].abort(); // Crashed: nothing is released.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(*log.lock(), ["one"]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(*log.lock(), ["one", "two"]);
    // No server for longer than the renewal deadline: the leader stops by itself.
    server.0.lock().refuse = 1000;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(tasks[1].is_finished());
    cancel.cancel();
}
