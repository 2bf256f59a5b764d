//! Everything at once, with faults: a mixed workload for each of many seeds, no invariant broken.
//!
//! `CORACLE_SEEDS` says how many seeds (1,000 take minutes), `CORACLE_SEED=n` repeats one of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sim::{ClusterConfig, SimulatedCluster, Workload};

use crate::{service_account_key, seeds, with_virtual_time};

const ACTIONS: u32 = 25;
/// A third of a second is usual; a build without optimisation on a busy machine takes ten.
const REAL_TIME_MAX: Duration = Duration::from_secs(180);
/// Of virtual time: whoever waits gives up long before.
const VIRTUAL_TIME_MAX: Duration = Duration::from_secs(3 * 3600);

/// Yields the hash over all writes.
fn run(seed: u64, key: String) -> Result<u64, Vec<String>> {
    with_virtual_time(async {
        let mut config = ClusterConfig::new(seed, key);
        config.skew_max = Duration::from_millis(seed % 4 * 700);
        config.copies = if seed % 5 == 0 { 2 } else { 1 };
        let cluster = SimulatedCluster::start_with(config).await.expect("starts");
        let lasted = tokio::time::timeout(VIRTUAL_TIME_MAX, Workload::new(seed).run(&cluster, ACTIONS)).await;
        lasted.map_err(|_| vec![format!("after {VIRTUAL_TIME_MAX:?} it has not ended")])??;
        Ok(cluster.world(|world| world.history()))
    })
}

#[test]
fn a_mixed_workload_with_faults_breaks_no_invariant() {
    let key = service_account_key();
    let (next, failures) = (Mutex::new(seeds(6)), Mutex::new(Vec::new()));
    let under_way = UnderWay::watched();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().expect("no thread panics with it").next() else { return };
                    if seed % 100 == 99 {
                        eprintln!("seed {seed} ...");
                    }
                    under_way.begin(seed);
                    let outcome = std::panic::catch_unwind(|| run(seed, key.clone()));
                    under_way.end(seed);
                    let broken = match outcome {
                        Ok(Ok(_)) => continue,
                        Ok(Err(broken)) => broken.join("\n  "),
                        Err(_) => "panicked".to_owned(),
                    };
                    eprintln!("CORACLE_SEED={seed} repeats this:\n  {broken}");
                    failures.lock().expect("no thread panics with it").push(seed);
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no thread panics with it");
    failures.sort_unstable();
    assert!(failures.is_empty(), "{} seeds failed: {failures:?}", failures.len());
}

/// Seeds that run, and since when.
#[derive(Clone, Default)]
struct UnderWay(Arc<Mutex<BTreeMap<u64, Instant>>>);

impl UnderWay {
    /// Ends the process with the seed if one of them takes for ever: a task that spins lets no virtual time pass, so
    /// that no bound in virtual time could end it.
    fn watched() -> UnderWay {
        let under_way = UnderWay::default();
        let watched = under_way.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(5));
                let running = watched.0.lock().expect("no thread panics with it");
                if let Some((seed, _)) = running.iter().find(|(_, since)| since.elapsed() > REAL_TIME_MAX) {
                    eprintln!("CORACLE_SEED={seed} never ends: no virtual time passes");
                    std::process::exit(1);
                }
            }
        });
        under_way
    }

    fn begin(&self, seed: u64) {
        self.0.lock().expect("no thread panics with it").insert(seed, Instant::now());
    }

    fn end(&self, seed: u64) {
        self.0.lock().expect("no thread panics with it").remove(&seed);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let key = service_account_key();
    for seed in seeds(3) {
        let (first, second) = (run(seed, key.clone()), run(seed, key.clone()));
        assert_eq!(first, second, "two runs of seed {seed} differ: CORACLE_HISTORY=file writes down what happened");
    }
}
