//! Random histories against a model that keeps a whole copy of the state at every revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use store::embedded::EmbeddedStore;
use store::memory::MemoryStore;
use store::{Compare, Event, EventKind, KeyRange, KeyValue, RangeRequest, Revision, Store, StoreError, WatchMessage, Write};

use crate::etcd::Etcd;
use crate::rules::{delete, put, transaction};

#[derive(Clone, Debug)]
enum Step {
    Commit { guard: Option<(u8, bool)>, writes: Vec<(u8, Option<u8>)> },
    Compact { back: u8 },
    WatchFrom { back: u8 },
    ReadAt { back: u8, limit: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0u8..8;
    let write = (key.clone(), proptest::option::weighted(0.7, any::<u8>()));
    let commit = (proptest::option::of((key, any::<bool>())), proptest::collection::vec(write, 0..4))
        .prop_map(|(guard, writes)| Step::Commit { guard, writes });
    let step = prop_oneof![
        10 => commit,
        1 => (0u8..20).prop_map(|back| Step::Compact { back }),
        2 => (0u8..30).prop_map(|back| Step::WatchFrom { back }),
        4 => (0u8..30, 0u8..4).prop_map(|(back, limit)| Step::ReadAt { back, limit }),
    ];
    proptest::collection::vec(step, 1..60)
}

#[derive(Default)]
struct Model {
    /// The revision of the first state.
    base: Revision,
    /// The state at revision `base + index`.
    states: Vec<BTreeMap<Bytes, KeyValue>>,
    /// kind, key and revision of every change, in order.
    changes: Vec<(EventKind, Bytes, Revision)>,
    compacted: Revision,
}

impl Model {
    fn revision(&self) -> Revision {
        self.base + self.states.len() as Revision - 1
    }

    fn newest(&self) -> &BTreeMap<Bytes, KeyValue> {
        self.states.last().expect("there is always the first state")
    }

