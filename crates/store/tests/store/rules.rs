//! The rules one by one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::embedded::EmbeddedStore;
use store::memory::MemoryStore;
use store::{
    Compare, EventKind, KeyRange, RangeRequest, Revision, SharedStore, StoreError, Transaction, WatchMessage, Write,
};
use tokio::sync::mpsc;

use crate::etcd::Etcd;

/// Every engine, each in a new store; what holds it lives as long as the store is used. etcd only where it is installed.
pub fn engines() -> Vec<(&'static str, SharedStore, Box<dyn std::any::Any>)> {
    let directory = tempfile::tempdir().unwrap();
    let embedded = EmbeddedStore::open(directory.path()).unwrap();
    let mut engines: Vec<(&'static str, SharedStore, Box<dyn std::any::Any>)> =
        vec![("memory", Arc::new(MemoryStore::new()), Box::new(())), ("embedded", Arc::new(embedded), Box::new(directory))];
    if let Some(etcd) = Etcd::start() {
        engines.push(("etcd", Arc::new(etcd.store()), Box::new(etcd)));
    }
    engines
}

pub fn put(key: &str, value: &str) -> Write {
    Write::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value.as_bytes()) }
}

pub fn delete(key: &str) -> Write {
    Write::Delete { key: Bytes::copy_from_slice(key.as_bytes()) }
}

pub fn transaction(writes: impl Into<Vec<Write>>) -> Transaction {
    Transaction { compares: Vec::new(), writes: writes.into() }
}

async fn write(store: &SharedStore, writes: impl Into<Vec<Write>>) -> Revision {
    store.commit(transaction(writes)).await.unwrap().revision
}

/// `key=value@create/mod/version` of each, then `+` if there are more.
async fn show(store: &SharedStore, request: RangeRequest) -> String {
    let answer = match store.range(request).await {
        Ok(answer) => answer,
        Err(refused) => return refused.to_string(),
    };
    let mut out: Vec<String> = Vec::new();
    for kv in &answer.kvs {
        let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
        out.push(format!("{key}={value}@{}/{}/{}", kv.create_revision, kv.mod_revision, kv.version));
    }
    if answer.more {
        out.push(format!("+{}", answer.count - answer.kvs.len()));
    }
    out.join(" ")
}

/// The next events, as `+key@revision` and `-key@revision`; stops at anything else, naming it.
pub async fn next(watch: &mut mpsc::Receiver<WatchMessage>) -> String {
    let message = tokio::time::timeout(Duration::from_secs(10), watch.recv()).await.expect("a message within ten seconds");
    let Some(WatchMessage::Events(events)) = message else { return format!("{message:?}") };
    let mut out = Vec::new();
    for event in events {
        let sign = if event.kind == EventKind::Put { '+' } else { '-' };
        out.push(format!("{sign}{}@{}", String::from_utf8_lossy(&event.kv.key), event.kv.mod_revision));
    }
    out.join(" ")
}

#[tokio::test]
async fn counts_revisions_as_etcd_does() {
    for (engine, store, _directory) in engines() {
        assert_eq!(store.current_revision().await.unwrap(), 1, "{engine}");
        assert_eq!(write(&store, [put("/a", "1")]).await, 2, "{engine}");
        assert_eq!(write(&store, [put("/b", "1"), put("/c", "1")]).await, 3, "{engine}: one revision a transaction");
        assert_eq!(write(&store, [delete("/none")]).await, 3, "{engine}: nothing changed");
        assert_eq!(write(&store, [put("/a", "2")]).await, 4, "{engine}");
        assert_eq!(write(&store, [delete("/b")]).await, 5, "{engine}");
        assert_eq!(write(&store, [put("/b", "2")]).await, 6, "{engine}: created anew");
        let all = show(&store, RangeRequest::newest(KeyRange::prefix("/"))).await;
        assert_eq!(all, "/a=2@2/4/2 /b=2@6/6/1 /c=1@3/3/1", "{engine}");
    }
}

#[tokio::test]
async fn compares_before_it_writes() {
    for (engine, store, _directory) in engines() {
        let guarded = |equals, value: &str| Transaction {
            compares: vec![Compare::ModRevision { key: "/a".into(), equals }],
            writes: vec![put("/a", value)],
        };
        assert!(store.commit(guarded(0, "new")).await.unwrap().succeeded, "{engine}");
        let refused = store.commit(guarded(0, "again")).await.unwrap();
        assert!(!refused.succeeded, "{engine}");
        assert_eq!(refused.revision, 2, "{engine}");
        assert_eq!(refused.current[0].as_ref().unwrap().value, "new", "{engine}");
        assert!(store.commit(guarded(2, "next")).await.unwrap().succeeded, "{engine}");
        assert!(!store.commit(guarded(2, "stale")).await.unwrap().succeeded, "{engine}");
    }
}

