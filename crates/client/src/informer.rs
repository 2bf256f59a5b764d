//! One LIST and one WATCH of a collection, decoded once, shared as `Arc`.
//!
//! ```text
//! listing --pages--> watching --closed / failed--> watching (from the last version)
//!    ^                  |
//!    +---- 410 Gone ----+        every failure waits a jittered backoff first
//! ```
//!
//! Deliberately absent: resyncs. Controllers are level-triggered and retry by their queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::{Client, Error};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cache::{Cache, Cached, Change};
use crate::errors::{ErrorKind, error_kind};
use crate::key::ObjectKey;
use crate::wire::{Collection, Event, Page, Versioned, path_of};

/// Which objects of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: Option<String>,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
}

/// Where a collection without static type information is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// For example `/apis/apps/v1/deployments`.
    pub path: String,
    /// Ask for `PartialObjectMetadata` only.
    pub metadata_only: bool,
}

pub struct Informer<K> {
    cache: Cache<K>,
    synced: AtomicBool,
    /// Wakes in the order of asking, which `tokio::sync::watch` does not: a run must be repeatable.
    first_list: Notify,
}

impl<K: Cached + kube::Resource<DynamicType = ()>> Informer<K> {
    /// Lists and watches until `cancel`; must be called within a tokio runtime.
    pub fn start(client: &Client, scope: Scope, cancel: CancellationToken) -> Arc<Self> {
        let source = Source { path: path_of::<K>(scope.namespace.as_deref()), metadata_only: false };
        Self::start_at(client, source, scope, cancel)
    }
}

impl<K: Cached> Informer<K> {
    /// The same for any collection; `scope.namespace` is taken to be part of the path already.
    pub fn start_at(client: &Client, source: Source, scope: Scope, cancel: CancellationToken) -> Arc<Self> {
        let informer = Arc::new(Informer { cache: Cache::new(), synced: AtomicBool::new(false), first_list: Notify::new() });
        let reflector = Reflector {
            client: client.clone(),
            collection: Collection {
                path: source.path,
                label_selector: scope.label_selector,
                field_selector: scope.field_selector,
                metadata_only: source.metadata_only,
            },
            sink: Arc::new(TypedSink { informer: informer.clone(), listed: Mutex::new(Vec::new()) }),
            jitter: 0,
        };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = cancel.cancelled() => {}
                _ = reflector.run() => {}
            }
        });
        informer
    }

    /// Returns once the first list is in the cache.
    pub async fn synced(&self) {
        let mut listed = std::pin::pin!(self.first_list.notified());
        listed.as_mut().enable();
        if !self.has_synced() {
            listed.await;
        }
    }

    pub fn has_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.cache.get(key)
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.cache.list()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.cache.list_namespace(namespace)
    }

    /// Those whose controller is the object with this uid.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.cache.owned_by(uid)
    }

    pub fn len(&self) -> usize {
        self.cache.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Declares a further index; the first declaration of a name stands.
    pub fn index_by(&self, name: &'static str, function: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        self.cache.index_by(name, Box::new(function));
    }

    /// Objects for which the index function of that name yields `value`.
    pub fn indexed(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.cache.indexed(name, value)
    }

    /// Existing objects arrive as `Added`, then every change in order. The handler runs on the reflector's
    /// task: it is quick, never blocks, and does not subscribe to the same informer.
    pub fn subscribe(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.cache.subscribe(Box::new(handler));
    }

    /// Makes the answer of an own write visible before the watch brings it. Only for informers without
    /// selectors.
    pub fn observe(&self, object: K) {
        self.cache.observe(object);
    }

    /// The same for an own delete that was final.
    pub fn observe_gone(&self, key: &ObjectKey, uid: &str) {
        self.cache.observe_gone(key, uid);
    }
}

/// The typed end of the reflector; everything before it exists once, not per kind.
trait Sink: Send + Sync {
    fn begin(&self);
    fn item(&self, json: &str) -> Result<(), serde_json::Error>;
    fn end(&self, resource_version: &str);
    fn event(&self, kind: &str, json: &str) -> Result<(), serde_json::Error>;
    fn bookmark(&self, resource_version: &str);
}

struct TypedSink<K> {
    informer: Arc<Informer<K>>,
    listed: Mutex<Vec<K>>,
}

impl<K: Cached> Sink for TypedSink<K> {
    fn begin(&self) {
        self.listed.lock().clear();
    }

    fn item(&self, json: &str) -> Result<(), serde_json::Error> {
        let mut object: K = serde_json::from_str(json)?;
        object.trim();
        self.listed.lock().push(object);
        Ok(())
    }

    fn end(&self, resource_version: &str) {
        let listed = std::mem::take(&mut *self.listed.lock());
        self.informer.cache.replace(listed, resource_version);
        self.informer.synced.store(true, Ordering::Release);
        self.informer.first_list.notify_waiters();
    }

