//! The log in one redb file.
//!
//! Invariant: the file under the final name is always complete; it is made, and made smaller, under another name and
//! renamed. After a failed write the file is opened again before the next one, and whatever the failed batch left
//! behind is cut off. Deliberately absent: redb's own compaction, which rewrites in place and needs a long repair when
//! it is killed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::engine::{self, Batch, Engine, Marks, Record, Snapshot};
use crate::{KeyValue, Revision, StoreError};

const LOG: TableDefinition<(i64, &[u8]), &[u8]> = TableDefinition::new("log");
const MARKS: TableDefinition<(), (i64, i64, i64)> = TableDefinition::new("marks");

const FILE: &str = "store.redb";
const NEW_FILE: &str = "store.redb.new";

/// The state is served from memory, so the page cache only helps the upper levels of the tree.
const CACHE_BYTES: usize = 8 << 20;

/// A file smaller than this is not worth the work of making it smaller.
const RECLAIM_BYTES: u64 = 32 << 20;
/// How many times its content the file may measure.
const RECLAIM_RATIO: u64 = 4;
/// Records copied in one transaction while the file is made smaller.
const COPY_RECORDS: usize = 20_000;

type Open = dyn Fn() -> Result<Database, StoreError> + Send + Sync;

pub(crate) struct RedbEngine {
    open: Box<Open>,
    /// `None` after a failed write, until the file has been opened again.
    database: Mutex<Option<Arc<Database>>>,
    directory: Option<PathBuf>,
}

impl RedbEngine {
    pub(crate) fn open(directory: &Path, first: Marks) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let new = directory.join(NEW_FILE);
        remove_if_there(&new)?; // Somebody was killed while writing it.
        if !path.exists() {
            start(&create(&new)?, first)?;
            put_in_place(directory)?;
        }
        let open = move || builder().open(&path).map_err(failure);
        let database = open()?;
        Ok(RedbEngine {
            open: Box::new(open),
            database: Mutex::new(Some(Arc::new(database))),
            directory: Some(directory.to_owned()),
        })
    }

    #[cfg(test)]
    pub(crate) fn with_opener(open: Box<Open>, first: Option<Marks>) -> Result<Self, StoreError> {
        let database = open()?;
        if let Some(first) = first {
            start(&database, first)?;
        }
        Ok(RedbEngine { open, database: Mutex::new(Some(Arc::new(database))), directory: None })
    }

    fn reopen(&self, base: Revision) -> Result<Database, StoreError> {
        let database = (self.open)()?;
        let found = snapshot(&database)?.marks;
        if found.revision < base {
            let what = format!("the log ends at revision {}, revision {base} was written", found.revision);
            return Err(StoreError::Corrupt(what));
        }
        if found.revision > base {
            // The batch reached the disk although its writers were told that it did not.
            let transaction = begin(&database)?;
            {
                let mut log = transaction.open_table(LOG).map_err(failure)?;
                log.retain_in((base + 1, &[][..]).., |_, _| false).map_err(failure)?;
                let mut marks = transaction.open_table(MARKS).map_err(failure)?;
                marks.insert((), (base, found.compacted.min(base), found.swept.min(base))).map_err(failure)?;
            }
            transaction.commit().map_err(failure)?;
        }
        tracing::info!(revision = base, "the store's disk answers again");
        Ok(database)
    }

    /// Copies the log into a new file and puts that in the old one's place.
    fn rewrite(&self, directory: &Path, old: &Database) -> Result<Database, StoreError> {
        let new = create(&directory.join(NEW_FILE))?;
        let source = snapshot(old)?;
        start(&new, source.marks)?;
        let mut records = source.log.range::<(i64, &[u8])>(..).map_err(failure)?.peekable();
        while records.peek().is_some() {
            let transaction = begin(&new)?;
            {
                let mut log = transaction.open_table(LOG).map_err(failure)?;
                for record in records.by_ref().take(COPY_RECORDS) {
                    let (key, stored) = record.map_err(failure)?;
                    log.insert(key.value(), stored.value()).map_err(failure)?;
                }
            }
            transaction.commit().map_err(failure)?;
        }
        put_in_place(directory)?;
        Ok(new)
    }
}

impl Engine for RedbEngine {
    fn append(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let mut slot = self.database.lock();
        let database = match &*slot {
            Some(database) => database.clone(),
            None => slot.insert(Arc::new(self.reopen(batch.base)?)).clone(),
        };
        drop(slot); // Snapshots are taken while the disk works.
        let written = write(&database, batch);
        if written.is_err() {
            *self.database.lock() = None;
        }
        written
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let database = self.database.lock().clone();
        let database = database.ok_or_else(|| StoreError::Io(io::Error::other("the disk failed")))?;
        Ok(Box::new(snapshot(&database)?))
    }

