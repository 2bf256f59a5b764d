//! The state that both engines share: the newest version of every key, and the events that led to it.
//!
//! Invariant: `history` holds every event with a revision above `window_start`, oldest first, each with what it
//! replaced; so the state at any revision of the window is the newest state with the later events undone.
//! Deliberately absent: disks, locks, channels.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::{
    Compare, Event, EventKind, KeyRange, KeyValue, RangeRequest, RangeResponse, Revision, StoreError, Transaction,
    TransactionResponse, Write,
};

/// An empty store stands at revision 1, so that the first write makes 2, as in etcd.
pub(crate) const FIRST_REVISION: Revision = 1;

/// How much history is kept in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub events: usize,
    pub bytes: usize,
}

pub(crate) struct Mvcc {
    pub revision: Revision,
    /// Reads below this are refused.
    pub compacted: Revision,
    pub window_start: Revision,
    current: BTreeMap<Bytes, Version>,
    current_bytes: u64,
    history: VecDeque<Event>,
    history_bytes: usize,
}

struct Version {
    value: Bytes,
    create_revision: Revision,
    mod_revision: Revision,
    version: i64,
}

/// What a key held at the asked-for revision, for keys that changed since.
pub(crate) type Undo = HashMap<Bytes, Option<KeyValue>>;

impl Mvcc {
    pub(crate) fn new(revision: Revision) -> Self {
        Mvcc {
            revision,
            compacted: 0,
            window_start: revision,
            current: BTreeMap::new(),
            current_bytes: 0,
            history: VecDeque::new(),
            history_bytes: 0,
        }
    }

    pub(crate) fn get(&self, key: &Bytes) -> Option<KeyValue> {
        self.current.get(key).map(|version| version.key_value(key))
    }

    /// Keys and values of the newest state.
    pub(crate) fn current_bytes(&self) -> u64 {
        self.current_bytes
    }

    /// Makes planned events the present state. They carry on from the present revision.
    pub(crate) fn apply(&mut self, events: &[Event]) {
        for event in events {
            self.revision = event.kv.mod_revision;
            match event.kind {
                EventKind::Put => {
                    self.current_bytes += size(&event.kv);
                    self.current.insert(event.kv.key.clone(), Version::of(&event.kv));
                }
                EventKind::Delete => {
                    self.current.remove(&event.kv.key);
                }
            }
            self.current_bytes -= event.previous.as_ref().map_or(0, size);
            self.history_bytes += weight(event);
            self.history.push_back(event.clone());
        }
    }

    /// Forgets the oldest whole revisions of the history until it fits.
    pub(crate) fn shrink_window(&mut self, window: Window) {
        while self.history.len() > window.events || self.history_bytes > window.bytes {
            let Some(oldest) = self.history.front().map(|event| event.kv.mod_revision) else { break };
            self.forget_through(oldest);
        }
    }

    /// Forgets history up to and including `revision`.
    pub(crate) fn forget_through(&mut self, revision: Revision) {
        while self.history.front().is_some_and(|event| event.kv.mod_revision <= revision) {
            if let Some(event) = self.history.pop_front() {
                self.history_bytes -= weight(&event);
            }
        }
        self.window_start = self.window_start.max(revision.min(self.revision));
    }

    /// Whether a read at `revision` is one that may be answered at all; 0 stands for the newest.
    pub(crate) fn check_readable(&self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::FutureRevision { current: self.revision });
        }
        if revision != 0 && revision < self.compacted {
            return Err(StoreError::Compacted { oldest: self.compacted });
        }
        Ok(())
    }

    /// The events with revision >= `from` in `range`; `None` if the window does not reach back that far.
    pub(crate) fn events_since(&self, range: &KeyRange, from: Revision) -> Option<Vec<Event>> {
        if from <= self.window_start {
            return None;
        }
        Some(self.history_from(from).filter(|event| range.contains(&event.kv.key)).cloned().collect())
    }

    /// Adds to `undo` what the events after `revision` replaced. Events already undone by `undo` are older: they win.
    pub(crate) fn undo_since(&self, range: &KeyRange, revision: Revision, undo: &mut Undo) {
        for event in self.history_from(revision + 1).filter(|event| range.contains(&event.kv.key)) {
            undo.entry(event.kv.key.clone()).or_insert_with(|| event.previous.clone());
        }
    }

    /// Reads the newest state (`undo` empty) or a past one.
    pub(crate) fn read(&self, request: &RangeRequest, undo: &Undo) -> RangeResponse {
        let mut page = Page { request, kvs: Vec::new(), count: 0 };
        let current = self.current.range::<[u8], _>(bounds(&request.range));
        if undo.is_empty() {
            for (key, version) in current {
                page.add(|| version.key_value(key));
            }
        } else {
            let mut undone: Vec<&KeyValue> = undo.values().flatten().collect();
            undone.sort_by(|a, b| a.key.cmp(&b.key));
            let mut undone = undone.into_iter().peekable();
            for (key, version) in current.filter(|(key, _)| !undo.contains_key(*key)) {
                while let Some(before) = undone.next_if(|kv| kv.key < *key) {
                    page.add(|| before.clone());
                }
                page.add(|| version.key_value(key));
            }
            for rest in undone {
                page.add(|| rest.clone());
            }
        }
        page.finish(self.revision)
    }

    fn history_from(&self, from: Revision) -> impl Iterator<Item = &Event> {
        let start = self.history.partition_point(|event| event.kv.mod_revision < from);
        self.history.range(start..)
    }
}

