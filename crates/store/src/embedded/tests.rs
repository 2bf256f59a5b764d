//! A disk that fails, and one that was read from before the window.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use ::redb::{Database, StorageBackend};

use super::*;
use crate::{Compare, KeyValue, Write};

/// A disk whose content outlives the databases on it, with a switch for each way to fail.
#[derive(Clone, Default)]
struct Disk(Arc<DiskState>);

#[derive(Default)]
struct DiskState {
    content: Mutex<Vec<u8>>,
    full: AtomicBool,
    sync_fails: AtomicBool,
    /// Counts down with each write; at zero the disk fails. 0 from the start: never.
    writes_left: AtomicUsize,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.content.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.0.content.lock();
        let end = offset as usize + out.len();
        out.copy_from_slice(content.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.content.lock().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.0.sync_fails.load(SeqCst) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.0.full.load(SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.0.writes_left.load(SeqCst) > 0 && self.0.writes_left.fetch_sub(1, SeqCst) == 1 {
            self.0.full.store(true, SeqCst);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.content.lock()[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Disk {
    fn store(&self, settings: Settings) -> EmbeddedStore {
        let disk = self.clone();
        let open = move || -> Result<Database, StoreError> {
            redb::builder().create_with_backend(disk.clone()).map_err(redb::failure)
        };
        let started = !self.0.content.lock().is_empty();
        let engine = match started {
            true => RedbEngine::with_opener(Box::new(open), None),
            false => RedbEngine::with_opener(Box::new(open), Some(FIRST_MARKS)),
        };
        EmbeddedStore::start(engine.unwrap(), settings).unwrap()
    }

    fn heal(&self) {
        self.0.full.store(false, SeqCst);
        self.0.sync_fails.store(false, SeqCst);
        self.0.writes_left.store(0, SeqCst);
    }
}

fn put(key: &str, value: &str) -> Transaction {
    let write = Write::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value.as_bytes()) };
    Transaction { compares: Vec::new(), writes: vec![write] }
}

fn delete(key: &str) -> Transaction {
    Transaction { compares: Vec::new(), writes: vec![Write::Delete { key: Bytes::copy_from_slice(key.as_bytes()) }] }
}

async fn read(store: &EmbeddedStore, revision: Revision) -> Result<String, StoreError> {
    let request = RangeRequest { revision, ..RangeRequest::newest(KeyRange::prefix("/")) };
    let text = |kv: &KeyValue| {
        format!("{}={}@{}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value), kv.mod_revision)
    };
    Ok(store.range(request).await?.kvs.iter().map(text).collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers() {
    let disk = Disk::default();
    let store = disk.store(Settings::default());
    store.commit(put("/a", "1")).await.unwrap();
    let mut watch = store.watch(KeyRange::prefix("/"), 0).await.unwrap();

    disk.0.full.store(true, SeqCst);
    for _ in 0..3 {
        let refused = store.commit(put("/a", "2")).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Io(cause) if cause.kind() == io::ErrorKind::StorageFull), "{refused}");
    }
    assert_eq!(read(&store, 0).await.unwrap(), "/a=1@2");

    disk.heal();
    assert_eq!(store.commit(put("/a", "3")).await.unwrap().revision, 3);
    assert_eq!(read(&store, 0).await.unwrap(), "/a=3@3");
    let Some(WatchMessage::Events(events)) = watch.recv().await else { panic!("no events") };
    assert_eq!((events.len(), &events[0].kv.value[..]), (1, &b"3"[..]));

    drop(store);
    assert_eq!(read(&disk.store(Settings::default()), 0).await.unwrap(), "/a=3@3");
}

#[tokio::test]
async fn a_write_that_was_refused_does_not_come_back() {
    let disk = Disk::default();
    let settings = Settings { ephemeral_prefixes: vec!["/lease/".into()], ..Settings::default() };
    let store = disk.store(settings.clone());
    store.commit(put("/a", "1")).await.unwrap();
    store.commit(put("/lease/x", "1")).await.unwrap();

    // The bytes arrive, only the sync says no: the batch may well be there when the file is opened again.
    disk.0.sync_fails.store(true, SeqCst);
    store.commit(put("/a", "2")).await.unwrap_err();
    store.commit(put("/lease/x", "2")).await.unwrap_err();
    disk.heal();
    assert_eq!(store.commit(put("/b", "1")).await.unwrap().revision, 4);
    assert_eq!(read(&store, 0).await.unwrap(), "/a=1@2 /b=1@4 /lease/x=1@3");
    drop(store);
    assert_eq!(read(&disk.store(settings), 0).await.unwrap(), "/a=1@2 /b=1@4 /lease/x=1@3");
}

#[tokio::test]
async fn a_disk_may_fail_at_any_write() {
    for writes in 1..40 {
        let disk = Disk::default();
        let store = disk.store(Settings::default());
        store.commit(put("/a", "0")).await.unwrap();
        disk.0.writes_left.store(writes, SeqCst);
        let mut acknowledged = 0;
        for round in 1..=20 {
            if store.commit(put("/a", &round.to_string())).await.is_ok() {
                acknowledged = round;
            }
        }
        disk.heal();
        let expected = format!("/a={acknowledged}@{}", acknowledged + 2);
        assert_eq!(read(&store, 0).await.unwrap(), expected, "failing at write {writes}");
        let answer = store.commit(put("/b", "1")).await.unwrap();
        assert_eq!(answer.revision, acknowledged + 3, "failing at write {writes}");
        drop(store);
        let expected = format!("{expected} /b=1@{}", acknowledged + 3);
        assert_eq!(read(&disk.store(Settings::default()), 0).await.unwrap(), expected, "failing at write {writes}");
    }
}

#[tokio::test]
async fn history_from_before_the_window_comes_from_the_log() {
    let disk = Disk::default();
    let settings = Settings { window_events: 2, ..Settings::default() };
    let store = disk.store(settings.clone());
    for transaction in [put("/a", "1"), put("/b", "1"), put("/a", "2"), delete("/b"), put("/c", "1"), put("/a", "3")] {
        store.commit(transaction).await.unwrap();
    }
    for store in [store, { disk.store(settings) }] {
        for (revision, expected) in [
            (2, "/a=1@2"),
            (3, "/a=1@2 /b=1@3"),
            (4, "/a=2@4 /b=1@3"),
            (5, "/a=2@4"),
            (6, "/a=2@4 /c=1@6"),
            (7, "/a=3@7 /c=1@6"),
        ] {
            assert_eq!(read(&store, revision).await.unwrap(), expected, "at revision {revision}");
        }
        let mut watch = store.watch(KeyRange::prefix("/"), 3).await.unwrap();
        let mut seen = String::new();
        while seen.split_whitespace().count() < 5 {
            let Some(WatchMessage::Events(events)) = watch.recv().await else { panic!("no events") };
            for Event { kind, kv, previous } in events {
                let previous = previous.map_or(0, |kv| kv.mod_revision);
                seen += &format!("{kind:?}({},{}<-{previous}) ", String::from_utf8_lossy(&kv.key), kv.mod_revision);
            }
        }
        assert_eq!(seen, "Put(/b,3<-0) Put(/a,4<-2) Delete(/b,5<-3) Put(/c,6<-0) Put(/a,7<-4) ");
        drop(store);
    }
}

#[tokio::test]
async fn ephemeral_keys_leave_no_history_on_disk() {
    let disk = Disk::default();
    let settings = Settings { ephemeral_prefixes: vec!["/lease/".into()], ..Settings::default() };
    let store = disk.store(settings.clone());
    for round in 0..100 {
        store.commit(put("/lease/x", &round.to_string())).await.unwrap();
    }
    store.commit(put("/lease/gone", "1")).await.unwrap();
    store.commit(delete("/lease/gone")).await.unwrap();
    store.commit(put("/a", "1")).await.unwrap();
    let mut records = 0;
    store.shared.engine.snapshot().unwrap().scan(0, 1000, &mut |_| { records += 1; true }).unwrap();
    assert_eq!(records, 2);
    // While it runs, recent history is known all the same.
    assert!(store.watch(KeyRange::prefix("/lease/"), 50).await.is_ok());

    drop(store);
    let store = disk.store(settings);
    assert_eq!(read(&store, 0).await.unwrap(), "/a=1@104 /lease/x=99@101");
    let refused = store.watch(KeyRange::prefix("/lease/"), 50).await.unwrap_err();
    assert!(matches!(refused, StoreError::Compacted { oldest: 104 }), "{refused:?}");
    assert!(store.watch(KeyRange::prefix("/a"), 50).await.is_ok());
}

#[tokio::test]
async fn history_is_cut_by_itself() {
    let disk = Disk::default();
    let settings = Settings { retain_revisions: 100, window_events: 10, ..Settings::default() };
    let store = disk.store(settings);
    for round in 0..1000 {
        store.commit(put("/a", &round.to_string())).await.unwrap();
    }
    let mut records = 0;
    store.shared.engine.snapshot().unwrap().scan(0, 10_000, &mut |_| { records += 1; true }).unwrap();
    assert!((100..200).contains(&records), "{records} records");
    assert!(matches!(read(&store, 5).await, Err(StoreError::Compacted { .. })));
    assert_eq!(read(&store, 950).await.unwrap(), "/a=948@950");
    // Compares go on working with what is left.
    let compare = Compare::ModRevision { key: "/a".into(), equals: 1001 };
    let answer = store.commit(Transaction { compares: vec![compare], ..put("/a", "last") }).await.unwrap();
    assert!(answer.succeeded);
}

#[tokio::test]
async fn a_file_that_has_become_too_large_is_made_smaller() {
    let directory = tempfile::tempdir().unwrap();
    let length = || std::fs::metadata(directory.path().join("store.redb")).unwrap().len();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let value = "x".repeat(200_000);
    let many: Vec<String> = (0..300).map(|number| format!("/{number}")).collect();
    futures::future::join_all(many.iter().map(|key| store.commit(put(key, &value)))).await;
    let before = length();
    futures::future::join_all(many.iter().skip(2).map(|key| store.commit(delete(key)))).await;
    let revision = store.current_revision().await.unwrap();
    store.compact(revision).await.unwrap();
    assert!(before > 60_000_000 && length() < before / 10, "{before} became {}", length());
    store.commit(put("/last", "1")).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let answer = store.range(RangeRequest::newest(KeyRange::prefix("/"))).await.unwrap();
    assert_eq!((answer.count, answer.revision), (3, revision + 1));
}

#[tokio::test]
async fn a_restored_store_has_the_keys_and_no_past() {
    let scratch = tempfile::tempdir().unwrap();
    let old = EmbeddedStore::open(scratch.path().join("old")).unwrap();
    for transaction in [put("/a", "1"), put("/a", "2"), put("/b", "3"), delete("/b"), put("/c", "4")] {
        old.commit(transaction).await.unwrap();
    }
    let kept = old.range(RangeRequest::newest(KeyRange::prefix("/"))).await.unwrap();
    let directory = scratch.path().join("new");
    restore(&directory, 100, kept.kvs.clone()).unwrap();
    assert!(matches!(restore(&directory, 100, kept.kvs.clone()), Err(StoreError::Io(cause)) if cause.kind() == io::ErrorKind::AlreadyExists));
    assert!(matches!(restore(&scratch.path().join("low"), 2, kept.kvs.clone()), Err(StoreError::Corrupt(_))));

    let new = EmbeddedStore::open(&directory).unwrap();
    let found = new.range(RangeRequest::newest(KeyRange::prefix("/"))).await.unwrap();
    assert_eq!((found.revision, &found.kvs), (100, &kept.kvs));
    assert!(matches!(new.watch(KeyRange::prefix("/"), kept.revision).await, Err(StoreError::Compacted { oldest: 100 })));
    assert_eq!(new.commit(put("/a", "5")).await.unwrap().revision, 101);
    drop(new);
    let again = EmbeddedStore::open(&directory).unwrap();
    assert_eq!(read(&again, 0).await.unwrap(), "/a=5@101 /c=4@6");
}
