//! The ConfigMaps and Secrets that this node's pods refer to, each watched by name while a pod holds it.
//!
//! Invariant: the agent reads only objects that a pod of its own refers to, as the node authorizer demands; the
//! last pod that lets go ends the watch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Cached, Informer, ObjectKey, Scope};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// An API server that does not answer, or forbids it, holds up a pod's start or end no longer than this.
const SYNCED_WITHIN: Duration = Duration::from_secs(10);

/// Called, quickly, when an object that a pod holds has come, changed or gone.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

type Holders = Arc<Mutex<HashMap<String, Waker>>>;

pub struct Objects {
    pub config_maps: Watched<ConfigMap>,
    pub secrets: Watched<Secret>,
    pub claims: Watched<PersistentVolumeClaim>,
}

impl Objects {
    pub fn new(client: kube::Client, cancel: CancellationToken) -> Objects {
        Objects {
            config_maps: Watched::new(client.clone(), cancel.clone()),
            secrets: Watched::new(client.clone(), cancel.clone()),
            claims: Watched::new(client, cancel),
        }
    }

    pub fn release(&self, pod_uid: &str) {
        self.config_maps.release(pod_uid);
        self.secrets.release(pod_uid);
        self.claims.release(pod_uid);
    }
}

struct Entry<K> {
    informer: Arc<Informer<K>>,
    holders: Holders,
    cancel: CancellationToken,
}

pub struct Watched<K> {
    client: kube::Client,
    cancel: CancellationToken,
    entries: Mutex<HashMap<ObjectKey, Entry<K>>>,
}

impl<K: Cached + kube::Resource<DynamicType = ()>> Watched<K> {
    fn new(client: kube::Client, cancel: CancellationToken) -> Watched<K> {
        Watched { client, cancel, entries: Mutex::new(HashMap::new()) }
    }

    /// The object as it is now, once the watch has caught up; the pod is woken when it changes after that.
    pub async fn hold(&self, key: &ObjectKey, pod_uid: &str, waker: &Waker) -> Result<Option<Arc<K>>, String> {
        let informer = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(key.clone()).or_insert_with(|| self.watch(key));
            entry.holders.lock().insert(pod_uid.to_owned(), waker.clone());
            entry.informer.clone()
        };
        match tokio::time::timeout(SYNCED_WITHIN, informer.synced()).await {
            Ok(()) => Ok(informer.get(key)),
            // The watch goes on: the next try may find it caught up.
            Err(_) => {
                let kind = K::kind(&()).to_lowercase();
                Err(format!("failed to sync {kind} cache: timed out waiting for the condition"))
            }
        }
    }

    fn watch(&self, key: &ObjectKey) -> Entry<K> {
        let cancel = self.cancel.child_token();
        let scope = Scope {
            namespace: Some(key.namespace.clone()),
            label_selector: None,
            field_selector: Some(format!("metadata.name={}", key.name)),
        };
        let informer = Informer::<K>::start(&self.client, scope, cancel.clone());
        let holders: Holders = Arc::default();
        let woken = holders.clone();
        let synced = Arc::downgrade(&informer);
        informer.subscribe(move |_| {
            // What the first list brings is what `hold` returns.
            if synced.upgrade().is_some_and(|informer| informer.has_synced()) {
                let wakers: Vec<Waker> = woken.lock().values().cloned().collect();
                wakers.iter().for_each(|wake| wake());
            }
        });
        Entry { informer, holders, cancel }
    }

    fn release(&self, pod_uid: &str) {
        self.entries.lock().retain(|_, entry| {
            let mut holders = entry.holders.lock();
            holders.remove(pod_uid);
            if holders.is_empty() {
                entry.cancel.cancel();
            }
            !holders.is_empty()
        });
    }
}
