//! A server of one test, and short ways to talk to it.

use std::sync::Arc;

use api::clock::Clock;
use apiserver::{ApiServer, Config, InProcess};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use store::memory::MemoryStore;
use tower::Service;

pub struct TestServer {
    pub store: store::SharedStore,
    pub server: Arc<ApiServer>,
    admin: InProcess,
}

pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or("").to_owned()
    }

    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }
}

pub fn config() -> Config {
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let clock = Clock::starting_at("2026-01-01T00:00:00Z".parse().expect("a valid time"));
    Config { seed: Some(1), ..Config::new(Arc::new(MemoryStore::new()), clock, key) }
}

impl TestServer {
    pub async fn start() -> TestServer {
        TestServer::with(config()).await
    }

    pub async fn with(config: Config) -> TestServer {
        let store = config.store.clone();
        let server = ApiServer::new(config).await.expect("starts");
        let admin = server.in_process("admin", &["system:masters"]);
        TestServer { store, server, admin }
    }

    pub fn service(&self, user: &str, groups: &[&str]) -> InProcess {
        self.server.in_process(user, groups)
    }

    /// `"POST /api/v1/pods"`, with headers as `name: value` lines.
    pub async fn send(&self, request: &str, headers: &str, body: impl Into<Bytes>) -> Answer {
        send(self.admin.clone(), request, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), "", "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(&format!("POST {path}"), "content-type: application/json", body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(&format!("PUT {path}"), "content-type: application/json", body.to_string()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        let media = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            kind => format!("application/{kind}-patch+json"),
        };
        self.send(&format!("PATCH {path}"), &format!("content-type: {media}"), body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(&format!("DELETE {path}"), "", "").await
    }
}

pub fn request(request: &str, headers: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let (method, uri) = request.split_once(' ').expect("method and path");
    let mut builder = Request::builder().method(method).uri(uri);
    for line in headers.lines() {
        let (name, value) = line.split_once(':').expect("name: value");
        builder = builder.header(name.trim(), value.trim());
    }
    builder.body(Full::new(body.into())).expect("a request")
}

pub async fn send(mut service: InProcess, text: &str, headers: &str, body: impl Into<Bytes>) -> Answer {
    let response = service.call(request(text, headers, body)).await.expect("never fails");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
}

pub fn config_map(name: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

pub fn pod(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "nginx"}]},
    })
}
