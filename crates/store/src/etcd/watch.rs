//! One watch: a stream from etcd, opened again wherever it broke.
//!
//! Invariant: the reader gets every event of its range from `next` on once and in order; when somebody waits for a
//! revision that brought nothing for this range, it is told that the revision has passed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch as changes};

use super::grpc::{CallError, Channel, Stream};
use super::{Wanted, key_value, wire};
use crate::{Event, EventKind, KeyRange, Revision, WatchMessage};

pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Between attempts to open the stream again: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// Everything from a revision on.
pub(super) fn request(start_revision: Revision) -> wire::WatchRequest {
    let zero = Bytes::from_static(b"\0");
    let create = wire::WatchCreateRequest { key: zero.clone(), range_end: zero, start_revision, prev_kv: true };
    wire::WatchRequest { create: Some(create) }
}

pub(super) struct Watch {
    channel: Arc<Channel>,
    range: KeyRange,
    /// All before this has been seen.
    next: Revision,
    /// The reader knows that it has seen all up to here.
    told: Revision,
    wanted: changes::Receiver<Wanted>,
    /// Requests for progress that have been answered.
    answered: u64,
    sender: mpsc::Sender<WatchMessage>,
}

/// The watch is over: its reader has gone or was sent away.
struct Over;

impl Watch {
    pub(super) fn new(
        channel: Arc<Channel>,
        range: KeyRange,
        from: Revision,
        wanted: changes::Receiver<Wanted>,
        sender: mpsc::Sender<WatchMessage>,
    ) -> Self {
        let answered = wanted.borrow().requests;
        Watch { channel, range, next: from, told: from - 1, wanted, answered, sender }
    }

    pub(super) async fn run(mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            // One revision too early, which `take` leaves out: asked for exactly the revision of a compaction, etcd
            // begins there without a word, although deletions of that revision are gone.
            let request = request((self.next - 1).max(1));
            let opened = tokio::select! {
                opened = self.channel.stream(WATCH, &request) => opened,
                () = self.sender.closed() => return,
            };
            let before = self.next;
            let cause = match opened {
                Err(cause) => cause,
                Ok(stream) => match self.follow(stream).await {
                    Err(Over) => return,
                    Ok(cause) => cause,
                },
            };
            if self.next > before {
                pause = RETRY_FIRST;
            }
            tracing::warn!("watching etcd: {cause}");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.sender.closed() => return,
            }
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    /// Until the stream breaks, or the watch is over.
    async fn follow(&mut self, mut stream: Stream) -> Result<CallError, Over> {
        loop {
            tokio::select! {
                // Cancelled between messages only: what was read of one stays in the stream's buffer.
                message = stream.next::<wire::WatchResponse>() => match message {
                    Err(cause) => return Ok(cause),
                    Ok(message) => self.take(message)?,
                },
                changed = self.wanted.changed() => changed.map_err(|_| Over)?,
                () = self.sender.closed() => return Err(Over),
            }
            self.tell()?;
        }
    }

    fn take(&mut self, message: wire::WatchResponse) -> Result<(), Over> {
        if message.compact_revision != 0 {
            self.send(WatchMessage::Compacted(message.compact_revision))?;
            return Err(Over);
        }
        if message.canceled {
            tracing::warn!(reason = message.cancel_reason, "etcd ended a watch");
            self.send(WatchMessage::Compacted(self.next))?;
            return Err(Over);
        }
        let mut events = Vec::new();
        // A message holds whole revisions, so that none is seen in part.
        let first = self.next;
        for event in message.events {
            let Some(kv) = event.kv.filter(|kv| kv.mod_revision >= first) else { continue };
            self.next = self.next.max(kv.mod_revision + 1);
            if !self.range.contains(&kv.key) {
                continue;
            }
            let kind = if event.kind == 0 { EventKind::Put } else { EventKind::Delete };
            events.push(Event { kind, kv: key_value(kv), previous: event.prev_kv.map(key_value) });
        }
        if let Some(last) = events.last() {
            self.told = last.kv.mod_revision;
            self.send(WatchMessage::Events(events))?;
        }
        Ok(())
    }

    /// Says how far the watch has come, where somebody waits for it.
    fn tell(&mut self) -> Result<(), Over> {
        let wanted = *self.wanted.borrow_and_update();
        let reached = self.next - 1;
        let news = wanted.revision > self.told || wanted.requests != self.answered;
        if wanted.revision == 0 || wanted.revision > reached || !news {
            return Ok(());
        }
        (self.told, self.answered) = (reached, wanted.requests);
        self.send(WatchMessage::Progress(reached))
    }

    fn send(&self, message: WatchMessage) -> Result<(), Over> {
        if self.sender.capacity() > 1 {
            return self.sender.try_send(message).map_err(|_| Over);
        }
        tracing::debug!(range = ?self.range, "closing a watch whose reader is too slow");
        let _ = self.sender.try_send(WatchMessage::Compacted(self.next - 1)); // A reader that is gone needs no message.
        Err(Over)
    }
}
