//! Hands committed events to those who watch.
//!
//! Invariant: a watcher gets every event of its range with revision >= its `next` once and in order, or its channel
//! ends with `Compacted`. Deliberately absent: waiting. A watcher whose channel is full is closed, so that one slow
//! reader can never hold up a writer; it reads the range again and watches anew.

use tokio::sync::mpsc;

use crate::{Event, KeyRange, Revision, WatchMessage};

/// Messages that may wait for one watcher. One message carries at least one whole revision.
pub(crate) const QUEUE_MESSAGES: usize = 4096;

pub(crate) struct Watchers {
    open: Vec<Watcher>,
    /// All events up to here have been handed out.
    published: Revision,
}

struct Watcher {
    range: KeyRange,
    next: Revision,
    sender: mpsc::Sender<WatchMessage>,
}

/// A channel with room for the parting `Compacted` after the last ordinary message.
pub(crate) fn channel() -> (mpsc::Sender<WatchMessage>, mpsc::Receiver<WatchMessage>) {
    mpsc::channel(QUEUE_MESSAGES + 1)
}

impl Watchers {
    pub(crate) fn new(published: Revision) -> Self {
        Watchers { open: Vec::new(), published }
    }

    pub(crate) fn register(&mut self, range: KeyRange, next: Revision, sender: mpsc::Sender<WatchMessage>) {
        self.open.push(Watcher { range, next, sender });
    }

    /// `events` are those of whole revisions, the newest of which is `revision`.
    pub(crate) fn publish(&mut self, events: &[Event], revision: Revision) {
        self.published = revision;
        self.open.retain(|watcher| {
            let wanted: Vec<Event> = events
                .iter()
                .filter(|event| event.kv.mod_revision >= watcher.next && watcher.range.contains(&event.kv.key))
                .cloned()
                .collect();
            if wanted.is_empty() { !watcher.sender.is_closed() } else { watcher.send(WatchMessage::Events(wanted), revision) }
        });
    }

    pub(crate) fn progress(&mut self) {
        let revision = self.published;
        self.open
            .retain(|watcher| watcher.next > revision + 1 || watcher.send(WatchMessage::Progress(revision), revision));
    }
}

impl Watcher {
    /// False when the watch is over. Only the holder of the `Watchers` sends, so the capacity cannot shrink in between.
    fn send(&self, message: WatchMessage, revision: Revision) -> bool {
        if self.sender.capacity() > 1 {
            return self.sender.try_send(message).is_ok();
        }
        tracing::debug!(range = ?self.range, "closing a watch whose reader is too slow");
        let _ = self.sender.try_send(WatchMessage::Compacted(revision)); // A reader that is gone needs no message.
        false
    }
}
