//! The MVCC store: etcd's model behind one trait.
//!
//! Invariant: revisions are dense and ordered; a write that was acknowledged is durable; a watch sees every
//! event once and in order. Deliberately absent: any knowledge of Kubernetes objects. Keys and values are bytes.

pub mod embedded;
pub mod etcd;
pub mod memory;
mod mvcc;
mod watchers;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

/// The cluster-wide write counter, etcd's `revision`. The first write of a new store makes revision 2, as in etcd.
pub type Revision = i64;

/// One key with its value at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// 1 at creation, one more with each put.
    pub version: i64,
}

/// A half-open range of keys `[start, end)`; `end: None` means the single key `start`.
#[derive(Clone, Debug)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: Option<Bytes>,
}

#[derive(Clone, Debug)]
pub struct RangeRequest {
    pub range: KeyRange,
    /// 0 reads the newest state; otherwise the state as of that revision.
    pub revision: Revision,
    /// 0 means no limit.
    pub limit: usize,
    pub count_only: bool,
}

#[derive(Clone, Debug)]
pub struct RangeResponse {
    /// The store's revision when it answered (not the one asked for).
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// Keys left in the range beyond `limit`.
    pub more: bool,
    /// All keys in the range, regardless of `limit`.
    pub count: usize,
}

/// One condition of a transaction; all must hold.
#[derive(Clone, Debug)]
pub enum Compare {
    /// The key's mod-revision equals this; 0 means that the key does not exist.
    ModRevision { key: Bytes, equals: Revision },
}

#[derive(Clone, Debug)]
pub enum Write {
    Put { key: Bytes, value: Bytes },
    Delete { key: Bytes },
}

/// Compares, and writes, in one transaction at most: etcd takes 128 unless told otherwise.
pub const TRANSACTION_MAX: usize = 100;

/// `if all compares hold, do all writes in one revision`. Of several writes to one key the last counts.
/// Deleting a key that does not exist changes nothing, and a transaction that changes nothing makes no revision.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    pub writes: Vec<Write>,
}

#[derive(Clone, Debug)]
pub struct TransactionResponse {
    pub succeeded: bool,
    /// The revision that the writes got; the store's current one if the compares failed.
    pub revision: Revision,
    /// When the compares failed: the present state of the compared keys, in order.
    pub current: Vec<Option<KeyValue>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventKind,
    /// For a delete: the key, an empty value, and the delete's revision as `mod_revision`.
    pub kv: KeyValue,
    pub previous: Option<KeyValue>,
}

#[derive(Clone, Debug)]
pub enum WatchMessage {
    /// All events of one or more whole revisions, in order.
    Events(Vec<Event>),
    /// Everything up to this revision has been sent.
    Progress(Revision),
    /// The watch fell behind the compaction horizon or its consumer was too slow; it is closed.
    Compacted(Revision),
}

#[derive(Debug)]
pub enum StoreError {
    /// The asked-for revision is older than `oldest`.
    Compacted { oldest: Revision },
    /// The asked-for revision is newer than `current`.
    FutureRevision { current: Revision },
    /// The disk is full or failing; nothing was written.
    Io(std::io::Error),
    Corrupt(String),
    /// etcd cannot be reached or refused; whether a write was done is not known.
    Etcd(String),
    Closed,
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::Compacted { .. } => f.write_str("mvcc: required revision has been compacted"),
            StoreError::FutureRevision { .. } => f.write_str("mvcc: required revision is a future revision"),
            StoreError::Io(cause) => write!(f, "store: {cause}"),
            StoreError::Corrupt(what) => write!(f, "store: corrupt: {what}"),
            StoreError::Etcd(what) => write!(f, "etcd: {what}"),
            StoreError::Closed => f.write_str("store: closed"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Io(cause) => Some(cause),
            _ => None,
        }
    }
}

impl KeyRange {
    /// The one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        KeyRange { start: key.into(), end: None }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        match end.last_mut() {
            Some(last) => *last += 1,
            // No key sorts after all keys with this prefix; keys are paths, so 0xff.. is beyond all of them.
            None => end = vec![0xff; 16],
        }
        KeyRange { start, end: Some(end.into()) }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => self.start == key,
            Some(end) => *self.start <= *key && *key < **end,
        }
    }

    /// Whether some key with `prefix` may lie in the range.
    pub(crate) fn overlaps_prefix(&self, prefix: &[u8]) -> bool {
        match &self.end {
            None => self.start.starts_with(prefix),
            Some(end) => {
                let other = KeyRange::prefix(Bytes::copy_from_slice(prefix));
                let other_end = other.end.expect("a prefix range has an end");
                self.start < other_end && *prefix < **end
            }
        }
    }
}

impl Write {
    pub fn key(&self) -> &Bytes {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => key,
        }
    }
}

impl RangeRequest {
    /// The newest state of the whole range.
    pub fn newest(range: KeyRange) -> Self {
        RangeRequest { range, revision: 0, limit: 0, count_only: false }
    }
}

/// etcd's model. Every implementation passes the one suite in `tests/`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns after the write is durable. Watchers see it after that.
    async fn commit(&self, transaction: Transaction) -> Result<TransactionResponse, StoreError>;
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError>;
    /// Events of `range` with revision >= `from` (0: from now on, after the current revision).
    async fn watch(&self, range: KeyRange, from: Revision) -> Result<mpsc::Receiver<WatchMessage>, StoreError>;
    /// Forgets history older than `revision`; the newest value of each key stays.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
    /// The newest durable revision.
    async fn current_revision(&self) -> Result<Revision, StoreError>;
    /// Sends every open watch a `Progress`, in order with its events: how a reader of a quiet range learns that
    /// it has seen all there is.
    async fn request_progress(&self) -> Result<(), StoreError>;
    /// Whether others write to it, too.
    fn is_shared(&self) -> bool;
}

pub type SharedStore = Arc<dyn Store>;
