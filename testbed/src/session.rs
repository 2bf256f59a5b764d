//! Plain requests to a cluster's API server, blocking, for tests that say request and answer themselves.
//!
//! Paths are short: `pods/web/status`, `apps/v1/deployments?labelSelector=a`, in the session's namespace where the
//! resource has one; what begins with a slash is taken as it is.

use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

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
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).expect("a kubeconfig");
            let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            // An answer is an answer, 429 too.
            config.default_retry = false;
            kube::Client::try_from(config).map_err(Box::<dyn std::error::Error>::from)
        });
        let client = client.expect("connects");
        Session { runtime, client, namespace: "default".into() }
    }
}

/// A cluster for a test and a session with it; none, said on standard error, where there can be none.
#[track_caller]
pub fn for_test(flags: &[&str]) -> Option<(Cluster, Session)> {
    let cluster = crate::cluster::for_test(flags)?;
    let session = cluster.session();
    Some((cluster, session))
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
            assert!(Instant::now() < end, "{path}: not as wanted within {within:?}: {}", shown(&value));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    pub fn eventually(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.eventually_within(path, SOON, wanted)
    }

    #[track_caller]
    pub fn eventually_text(&self, path: &str, wanted: impl Fn(&str) -> bool) {
        let end = Instant::now() + SOON;
        loop {
            let text = self.raw(Method::GET, path, "", None).1;
            if wanted(&text) {
                return;
            }
            assert!(Instant::now() < end, "{path}: not as wanted: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
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

/// A pod whose one container, `main`, runs a shell script and ends.
pub fn script(name: &str, script: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "busybox:1.35", "command": ["sh", "-c", script]}],
        },
    })
}

/// A pod whose one container, `main`, waits until it is told to stop.
pub fn waiting(name: &str) -> Value {
    let mut pod = script(name, "trap 'exit 0' TERM; while :; do sleep 0.1; done");
    pod["spec"]["restartPolicy"] = "Always".into();
    pod
}

/// A merge patch over the pod.
pub fn with(object: Value, patch: Value) -> Value {
    api::patch::merge_patch(&object, &patch)
}

/// A merge patch over the pod's first container.
pub fn with_main(mut pod: Value, patch: Value) -> Value {
    let main = &mut pod["spec"]["containers"][0];
    *main = api::patch::merge_patch(main, &patch);
    pod
}

/// The pod with a volume `v`, mounted at `/v`.
pub fn with_volume(pod: Value, mut source: Value) -> Value {
    source["name"] = "v".into();
    let pod = with(pod, json!({"spec": {"volumes": [source]}}));
    with_main(pod, json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))
}

impl Session {
    /// Runs pods side by side until each has ended; what their `main` said must be what stands beside them.
    #[track_caller]
    pub fn say(&self, cases: &[(Value, &str)]) {
        let names: Vec<String> = cases.iter().map(|(pod, _)| name_of(&self.create("pods", pod))).collect();
        for (name, (_, expected)) in names.iter().zip(cases) {
            let ended = self.eventually(&format!("pods/{name}"), |pod| {
                matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
            });
            let said = self.logs(name, "main");
            assert_eq!(said.trim_end(), *expected, "{name}: {}", ended["status"]);
            self.delete(&format!("pods/{name}"));
        }
    }

    /// Takes a resource through create, get, list, watch, update, patch, delete and deletecollection.
    /// `plural` is a short path; `object` needs no name.
    #[track_caller]
    pub fn lives(&self, plural: &str, object: &Value) {
        let path = |name: &str| format!("{plural}/{name}");
        let named = |name: &str| with(object.clone(), json!({"metadata": {"name": name, "labels": {"life": "one"}}}));
        let selected = format!("{plural}?labelSelector=life=one");
        let since = self.get(plural)["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();

        let created = self.create(plural, &named("life-a"));
        let uid = created["metadata"]["uid"].clone();
        assert_eq!(self.get(&path("life-a"))["metadata"]["uid"], uid);
        assert_eq!(self.items(&selected).len(), 1, "{plural}");
        self.patch(&path("life-a"), &json!({"metadata": {"annotations": {"patched": "true"}}}));
        self.edit(&path("life-a"), |object| object["metadata"]["annotations"]["updated"] = "true".into());
        let changed = self.get(&path("life-a"));
        for done in ["patched", "updated"] {
            assert_eq!(changed["metadata"]["annotations"][done], "true", "{changed}");
        }
        assert_eq!(changed["metadata"]["uid"], uid);
        self.delete(&path("life-a"));
        self.gone(&path("life-a"));
        self.create(plural, &named("life-b"));
        self.create(plural, &named("life-c"));
        assert_eq!(self.items(&selected).len(), 2, "{plural}");
        self.delete(&selected);
        self.eventually(&selected, |list| list["items"].as_array().is_some_and(Vec::is_empty));

        let events = self.watched(&selected, &since);
        let of = |name: &str| -> Vec<String> {
            let own = events.iter().filter(|(_, object)| object["metadata"]["name"] == name);
            own.map(|(kind, _)| kind.clone()).collect()
        };
        let seen = of("life-a");
        assert_eq!((seen.first().map(String::as_str), seen.last().map(String::as_str)), (Some("ADDED"), Some("DELETED")), "{plural}: {seen:?}");
        assert!(seen.contains(&"MODIFIED".to_owned()), "{plural}: {seen:?}");
        for name in ["life-b", "life-c"] {
            assert_eq!(of(name).last().map(String::as_str), Some("DELETED"), "{plural}");
        }
    }

    /// Whether discovery lists the resource in its group and version.
    #[track_caller]
    pub fn discovered(&self, group: &str, version: &str, resources: &[&str]) {
        let groups = self.get("/apis");
        let group_of = |found: &Value| found["name"] == group;
        let found = groups["groups"].as_array().into_iter().flatten().find(|found| group_of(found));
        let found = found.unwrap_or_else(|| panic!("no group {group}"));
        let versions = found["versions"].as_array().cloned().unwrap_or_default();
        assert!(versions.iter().any(|found| found["version"] == version), "{found}");
        assert_eq!(self.get(&format!("/apis/{group}"))["name"], group);
        let listed = self.get(&format!("/apis/{group}/{version}"));
        for resource in resources {
            let listed = listed["resources"].as_array().into_iter().flatten();
            assert!(listed.into_iter().any(|found| found["name"] == *resource), "{resource}");
        }
    }
}

/// Without what nobody reads in a failed test's output.
fn shown(value: &Value) -> Value {
    let mut value = value.clone();
    for object in value["items"].as_array_mut().into_iter().flatten() {
        object["metadata"]["managedFields"].take();
    }
    value["metadata"]["managedFields"].take();
    value
}

pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
