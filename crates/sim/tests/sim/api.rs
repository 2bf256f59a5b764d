//! JSON over the cluster's own API, as short as tests want it.

use std::time::Duration;

use client::{DeleteOptions, ErrorKind, Patch, Propagation, error_kind};
use serde_json::{Value, json};
use sim::SimulatedCluster;

use crate::with_virtual_time;

/// Runs one scenario on a calm cluster.
pub fn scenario(run: impl AsyncFn(Api)) {
    with_virtual_time(async {
        let cluster = SimulatedCluster::start(1, crate::service_account_key()).await.expect("starts");
        run(Api { cluster }).await;
    });
}

pub struct Api {
    pub cluster: SimulatedCluster,
}

impl Api {
    pub async fn create(&self, path: &str, object: Value) -> Value {
        let made = self.cluster.rest.post_at::<Value>(path.to_owned(), &object).await;
        made.unwrap_or_else(|cause| panic!("POST {path}: {cause}"))
    }

    /// The code with which it is refused.
    pub async fn refused(&self, path: &str, object: Value) -> u16 {
        match self.cluster.rest.post_at::<Value>(path.to_owned(), &object).await {
            Ok(_) => 201,
            Err(kube::Error::Api(status)) => status.code,
            Err(cause) => panic!("{path}: {cause}"),
        }
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        match self.cluster.rest.get_at::<Value>(path.to_owned()).await {
            Ok(found) => Some(found),
            Err(cause) if error_kind(&cause) == ErrorKind::NotFound => None,
            Err(cause) => panic!("GET {path}: {cause}"),
        }
    }

    pub async fn items(&self, path: &str) -> Vec<Value> {
        self.get(path).await.expect("a collection")["items"].as_array().cloned().unwrap_or_default()
    }

    pub async fn patch(&self, path: &str, change: Value) -> Value {
        let patched = self.cluster.rest.patch_at::<Value>(path.to_owned(), &Patch::Strategic(change)).await;
        patched.unwrap_or_else(|cause| panic!("PATCH {path}: {cause}"))
    }

    pub async fn put(&self, path: &str, object: Value) -> Value {
        let written = self.cluster.rest.put_at::<Value>(path.to_owned(), &object).await;
        written.unwrap_or_else(|cause| panic!("PUT {path}: {cause}"))
    }

    pub async fn delete(&self, path: &str, propagation: Option<Propagation>) {
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        self.cluster.rest.delete_at(path.to_owned(), &options).await.unwrap_or_else(|cause| panic!("DELETE {path}: {cause}"));
    }

    /// Looks until `wanted` holds of what is at `path`, in virtual time.
    pub async fn until(&self, path: &str, what: &str, wanted: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let seen = self.cluster.eventually(Duration::from_secs(120), async || {
            let found = self.get(path).await;
            wanted(found.as_ref()).then_some(found)
        });
        match seen.await {
            Some(found) => found,
            None => panic!("{what}: {path} is {:?}", self.get(path).await),
        }
    }

    pub async fn until_gone(&self, path: &str) {
        self.until(path, "it must go", |found| found.is_none()).await;
    }

    /// Until the collection has so many items that are as wanted.
    pub async fn until_items(&self, path: &str, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let what = format!("{count} items");
        let found = self.until(path, &what, |found| {
            let items = found.and_then(|list| list["items"].as_array());
            items.is_some_and(|items| items.len() == count && items.iter().all(&wanted))
        });
        found.await.expect("a collection")["items"].as_array().cloned().unwrap_or_default()
    }

    /// Virtual time passes.
    pub async fn seconds(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

pub fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

/// A container that asks for these amounts.
pub fn asking(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]})
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|it| it["type"] == "Ready" && it["status"] == "True"))
}

pub fn replicated(name: &str, replicas: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"app": name}, "template": {
        "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    }}})
}