    fn event(&self, kind: &str, json: &str) -> Result<(), serde_json::Error> {
        let object: K = serde_json::from_str(json)?;
        match kind {
            "DELETED" => self.informer.cache.remove(object),
            _ => self.informer.cache.upsert(object),
        }
        Ok(())
    }

    fn bookmark(&self, resource_version: &str) {
        self.informer.cache.bookmark(resource_version);
    }
}

/// Bounds of the wait after a failure; the upper one is client-go's.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// A server that comes back is found within seconds; the jitter spreads those who wait for it.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A watch lives this long and up to twice as long, so that watches of many clients do not end together.
const WATCH_MIN: Duration = Duration::from_secs(300);

struct Reflector {
    client: Client,
    collection: Collection,
    sink: Arc<dyn Sink>,
    /// Advances the jitter; it spreads load and need not be unpredictable.
    jitter: u64,
}

enum Ended {
    /// The server closed the stream in good order.
    Closed,
    /// The version is too old: list again.
    Expired,
}

impl Reflector {
    async fn run(mut self) {
        let mut resume: Option<String> = None;
        let mut backoff = BACKOFF_MIN;
        loop {
            let started = tokio::time::Instant::now();
            let outcome = match &mut resume {
                None => self.list().await.map(|version| {
                    resume = Some(version);
                    None
                }),
                Some(version) => self.watch(version).await.map(Some),
            };
            match outcome {
                Ok(None) => continue,
                Ok(Some(Ended::Closed)) if started.elapsed() >= Duration::from_secs(1) => {
                    backoff = BACKOFF_MIN;
                    continue;
                }
                Ok(Some(Ended::Closed)) => debug!(path = self.collection.path, "watch closed at once"),
                Ok(Some(Ended::Expired)) => {
                    debug!(path = self.collection.path, "watch expired, listing again");
                    resume = None;
                }
                Err(error) => {
                    if error_kind(&error) == ErrorKind::Expired {
                        resume = None;
                    }
                    warn!(path = self.collection.path, %error, "list or watch failed");
                }
            }
            if started.elapsed() > BACKOFF_MAX {
                backoff = BACKOFF_MIN;
            }
            tokio::time::sleep(self.jittered(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Reads all pages and yields the version to watch from.
    async fn list(&self) -> Result<String, Error> {
        self.sink.begin();
        let mut continue_token = String::new();
        loop {
            let body = self.collection.list(&self.client, &continue_token).await?;
            let page: Page<'_> = serde_json::from_slice(&body).map_err(Error::SerdeError)?;
            for item in page.items.into_iter().flatten() {
                self.report_undecodable(Versioned::read(item.get()).and_then(|object| self.sink.item(&object.json)));
            }
            if page.metadata.continue_token.is_empty() {
                self.sink.end(&page.metadata.resource_version);
                return Ok(page.metadata.resource_version);
            }
            continue_token = page.metadata.continue_token;
        }
    }

    async fn watch(&mut self, version: &mut String) -> Result<Ended, Error> {
        let timeout = self.jittered(WATCH_MIN);
        let mut lines = self.collection.watch(&self.client, version, timeout).await?;
        while let Some(line) = lines.next().await? {
            let event: Event<'_> = serde_json::from_slice(&line).map_err(Error::SerdeError)?;
            let json = event.object.get();
            if event.kind == "ERROR" {
                let status: kube::core::Status = serde_json::from_str(json).map_err(Error::SerdeError)?;
                let error = Error::Api(Box::new(status));
                return match error_kind(&error) {
                    ErrorKind::Expired => Ok(Ended::Expired),
                    _ => Err(error),
                };
            }
            let object = Versioned::read(json).map_err(Error::SerdeError)?;
            if event.kind == "BOOKMARK" {
                self.sink.bookmark(&object.resource_version);
            } else {
                self.report_undecodable(self.sink.event(&event.kind, &object.json));
            }
            *version = object.resource_version.into_owned();
        }
        Ok(Ended::Closed)
    }

    /// One odd object must not keep a component from all the others.
    fn report_undecodable(&self, result: Result<(), serde_json::Error>) {
        if let Err(error) = result {
            warn!(path = self.collection.path, %error, "object left out: it cannot be decoded");
        }
    }

    /// Between one and two times `base`, different for each collection and round.
    fn jittered(&mut self, base: Duration) -> Duration {
        self.jitter = self.jitter.wrapping_add(1);
        let mut hash = self.jitter ^ 0xcbf2_9ce4_8422_2325;
        for byte in self.collection.path.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        base + base.mul_f64((hash >> 11) as f64 / (1u64 << 53) as f64)
    }
}
