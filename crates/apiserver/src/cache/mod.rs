//! The watch cache: every object once, kept current by one watch over the whole store.
//!
//! Invariant: an acknowledged write is in the cache before its writer is answered, so that reads need not ask the
//! store; all shelves together are never behind `applied()`. Deliberately absent: eviction. What is stored is cached.

mod entry;
mod frames;
mod rounds;
mod shelf;
mod upper;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use store::{
    Compare, Event, EventKind, KeyRange, RangeRequest, Revision, SharedStore, StoreError, Transaction, WatchMessage,
    Write,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use entry::{Entry, Filter, api_version, encode, set_revision, spliced};
pub use frames::Shape;
pub use shelf::{CacheEvent, Change, EventType, Selected, Shelf, TooOld};
pub use watch::{Start, Watch, WatchItem};

use crate::error::RequestError;
use crate::kinds::{Kind, Verbs, registry::REGISTRY};

const ROOT: &str = "/registry/";
/// How long a read waits for a revision that this server has not seen yet, as the original.
const WAIT_FOR_REVISION: Duration = Duration::from_secs(3);
/// Between attempts to watch the store again.
const REWATCH_DELAY: Duration = Duration::from_millis(200);

pub struct Cache {
    store: SharedStore,
    /// By storage name: `pods`, `services/specs`.
    shelves: HashMap<&'static str, Arc<Shelf>>,
    applied: AtomicI64,
    waiters: Mutex<BTreeMap<Revision, Vec<oneshot::Sender<()>>>>,
}

impl Cache {
    /// Reads everything and starts to follow. Ends with `cancel`.
    pub async fn start(store: SharedStore, cancel: CancellationToken) -> Result<Arc<Cache>, StoreError> {
        let mut shelves = HashMap::new();
        for kind in REGISTRY.iter().copied().filter(|kind| is_stored(kind)) {
            // Where versions share a storage, the one that needs no conversion is stored.
            let taken = shelves.get(kind.storage).is_some_and(|shelf: &Arc<Shelf>| shelf.kind.conversion.is_none());
            if !taken {
                shelves.insert(kind.storage, Arc::new(Shelf::new(kind)));
            }
        }
        let cache =
            Arc::new(Cache { store, shelves, applied: AtomicI64::new(0), waiters: Mutex::new(BTreeMap::new()) });
        let events = cache.load().await?;
        tokio::spawn(cache.clone().follow(events, cancel));
        Ok(cache)
    }

    async fn load(&self) -> Result<mpsc::Receiver<WatchMessage>, StoreError> {
        let range = KeyRange { start: ROOT.into(), end: Some(after(ROOT)) };
        let response = self
            .store
            .range(RangeRequest { range: range.clone(), revision: 0, limit: 0, count_only: false })
            .await?;
        let mut loads: HashMap<&str, Vec<Arc<Entry>>> = HashMap::new();
        for kv in response.kvs {
            let Some((shelf, key)) = std::str::from_utf8(&kv.key).ok().and_then(|key| self.shelf_of(key)) else {
                continue;
            };
            match Entry::new(shelf.kind, &shelf.prefix, key, kv.value, kv.mod_revision) {
                Some(entry) => loads.entry(shelf.kind.storage).or_default().push(Arc::new(entry)),
                None => tracing::warn!(key = shelf.key_prefix.clone() + key, "not an object: left out"),
            }
        }
        for (storage, shelf) in &self.shelves {
            shelf.load(loads.remove(storage).unwrap_or_default(), response.revision);
        }
        let events = self.store.watch(range, response.revision + 1).await?;
        self.advance(response.revision);
        Ok(events)
    }

    async fn follow(self: Arc<Self>, mut events: mpsc::Receiver<WatchMessage>, cancel: CancellationToken) {
        loop {
            let message = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                message = events.recv() => message,
            };
            match message {
                Some(WatchMessage::Events(list)) => self.apply(list),
                Some(WatchMessage::Progress(revision)) => self.advance(revision),
                Some(WatchMessage::Compacted(_)) | None => {
                    tracing::warn!("lost the watch over the store; reading it again");
                    loop {
                        match self.load().await {
                            Ok(new) => {
                                events = new;
                                break;
                            }
                            Err(StoreError::Closed) => return,
                            Err(cause) => tracing::warn!("reading the store: {cause}"),
                        }
                        tokio::time::sleep(REWATCH_DELAY).await;
                    }
                }
            }
        }
    }

