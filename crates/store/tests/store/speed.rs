//! Measurements, run on demand: `cargo nextest run -p store --run-ignored only --no-capture`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use store::embedded::EmbeddedStore;
use store::{KeyRange, RangeRequest, Store};

use crate::rules::{put, transaction};

const PUTS: usize = 20_000;

#[test]
#[ignore = "a measurement"]
fn puts_and_opening() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut out = std::io::stderr();
    for writers in [1, 32, 256] {
        let directory = tempfile::tempdir().unwrap();
        let each = if writers == 1 { 1000 } else { PUTS / writers };
        let began = Instant::now();
        let store = Arc::new(EmbeddedStore::open(directory.path()).unwrap());
        writeln!(out, "     making a store: {:?}", began.elapsed()).unwrap();
        let began = Instant::now();
        runtime.block_on(async {
            let tasks = (0..writers).map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    let value = "x".repeat(1024);
                    for n in 0..each {
                        store.commit(transaction([put(&format!("/registry/configmaps/default/{writer}-{n}"), &value)])).await.unwrap();
                    }
                })
            });
            futures::future::join_all(tasks).await;
        });
        let took = began.elapsed();
        drop(store);
        let puts = (each * writers) as f64;
        writeln!(out, "{writers:>4} writers: {:.0} puts/s", puts / took.as_secs_f64()).unwrap();

        let began = Instant::now();
        let store = EmbeddedStore::open(directory.path()).unwrap();
        let opened = began.elapsed();
        let began = Instant::now();
        let answer = runtime.block_on(store.range(RangeRequest::newest(KeyRange::prefix("/")))).unwrap();
        writeln!(out, "     opening {} objects: {opened:?}, listing them: {:?}", answer.count, began.elapsed()).unwrap();
    }
}
