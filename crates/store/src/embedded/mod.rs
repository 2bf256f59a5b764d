//! The store on this machine's disk.
//!
//! Invariants: a commit returns after its fsync, and its events reach watchers after that; a commit that returns an
//! error has changed nothing; reads are answered from memory and never wait for a disk that is writing.
//!
//! The newest version of every key and a window of recent events live in memory. Behind them stands one log on disk,
//! `revision -> write`, which is read at start, for watches and reads from before the window, and to sweep what
//! compaction has made superfluous. One thread writes; everything that waits for it becomes one batch.
//!
//! Deliberately absent: an index of past versions (undoing later events gives any past state), a separate
//! compaction job (each batch sweeps a little more than it adds).

mod engine;
mod redb;
mod restore;
mod writer;

pub use self::restore::restore;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use self::engine::{Engine, Marks};
use self::redb::RedbEngine;
use self::writer::{Request, Writer};
use crate::mvcc::{FIRST_REVISION, Mvcc, Undo, Window, deletion};
use crate::watchers::{self, Watchers};
use crate::{
    Event, EventKind, KeyRange, RangeRequest, RangeResponse, Revision, Store, StoreError, Transaction,
    TransactionResponse, WatchMessage,
};

/// Transactions that may wait for the writer; more wait for a place.
const QUEUE_REQUESTS: usize = 1024;
/// Events read from the log at a time for a watch from before the window.
const CATCH_UP_EVENTS: usize = 1000;
const WRITER_ENDS: &str = "the writer thread holds its end while the store lives";

/// What may be chosen when a store is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Keys with these prefixes leave no history on disk: what is overwritten or deleted goes with the next write.
    /// Their recent events are still in memory; a watch or a read from further back is told `Compacted`.
    pub ephemeral_prefixes: Vec<Bytes>,
    /// History younger than this is kept,
    pub retain: Duration,
    /// unless it has more revisions than this,
    pub retain_revisions: i64,
    /// or more bytes on disk than this.
    pub retain_bytes: u64,
    /// Recent events in memory: how many, and the bytes of the values they keep alive.
    pub window_events: usize,
    pub window_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            ephemeral_prefixes: Vec::new(),
            retain: Duration::from_secs(5 * 60),
            retain_revisions: 50_000,
            retain_bytes: 64 << 20,
            window_events: 10_000,
            window_bytes: 16 << 20,
        }
    }
}

pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// `None` only while the store is dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    engine: Box<dyn Engine>,
    settings: Settings,
    /// Locked after `watchers` where both are needed.
    state: RwLock<Mvcc>,
    watchers: Mutex<Watchers>,
    /// History of ephemeral keys is complete only above this.
    opened_at: Revision,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, or makes one there.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(directory, Settings::default())
    }

    pub fn open_with(directory: impl AsRef<Path>, settings: Settings) -> Result<Self, StoreError> {
        std::fs::create_dir_all(&directory).map_err(StoreError::Io)?;
        Self::start(RedbEngine::open(directory.as_ref(), FIRST_MARKS)?, settings)
    }

    fn start(engine: impl Engine, settings: Settings) -> Result<Self, StoreError> {
        let loaded = load(&engine, &settings)?;
        let shared = Arc::new(Shared {
            engine: Box::new(engine),
            settings,
            opened_at: loaded.state.revision,
            watchers: Mutex::new(Watchers::new(loaded.state.revision)),
            state: RwLock::new(loaded.state),
        });
        let (requests, receiver) = mpsc::channel(QUEUE_REQUESTS);
        let writer = Writer::new(shared.clone(), receiver, loaded.marks, loaded.stored_bytes);
        let writer = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run());
        Ok(EmbeddedStore { shared, requests: Some(requests), writer: Some(writer.map_err(StoreError::Io)?) })
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().expect(WRITER_ENDS);
        requests.send(request(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for EmbeddedStore {
    /// Lets the writer finish what was asked of it and give up the file, so that it can be opened again at once.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join(); // A writer that panicked has said so.
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn commit(&self, transaction: Transaction) -> Result<TransactionResponse, StoreError> {
        self.ask(|reply| Request::Commit { transaction, reply }).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        {
            let state = self.shared.state.read();
            state.check_readable(request.revision)?;
            let mut undo = Undo::new();
            if request.revision == 0 {
                return Ok(state.read(&request, &undo));
            }
            if request.revision >= self.shared.memory_start(&request.range, &state) {
                state.undo_since(&request.range, request.revision, &mut undo);
                return Ok(state.read(&request, &undo));
            }
            self.shared.check_logged(&request.range, &state)?;
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || shared.read_past(&request));
        read.await.map_err(|_| StoreError::Closed)?
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<mpsc::Receiver<WatchMessage>, StoreError> {
        let (sender, receiver) = watchers::channel();
        let mut watchers = self.shared.watchers.lock();
        let state = self.shared.state.read();
        if from == 0 || from > state.revision {
            watchers.register(range, from.max(state.revision + 1), sender);
            return Ok(receiver);
        }
        if from <= state.compacted {
            return Err(StoreError::Compacted { oldest: state.compacted });
        }
        let from = from.max(FIRST_REVISION + 1);
        if from > self.shared.memory_start(&range, &state) {
            let events = state.events_since(&range, from).expect("the window starts before `from`");
            if !events.is_empty() {
                sender.try_send(WatchMessage::Events(events)).expect("a new channel has room");
            }
            watchers.register(range, state.revision + 1, sender);
            return Ok(receiver);
        }
        self.shared.check_logged(&range, &state)?;
        tokio::spawn(catch_up(self.shared.clone(), range, from, sender));
        Ok(receiver)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Request::Compact { revision, reply }).await
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.state.read().revision)
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.shared.watchers.lock().progress();
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }
}

impl Shared {
    fn is_ephemeral(&self, key: &[u8]) -> bool {
        self.settings.ephemeral_prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// Whether the log, which knows no history of ephemeral keys, can tell the history of `range`.
    fn check_logged(&self, range: &KeyRange, state: &Mvcc) -> Result<(), StoreError> {
        match self.touches_ephemeral(range) {
            true => Err(StoreError::Compacted { oldest: self.memory_start(range, state) }),
            false => Ok(()),
        }
    }

    /// The oldest revision at which `range` can be told from memory.
    fn memory_start(&self, range: &KeyRange, state: &Mvcc) -> Revision {
        if self.touches_ephemeral(range) { state.window_start.max(self.opened_at) } else { state.window_start }
    }

    fn touches_ephemeral(&self, range: &KeyRange) -> bool {
        self.settings.ephemeral_prefixes.iter().any(|prefix| range.overlaps_prefix(prefix))
    }

    /// The state at a revision from before the window.
    fn read_past(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        loop {
            let upto = self.state.read().revision;
            let snapshot = self.engine.snapshot()?;
            let mut undo = Undo::new();
            let mut failed = None;
            snapshot.scan(request.revision + 1, upto, &mut |record| {
                if !request.range.contains(record.key) || undo.contains_key(record.key) {
                    return true;
                }
                let before = match record.previous_revision {
                    0 => Ok(None),
                    previous => snapshot.get(previous, record.key),
                };
                match before {
                    Ok(before) => undo.insert(Bytes::copy_from_slice(record.key), before),
                    Err(cause) => {
                        failed = Some(cause);
                        return false;
                    }
                };
                true
            })?;
            if let Some(cause) = failed {
                return Err(cause);
            }
            let state = self.state.read();
            // Compaction may have swept what the scan was looking for.
            state.check_readable(request.revision)?;
            if state.window_start <= upto {
                state.undo_since(&request.range, upto, &mut undo);
                return Ok(state.read(request, &undo));
            }
        }
    }

    /// Some events from the log, of whole revisions, and the revision to go on from.
    fn read_log(&self, range: &KeyRange, from: Revision) -> Result<(Vec<Event>, Revision), StoreError> {
        let upto = self.state.read().revision;
        let snapshot = self.engine.snapshot()?;
        let mut events: Vec<(Event, Revision)> = Vec::new();
        let mut next = upto + 1;
        snapshot.scan(from, upto, &mut |record| {
            if events.len() >= CATCH_UP_EVENTS && events.last().is_some_and(|last| last.0.kv.mod_revision < record.revision) {
                next = record.revision;
                return false;
            }
            if range.contains(record.key) {
                let event = match record.kind {
                    EventKind::Put => Event { kind: EventKind::Put, kv: record.key_value(), previous: None },
                    EventKind::Delete => deletion(Bytes::copy_from_slice(record.key), record.revision, None),
                };
                events.push((event, record.previous_revision));
            }
            true
        })?;
        let with_previous = events.into_iter().map(|(mut event, previous)| {
            if previous != 0 {
                event.previous = snapshot.get(previous, &event.kv.key)?;
            }
            Ok(event)
        });
        Ok((with_previous.collect::<Result<_, StoreError>>()?, next))
    }
}

/// Serves a watch from the log until it has reached the window, then leaves it to the others.
async fn catch_up(shared: Arc<Shared>, range: KeyRange, mut from: Revision, sender: mpsc::Sender<WatchMessage>) {
    loop {
        let (reader, wanted) = (shared.clone(), range.clone());
        let chunk = tokio::task::spawn_blocking(move || reader.read_log(&wanted, from)).await;
        // A reader that is gone ends the watch: nothing more to do in any of these cases.
        let Ok(permit) = sender.reserve().await else { return };
        let compacted = shared.state.read().compacted;
        let (events, next) = match chunk {
            Ok(Ok(chunk)) if from > compacted => chunk,
            Ok(Err(cause)) => {
                tracing::warn!(%cause, "a watch could not read the log");
                return permit.send(WatchMessage::Compacted(compacted));
            }
            _ => return permit.send(WatchMessage::Compacted(compacted)),
        };
        if events.is_empty() {
            drop(permit);
        } else {
            permit.send(WatchMessage::Events(events));
        }
        from = next;

        let Ok(permit) = sender.reserve().await else { return };
        let mut watchers = shared.watchers.lock();
        let state = shared.state.read();
        if from > state.revision || state.window_start < from {
            let events = state.events_since(&range, from).unwrap_or_default();
            match events.is_empty() {
                true => drop(permit),
                false => permit.send(WatchMessage::Events(events)),
            }
            return watchers.register(range, state.revision + 1, sender.clone());
        }
    }
}

const FIRST_MARKS: Marks = Marks { revision: FIRST_REVISION, compacted: 0, swept: 0 };

struct Loaded {
    state: Mvcc,
    marks: Marks,
    stored_bytes: u64,
}

fn load(engine: &dyn Engine, settings: &Settings) -> Result<Loaded, StoreError> {
    let snapshot = engine.snapshot()?;
    let marks = snapshot.marks();
    let window = settings.window();
    let mut state = Mvcc::new(FIRST_REVISION);
    let mut stored_bytes = 0;
    snapshot.scan(0, marks.revision, &mut |record| {
        stored_bytes += record.size();
        let key = Bytes::copy_from_slice(record.key);
        let previous = state.get(&key);
        let event = match record.kind {
            EventKind::Put => {
                let mut kv = record.key_value();
                kv.key = key;
                Event { kind: EventKind::Put, kv, previous }
            }
            EventKind::Delete => deletion(key, record.revision, previous),
        };
        state.apply(&[event]);
        state.shrink_window(window);
        true
    })?;
    state.revision = marks.revision;
    state.compacted = marks.compacted;
    state.forget_through(marks.compacted);
    Ok(Loaded { state, marks, stored_bytes })
}

impl Settings {
    fn window(&self) -> Window {
        Window { events: self.window_events, bytes: self.window_bytes }
    }
}

#[cfg(test)]
mod tests;