    fn reclaim(&self, stored: u64) -> Result<(), StoreError> {
        let (Some(directory), Some(database)) = (&self.directory, self.database.lock().clone()) else { return Ok(()) };
        let length = std::fs::metadata(directory.join(FILE)).map_err(StoreError::Io)?.len();
        if length < RECLAIM_BYTES || length / RECLAIM_RATIO < stored {
            return Ok(());
        }
        let new = self.rewrite(directory, &database).inspect_err(|_| {
            let _ = remove_if_there(&directory.join(NEW_FILE)); // It may be what fills the disk.
        })?;
        *self.database.lock() = Some(Arc::new(new));
        tracing::info!(before = length, stored, "made the store's file smaller");
        Ok(())
    }
}

struct RedbSnapshot {
    log: ReadOnlyTable<(i64, &'static [u8]), &'static [u8]>,
    marks: Marks,
}

impl Snapshot for RedbSnapshot {
    fn marks(&self) -> Marks {
        self.marks
    }

    fn scan(&self, from: Revision, upto: Revision, each: &mut dyn FnMut(Record<'_>) -> bool) -> Result<(), StoreError> {
        for record in self.log.range((from, &[][..])..(upto + 1, &[][..])).map_err(failure)? {
            let (key, stored) = record.map_err(failure)?;
            let (revision, key) = key.value();
            if !each(engine::decode(revision, key, stored.value())?) {
                break;
            }
        }
        Ok(())
    }

    fn get(&self, revision: Revision, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        let Some(stored) = self.log.get((revision, key)).map_err(failure)? else { return Ok(None) };
        Ok(Some(engine::decode(revision, key, stored.value())?.key_value()))
    }
}

fn snapshot(database: &Database) -> Result<RedbSnapshot, StoreError> {
    let transaction = database.begin_read().map_err(failure)?;
    let marks = transaction.open_table(MARKS).map_err(failure)?.get(()).map_err(failure)?;
    let (revision, compacted, swept) =
        marks.ok_or_else(|| StoreError::Corrupt("the log has no marks".to_owned()))?.value();
    Ok(RedbSnapshot { log: transaction.open_table(LOG).map_err(failure)?, marks: Marks { revision, compacted, swept } })
}

fn write(database: &Database, batch: &Batch<'_>) -> Result<(), StoreError> {
    let transaction = begin(database)?;
    {
        let mut log = transaction.open_table(LOG).map_err(failure)?;
        for event in batch.events {
            log.insert((event.kv.mod_revision, &event.kv.key[..]), &engine::encode(event)[..]).map_err(failure)?;
        }
        for (revision, key) in batch.remove {
            log.remove((*revision, &key[..])).map_err(failure)?;
        }
        let Marks { revision, compacted, swept } = batch.marks;
        let mut marks = transaction.open_table(MARKS).map_err(failure)?;
        marks.insert((), (revision, compacted, swept)).map_err(failure)?;
    }
    transaction.commit().map_err(failure)
}

/// Makes the tables, so that readers need not care whether something was ever written.
fn start(database: &Database, first: Marks) -> Result<(), StoreError> {
    write(database, &Batch { base: first.revision, events: &[], remove: &[], marks: first })
}

fn begin(database: &Database) -> Result<redb::WriteTransaction, StoreError> {
    let mut transaction = database.begin_write().map_err(failure)?;
    // Opening after a kill then takes milliseconds instead of a walk through the whole file.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn create(path: &Path) -> Result<Database, StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    // Secrets are in it.
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(StoreError::Io)?;
    builder().create_file(file).map_err(failure)
}

fn put_in_place(directory: &Path) -> Result<(), StoreError> {
    std::fs::rename(directory.join(NEW_FILE), directory.join(FILE)).map_err(StoreError::Io)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(StoreError::Io)
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(StoreError::Io(cause)),
        _ => Ok(()),
    }
}

pub(super) fn failure(cause: impl Into<redb::Error>) -> StoreError {
    match cause.into() {
        redb::Error::Io(cause) => StoreError::Io(cause),
        redb::Error::Corrupted(what) => StoreError::Corrupt(what),
        redb::Error::DatabaseAlreadyOpen => {
            StoreError::Io(io::Error::new(io::ErrorKind::ResourceBusy, "another process has the store open"))
        }
        other => StoreError::Io(io::Error::other(other)),
    }
}
