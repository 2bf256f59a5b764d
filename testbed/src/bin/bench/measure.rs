//! What is measured of a server, and how a row is printed.

use std::fs;
use std::time::Duration;

use testbed::cluster::Cluster;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

pub struct Usage {
    pub cpu: Duration,
    pub resident: u64,
}

/// CPU time and resident memory of the server process.
pub fn usage(cluster: &Cluster) -> Usage {
    let pid = cluster.server_pid().unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|it| it.parse::<u64>().ok()).unwrap_or_default();
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
    Usage { cpu: Duration::from_millis((ticks(11) + ticks(12)) * 10), resident: pages * 4096 }
}

/// The head of a table.
pub fn table(title: &str) {
    println!("\n{title}\n\n| what | Coracle | Kubernetes 1.35.6 on such a machine |\n| --- | --- | --- |");
}

pub fn row(what: &str, ours: &str, theirs: &str) {
    println!("| {what} | {ours} | {theirs} |");
}

/// The smallest value that this share of the sorted values does not exceed.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
