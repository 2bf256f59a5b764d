//! How good the nodes are that would do: one plain function a file, each from 0 to 100, weighed as in the original.
//!
//! Invariant: a score looks only at its arguments and gives one number per node, in the order of the nodes.

pub mod balanced_allocation;
pub mod image_locality;
pub mod node_resources_fit;
pub mod node_affinity;
pub mod pod_affinity;
pub mod taint_toleration;
pub mod topology_spread;

use crate::cluster::Cluster;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::profile::Score;

pub const MAX: i64 = 100;

fn score(of: Score) -> fn(&PodInfo, &Cluster, &[&NodeInfo]) -> Vec<i64> {
    match of {
        Score::TaintToleration => taint_toleration::score,
        Score::NodeAffinity => node_affinity::score,
        Score::NodeResourcesFit => node_resources_fit::score,
        Score::PodTopologySpread => topology_spread::score,
        Score::InterPodAffinity => pod_affinity::score,
        Score::NodeResourcesBalancedAllocation => balanced_allocation::score,
        Score::ImageLocality => image_locality::score,
    }
}

/// The weighted sum of all scores.
pub fn total(pod: &PodInfo, cluster: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for (of, weight) in &pod.profile.scores {
        for (total, score) in totals.iter_mut().zip(score(*of)(pod, cluster, nodes)) {
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
