//! The world as the store has it, write by write: what invariants look at.
//!
//! Invariant: every committed write is here before the commit is acknowledged, in order, so that no state of the
//! cluster goes unseen. Events and the nodes' leases only count for the history.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use store::memory::MemoryStore;
use store::{
    KeyRange, RangeRequest, RangeResponse, Revision, Store, StoreError, Transaction, TransactionResponse, WatchMessage, Write,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::answers::Answer;
use crate::invariants::{self, Invariant};
use crate::leaders::Leaders;
use crate::pod_facts::PodFacts;

/// What is told before the rest is only counted.
const TOLD_MAX: usize = 20;

/// One object that was written or deleted.
pub struct Change {
    /// As in `/registry/<kind>/<namespace>/<name>`: `pods`, `services/specs`.
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub before: Option<Arc<Value>>,
    pub after: Option<Arc<Value>>,
    /// To the request that did it.
    pub answer: Option<Answer>,
}

impl Change {
    /// The newest state that there was.
    pub fn latest(&self) -> &Value {
        self.after.as_deref().or(self.before.as_deref()).expect("something was written or deleted")
    }
}

/// Kinds whose objects are kept for the invariants.
const KEPT: [&str; 19] = [
    "configmaps", "controllers", "cronjobs", "daemonsets", "deployments", "endpointslices", "jobs", "leases", "minions",
    "namespaces", "persistentvolumeclaims", "persistentvolumes", "poddisruptionbudgets", "pods", "replicasets",
    "resourcequotas", "secrets", "services/specs", "statefulsets",
];

pub struct World {
    objects: BTreeMap<&'static str, BTreeMap<(String, String), Arc<Value>>>,
    pods: BTreeMap<(String, String), Arc<PodFacts>>,
    by_owner: BTreeMap<String, BTreeSet<(String, String)>>,
    by_node: BTreeMap<String, BTreeSet<(String, String)>>,
    /// Namespaces of all keys, of whatever kind, with how many there are.
    keys_in: BTreeMap<String, BTreeSet<String>>,
    began: Instant,
    pub now: Duration,
    history: DefaultHasher,
    pub writes: u64,
}

impl World {
    fn new() -> World {
        World {
            objects: KEPT.iter().map(|kind| (*kind, BTreeMap::new())).collect(),
            pods: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            by_node: BTreeMap::new(),
            keys_in: BTreeMap::new(),
            began: Instant::now(),
            now: Duration::ZERO,
            history: DefaultHasher::new(), // Its keys are fixed, unlike a map's.
            writes: 0,
        }
    }

    /// All objects of a kind, by namespace and name.
    pub fn all(&self, kind: &str) -> impl Iterator<Item = (&(String, String), &Arc<Value>)> {
        self.objects.get(kind).into_iter().flatten()
    }

    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(kind)?.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.pods.values()
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<PodFacts>> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Pods whose controller has this uid.
    pub fn pods_of<'a>(&'a self, owner: &str) -> impl Iterator<Item = &'a Arc<PodFacts>> + use<'a> {
        self.by_owner.get(owner).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.by_node.get(node).into_iter().flatten().filter_map(|key| self.pods.get(key))
    }

    /// Keys of whatever kind within a namespace.
    pub fn keys_in(&self, namespace: &str) -> impl Iterator<Item = &String> {
        self.keys_in.get(namespace).into_iter().flatten()
    }

    /// The same for the same history of writes.
    pub fn history(&self) -> u64 {
        self.history.finish()
    }

    fn apply(&mut self, key: &str, value: Option<&[u8]>) -> Option<Change> {
        self.now = self.began.elapsed();
        self.writes += 1;
        (key, value).hash(&mut self.history);
        let (kind, namespace, name) = parts(key)?;
        if !namespace.is_empty() {
            let keys = self.keys_in.entry(namespace.to_owned()).or_default();
            match value {
                Some(_) => keys.insert(key.to_owned()),
                None => keys.remove(key),
            };
        }
        let kind = *KEPT.iter().find(|kept| **kept == kind)?;
        if kind == "leases" && namespace == "kube-node-lease" {
            return None;
        }
        let at = (namespace.to_owned(), name.to_owned());
        let after: Option<Arc<Value>> = value.and_then(|bytes| serde_json::from_slice(bytes).ok()).map(Arc::new);
        let objects = self.objects.get_mut(kind).expect("made for every kept kind");
        let before = match &after {
            Some(object) => objects.insert(at.clone(), object.clone()),
            None => objects.remove(&at),
        };
        if kind == "pods" {
            self.index_pod(at, after.as_deref());
        }
        Some(Change { kind, namespace: namespace.to_owned(), name: name.to_owned(), before, after, answer: Answer::to_present_request() })
    }

    fn index_pod(&mut self, at: (String, String), after: Option<&Value>) {
        if let Some(before) = self.pods.remove(&at) {
            for (index, value) in [(&mut self.by_owner, &before.owner), (&mut self.by_node, &before.node)] {
                if let Some(keys) = index.get_mut(value) {
                    keys.remove(&at);
                }
            }
        }
        let Some(pod) = after else { return };
        let facts = Arc::new(PodFacts::of(pod));
        for (index, value) in [(&mut self.by_owner, &facts.owner), (&mut self.by_node, &facts.node)] {
            if !value.is_empty() {
                index.entry(value.clone()).or_default().insert(at.clone());
            }
        }
        self.pods.insert(at, facts);
    }
}

