//! The store in an etcd cluster, which several API servers may share.
//!
//! Invariants: a commit is answered after etcd has it durable, and is sent at most once; reads are linearizable; a
//! watch outlives lost connections and failing members, and ends only when compaction overtakes it or its reader is
//! too slow. Keys lie as Kubernetes lays them out; values are what this API server writes (JSON), so an etcd is shared
//! among servers of this kind.
//!
//! Deliberately absent: any cache. A watch asks etcd for every key and passes on its range: so it sees every revision,
//! and knows of each when it has passed, without asking for progress (which etcd before 3.4.25 may report too early).

mod compact;
mod endpoints;
mod grpc;
mod watch;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch as changes};
use tokio::time::Instant;

use self::grpc::{CallError, Channel};
use crate::mvcc::last_of_each_key;
use crate::{
    Compare, KeyRange, KeyValue, RangeRequest, RangeResponse, Revision, Store, StoreError, Transaction,
    TransactionResponse, WatchMessage, Write, watchers,
};

/// Keys read at a time.
const PAGE_KEYS: usize = 2_000;
/// Keys that share a lease, and for how long; the original's figures.
const LEASE_KEYS: u32 = 1_000;
const LEASE_SHARED: Duration = Duration::from_secs(60);

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";

/// Where etcd is and how it is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `http(s)://[user:password@]host:port`, separated by commas.
    pub endpoints: String,
    /// Who signed the servers' certificates; empty: the machine's authorities.
    pub authority_pem: String,
    /// Client certificate and key; empty: none.
    pub certificate_pem: String,
    pub key_pem: String,
    /// Values under these prefixes go by themselves when they have not been written for so long.
    pub short_lived: Vec<(Bytes, Duration)>,
    /// History older than this is compacted away, by whichever server comes first. None: by others.
    pub compact_every: Option<Duration>,
}

impl Settings {
    pub fn new(endpoints: &str) -> Self {
        Settings {
            endpoints: endpoints.to_owned(),
            authority_pem: String::new(),
            certificate_pem: String::new(),
            key_pem: String::new(),
            short_lived: Vec::new(),
            compact_every: Some(Duration::from_secs(5 * 60)),
        }
    }
}

pub struct EtcdStore {
    channel: Arc<Channel>,
    short_lived: Vec<ShortLived>,
    /// The newest revision that some reader waits for, and how often progress was asked for.
    wanted: changes::Sender<Wanted>,
    compactor: Option<tokio::task::AbortHandle>,
}

#[derive(Clone, Copy, Default)]
struct Wanted {
    revision: Revision,
    requests: u64,
}

struct ShortLived {
    prefix: Bytes,
    life: Duration,
    lease: tokio::sync::Mutex<Option<Lease>>,
}

struct Lease {
    id: i64,
    granted_at: Instant,
    keys: u32,
}

impl EtcdStore {
    /// Reads the settings; etcd is connected to when it is needed. Needs a tokio runtime.
    pub fn new(settings: Settings) -> Result<Self, StoreError> {
        let (endpoints, credentials) = endpoints::read(&settings)?;
        let channel = Arc::new(Channel::new(endpoints, credentials));
        let compactor = settings.compact_every.map(|every| tokio::spawn(compact::run(channel.clone(), every)).abort_handle());
        let short_lived = settings.short_lived.into_iter();
        Ok(EtcdStore {
            channel,
            short_lived: short_lived.map(|(prefix, life)| ShortLived { prefix, life, lease: Default::default() }).collect(),
            wanted: changes::Sender::new(Wanted::default()),
            compactor,
        })
    }

