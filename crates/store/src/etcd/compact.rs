//! Forgets what is older than a period, once for all servers that share an etcd: the original's protocol.
//!
//! The key `compact_rev_key` counts the rounds by its version and holds the revision that the last one compacted to.
//! Who finds the version that it saw a period ago takes the round, and compacts to the revision of a period ago.
//!
//! Invariant: nothing younger than a period is forgotten, however many servers there are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::grpc::{CallError, Channel};
use super::{COMPACT, TXN, wire};

const KEY: &[u8] = b"compact_rev_key";

/// What this server saw a period ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    round: i64,
    revision: i64,
}

pub(super) async fn run(channel: Arc<Channel>, every: Duration) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(every).await;
        match round(&channel, seen).await {
            Ok(next) => seen = next,
            Err(cause) => tracing::warn!("compacting etcd: {cause}"),
        }
    }
}

async fn round(channel: &Channel, seen: Seen) -> Result<Seen, CallError> {
    let key = Bytes::from_static(KEY);
    let value = Bytes::from(seen.revision.to_string());
    let put = wire::Request::Put(wire::PutRequest { key: key.clone(), value, lease: 0 });
    let get = wire::Request::Range(wire::RangeRequest { key: key.clone(), ..Default::default() });
    let request = wire::TxnRequest {
        compare: vec![wire::Compare::version(key, seen.round)],
        success: vec![wire::RequestOp { request: Some(put) }],
        failure: vec![wire::RequestOp { request: Some(get) }],
    };
    let answer: wire::TxnResponse = channel.write(TXN, &request).await?;
    let revision = answer.header.unwrap_or_default().revision;
    if !answer.succeeded {
        let found = answer.responses.into_iter().find_map(|response| response.range?.kvs.into_iter().next());
        return Ok(Seen { round: found.map_or(0, |kv| kv.version), revision });
    }
    if seen.revision > 0 {
        let request = wire::CompactionRequest { revision: seen.revision, physical: false };
        match channel.read::<wire::Done>(COMPACT, &request).await {
            Err(cause) if !cause.is_compacted() => return Err(cause),
            _ => tracing::debug!(revision = seen.revision, "etcd is compacted"),
        }
    }
    Ok(Seen { round: seen.round + 1, revision })
}
