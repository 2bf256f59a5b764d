//! Plain requests to a cluster's API server, blocking, for tests that say request and answer themselves.
//!
//! Paths are short: `pods/web/status`, `apps/v1/deployments?labelSelector=a`, in the session's namespace where the
//! resource has one; what begins with a slash is taken as it is.

use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

use crate::cluster::Cluster;

const SOON: Duration = Duration::from_secs(30);
/// What lies in no namespace.
const CLUSTER_WIDE: &[&str] = &[
    "nodes", "namespaces", "persistentvolumes", "storageclasses", "volumeattachments", "csidrivers", "csinodes",
    "volumeattributesclasses", "runtimeclasses", "deviceclasses", "resourceslices", "priorityclasses", "apiservices",
    "clusterroles", "clusterrolebindings",
];

pub struct Session {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
    pub namespace: String,
}

impl Cluster {
    /// In the namespace `default`.
    pub fn session(&self) -> Session {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(client::from_kubeconfig(self.kubeconfig())).expect("connects");
        Session { runtime, client, namespace: "default".into() }
    }
}

impl Session {
    fn path(&self, short: &str) -> String {
        if short.starts_with('/') {
            return short.to_owned();
        }
        let versioned = |part: &str| part.starts_with('v') && part.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        let mut parts = short.splitn(3, '/');
        let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (root, rest) = match versioned(second) {
            true => (format!("/apis/{first}/{second}"), parts.next().unwrap_or_default()),
            false => ("/api/v1".to_owned(), short),
        };
        let resource = rest.split(['/', '?']).next().unwrap_or_default();
        match CLUSTER_WIDE.contains(&resource) {
            true => format!("{root}/{rest}"),
            false => format!("{root}/namespaces/{}/{rest}", self.namespace),
        }
    }

    /// Any request: code and body as text.
    pub fn raw(&self, method: Method, path: &str, content_type: &str, body: Option<String>) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(self.path(path).replace(' ', "%20"))
            .header("content-type", content_type)
            .header("accept", "application/json")
            .body(Body::from(body.unwrap_or_default().into_bytes()))
            .expect("a request");
        self.runtime.block_on(async {
            let response = self.client.send(request).await.expect("the server answers");
            let code = response.status().as_u16();
            let body = response.into_body().collect().await.expect("the answer comes whole").to_bytes();
            (code, String::from_utf8_lossy(&body).into_owned())
        })
    }

    /// Any request with a JSON body: code and answer.
    pub fn ask(&self, method: Method, path: &str, content_type: &str, body: Option<&Value>) -> (u16, Value) {
        let (code, text) = self.raw(method, path, content_type, body.map(Value::to_string));
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    #[track_caller]
    fn must(&self, method: Method, path: &str, content_type: &str, body: Option<&Value>) -> Value {
        let (code, value) = self.ask(method.clone(), path, content_type, body);
        assert!((200..300).contains(&code), "{method} {path}: {code} {value}");
        value
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.must(Method::GET, path, "application/json", None)
    }

    pub fn exists(&self, path: &str) -> bool {
        self.ask(Method::GET, path, "application/json", None).0 == 200
    }

    #[track_caller]
    pub fn create(&self, path: &str, object: &Value) -> Value {
        self.must(Method::POST, path, "application/json", Some(object))
    }

    #[track_caller]
    pub fn put(&self, path: &str, object: &Value) -> Value {
        self.must(Method::PUT, path, "application/json", Some(object))
    }

    /// A merge patch.
    #[track_caller]
    pub fn patch(&self, path: &str, patch: &Value) -> Value {
        self.must(Method::PATCH, path, "application/merge-patch+json", Some(patch))
    }

    #[track_caller]
    pub fn strategic_patch(&self, path: &str, patch: &Value) -> Value {
        self.must(Method::PATCH, path, "application/strategic-merge-patch+json", Some(patch))
    }

    /// Reads, changes and writes until nobody else has written in between.
    #[track_caller]
    pub fn edit(&self, path: &str, change: impl Fn(&mut Value)) -> Value {
        for _ in 0..20 {
            let mut object = self.get(path);
            change(&mut object);
            let (code, value) = self.ask(Method::PUT, path, "application/json", Some(&object));
            if code == 200 {
                return value;
            }
            assert_eq!(code, 409, "PUT {path}: {value}");
        }
        panic!("PUT {path}: others keep changing it");
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Value {
        self.must(Method::DELETE, path, "application/json", None)
    }

    /// The Status of a create that must be refused.
    #[track_caller]
    pub fn refused(&self, path: &str, object: &Value) -> Value {
        let (code, value) = self.ask(Method::POST, path, "application/json", Some(object));
        assert!(code >= 400, "POST {path} must be refused, said {code} {value}");
        value
    }

    #[track_caller]
    pub fn items(&self, path: &str) -> Vec<Value> {
        self.get(path)["items"].as_array().cloned().unwrap_or_default()
    }

    /// Reads until the answer satisfies `wanted`; an error answer is a Status.
    #[track_caller]
    pub fn eventually_within(&self, path: &str, within: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + within;
        loop {
            let (_, value) = self.ask(Method::GET, path, "application/json", None);
            if wanted(&value) {
                return value;
            }
            assert!(Instant::now() < end, "{path}: not as wanted within {within:?}: {value}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    pub fn eventually(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.eventually_within(path, SOON, wanted)
    }

    #[track_caller]
    pub fn gone(&self, path: &str) {
        self.eventually(path, |answer| answer["code"] == 404);
    }

    /// `Running`, `Succeeded`, `Failed`.
    #[track_caller]
    pub fn phase(&self, pod: &str, phase: &str) -> Value {
        self.eventually(&format!("pods/{pod}"), |pod| pod["status"]["phase"] == phase)
    }

    #[track_caller]
    pub fn ready(&self, pod: &str) -> Value {
        self.eventually(&format!("pods/{pod}"), is_ready)
    }

    pub fn logs(&self, pod: &str, container: &str) -> String {
        self.raw(Method::GET, &format!("pods/{pod}/log?container={container}"), "", None).1
    }

    /// Events since a resourceVersion, as a watch tells them within a second.
    pub fn watched(&self, path: &str, since: &str) -> Vec<(String, Value)> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}watch=1&timeoutSeconds=1&resourceVersion={since}");
        let text = self.raw(Method::GET, &path, "", None).1;
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.map(|event| (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].clone())).collect()
    }
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

pub fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

pub fn is_ready(pod: &Value) -> bool {
    is_true(pod, "Ready")
}