    /// The lease for a key that is to go by itself; 0: none.
    async fn lease(&self, key: &[u8]) -> Result<i64, CallError> {
        let Some(kind) = self.short_lived.iter().find(|kind| key.starts_with(&kind.prefix)) else { return Ok(0) };
        let mut current = kind.lease.lock().await;
        let now = Instant::now();
        // A twentieth of the life is nothing to who waits for the end.
        let shared = LEASE_SHARED.min(kind.life / 20);
        if let Some(lease) = &mut *current
            && now - lease.granted_at <= shared
            && lease.keys < LEASE_KEYS
        {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let ttl = (kind.life + shared).as_secs().max(1) as i64;
        let granted: wire::LeaseGrantResponse = self.channel.write(LEASE_GRANT, &wire::LeaseGrantRequest { ttl }).await?;
        *current = Some(Lease { id: granted.id, granted_at: now, keys: 1 });
        Ok(granted.id)
    }

    async fn range_page(&self, request: &wire::RangeRequest) -> Result<wire::RangeResponse, StoreError> {
        match self.channel.read(RANGE, request).await {
            Err(cause) if cause.is_compacted() => Err(StoreError::Compacted { oldest: self.oldest().await? }),
            Err(cause) if cause.is_future() => Err(StoreError::FutureRevision { current: self.linearizable_revision().await? }),
            other => other.map_err(failure),
        }
    }

    /// The revision of the last compaction, which etcd tells to watches only.
    async fn oldest(&self) -> Result<Revision, StoreError> {
        let create = watch::request(1);
        let mut stream = self.channel.stream(watch::WATCH, &create).await.map_err(failure)?;
        loop {
            let message: wire::WatchResponse = stream.next().await.map_err(failure)?;
            if message.compact_revision != 0 || message.canceled || !message.events.is_empty() {
                return Ok(message.compact_revision);
            }
        }
    }

    async fn op(&self, write: Write) -> Result<wire::RequestOp, StoreError> {
        let request = match write {
            Write::Put { key, value } => {
                let lease = self.lease(&key).await.map_err(failure)?;
                wire::Request::Put(wire::PutRequest { key, value, lease })
            }
            Write::Delete { key } => wire::Request::DeleteRange(wire::DeleteRangeRequest { key }),
        };
        Ok(wire::RequestOp { request: Some(request) })
    }

    /// The revision of etcd as of now, by a read that asks a majority.
    async fn linearizable_revision(&self) -> Result<Revision, StoreError> {
        let request = wire::RangeRequest { key: Bytes::from_static(b"\0"), count_only: true, ..Default::default() };
        let answer: wire::RangeResponse = self.channel.read(RANGE, &request).await.map_err(failure)?;
        Ok(answer.header.unwrap_or_default().revision)
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        if let Some(compactor) = &self.compactor {
            compactor.abort();
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn commit(&self, transaction: Transaction) -> Result<TransactionResponse, StoreError> {
        let compared = transaction.compares.iter().map(|Compare::ModRevision { key, .. }| {
            wire::RequestOp { request: Some(wire::Request::Range(wire::RangeRequest { key: key.clone(), ..Default::default() })) }
        });
        let mut request = wire::TxnRequest { failure: compared.collect(), ..Default::default() };
        for Compare::ModRevision { key, equals } in transaction.compares {
            request.compare.push(wire::Compare::mod_revision(key, equals));
        }
        for write in last_of_each_key(transaction.writes) {
            request.success.push(self.op(write).await?);
        }
        let answer: wire::TxnResponse = self.channel.write(TXN, &request).await.map_err(failure)?;
        let current = match answer.succeeded {
            true => Vec::new(),
            false => answer
                .responses
                .into_iter()
                .map(|response| response.range.and_then(|range| range.kvs.into_iter().next()).map(key_value))
                .collect(),
        };
        Ok(TransactionResponse { succeeded: answer.succeeded, revision: answer.header.unwrap_or_default().revision, current })
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let RangeRequest { range, revision, limit, count_only } = request;
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            let revision = self.linearizable_revision().await?;
            return Ok(RangeResponse { revision, kvs: Vec::new(), more: false, count: 0 });
        }
        let range_end = range.end.unwrap_or_default();
        let mut page = wire::RangeRequest { key: range.start, range_end, revision, count_only, limit: 0 };
        let mut kvs: Vec<KeyValue> = Vec::new();
        let mut first: Option<(Revision, usize)> = None;
        loop {
            let wanted = if limit == 0 { PAGE_KEYS } else { PAGE_KEYS.min(limit - kvs.len()) };
            page.limit = if count_only { 0 } else { wanted as i64 };
            let answer = self.range_page(&page).await?;
            let header = answer.header.unwrap_or_default().revision;
            let (answered, count) = *first.get_or_insert((header, answer.count as usize));
            // The pages that follow are of the same state.
            page.revision = if revision == 0 { answered } else { revision };
            kvs.extend(answer.kvs.into_iter().map(key_value));
            if !answer.more || (limit != 0 && kvs.len() >= limit) {
                return Ok(RangeResponse { revision: answered, kvs, more: answer.more && !count_only, count });
            }
            let mut next = kvs.last().map(|kv| kv.key.to_vec()).unwrap_or_default();
            next.push(0);
            page.key = next.into();
        }
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<mpsc::Receiver<WatchMessage>, StoreError> {
        let from = match from {
            0 => self.linearizable_revision().await? + 1,
            from => from,
        };
        if from > 1 {
            // Said at once where it is known at once; the stream says it of a compaction that comes in between.
            let before = wire::RangeRequest { key: Bytes::from_static(b"\0"), revision: from - 1, count_only: true, ..Default::default() };
            match self.range_page(&before).await {
                Ok(_) | Err(StoreError::FutureRevision { .. }) => {}
                Err(cause) => return Err(cause),
            }
        }
        let (sender, receiver) = watchers::channel();
        let watch = watch::Watch::new(self.channel.clone(), range, from, self.wanted.subscribe(), sender);
        tokio::spawn(watch.run());
        Ok(receiver)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        if revision <= 0 {
            return Ok(());
        }
        let request = wire::CompactionRequest { revision, physical: true };
        match self.channel.read::<wire::Done>(COMPACT, &request).await {
            Err(cause) if cause.is_compacted() => Ok(()),
            Err(cause) if cause.is_future() => Err(StoreError::FutureRevision { current: self.linearizable_revision().await? }),
            other => other.map(|_| ()).map_err(failure),
        }
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        let revision = self.linearizable_revision().await?;
        // Whoever asks will wait until a watch has come so far; if the revision was of another key, it must be told.
        self.wanted.send_if_modified(|wanted| {
            let news = wanted.revision < revision;
            wanted.revision = wanted.revision.max(revision);
            news
        });
        Ok(revision)
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        let revision = self.linearizable_revision().await?;
        self.wanted.send_modify(|wanted| {
            wanted.revision = wanted.revision.max(revision);
            wanted.requests += 1;
        });
        Ok(())
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// A copy of its own: what prost cuts out would keep the whole answer alive.
fn key_value(kv: wire::KeyValue) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(&kv.key),
        value: Bytes::copy_from_slice(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
    }
}

fn failure(cause: CallError) -> StoreError {
    StoreError::Etcd(cause.to_string())
}
