//! All objects of one storage prefix, and what happened to them lately.
//!
//! Invariant: under its lock a shelf is the state as of `revision()`, and its ring has every event after
//! `ring_floor`, once and in order. Deliberately absent: queues per watcher. Each reads the one ring at its own pace,
//! and who falls behind its floor is sent away.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;
use store::Revision;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::entry::{Entry, Filter, prefix};
use super::frames::Shape;
use super::rounds::{Member, Rounds};
use crate::kinds::Kind;

/// Bounds on the ring.
const RING_EVENTS_MAX: usize = 16_384;
const RING_BYTES_MAX: usize = 32 << 20;
/// The newest events, whose encoded frames are kept for the watchers that follow.
const RING_FRAMES: usize = 512;
/// Events taken from the ring at a time.
pub const BATCH_MAX: usize = 128;
/// What a crowd is sent together: about this much.
const PIECE_BYTES: usize = 128 << 10;
/// Kept at least, whatever their size and age.
const RING_EVENTS_MIN: usize = 256;
/// Older ones are of use to nobody: watchers that far behind list again.
const RING_AGE_MAX: Duration = Duration::from_secs(5 * 60);

/// Key, new entry (None: deleted), revision.
pub type Change = (Box<str>, Option<Arc<Entry>>, Revision);

pub struct Shelf {
    /// The kind whose version is stored.
    pub kind: &'static Kind,
    /// `{"kind":...,"metadata":{`
    pub prefix: String,
    /// `/registry/pods/`
    pub key_prefix: String,
    state: RwLock<State>,
    /// Wakes watchers; the value is the newest revision that touched the shelf.
    changed: watch::Sender<Revision>,
    /// For many: wakes in the order of asking, which `changed` does not, and a simulated run must be repeatable.
    woken: Arc<Notify>,
    rounds: Rounds,
}

struct State {
    objects: BTreeMap<Box<str>, Arc<Entry>>,
    ring: VecDeque<Arc<CacheEvent>>,
    ring_bytes: usize,
    /// Events up to and including this revision may be missing.
    ring_floor: Revision,
    /// The newest revision that touched the shelf.
    revision: Revision,
}

/// A change of one object.
pub struct CacheEvent {
    pub revision: Revision,
    /// When this server saw it.
    seen: Instant,
    /// None: it was deleted.
    pub new: Option<Arc<Entry>>,
    pub old: Option<Arc<Entry>>,
    /// Made by the first watcher who needs one, for all of them.
    frames: RwLock<Vec<(Shape, EventType, Bytes)>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub fn name(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

impl CacheEvent {
    fn new(revision: Revision, seen: Instant, new: Option<Arc<Entry>>, old: Option<Arc<Entry>>) -> Self {
        CacheEvent { revision, seen, new, old, frames: Default::default() }
    }

    /// What a watcher with this filter is told: an object that leaves the selection is deleted for it.
    pub fn seen_through(&self, filter: &Filter) -> Option<(EventType, &Arc<Entry>)> {
        let before = self.old.as_ref().filter(|old| filter.matches(old));
        let after = self.new.as_ref().filter(|new| filter.matches(new));
        match (before, after) {
            (None, Some(new)) => Some((EventType::Added, new)),
            (Some(_), Some(new)) => Some((EventType::Modified, new)),
            (Some(old), None) => Some((EventType::Deleted, old)),
            (None, None) => None,
        }
    }

    /// The watch frame, encoded once for all watchers. `kind` is the stored one.
    pub fn frame(&self, shape: Shape, kind: &Kind, event_type: EventType) -> Bytes {
        let is_it = |made: &&(Shape, EventType, Bytes)| (made.0, made.1) == (shape, event_type);
        if let Some((.., frame)) = self.frames.read().iter().find(is_it) {
            return frame.clone();
        }
        let entry = match event_type {
            EventType::Deleted => self.old.as_ref(),
            _ => self.new.as_ref(),
        };
        let Some(entry) = entry else { return Bytes::new() };
        let mut frames = self.frames.write();
        if let Some((.., frame)) = frames.iter().find(is_it) {
            return frame.clone();
        }
        let frame = shape.watch_frame(kind, event_type, entry, self.revision);
        frames.push((shape, event_type, frame.clone()));
        frame
    }

    /// Whoever comes so late makes it again.
    fn forget_frames(&self) {
        *self.frames.write() = Vec::new();
    }

    fn len(&self) -> usize {
        self.new.as_ref().or(self.old.as_ref()).map_or(0, |entry| entry.served_len())
    }
}

/// A page of a shelf.
pub struct Selected {
    pub entries: Vec<Arc<Entry>>,
    /// The state is as of this revision.
    pub revision: Revision,
    /// Nothing on the shelf changed after this.
    pub changed: Revision,
    /// There are more in the range after the limit.
    pub more: bool,
    /// How many more, where that is known (no selectors).
    pub remaining: Option<usize>,
}

/// The revision asked for is older than the ring.
#[derive(Debug)]
pub struct TooOld {
    pub oldest: Revision,
}

impl Shelf {
    pub fn new(kind: &'static Kind) -> Self {
        Shelf {
            kind,
            prefix: prefix(kind),
            key_prefix: format!("/registry/{}/", kind.storage),
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                ring: VecDeque::new(),
                ring_bytes: 0,
                ring_floor: 0,
                revision: 0,
            }),
            changed: watch::Sender::new(0),
            woken: Arc::default(),
            rounds: Rounds::default(),
        }
    }

