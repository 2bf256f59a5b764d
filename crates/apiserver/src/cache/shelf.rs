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
use crate::kinds::Kind;

/// Bounds on the ring.
const RING_EVENTS_MAX: usize = 16_384;
const RING_BYTES_MAX: usize = 32 << 20;
/// The newest events, whose encoded frames are kept for the watchers that follow.
const RING_FRAMES: usize = 512;
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
    frames: RwLock<[Option<Bytes>; 3]>,
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

    /// The JSON watch frame, encoded once for all watchers.
    pub fn json_frame(&self, event_type: EventType) -> Bytes {
        if let Some(frame) = &self.frames.read()[event_type as usize] {
            return frame.clone();
        }
        let entry = match event_type {
            EventType::Deleted => self.old.as_ref(),
            _ => self.new.as_ref(),
        };
        let Some(entry) = entry else { return Bytes::new() };
        let mut frames = self.frames.write();
        frames[event_type as usize].get_or_insert_with(|| json_frame(event_type, entry, self.revision)).clone()
    }

    /// Whoever comes so late makes it again.
    fn forget_frames(&self) {
        *self.frames.write() = Default::default();
    }

    fn len(&self) -> usize {
        self.new.as_ref().or(self.old.as_ref()).map_or(0, |entry| entry.served_len())
    }
}

/// `{"type":"ADDED","object":{...}}` and a line end.
pub fn json_frame(event_type: EventType, entry: &Entry, revision: Revision) -> Bytes {
    let mut out = BytesMut::with_capacity(entry.served_len() + 48);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event_type.name().as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    entry.write_served(&mut out, revision);
    out.extend_from_slice(b"}\n");
    out.freeze()
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

    /// Events after `cursor`, at most `max`, that the filter lets through, and the revision read up to.
    pub fn events_after(
        &self,
        cursor: Revision,
        max: usize,
    ) -> Result<(Vec<Arc<CacheEvent>>, Revision), TooOld> {
        let state = self.state.read();
        if cursor < state.ring_floor {
            return Err(TooOld { oldest: state.ring_floor });
        }
        let start = state.ring.partition_point(|event| event.revision <= cursor);
        let mut end = (start + max).min(state.ring.len());
        // Whole revisions only: the cursor must not stop inside one.
        while end > start && end < state.ring.len() && state.ring[end].revision == state.ring[end - 1].revision {
            end += 1;
        }
        let events: Vec<_> = state.ring.range(start..end).cloned().collect();
        let reached = match events.last() {
            _ if end == state.ring.len() => state.revision.max(cursor),
            Some(last) => last.revision,
            None => cursor,
        };
        Ok((events, reached))
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
