//! The one thread that writes: collects what waits, plans it on the state in memory, makes it durable, shows it.
//!
//! Invariant: what it shows (state, events, answers) is on disk. Deliberately absent: timers. History is cut while
//! something is written; a store that nobody writes to does not grow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::engine::{Batch, Marks, record_size};
use super::Shared;
use crate::mvcc::Plan;
use crate::{Event, EventKind, Revision, StoreError, Transaction, TransactionResponse};

/// Transactions that share one fsync.
const BATCH_TRANSACTIONS: usize = 256;
/// Superseded records looked for with each batch, beyond a multiple of what the batch adds.
const SWEEP_RECORDS: usize = 64;
/// The same for a compaction that somebody waits for.
const COMPACT_RECORDS: usize = 10_000;
/// Writers wait while the file is made smaller, so that is not tried more often.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(60);

pub(super) enum Request {
    Commit { transaction: Transaction, reply: oneshot::Sender<Result<TransactionResponse, StoreError>> },
    Compact { revision: Revision, reply: oneshot::Sender<Result<(), StoreError>> },
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    marks: Marks,
    /// Bytes of all records in the log.
    stored_bytes: u64,
    /// Records of ephemeral keys that durable writes have superseded, with their sizes.
    superseded: Vec<(Revision, Bytes, u64)>,
    /// When which revision was the newest, oldest first: what the age of history is measured by.
    ages: VecDeque<(Instant, Revision)>,
    reclaimed_at: Instant,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, requests: mpsc::Receiver<Request>, marks: Marks, stored_bytes: u64) -> Self {
        let ages = VecDeque::from([(Instant::now(), marks.revision)]);
        Writer { shared, requests, marks, stored_bytes, superseded: Vec::new(), ages, reclaimed_at: Instant::now() }
    }

    pub(super) fn run(mut self) {
        let mut waiting = Vec::with_capacity(BATCH_TRANSACTIONS);
        while self.requests.blocking_recv_many(&mut waiting, BATCH_TRANSACTIONS) > 0 {
            let mut commits = Vec::with_capacity(waiting.len());
            let mut compactions = Vec::new();
            for request in waiting.drain(..) {
                match request {
                    Request::Commit { transaction, reply } => commits.push((transaction, reply)),
                    Request::Compact { revision, reply } => compactions.push((revision, reply)),
                }
            }
            self.commit(commits);
            for (revision, reply) in compactions {
                let _ = reply.send(self.compact(revision)); // Nobody may be waiting any more.
            }
        }
    }

    fn commit(&mut self, commits: Vec<(Transaction, oneshot::Sender<Result<TransactionResponse, StoreError>>)>) {
        let mut answers = Vec::with_capacity(commits.len());
        let plan = {
            let state = self.shared.state.read();
            let mut plan = Plan::new(&state);
            for (transaction, reply) in commits {
                answers.push((plan.add(&state, transaction), reply));
            }
            plan
        };
        let written = match plan.events.is_empty() {
            true => Ok(()),
            false => {
                let horizon = self.due_horizon();
                self.write(&plan.events, plan.revision, horizon, plan.events.len() * 4 + SWEEP_RECORDS)
            }
        };
        for (answer, reply) in answers {
            let answer = match &written {
                Ok(()) => Ok(answer),
                Err(cause) => Err(copy(cause)),
            };
            let _ = reply.send(answer); // Whoever asked may have gone; the write stands.
        }
        let swept = self.marks.swept == self.marks.compacted;
        if written.is_ok() && swept && self.reclaimed_at.elapsed() >= RECLAIM_INTERVAL {
            self.reclaim();
        }
    }

    fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.marks.revision {
            return Err(StoreError::FutureRevision { current: self.marks.revision });
        }
        let horizon = revision.max(self.marks.compacted);
        loop {
            self.write(&[], self.marks.revision, horizon, COMPACT_RECORDS)?;
            if self.marks.swept == self.marks.compacted && self.superseded.is_empty() {
                break;
            }
        }
        self.reclaim();
        Ok(())
    }

    /// Makes `events` durable together with a step of sweeping, then shows them.
    fn write(&mut self, events: &[Event], revision: Revision, horizon: Revision, sweep: usize) -> Result<(), StoreError> {
        let swept = self.sweep(sweep)?;
        let remove: Vec<(Revision, Bytes)> =
            swept.records.iter().chain(&self.superseded).map(|(revision, key, _)| (*revision, key.clone())).collect();
        let marks = Marks { revision, compacted: horizon, swept: swept.through };
        let batch = Batch { base: self.marks.revision, events, remove: &remove, marks };
        if let Err(cause) = self.shared.engine.append(&batch) {
            tracing::error!(%cause, "the store cannot write");
            return Err(cause);
        }

        let removed: u64 = swept.records.iter().chain(&self.superseded).map(|(_, _, size)| size).sum();
        let added: u64 = events.iter().map(|event| record_size(event.kv.key.len(), event.kv.value.len())).sum();
        self.stored_bytes = (self.stored_bytes + added).saturating_sub(removed);
        self.marks = marks;
        self.superseded.clear();
        self.note_superseded(events);
        self.note_age();
        {
            let mut state = self.shared.state.write();
            state.apply(events);
            state.compacted = horizon;
            state.forget_through(horizon);
            state.shrink_window(self.shared.settings.window());
        }
        if !events.is_empty() {
            self.shared.watchers.lock().publish(events, revision);
        }
        Ok(())
    }

    /// Finds records up to the horizon that a later write up to the horizon has superseded.
    fn sweep(&self, records_max: usize) -> Result<Swept, StoreError> {
        let Marks { compacted, swept, .. } = self.marks;
        let mut found = Swept { records: Vec::new(), through: compacted };
        if swept == compacted {
            return Ok(found);
        }
        // A disk that failed is found by the write, which also mends it.
        let Ok(snapshot) = self.shared.engine.snapshot() else {
            found.through = swept;
            return Ok(found);
        };
        let mut seen = 0;
        let mut last = 0;
        snapshot.scan(swept + 1, compacted, &mut |record| {
            if seen >= records_max && record.revision > last {
                found.through = last;
                return false;
            }
            (seen, last) = (seen + 1, record.revision);
            let key = || Bytes::copy_from_slice(record.key);
            if record.previous_revision != 0 {
                found.records.push((record.previous_revision, key(), 0));
            }
            if record.kind == EventKind::Delete {
                found.records.push((record.revision, key(), record.size()));
            }
            true
        })?;
        for (revision, key, size) in found.records.iter_mut().filter(|(_, _, size)| *size == 0) {
            *size = snapshot.get(*revision, key)?.map_or(0, |kv| record_size(key.len(), kv.value.len()));
        }
        Ok(found)
    }

    fn note_superseded(&mut self, events: &[Event]) {
        for event in events.iter().filter(|event| self.shared.is_ephemeral(&event.kv.key)) {
            let key = &event.kv.key;
            if let Some(previous) = &event.previous {
                let size = record_size(key.len(), previous.value.len());
                self.superseded.push((previous.mod_revision, key.clone(), size));
            }
            if event.kind == EventKind::Delete {
                self.superseded.push((event.kv.mod_revision, key.clone(), record_size(key.len(), 0)));
            }
        }
    }

    fn note_age(&mut self) {
        let now = Instant::now();
        let newest = self.ages.back().map(|(at, _)| *at);
        if newest.is_none_or(|at| now - at >= self.shared.settings.retain / 16) {
            self.ages.push_back((now, self.marks.revision));
        }
    }

    /// The revision below which history is to be forgotten now.
    fn due_horizon(&mut self) -> Revision {
        let settings = &self.shared.settings;
        let Marks { revision, compacted, swept } = self.marks;
        let mut horizon = compacted;
        let now = Instant::now();
        while self.ages.front().is_some_and(|(at, _)| now - *at >= settings.retain) {
            let (_, aged) = self.ages.pop_front().expect("the front was just seen");
            horizon = horizon.max(aged);
        }
        horizon = horizon.max(revision - settings.retain_revisions);
        let history_bytes = self.stored_bytes.saturating_sub(self.shared.state.read().current_bytes());
        if history_bytes > settings.retain_bytes && swept == compacted {
            horizon = horizon.max(compacted.max(revision - settings.retain_revisions).midpoint(revision));
        }
        horizon
    }

    fn reclaim(&mut self) {
        self.reclaimed_at = Instant::now();
        if let Err(cause) = self.shared.engine.reclaim(self.stored_bytes) {
            tracing::warn!(%cause, "the store's file could not be made smaller");
        }
    }
}

struct Swept {
    /// Revision, key and size of what can go.
    records: Vec<(Revision, Bytes, u64)>,
    through: Revision,
}

/// The same failure for each of those whose writes shared it.
fn copy(cause: &StoreError) -> StoreError {
    match cause {
        StoreError::Io(cause) => StoreError::Io(match cause.raw_os_error() {
            Some(code) => std::io::Error::from_raw_os_error(code),
            None => std::io::Error::new(cause.kind(), cause.to_string()),
        }),
        StoreError::Corrupt(what) => StoreError::Corrupt(what.clone()),
        StoreError::Etcd(what) => StoreError::Etcd(what.clone()),
        StoreError::Compacted { oldest } => StoreError::Compacted { oldest: *oldest },
        StoreError::FutureRevision { current } => StoreError::FutureRevision { current: *current },
        StoreError::Closed => StoreError::Closed,
    }
}