    fn apply(&self, events: Vec<Event>) {
        let Some(newest) = events.last().map(|event| event.kv.mod_revision) else { return };
        // Most messages touch one shelf.
        let mut batches: Vec<(&Arc<Shelf>, Vec<Change>)> = Vec::with_capacity(1);
        for event in events {
            let Some((shelf, key)) = std::str::from_utf8(&event.kv.key).ok().and_then(|key| self.shelf_of(key)) else {
                continue;
            };
            let entry = match event.kind {
                EventKind::Put => {
                    match Entry::new(shelf.kind, &shelf.prefix, key, event.kv.value, event.kv.mod_revision) {
                        Some(entry) => Some(Arc::new(entry)),
                        None => {
                            tracing::warn!(key, "not an object: left out");
                            continue;
                        }
                    }
                }
                EventKind::Delete => None,
            };
            let change = (Box::from(key), entry, event.kv.mod_revision);
            match batches.iter_mut().find(|(own, _)| Arc::ptr_eq(own, shelf)) {
                Some((_, changes)) => changes.push(change),
                None => batches.push((shelf, vec![change])),
            }
        }
        for (shelf, changes) in batches {
            shelf.apply(changes);
        }
        self.advance(newest);
    }

    fn advance(&self, revision: Revision) {
        let mut waiters = self.waiters.lock();
        self.applied.fetch_max(revision, Ordering::Release);
        let later = waiters.split_off(&(revision + 1));
        for waiter in std::mem::replace(&mut *waiters, later).into_values().flatten() {
            let _ = waiter.send(()); // A waiter may have given up.
        }
    }