    fn write(&mut self, writes: &[Write]) {
        let revision = self.revision() + 1;
        let last: BTreeMap<&Bytes, &Write> = writes.iter().map(|write| (write.key(), write)).collect();
        let mut state = self.newest().clone();
        let before = self.changes.len();
        for (key, write) in last {
            match write {
                Write::Put { value, .. } => {
                    let old = state.get(key);
                    let create_revision = old.map_or(revision, |kv| kv.create_revision);
                    let version = old.map_or(0, |kv| kv.version) + 1;
                    let kv = KeyValue { key: key.clone(), value: value.clone(), create_revision, mod_revision: revision, version };
                    state.insert(key.clone(), kv);
                    self.changes.push((EventKind::Put, key.clone(), revision));
                }
                Write::Delete { .. } => {
                    if state.remove(key).is_some() {
                        self.changes.push((EventKind::Delete, key.clone(), revision));
                    }
                }
            }
        }
        if self.changes.len() > before {
            self.states.push(state);
        }
    }
}

async fn check(store: &dyn Store, steps: &[Step]) {
    let all = || KeyRange::prefix("/");
    let base = store.current_revision().await.unwrap();
    let mut model = Model { base, states: vec![BTreeMap::new()], ..Model::default() };
    let mut watches = vec![(base, store.watch(all(), 0).await.unwrap())];
    for step in steps {
        match step {
            Step::Commit { guard, writes } => {
                let writes: Vec<Write> = writes.iter().map(|(key, value)| match value {
                    Some(value) => put(&format!("/{key}"), &value.to_string()),
                    None => delete(&format!("/{key}")),
                }).collect();
                let mut asked = transaction(writes.clone());
                let mut holds = true;
                if let Some((key, right)) = guard {
                    let key = Bytes::from(format!("/{key}"));
                    let present = model.newest().get(&key).map_or(0, |kv| kv.mod_revision);
                    asked.compares.push(Compare::ModRevision { key, equals: if *right { present } else { present + 1 } });
                    holds = *right;
                }
                let compared = asked.compares.first().map(|Compare::ModRevision { key, .. }| key.clone());
                let answer = store.commit(asked).await.unwrap();
                assert_eq!(answer.succeeded, holds);
                if holds {
                    model.write(&writes);
                } else {
                    let key = compared.expect("only a guard fails");
                    assert_eq!(answer.current, [model.newest().get(&key).cloned()]);
                }
                assert_eq!(answer.revision, model.revision());
            }
            Step::Compact { back } => {
                let revision = (model.revision() - Revision::from(*back)).max(base - 1);
                store.compact(revision).await.unwrap();
                model.compacted = model.compacted.max(revision);
            }
            Step::WatchFrom { back } => {
                let from = (model.revision() + 3 - Revision::from(*back)).max(base + 1);
                match store.watch(all(), from).await {
                    Ok(watch) => watches.push((from - 1, watch)),
                    Err(StoreError::Compacted { .. }) => assert!(from <= model.compacted),
                    Err(other) => panic!("{other}"),
                }
            }
            Step::ReadAt { back, limit } => {
                let revision = (model.revision() + 1 - Revision::from(*back)).max(base);
                let request = RangeRequest { revision, limit: usize::from(*limit), ..RangeRequest::newest(all()) };
                match store.range(request).await {
                    Ok(answer) => {
                        let state = &model.states[(revision - base) as usize];
                        let limit = if *limit == 0 { usize::MAX } else { usize::from(*limit) };
                        let expected: Vec<KeyValue> = state.values().take(limit).cloned().collect();
                        assert_eq!(answer.kvs, expected, "at revision {revision}");
                        assert_eq!((answer.count, answer.revision), (state.len(), model.revision()));
                        assert_eq!(answer.more, expected.len() < state.len());
                    }
                    Err(StoreError::Compacted { .. }) => assert!(revision < model.compacted),
                    Err(StoreError::FutureRevision { .. }) => assert!(revision > model.revision()),
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
    for (after, mut watch) in watches {
        let expected: Vec<_> = model.changes.iter().filter(|change| change.2 > after).cloned().collect();
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let message = tokio::time::timeout(std::time::Duration::from_secs(5), watch.recv()).await;
            match message.expect("an event within five seconds") {
                Some(WatchMessage::Events(events)) => {
                    for Event { kind, kv, previous } in events {
                        let before = model.states[(kv.mod_revision - base) as usize - 1].get(&kv.key);
                        assert!(previous.is_none() || previous.as_ref() == before);
                        seen.push((kind, kv.key, kv.mod_revision));
                    }
                }
                // A watch that was still reading the log may be overtaken by compaction.
                Some(WatchMessage::Compacted(_)) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, expected[..seen.len()]);
        assert!(seen.len() == expected.len() || model.compacted > after);
        assert!(watch.try_recv().is_err(), "nothing twice");
    }
}

fn cases(count: u32, check_case: impl Fn(Vec<Step>)) {
    // Each step towards a smaller case may wait for an event that does not come.
    let config = Config { cases: count, failure_persistence: None, max_shrink_time: 30_000, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let run = |steps| {
        check_case(steps);
        Ok(())
    };
    runner.run(&steps(), run).unwrap();
}

#[test]
fn memory_behaves_as_the_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    cases(500, |steps| runtime.block_on(check(&MemoryStore::new(), &steps)));
}

#[test]
fn embedded_behaves_as_the_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    cases(40, |steps| {
        let directory = tempfile::tempdir().unwrap();
        runtime.block_on(check(&EmbeddedStore::open(directory.path()).unwrap(), &steps));
    });
}

/// With a window of three events nearly everything past comes from the log.
#[test]
fn embedded_behaves_as_the_model_with_a_tiny_window() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    cases(40, |steps| {
        let directory = tempfile::tempdir().unwrap();
        let settings = store::embedded::Settings { window_events: 3, ..Default::default() };
        runtime.block_on(check(&EmbeddedStore::open_with(directory.path(), settings).unwrap(), &steps));
    });
}

/// One etcd for all cases: each begins by clearing what the one before has left.
#[test]
fn etcd_behaves_as_the_model() {
    let Some(etcd) = Etcd::start() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = runtime.block_on(async { etcd.store() });
    cases(30, |steps| {
        runtime.block_on(async {
            store.commit(transaction((0..8).map(|key| delete(&format!("/{key}"))).collect::<Vec<_>>())).await.unwrap();
            check(&store, &steps).await;
        });
    });
}
