//! Everything at once, with faults: a mixed workload for each of many seeds, no invariant broken.
//!
//! `CORACLE_SEEDS` says how many seeds (1,000 take minutes), `CORACLE_SEED=n` repeats one of them.

use std::time::Duration;

use sim::{ClusterConfig, SimulatedCluster, Workload};

use crate::{service_account_key, seeds, with_virtual_time};

const ACTIONS: u32 = 25;

/// Yields the hash over all writes.
fn run(seed: u64, key: String) -> Result<u64, Vec<String>> {
    with_virtual_time(async {
        let mut config = ClusterConfig::new(seed, key);
        config.skew_max = Duration::from_millis(seed % 4 * 700);
        config.copies = if seed % 5 == 0 { 2 } else { 1 };
        let cluster = SimulatedCluster::start_with(config).await.expect("starts");
        Workload::new(seed).run(&cluster, ACTIONS).await?;
        Ok(cluster.world(|world| world.history()))
    })
}

#[test]
fn a_mixed_workload_with_faults_breaks_no_invariant() {
    let key = service_account_key();
    let (next, failures) = (std::sync::Mutex::new(seeds(6)), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().expect("no thread panics with it").next() else { return };
                    let outcome = std::panic::catch_unwind(|| run(seed, key.clone()));
                    let broken = match outcome {
                        Ok(Ok(_)) => continue,
                        Ok(Err(broken)) => broken.join("\n  "),
                        Err(_) => "panicked".to_owned(),
                    };
                    failures.lock().expect("no thread panics with it").push((seed, broken));
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no thread panics with it");
    failures.sort();
    for (seed, broken) in &failures {
        eprintln!("CORACLE_SEED={seed} repeats this:\n  {broken}");
    }
    assert!(failures.is_empty(), "{} seeds failed: {:?}", failures.len(), failures.iter().map(|(seed, _)| seed).collect::<Vec<_>>());
}

#[test]
fn the_same_seed_is_the_same_run() {
    let key = service_account_key();
    for seed in seeds(3) {
        let (first, second) = (run(seed, key.clone()), run(seed, key.clone()));
        assert_eq!(first, second, "two runs of seed {seed} differ: CORACLE_HISTORY=file writes down what happened");
    }
}