    /// `/registry/pods/default/web`
    pub fn store_key(&self, namespace: &str, name: &str) -> Bytes {
        if self.kind.namespaced {
            format!("{}{namespace}/{name}", self.key_prefix).into()
        } else {
            format!("{}{name}", self.key_prefix).into()
        }
    }

    /// Replaces everything, at start or when the store's watch was lost. Watchers behind `revision` are sent away.
    pub fn load(&self, entries: Vec<Arc<Entry>>, revision: Revision) {
        let mut state = self.state.write();
        state.objects = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        state.ring.clear();
        state.ring_bytes = 0;
        state.ring_floor = revision;
        state.revision = revision;
        drop(state);
        self.tell(revision);
    }

    /// Events of whole revisions, in order.
    pub fn apply(&self, changes: Vec<Change>) {
        let now = Instant::now();
        let mut state = self.state.write();
        let mut newest = state.revision;
        for (key, new, revision) in changes {
            let old = match &new {
                Some(entry) => state.objects.insert(key, entry.clone()),
                None => state.objects.remove(&key),
            };
            newest = revision;
            if new.is_none() && old.is_none() {
                continue;
            }
            let event = Arc::new(CacheEvent::new(revision, now, new, old));
            state.ring_bytes += event.len();
            state.ring.push_back(event);
            if let Some(late) = state.ring.len().checked_sub(1 + RING_FRAMES) {
                state.ring[late].forget_frames();
            }
        }
        while state.ring.len() > RING_EVENTS_MAX
            || (state.ring.len() > RING_EVENTS_MIN
                && (state.ring_bytes > RING_BYTES_MAX
                    || state.ring.front().is_some_and(|oldest| now - oldest.seen > RING_AGE_MAX)))
        {
            let Some(gone) = state.ring.pop_front() else { break };
            state.ring_bytes -= gone.len();
            state.ring_floor = gone.revision;
        }
        state.revision = newest;
        drop(state);
        self.tell(newest);
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let state = self.state.read();
        if self.kind.namespaced {
            let mut key = String::with_capacity(namespace.len() + name.len() + 1);
            key.push_str(namespace);
            key.push('/');
            key.push_str(name);
            state.objects.get(key.as_str()).cloned()
        } else {
            state.objects.get(name).cloned()
        }
    }

