//! How good the nodes are that would do: one plain function a file, each from 0 to 100, weighed as in the original.
//!
//! Invariant: a score looks only at its arguments and gives one number per node, in the order of the nodes.

pub mod balanced_allocation;
pub mod image_locality;
pub mod least_allocated;
pub mod node_affinity;
pub mod pod_affinity;
pub mod taint_toleration;
pub mod topology_spread;

use crate::cluster::Cluster;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub const MAX: i64 = 100;

type Score = fn(&PodInfo, &Cluster, &[&NodeInfo]) -> Vec<i64>;

const SCORES: [(Score, i64); 7] = [
    (taint_toleration::score, 3),
    (node_affinity::score, 2),
    (least_allocated::score, 1),
    (topology_spread::score, 2),
    (pod_affinity::score, 2),
    (balanced_allocation::score, 1),
    (image_locality::score, 1),
];

/// The weighted sum of all scores.
pub fn total(pod: &PodInfo, cluster: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for (score, weight) in SCORES {
        for (total, score) in totals.iter_mut().zip(score(pod, cluster, nodes)) {
            *total += score * weight;
        }
    }
    totals
}

/// Stretches counts so that the largest is 100; with `reverse` the largest becomes 0.
fn normalize(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let largest = scores.iter().copied().max().unwrap_or(0);
    for score in &mut scores {
        *score = if largest == 0 { 0 } else { *score * MAX / largest };
        if reverse {
            *score = MAX - *score;
        }
    }
    scores
}
