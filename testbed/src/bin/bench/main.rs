//! `bench`: measures clusters made by `$CORACLE` (see `script/bench`) and prints tables beside upstream's figures.
//!
//! One file a table; `bench NAME...` prints those that are named. Never fails on a time: machines differ and are
//! noisy. CPU per operation and ratios are what to compare.

mod api_server;
mod cluster;
mod measure;
mod network;
mod workloads;

use measure::Outcome;
use tokio::runtime::Runtime;

type Table = fn(&Runtime) -> Outcome<()>;

const TABLES: &[(&str, Table)] = &[("cluster", cluster::run), ("api-server", api_server::run), ("workloads", workloads::run), ("network", network::run)];

fn main() -> Outcome<()> {
    if let Some(reason) = testbed::cluster::missing() {
        return Err(reason.into());
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| !TABLES.iter().any(|(own, _)| own == name)) {
        let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
        return Err(format!("no table {unknown:?}; one of {}", names.join(", ")).into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for (name, table) in TABLES {
        if wanted.is_empty() || wanted.iter().any(|it| it == name) {
            table(&runtime)?;
        }
    }
    Ok(())
}
