//! An API server of a few kinds in memory, for tests that read like a session.
//!
//! Invariant: it knows only what the tests need: discovery, create, get, list, tables, patch, put, delete.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use crate::session::{Environment, Streams};

#[derive(Clone, Default)]
struct Server {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    /// Answers discovery as servers before v1.26 did, group by group.
    group_by_group: bool,
}

/// Plays command lines against one server.
pub struct Play {
    server: Server,
    runtime: tokio::runtime::Runtime,
    environment: Environment,
}

#[derive(Clone, Default)]
struct Captured(Rc<RefCell<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Play {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Play { server: Server::default(), runtime, environment: Environment::default() }
    }

    /// The same with a server that knows no aggregated discovery.
    pub fn group_by_group() -> Self {
        let mut play = Play::new();
        play.server.group_by_group = true;
        play
    }

    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs one line with `input` on standard input; what it printed (errors included) must be `expected`.
    #[track_caller]
    pub fn check_with(&self, line: &str, input: &str, expected: &str) {
        let captured = Captured::default();
        let streams = Streams {
            input: Box::new(std::io::Cursor::new(input.as_bytes().to_vec())),
            out: Box::new(captured.clone()),
            err: Box::new(captured.clone()),
            terminal: None,
            screen: || None,
        };
        let code = self.runtime.block_on(async {
            let server = self.server.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
            });
            let client = kube::Client::new(service, "default");
            crate::run(words(line), streams, self.environment.clone(), Some(client)).await
        });
        let mut shown = String::from_utf8(captured.0.borrow().clone()).unwrap();
        if code != 0 {
            shown += &format!("[exit code {code}]\n");
        }
        assert_eq!(shown, expected, "$ kubectl {line}");
    }

    #[track_caller]
    pub fn check(&self, line: &str, expected: &str) {
        self.check_with(line, "", expected);
    }
}

/// Words as a shell splits them, with single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

