//! One watcher's place in a shelf's ring.
//!
//! Invariant: every event after where it started, through its filter, once and in order; then bookmarks, then the end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::Revision;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, Filter};
use super::frames::Shape;
use super::rounds::Member;
use super::shelf::{BATCH_MAX, CacheEvent, EventType, Shelf, TooOld};
use super::Cache;

/// Between bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

pub enum WatchItem {
    /// An object that was there at the start.
    Initial(Arc<Entry>),
    Event { event_type: EventType, event: Arc<CacheEvent> },
    /// Several events as frames, the same for many watchers.
    Frames(Bytes),
    /// `initial_end`: the mark after the initial events.
    Bookmark { revision: Revision, initial_end: bool },
    /// Events were lost; the client must list again.
    TooOld { asked: Revision, oldest: Revision },
}

pub struct Watch {
    cache: Arc<Cache>,
    shelf: Arc<Shelf>,
    filter: Filter,
    changed: Arc<Notify>,
    cursor: Revision,
    initial: std::vec::IntoIter<Arc<Entry>>,
    initial_end: bool,
    ready: VecDeque<(EventType, Arc<CacheEvent>)>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// The server ends.
    cancel: CancellationToken,
    ended: bool,
    /// How frames are asked for, where others may want the same.
    shared: Option<Shape>,
    _member: Member,
}

/// Where a watch starts.
pub enum Start {
    /// With everything that is there now; `mark`: followed by a bookmark that says so.
    State { mark: bool },
    After(Revision),
}

impl Watch {
    pub fn new(
        cache: Arc<Cache>,
        shelf: Arc<Shelf>,
        filter: Filter,
        start: Start,
        bookmarks: bool,
        timeout: Duration,
        cancel: CancellationToken,
    ) -> Watch {
        let changed = shelf.changes();
        let now = Instant::now();
        let (cursor, initial, initial_end) = match start {
            Start::After(revision) => (revision, Vec::new(), false),
            Start::State { mark } => {
                let selected = shelf.select(&filter, None, 0, || cache.applied());
                (selected.revision, selected.entries, mark)
            }
        };
        Watch {
            _member: shelf.join(),
            shared: None,
            cache,
            shelf,
            filter,
            changed,
            cursor,
            initial: initial.into_iter(),
            initial_end,
            ready: VecDeque::new(),
            bookmarks,
            next_bookmark: now + BOOKMARK_EVERY,
            deadline: now + timeout,
            cancel,
            ended: false,
        }
    }

    /// Asks for frames in this shape wherever many read the same.
    pub fn share(&mut self, shape: Shape) {
        self.shared = Some(shape).filter(|_| !self.filter.is_selective());
    }

    /// What is there without waiting.
    pub fn try_next(&mut self) -> Option<WatchItem> {
        if self.ended {
            return None;
        }
        if let Some(entry) = self.initial.next() {
            return Some(WatchItem::Initial(entry));
        }
        if std::mem::take(&mut self.initial_end) {
            return Some(WatchItem::Bookmark { revision: self.cursor, initial_end: true });
        }
        loop {
            if let Some((event_type, event)) = self.ready.pop_front() {
                return Some(WatchItem::Event { event_type, event });
            }
            let (before, upto) = (self.cursor, self.shelf.readable());
            if upto <= before {
                return None;
            }
            let read = match self.shared.filter(|_| upto < Revision::MAX) {
                None => self.shelf.events_between(before, upto, BATCH_MAX).map(|(events, reached)| {
                    let seen = |event: Arc<CacheEvent>| Some((event.seen_through(&self.filter)?.0, event));
                    self.ready.extend(events.into_iter().filter_map(seen));
                    (Bytes::new(), reached)
                }),
                Some(shape) => self.shelf.piece((before, upto), shape, &self.filter),
            };
            match read {
                Err(TooOld { oldest }) => {
                    self.ended = true;
                    return Some(WatchItem::TooOld { asked: before, oldest });
                }
                Ok((frames, reached)) => {
                    self.cursor = reached;
                    if !frames.is_empty() {
                        return Some(WatchItem::Frames(frames));
                    }
                    if reached == before {
                        return None;
                    }
                }
            }
        }
    }

    /// Waits. None: the watch has ended.
    pub async fn next(&mut self) -> Option<WatchItem> {
        loop {
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            if self.ended {
                return None;
            }
            let changes = self.changed.clone();
            let mut changed = std::pin::pin!(changes.notified());
            // Before reading the ring once more, so that no change in between is slept through.
            changed.as_mut().enable();
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            // A write to each of a thousand connections for every single event would cost more than all else.
            let round = self.shelf.next_round(self.cursor);
            let due = match self.bookmarks {
                true => self.deadline.min(self.next_bookmark),
                false => self.deadline,
            };
            // One timer, not one for each reason to wake: a crowd sets them as often as it reads.
            let timer = tokio::time::sleep_until(round.map_or(due, |at| at.min(due)));
            tokio::select! {
                biased;
                () = changed, if round.is_none() => {}
                () = self.cancel.cancelled() => {
                    self.ended = true;
                    return None;
                }
                () = timer => {
                    let now = Instant::now();
                    if self.deadline <= now {
                        self.ended = true;
                        return self.bookmarks.then(|| self.bookmark());
                    }
                    if self.bookmarks && self.next_bookmark <= now {
                        self.next_bookmark = now + BOOKMARK_EVERY;
                        if let Some(item) = self.try_next() {
                            return Some(item);
                        }
                        return Some(self.bookmark());
                    }
                }
            }
        }
    }

    /// The whole cache has reached `applied` before the shelf was found without news.
    fn bookmark(&mut self) -> WatchItem {
        let applied = self.cache.applied();
        if let Ok((events, _)) = self.shelf.events_after(self.cursor, 1)
            && events.is_empty()
        {
            self.cursor = self.cursor.max(applied);
        }
        WatchItem::Bookmark { revision: self.cursor, initial_end: false }
    }
}