/// Kind, namespace and name of a store key.
fn parts(key: &str) -> Option<(&str, &str, &str)> {
    let key = key.strip_prefix("/registry/")?;
    let first = key.find('/')?;
    let (kind, rest) = match &key[..first] {
        "services" | "apiregistration.k8s.io" | "apiextensions.k8s.io" => {
            let second = first + 1 + key[first + 1..].find('/')?;
            (&key[..second], &key[second + 1..])
        }
        kind => (kind, &key[first + 1..]),
    };
    match rest.split_once('/') {
        Some((namespace, name)) => Some((kind, namespace, name)),
        None => Some((kind, "", rest)),
    }
}

/// The world and those who watch over it.
pub(crate) struct Watched {
    pub world: World,
    invariants: Vec<Box<dyn Invariant>>,
    broken: Vec<String>,
    broken_count: usize,
    leaders: Arc<Leaders>,
    log: Option<std::fs::File>,
}

impl Watched {
    fn write(&mut self, write: &Write) {
        let (key, value) = match write {
            Write::Put { key, value } => (key, Some(&value[..])),
            Write::Delete { key } => (key, None),
        };
        let key = String::from_utf8_lossy(key).into_owned();
        if let Some(log) = &mut self.log {
            let text = value.map_or("deleted".into(), String::from_utf8_lossy);
            // A log that cannot be written must not change the run.
            let _ = writeln!(log, "{:?} {key} {text}", self.world.began.elapsed());
        }
        let Some(change) = self.world.apply(&key, value) else { return };
        if change.kind == "leases" {
            self.leaders.lease(&change.name, change.after.as_deref());
        }
        let mut broken = Vec::new();
        for invariant in &mut self.invariants {
            invariant.after(&change, &self.world, &mut broken);
        }
        broken.into_iter().for_each(|text| self.report(text));
    }

    fn report(&mut self, text: String) {
        self.broken_count += 1;
        if self.broken.len() < TOLD_MAX {
            let at = self.world.now;
            self.broken.push(format!("at {:.3} s: {text}", at.as_secs_f64()));
        }
    }

    /// What is wrong by now; with `at_rest` also what may be wrong only while things move.
    pub fn broken(&mut self, at_rest: bool) -> Vec<String> {
        let mut broken = self.leaders.take_broken();
        if at_rest {
            for invariant in &self.invariants {
                invariant.at_rest(&self.world, &mut broken);
            }
        }
        broken.into_iter().for_each(|text| self.report(text));
        let mut told = self.broken.clone();
        if self.broken_count > told.len() {
            told.push(format!("and {} more", self.broken_count - told.len()));
        }
        told
    }

    /// What keeps the cluster from being at rest.
    pub fn unsettled(&self) -> Vec<String> {
        let mut unsettled = Vec::new();
        for invariant in &self.invariants {
            invariant.unsettled(&self.world, &mut unsettled);
        }
        unsettled
    }
}

/// A store in memory whose every commit is looked at.
pub(crate) struct WatchedStore {
    inner: MemoryStore,
    watched: Arc<Mutex<Watched>>,
}

impl WatchedStore {
    pub fn new(leaders: Arc<Leaders>) -> (WatchedStore, Arc<Mutex<Watched>>) {
        // To compare two runs of a seed that ought to be the same.
        let log = std::env::var_os("CORACLE_HISTORY").and_then(|path| std::fs::File::create(path).ok());
        let watched = Watched {
            world: World::new(),
            invariants: invariants::all(),
            broken: Vec::new(),
            broken_count: 0,
            leaders,
            log,
        };
        let watched = Arc::new(Mutex::new(watched));
        (WatchedStore { inner: MemoryStore::new(), watched: watched.clone() }, watched)
    }
}

#[async_trait]
impl Store for WatchedStore {
    async fn commit(&self, transaction: Transaction) -> Result<TransactionResponse, StoreError> {
        let writes = transaction.writes.clone();
        let response = self.inner.commit(transaction).await?;
        if response.succeeded {
            let mut watched = self.watched.lock();
            writes.iter().for_each(|write| watched.write(write));
        }
        Ok(response)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.inner.range(request).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<mpsc::Receiver<WatchMessage>, StoreError> {
        self.inner.watch(range, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.request_progress().await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
}
