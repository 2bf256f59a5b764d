//! What the embedded store asks of a disk engine: one ordered log, appended to atomically and durably.
//!
//! Invariant: a batch is on disk as a whole when `append` returns `Ok`, and has left no trace when it returns `Err`.
//! Deliberately absent: an index of keys. The store keeps the newest version of every key in memory and finds older
//! ones through `Record::previous_revision`.

use bytes::Bytes;

use crate::{Event, EventKind, KeyValue, Revision, StoreError};

pub(crate) trait Engine: Send + Sync + 'static {
    fn append(&self, batch: &Batch<'_>) -> Result<(), StoreError>;
    /// A view of the log that later appends do not change.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;
    /// Gives unused space back to the file system if the file is much larger than the `stored` bytes in it.
    fn reclaim(&self, stored: u64) -> Result<(), StoreError>;
}

pub(crate) trait Snapshot: Send {
    fn marks(&self) -> Marks;
    /// Calls `each` with the records of revisions `from..=upto`, oldest first, until it says false.
    fn scan(&self, from: Revision, upto: Revision, each: &mut dyn FnMut(Record<'_>) -> bool) -> Result<(), StoreError>;
    /// What was written to `key` at `revision`.
    fn get(&self, revision: Revision, key: &[u8]) -> Result<Option<KeyValue>, StoreError>;
}

/// How far the log reaches in each respect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The newest revision.
    pub revision: Revision,
    /// Reads below this are refused.
    pub compacted: Revision,
    /// What was superseded at or before this revision has been removed from the log.
    pub swept: Revision,
}

pub(crate) struct Batch<'a> {
    /// The revision that the log stands at before the batch.
    pub base: Revision,
    pub events: &'a [Event],
    /// Superseded records to remove: revision and key.
    pub remove: &'a [(Revision, Bytes)],
    pub marks: Marks,
}

/// One write as the log holds it.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    pub kind: EventKind,
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub revision: Revision,
    pub create_revision: Revision,
    pub version: i64,
    /// Where the version stands that this write replaced; 0 if there was none.
    pub previous_revision: Revision,
}

impl Record<'_> {
    pub(crate) fn key_value(&self) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key),
            value: Bytes::copy_from_slice(self.value),
            create_revision: self.create_revision,
            mod_revision: self.revision,
            version: self.version,
        }
    }

    /// Bytes that the record takes, roughly.
    pub(crate) fn size(&self) -> u64 {
        record_size(self.key.len(), self.value.len())
    }
}

pub(crate) fn record_size(key: usize, value: usize) -> u64 {
    (key + value + HEADER + 8) as u64
}

/// kind, create revision, version, previous revision.
const HEADER: usize = 1 + 8 + 8 + 8;

/// The part of a record that is stored under (revision, key).
pub(crate) fn encode(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + event.kv.value.len());
    out.push(match event.kind {
        EventKind::Put => 1,
        EventKind::Delete => 2,
    });
    out.extend_from_slice(&event.kv.create_revision.to_le_bytes());
    out.extend_from_slice(&event.kv.version.to_le_bytes());
    out.extend_from_slice(&event.previous.as_ref().map_or(0, |kv| kv.mod_revision).to_le_bytes());
    out.extend_from_slice(&event.kv.value);
    out
}

pub(crate) fn decode<'a>(revision: Revision, key: &'a [u8], stored: &'a [u8]) -> Result<Record<'a>, StoreError> {
    let damaged = || StoreError::Corrupt(format!("record of revision {revision}"));
    let (header, value) = stored.split_at_checked(HEADER).ok_or_else(damaged)?;
    let kind = match header[0] {
        1 => EventKind::Put,
        2 => EventKind::Delete,
        _ => return Err(damaged()),
    };
    let number = |at: usize| i64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes of the header"));
    Ok(Record {
        kind,
        key,
        value,
        revision,
        create_revision: number(1),
        version: number(9),
        previous_revision: number(17),
    })
}