impl Server {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let wants_table = parts.headers.get("accept").is_some_and(|accept| accept.to_str().unwrap().contains("as=Table"));
        let kind = parts.headers.get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
        let (code, answer) = self.handle(&parts.method, parts.uri.path(), &kind, &body, wants_table);
        Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap()
    }

    fn handle(&self, method: &Method, path: &str, content_type: &str, body: &[u8], table: bool) -> (StatusCode, Value) {
        let core = [("pods", "Pod", "po", true), ("configmaps", "ConfigMap", "cm", true), ("namespaces", "Namespace", "ns", false)];
        let apps = [("deployments", "Deployment", "deploy", true)];
        match path {
            "/api" if self.group_by_group => return (StatusCode::OK, json!({"kind": "APIVersions", "versions": ["v1"]})),
            "/apis" if self.group_by_group => {
                let version = json!({"groupVersion": "apps/v1", "version": "v1"});
                let groups = json!([{"name": "apps", "versions": [version], "preferredVersion": version}]);
                return (StatusCode::OK, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}));
            }
            "/api/v1" if self.group_by_group => return (StatusCode::OK, resource_list("v1", &core)),
            "/apis/apps/v1" if self.group_by_group => return (StatusCode::OK, resource_list("apps/v1", &apps)),
            "/api" => return (StatusCode::OK, discovery("", "v1", &core)),
            "/apis" => return (StatusCode::OK, discovery("apps", "v1", &apps)),
            _ => {}
        }
        let mut objects = self.objects.lock().unwrap();
        let segments: Vec<&str> = path.trim_start_matches("/api/v1/").trim_start_matches("/apis/apps/v1/").split('/').collect();
        let (namespace, rest) = if segments[0] == "namespaces" && segments.len() > 2 { (segments[1], &segments[2..]) } else { ("", &segments[..]) };
        let (plural, name) = (rest[0], rest.get(1).copied());
        let missing = |name: &str| {
            let qualified = if plural == "deployments" { "deployments.apps" } else { plural };
            (StatusCode::NOT_FOUND, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": format!("{qualified} {name:?} not found")}))
        };
        let key = |name: &str| format!("{plural}/{namespace}/{name}");
        let revision = objects.len() as u64 + 10;
        match (method, name) {
            (&Method::POST, None) => {
                let mut object: Value = serde_json::from_slice(body).unwrap();
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                object["metadata"]["uid"] = "u".into();
                object["metadata"]["resourceVersion"] = revision.to_string().into();
                if !namespace.is_empty() {
                    object["metadata"]["namespace"] = namespace.into();
                }
                if objects.contains_key(&key(&name)) {
                    return (StatusCode::CONFLICT, json!({"kind": "Status", "reason": "AlreadyExists", "code": 409, "message": format!("{plural} {name:?} already exists")}));
                }
                objects.insert(key(&name), object.clone());
                (StatusCode::CREATED, object)
            }
            (&Method::GET, None) => {
                let prefix = key("");
                let found: Vec<Value> = objects.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect();
                (StatusCode::OK, if table { as_table(&found) } else { json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": found}) })
            }
            (method, Some(name)) => {
                let Some(object) = objects.get(&key(name)).cloned() else { return missing(name) };
                match *method {
                    Method::GET => (StatusCode::OK, if table { as_table(&[object]) } else { object }),
                    Method::DELETE => {
                        objects.remove(&key(name));
                        (StatusCode::OK, json!({"kind": "Status", "status": "Success"}))
                    }
                    _ => {
                        let patch: Value = serde_json::from_slice(body).unwrap();
                        let definition = api::schema::definition_of_kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap();
                        let target = if rest.get(2) == Some(&"scale") { api::patch::merge_patch(&object, &patch) } else {
                            match content_type {
                                crate::rest::STRATEGIC_PATCH => api::patch::strategic_merge_patch(&object, &patch, definition).unwrap(),
                                crate::rest::JSON_PATCH => api::patch::json_patch(&object, &patch).unwrap(),
                                _ => api::patch::merge_patch(&object, &patch),
                            }
                        };
                        objects.insert(key(name), target.clone());
                        (StatusCode::OK, target)
                    }
                }
            }
            _ => (StatusCode::METHOD_NOT_ALLOWED, json!({})),
        }
    }
}

fn as_table(objects: &[Value]) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| json!({"cells": [object["metadata"]["name"], object["spec"]["replicas"]], "object": {"metadata": object["metadata"]}}))
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "1"},
        "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Replicas", "priority": 1}], "rows": rows})
}

const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];

fn resource_list(group_version: &str, kinds: &[(&str, &str, &str, bool)]) -> Value {
    let one = |(plural, kind, short, namespaced): &(&str, &str, &str, bool)| {
        let categories = if *plural == "configmaps" || !namespaced { json!([]) } else { json!(["all"]) };
        let whole = json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": VERBS, "shortNames": [short], "categories": categories});
        let scale = json!({"name": format!("{plural}/scale"), "singularName": "", "namespaced": namespaced, "kind": "Scale", "group": "autoscaling", "version": "v1", "verbs": ["get", "patch"]});
        [whole, scale]
    };
    json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": kinds.iter().flat_map(one).collect::<Vec<_>>()})
}

fn discovery(group: &str, version: &str, kinds: &[(&str, &str, &str, bool)]) -> Value {
    let resources: Vec<Value> = kinds
        .iter()
        .map(|(plural, kind, short, namespaced)| {
            json!({"resource": plural, "responseKind": {"group": group, "version": version, "kind": kind}, "scope": if *namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": kind.to_lowercase(), "verbs": VERBS, "shortNames": [short],
                "categories": if *plural == "configmaps" || !namespaced { json!([]) } else { json!(["all"]) },
                "subresources": [{"subresource": "scale", "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}, "verbs": ["get", "patch"]}]})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": [{"metadata": {"name": group}, "versions": [{"version": version, "resources": resources}]}]})
}
