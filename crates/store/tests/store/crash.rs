//! No acknowledged write is lost when the process is killed, whenever that is.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use store::embedded::EmbeddedStore;
use store::{KeyRange, RangeRequest, Store};

use crate::rules::{put, transaction};

const CHILD: &str = "STORE_CRASH_CHILD";
const WRITERS: usize = 16;

/// Not a test of its own: the process that the test below starts and kills.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = std::sync::Arc::new(EmbeddedStore::open(Path::new(&directory)).unwrap());
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let padding = "x".repeat(700);
                for round in 0u64.. {
                    let key = format!("/{writer}/{}", round % 5);
                    let answer = store.commit(transaction([put(&key, &format!("{round} {padding}"))])).await.unwrap();
                    // One write call a line: a line either arrives or does not.
                    let line = format!("ack {key} {round} {}\n", answer.revision);
                    std::io::stderr().write_all(line.as_bytes()).unwrap();
                }
            })
        });
        futures::future::join_all(writers).await;
    });
}

#[test]
fn kills_lose_no_acknowledged_write() {
    let kills: u64 = std::env::var("STORE_CRASH_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(24);
    let directory = tempfile::tempdir().unwrap();
    let mut revision_before = 1;
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut newest: HashMap<String, (String, i64)> = HashMap::new();
            for line in output.lines().map_while(Result::ok) {
                if let ["ack", key, round, revision] = line.split(' ').collect::<Vec<_>>()[..] {
                    newest.insert(key.to_owned(), (round.to_owned(), revision.parse().unwrap()));
                }
            }
            newest
        });
        // A spread of moments, the first ones while the store is being made.
        std::thread::sleep(Duration::from_millis(5 + (kill * 37) % 180));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = reader.join().unwrap();

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = EmbeddedStore::open(directory.path()).unwrap();
            let answer = store.range(RangeRequest::newest(KeyRange::prefix("/"))).await.unwrap();
            let found: HashMap<String, _> =
                answer.kvs.iter().map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv)).collect();
            for (key, (round, revision)) in acknowledged {
                let kv = found.get(&key).unwrap_or_else(|| panic!("kill {kill}: {key} of revision {revision} is lost"));
                // A later write may have become durable without its acknowledgement getting out.
                assert!(kv.mod_revision >= revision, "kill {kill}: {key} went back from {revision} to {}", kv.mod_revision);
                if kv.mod_revision == revision {
                    assert!(kv.value.starts_with(format!("{round} ").as_bytes()), "kill {kill}: {key}");
                }
                assert!(answer.revision >= revision);
            }
            assert!(answer.revision >= revision_before, "kill {kill}: revisions went back");
            revision_before = answer.revision;
        });
    }
    assert!(revision_before > 100, "the children got to write");
}