#[tokio::test]
async fn reads_ranges_pages_and_the_past() {
    for (engine, store, _directory) in engines() {
        for (key, value) in [("/a", "1"), ("/b", "1"), ("/b/c", "1"), ("/c", "1"), ("/b", "2")] {
            write(&store, [put(key, value)]).await;
        }
        write(&store, [delete("/a")]).await; // 7
        let all = || RangeRequest::newest(KeyRange::prefix("/"));
        #[rustfmt::skip]
        let cases = [
            (RangeRequest::newest(KeyRange::key("/b")),                                  "/b=2@3/6/2"),
            (RangeRequest::newest(KeyRange::key("/none")),                               ""),
            (RangeRequest::newest(KeyRange::prefix("/b")),                               "/b=2@3/6/2 /b/c=1@4/4/1"),
            (RangeRequest { limit: 1, ..all() },                                         "/b=2@3/6/2 +2"),
            (RangeRequest { revision: 7, ..all() },                                      "/b=2@3/6/2 /b/c=1@4/4/1 /c=1@5/5/1"),
            (RangeRequest { revision: 3, ..all() },                                      "/a=1@2/2/1 /b=1@3/3/1"),
            (RangeRequest { revision: 5, limit: 2, ..all() },                            "/a=1@2/2/1 /b=1@3/3/1 +2"),
            (RangeRequest { revision: 1, ..all() },                                      ""),
            (RangeRequest { revision: 8, ..all() },                                      "mvcc: required revision is a future revision"),
            (RangeRequest::newest(KeyRange { start: "/c".into(), end: Some("/a".into()) }), ""),
        ];
        for (request, expected) in cases {
            assert_eq!(show(&store, request.clone()).await, expected, "{engine}: {request:?}");
        }
        let counted = store.range(RangeRequest { count_only: true, ..all() }).await.unwrap();
        assert_eq!((counted.count, counted.kvs.len(), counted.more), (3, 0, false), "{engine}");
    }
}

#[tokio::test]
async fn watches_from_now_and_from_the_past() {
    for (engine, store, _directory) in engines() {
        write(&store, [put("/a", "1")]).await;
        write(&store, [put("/b", "1")]).await;
        let mut now = store.watch(KeyRange::prefix("/"), 0).await.unwrap();
        let mut past = store.watch(KeyRange::prefix("/"), 2).await.unwrap();
        let mut one = store.watch(KeyRange::key("/a"), 1).await.unwrap();
        let mut future = store.watch(KeyRange::prefix("/"), 5).await.unwrap();
        assert_eq!(next(&mut past).await, "+/a@2 +/b@3", "{engine}");
        assert_eq!(next(&mut one).await, "+/a@2", "{engine}");
        write(&store, [delete("/a"), put("/c", "1")]).await;
        write(&store, [put("/b", "2")]).await;
        assert_eq!(next(&mut now).await, "-/a@4 +/c@4", "{engine}");
        assert_eq!(next(&mut now).await, "+/b@5", "{engine}");
        assert_eq!(next(&mut past).await, "-/a@4 +/c@4", "{engine}");
        assert_eq!(next(&mut one).await, "-/a@4", "{engine}");
        assert_eq!(next(&mut future).await, "+/b@5", "{engine}");
        store.request_progress().await.unwrap();
        assert_eq!(next(&mut one).await, "Some(Progress(5))", "{engine}");
    }
}

#[tokio::test]
async fn tells_what_an_event_replaced() {
    for (engine, store, _directory) in engines() {
        write(&store, [put("/a", "1")]).await;
        write(&store, [put("/a", "2")]).await;
        write(&store, [delete("/a")]).await;
        let mut watch = store.watch(KeyRange::key("/a"), 2).await.unwrap();
        let Some(WatchMessage::Events(events)) = watch.recv().await else { panic!("{engine}: no events") };
        let previous: Vec<_> = events.iter().map(|event| event.previous.as_ref().map_or("", |kv| std::str::from_utf8(&kv.value).unwrap())).collect();
        assert_eq!(previous, ["", "1", "2"], "{engine}");
    }
}

#[tokio::test]
async fn forgets_what_is_compacted() {
    for (engine, store, _directory) in engines() {
        for value in ["1", "2", "3"] {
            write(&store, [put("/a", value)]).await;
        }
        write(&store, [delete("/a"), put("/b", "1")]).await; // 5
        store.compact(4).await.unwrap();
        let at = |revision| RangeRequest { revision, ..RangeRequest::newest(KeyRange::prefix("/")) };
        assert_eq!(show(&store, at(3)).await, "mvcc: required revision has been compacted", "{engine}");
        assert_eq!(show(&store, at(4)).await, "/a=3@2/4/3", "{engine}");
        assert_eq!(show(&store, at(0)).await, "/b=1@5/5/1", "{engine}");
        let refused = store.watch(KeyRange::prefix("/"), 4).await.unwrap_err();
        assert!(matches!(refused, StoreError::Compacted { oldest: 4 }), "{engine}: {refused:?}");
        let mut watch = store.watch(KeyRange::prefix("/"), 5).await.unwrap();
        assert_eq!(next(&mut watch).await, "-/a@5 +/b@5", "{engine}");
        store.compact(2).await.unwrap();
        assert!(matches!(store.compact(9).await, Err(StoreError::FutureRevision { current: 5 })), "{engine}");
    }
}

#[tokio::test]
async fn closes_a_watch_that_nobody_reads() {
    for (engine, store, _directory) in engines() {
        let mut idle = store.watch(KeyRange::prefix("/"), 0).await.unwrap();
        // Concurrent writers, so that the engine with a disk can group them; still one message a revision at most.
        for _ in 0..100 {
            futures::future::join_all((0..100).map(|n| write_one(store.clone(), n))).await;
        }
        // Grouped revisions share a message, so an engine may not have filled the queue yet.
        let mut rounds = 0;
        while idle.capacity() > 0 && !idle.is_closed() && rounds < 8000 {
            write(&store, [put("/x", "1")]).await;
            rounds += 1;
        }
        let mut last = String::new();
        let mut seen = 1;
        while let Ok(message) = idle.try_recv() {
            match message {
                WatchMessage::Events(events) => {
                    for event in events {
                        assert_eq!(event.kv.mod_revision, seen + 1, "{engine}");
                        seen += 1;
                    }
                }
                other => last = format!("{other:?}"),
            }
        }
        assert!(last.starts_with("Compacted"), "{engine}: {last:?} after {seen}");
        assert!(idle.recv().await.is_none(), "{engine}");
    }
}

async fn write_one(store: SharedStore, n: usize) {
    store.commit(transaction([put(&format!("/{n}"), "x")])).await.unwrap();
}
