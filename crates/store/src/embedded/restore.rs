//! A store made anew from the keys of another.

use std::path::Path;

use bytes::Bytes;

use super::engine::{Batch, Engine, Marks};
use super::redb::RedbEngine;
use crate::{Event, EventKind, KeyValue, Revision, StoreError};

/// Keys written in one batch.
const BATCH_KEYS: usize = 5_000;

/// Makes `directory`, which must not be there, a store with these keys as they are. It stands at `revision`, at
/// which none of the keys is newer; what was before that counts as compacted, so that watches from before begin anew.
pub fn restore(directory: &Path, revision: Revision, kvs: Vec<KeyValue>) -> Result<(), StoreError> {
    if let Some(newer) = kvs.iter().find(|kv| kv.mod_revision > revision) {
        let what = format!("key {} is of revision {}, after {revision}", newer.key.escape_ascii(), newer.mod_revision);
        return Err(StoreError::Corrupt(what));
    }
    std::fs::create_dir(directory).map_err(StoreError::Io)?;
    let marks = Marks { revision, compacted: revision, swept: revision };
    let engine = RedbEngine::open(directory, marks)?;
    for part in kvs.chunks(BATCH_KEYS) {
        let events: Vec<Event> = part.iter().map(put).collect();
        let remove: &[(Revision, Bytes)] = &[];
        engine.append(&Batch { base: revision, events: &events, remove, marks })?;
    }
    Ok(())
}

fn put(kv: &KeyValue) -> Event {
    Event { kind: EventKind::Put, kv: kv.clone(), previous: None }
}
