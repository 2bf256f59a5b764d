//! The store without a disk, for tests and simulations.
//!
//! Invariant: the same calls in the same order give the same answers and the same watch messages; nothing here looks
//! at a clock, a thread or a random number. Deliberately absent: durability.

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::mvcc::{FIRST_REVISION, Mvcc, Plan, Undo, Window};
use crate::watchers::{self, Watchers};
use crate::{
    KeyRange, RangeRequest, RangeResponse, Revision, Store, StoreError, Transaction, TransactionResponse, WatchMessage,
};

/// History beyond this is compacted away.
const WINDOW: Window = Window { events: 100_000, bytes: 256 << 20 };

pub struct MemoryStore {
    inner: Mutex<Inner>,
}

struct Inner {
    state: Mvcc,
    watchers: Watchers,
}

impl MemoryStore {
    pub fn new() -> Self {
        let inner = Inner { state: Mvcc::new(FIRST_REVISION), watchers: Watchers::new(FIRST_REVISION) };
        MemoryStore { inner: Mutex::new(inner) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, transaction: Transaction) -> Result<TransactionResponse, StoreError> {
        // Nothing below waits: without this a writer in a loop would never let the watchers run.
        tokio::task::consume_budget().await;
        let mut inner = self.inner.lock();
        let Inner { state, watchers } = &mut *inner;
        let mut plan = Plan::new(state);
        let response = plan.add(state, transaction);
        if !plan.events.is_empty() {
            state.apply(&plan.events);
            state.shrink_window(WINDOW);
            // Where the window ends, reads end: there is no log behind it.
            state.compacted = state.compacted.max(if state.window_start > FIRST_REVISION { state.window_start } else { 0 });
            watchers.publish(&plan.events, plan.revision);
        }
        Ok(response)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let inner = self.inner.lock();
        inner.state.check_readable(request.revision)?;
        let mut undo = Undo::new();
        if request.revision != 0 {
            inner.state.undo_since(&request.range, request.revision, &mut undo);
        }
        Ok(inner.state.read(&request, &undo))
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<mpsc::Receiver<WatchMessage>, StoreError> {
        let mut inner = self.inner.lock();
        let Inner { state, watchers } = &mut *inner;
        let (sender, receiver) = watchers::channel();
        if from != 0 && from <= state.compacted {
            return Err(StoreError::Compacted { oldest: state.compacted });
        }
        if from != 0 && from <= state.revision {
            // A `from` before the first write means all of history.
            let from = from.max(FIRST_REVISION + 1);
            let events = state.events_since(&range, from).ok_or(StoreError::Compacted { oldest: state.compacted })?;
            if !events.is_empty() {
                sender.try_send(WatchMessage::Events(events)).expect("a new channel has room");
            }
        }
        watchers.register(range, from.max(state.revision + 1), sender);
        Ok(receiver)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        if revision > inner.state.revision {
            return Err(StoreError::FutureRevision { current: inner.state.revision });
        }
        if revision > inner.state.compacted {
            inner.state.compacted = revision;
            inner.state.forget_through(revision);
        }
        Ok(())
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.inner.lock().state.revision)
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.lock().watchers.progress();
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }
}