    /// The newest revision that touched the shelf.
    pub fn revision(&self) -> Revision {
        self.state.read().revision
    }

    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Objects in key order after `after` (exclusive), at most `limit` (0: all). `applied` is the revision up to which
    /// the whole cache is known to be current.
    pub fn select(
        &self,
        filter: &Filter,
        after: Option<&str>,
        limit: usize,
        applied: impl FnOnce() -> Revision,
    ) -> Selected {
        let state = self.state.read();
        let changed = state.revision;
        let revision = applied().max(changed);
        if let (Some(name), None) = (filter.single_name(), after)
            && (!self.kind.namespaced || !filter.namespace.is_empty())
        {
            let key = if self.kind.namespaced { format!("{}/{name}", filter.namespace) } else { name.to_owned() };
            let entries =
                state.objects.get(key.as_str()).filter(|entry| filter.matches(entry)).cloned().into_iter().collect();
            return Selected { entries, revision, changed, more: false, remaining: None };
        }
        let (from, to) = bounds(&filter.namespace);
        let from = match after {
            Some(after) if after >= from.as_str() => Bound::Excluded(after),
            _ => Bound::Included(from.as_str()),
        };
        let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut range = state.objects.range::<str, _>((from, to)).map(|(_, entry)| entry);
        let mut entries = Vec::new();
        if limit == 0 && filter.namespace.is_empty() && !filter.is_selective() {
            entries.reserve_exact(state.objects.len());
        }
        while let Some(entry) = range.next() {
            if !filter.matches(entry) {
                continue;
            }
            entries.push(entry.clone());
            if limit != 0 && entries.len() == limit {
                let mut rest = range.filter(|entry| filter.matches(entry));
                let more = rest.next().is_some();
                let remaining = (more && !filter.is_selective()).then(|| 1 + rest.count());
                return Selected { entries, revision, changed, more, remaining };
            }
        }
        Selected { entries, revision, changed, more: false, remaining: None }
    }

    /// Events after `cursor`, at most `max`, and the revision read up to.
    pub fn events_after(&self, cursor: Revision, max: usize) -> Result<(Vec<Arc<CacheEvent>>, Revision), TooOld> {
        self.events_between(cursor, Revision::MAX, max)
    }

    /// The same, and none after `upto`.
    pub fn events_between(
        &self,
        cursor: Revision,
        upto: Revision,
        max: usize,
    ) -> Result<(Vec<Arc<CacheEvent>>, Revision), TooOld> {
        let state = self.state.read();
        if cursor < state.ring_floor {
            return Err(TooOld { oldest: state.ring_floor });
        }
        let start = state.ring.partition_point(|event| event.revision <= cursor);
        let last = match upto >= state.revision {
            true => state.ring.len(),
            false => state.ring.partition_point(|event| event.revision <= upto),
        };
        let mut end = (start + max).min(last);
        // Whole revisions only: the cursor must not stop inside one.
        while end > start && end < last && state.ring[end].revision == state.ring[end - 1].revision {
            end += 1;
        }
        let events: Vec<_> = state.ring.range(start..end.max(start)).cloned().collect();
        let reached = match events.last() {
            _ if end == last => state.revision.min(upto).max(cursor),
            Some(last) => last.revision,
            None => cursor,
        };
        Ok((events, reached))
    }

    pub fn join(&self) -> Member {
        self.rounds.join()
    }

    /// Up to where a watcher may read now.
    pub fn readable(&self) -> Revision {
        self.rounds.mark(self.revision()).unwrap_or(Revision::MAX)
    }

    /// When more may be read, where more has happened after `cursor`.
    pub fn next_round(&self, cursor: Revision) -> Option<Instant> {
        if self.revision() > cursor { self.rounds.next() } else { None }
    }

    /// What happened after `cursor`, up to a mark, as all of a crowd read it who watch the same without selectors.
    pub fn piece(
        &self,
        (cursor, upto): (Revision, Revision),
        shape: Shape,
        filter: &Filter,
    ) -> Result<(Bytes, Revision), TooOld> {
        self.rounds.piece((cursor, upto), shape, &filter.namespace, || {
            let (events, mut reached) = self.events_between(cursor, upto, BATCH_MAX)?;
            let mut bytes = BytesMut::new();
            let mut last = cursor;
            for event in events {
                if bytes.len() >= PIECE_BYTES && event.revision > last {
                    reached = last;
                    break;
                }
                last = event.revision;
                if let Some((event_type, _)) = event.seen_through(filter) {
                    bytes.extend_from_slice(&event.frame(shape, self.kind, event_type));
                }
            }
            Ok((bytes.freeze(), reached))
        })
    }

    fn tell(&self, newest: Revision) {
        self.changed.send_replace(newest);
        self.woken.notify_waiters();
    }

    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    pub fn changes(&self) -> Arc<Notify> {
        self.woken.clone()
    }
}

/// Keys of a namespace: `ns/` to just before `ns0`.
fn bounds(namespace: &str) -> (String, Option<String>) {
    if namespace.is_empty() { (String::new(), None) } else { (format!("{namespace}/"), Some(format!("{namespace}0"))) }
}