    /// The shelf of a store key, and the rest of the key.
    fn shelf_of<'a>(&self, key: &'a str) -> Option<(&Arc<Shelf>, &'a str)> {
        let key = key.strip_prefix(ROOT)?;
        let slash = key.find('/')?;
        if let Some(shelf) = self.shelves.get(&key[..slash]) {
            return Some((shelf, &key[slash + 1..]));
        }
        let second = slash + 1 + key[slash + 1..].find('/')?;
        Some((self.shelves.get(&key[..second])?, &key[second + 1..]))
    }

    pub fn shelf(&self, kind: &Kind) -> &Arc<Shelf> {
        self.shelves.get(kind.storage).expect("every stored kind has its shelf")
    }

    pub fn shelves(&self) -> impl Iterator<Item = &Arc<Shelf>> {
        self.shelves.values()
    }

    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    pub fn applied(&self) -> Revision {
        self.applied.load(Ordering::Acquire)
    }

    /// Waits until the cache has what the store has acknowledged by now.
    pub async fn fresh(&self) -> Result<(), RequestError> {
        let current = self.store.current_revision().await?;
        self.reach(current).await
    }

    /// Waits, without bound, for a revision that the store has acknowledged.
    async fn reach_acknowledged(&self, revision: Revision) {
        if let Some(reached) = self.register(revision) {
            let _ = reached.await; // Only the cache's end drops the sender.
        }
    }

    /// Waits until the cache has this revision, for three seconds at most.
    pub async fn reach(&self, revision: Revision) -> Result<(), RequestError> {
        let Some(reached) = self.register(revision) else { return Ok(()) };
        match tokio::time::timeout(WAIT_FOR_REVISION, reached).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(RequestError::TooLargeResourceVersion { asked: revision, current: self.applied() }),
        }
    }

    fn register(&self, revision: Revision) -> Option<oneshot::Receiver<()>> {
        if self.applied() >= revision {
            return None;
        }
        let mut waiters = self.waiters.lock();
        if self.applied() >= revision {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiters.entry(revision).or_default().push(sender);
        Some(receiver)
    }

    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.shelf(kind).get(namespace, name)
    }

    pub fn select(&self, kind: &Kind, filter: &Filter, after: Option<&str>, limit: usize) -> Selected {
        self.shelf(kind).select(filter, after, limit, || self.applied())
    }

    /// Writes if the key is still at `expected` (0: does not exist). None: it is not.
    pub async fn put(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        bytes: Bytes,
        expected: Revision,
    ) -> Result<Option<Revision>, RequestError> {
        self.write(kind, namespace, name, Some(bytes), expected, Transaction::default()).await
    }

    /// Writes, or deletes without `bytes`, if the key is still at `expected`, together with what goes along.
    pub async fn write(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        bytes: Option<Bytes>,
        expected: Revision,
        along: Transaction,
    ) -> Result<Option<Revision>, RequestError> {
        let key = self.shelf(kind).store_key(namespace, name);
        let mut transaction = along;
        transaction.compares.insert(0, Compare::ModRevision { key: key.clone(), equals: expected });
        let write = match bytes {
            Some(value) => Write::Put { key, value },
            None => Write::Delete { key },
        };
        transaction.writes.insert(0, write);
        self.commit(transaction).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Option<Revision>, RequestError> {
        let response = self.store.commit(transaction).await?;
        if !response.succeeded {
            // What beat this write must be visible to the next attempt.
            let seen = response.current.iter().flatten().map(|kv| kv.mod_revision).max();
            self.reach_acknowledged(seen.unwrap_or(response.revision)).await;
            return Ok(None);
        }
        self.reach_acknowledged(response.revision).await;
        Ok(Some(response.revision))
    }

    /// A page as of an older revision, from the store's history.
    pub async fn select_at(
        &self,
        kind: &Kind,
        filter: &Filter,
        after_key: Option<&str>,
        limit: usize,
        revision: Revision,
    ) -> Result<Selected, StoreError> {
        let shelf = self.shelf(kind);
        let mut start = match after_key {
            // The smallest key after it.
            Some(key) => format!("{}{key}\0", shelf.key_prefix),
            None if filter.namespace.is_empty() || !kind.namespaced => shelf.key_prefix.clone(),
            None => format!("{}{}/", shelf.key_prefix, filter.namespace),
        };
        let end = if filter.namespace.is_empty() || !kind.namespaced {
            after(&shelf.key_prefix)
        } else {
            after(&format!("{}{}/", shelf.key_prefix, filter.namespace))
        };
        let mut entries = Vec::new();
        loop {
            let page = if filter.is_selective() || limit == 0 { 0 } else { limit - entries.len() };
            let response = self
                .store
                .range(RangeRequest {
                    range: KeyRange { start: start.clone().into(), end: Some(end.clone()) },
                    revision,
                    limit: page,
                    count_only: false,
                })
                .await?;
            let (count, read) = (response.count, response.kvs.len());
            let mut kvs = response.kvs.into_iter().peekable();
            while let Some(kv) = kvs.next() {
                let Ok(key) = std::str::from_utf8(&kv.key) else { continue };
                start = format!("{key}\0");
                let key = &key[shelf.key_prefix.len()..];
                let Some(entry) = Entry::new(shelf.kind, &shelf.prefix, key, kv.value, kv.mod_revision) else {
                    continue;
                };
                if !filter.matches(&entry) {
                    continue;
                }
                entries.push(Arc::new(entry));
                if limit != 0 && entries.len() == limit {
                    let more = kvs.peek().is_some() || response.more;
                    let remaining = (more && !filter.is_selective()).then(|| count - read + kvs.len());
                    return Ok(Selected { entries, revision, changed: revision, more, remaining });
                }
            }
            if !response.more {
                return Ok(Selected { entries, revision, changed: revision, more: false, remaining: None });
            }
        }
    }
}

pub fn is_stored(kind: &Kind) -> bool {
    !matches!(kind.verbs, Verbs::Create | Verbs::Read)
}

/// The end of the range of keys with this prefix, which never ends in 0xff.
fn after(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}