/// Transactions that will become durable together. They see one another's effects, readers do not yet.
pub(crate) struct Plan {
    pub revision: Revision,
    pub events: Vec<Event>,
    changed: HashMap<Bytes, Option<KeyValue>>,
}

impl Plan {
    pub(crate) fn new(state: &Mvcc) -> Self {
        Plan { revision: state.revision, events: Vec::new(), changed: HashMap::new() }
    }

    pub(crate) fn add(&mut self, state: &Mvcc, transaction: Transaction) -> TransactionResponse {
        let holds = transaction.compares.iter().all(|Compare::ModRevision { key, equals }| {
            self.get(state, key).map_or(0, |kv| kv.mod_revision) == *equals
        });
        if !holds {
            let compared = transaction.compares.iter();
            let current = compared.map(|Compare::ModRevision { key, .. }| self.get(state, key)).collect();
            return TransactionResponse { succeeded: false, revision: self.revision, current };
        }
        let before = self.events.len();
        let revision = self.revision + 1;
        for write in last_of_each_key(transaction.writes) {
            self.write(state, write, revision);
        }
        if self.events.len() > before {
            self.revision = revision;
        }
        TransactionResponse { succeeded: true, revision: self.revision, current: Vec::new() }
    }

    fn get(&self, state: &Mvcc, key: &Bytes) -> Option<KeyValue> {
        match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => state.get(key),
        }
    }

    fn write(&mut self, state: &Mvcc, write: Write, revision: Revision) {
        match write {
            Write::Put { key, value } => {
                let previous = self.get(state, &key);
                let (create_revision, version) =
                    previous.as_ref().map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
                let kv = KeyValue { key, value, create_revision, mod_revision: revision, version };
                self.changed.insert(kv.key.clone(), Some(kv.clone()));
                self.events.push(Event { kind: EventKind::Put, kv, previous });
            }
            Write::Delete { key } => {
                let Some(previous) = self.get(state, &key) else { return };
                self.changed.insert(key.clone(), None);
                self.events.push(deletion(key, revision, Some(previous)));
            }
        }
    }
}

/// One revision holds one version of a key, so only the last write to it counts.
pub(crate) fn last_of_each_key(mut writes: Vec<Write>) -> Vec<Write> {
    if writes.len() > 1 {
        writes.sort_by(|a, b| a.key().cmp(b.key())); // Stable: equal keys stay in order.
        writes.reverse();
        writes.dedup_by(|a, b| a.key() == b.key());
        writes.reverse();
    }
    writes
}

pub(crate) fn deletion(key: Bytes, revision: Revision, previous: Option<KeyValue>) -> Event {
    let kv = KeyValue { key, value: Bytes::new(), create_revision: 0, mod_revision: revision, version: 0 };
    Event { kind: EventKind::Delete, kv, previous }
}

/// One answer under construction: everything is counted, `limit` keys are kept.
struct Page<'a> {
    request: &'a RangeRequest,
    kvs: Vec<KeyValue>,
    count: usize,
}

impl Page<'_> {
    fn add(&mut self, kv: impl FnOnce() -> KeyValue) {
        self.count += 1;
        if !self.request.count_only && (self.request.limit == 0 || self.kvs.len() < self.request.limit) {
            self.kvs.push(kv());
        }
    }

    fn finish(self, revision: Revision) -> RangeResponse {
        let more = !self.request.count_only && self.kvs.len() < self.count;
        RangeResponse { revision, kvs: self.kvs, more, count: self.count }
    }
}

impl Version {
    fn of(kv: &KeyValue) -> Self {
        Version {
            value: kv.value.clone(),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
        }
    }

    fn key_value(&self, key: &Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
        }
    }
}

fn size(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    match &range.end {
        None => (Bound::Included(&range.start), Bound::Included(&range.start)),
        // BTreeMap panics on a range that ends before it starts; such a range is empty.
        Some(end) if *end <= range.start => (Bound::Included(&range.start), Bound::Excluded(&range.start)),
        Some(end) => (Bound::Included(&range.start), Bound::Excluded(end)),
    }
}

/// Bytes that the history keeps alive by holding this event.
fn weight(event: &Event) -> usize {
    size_of::<Event>() + event.kv.value.len() + event.previous.as_ref().map_or(0, |kv| kv.value.len())
}
