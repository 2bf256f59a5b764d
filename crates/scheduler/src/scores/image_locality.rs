//! Nodes that have the pod's images already, large ones above all.

use super::MAX;
use crate::cluster::Cluster;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

const SMALL_BYTES: i64 = 23 * 1024 * 1024;
const LARGE_BYTES: i64 = 1000 * 1024 * 1024;

pub fn score(pod: &PodInfo, cluster: &Cluster, nodes: &[&NodeInfo]) -> Vec<i64> {
    let all = cluster.nodes().len().max(1) as f64;
    let largest = LARGE_BYTES * pod.images.len().max(1) as i64;
    // An image that few nodes have counts less, or the first node to pull one would draw all the pods.
    let spread: Vec<f64> = pod.images.iter().map(|image| cluster.nodes_with_image(image) as f64 / all).collect();
    if spread.iter().all(|spread| *spread == 0.0) {
        return vec![0; nodes.len()];
    }
    let score = |node: &&NodeInfo| {
        let present = pod.images.iter().zip(&spread);
        let bytes: i64 = present.map(|(image, spread)| (node.images.get(image).copied().unwrap_or(0) as f64 * spread) as i64).sum();
        MAX * (bytes.clamp(SMALL_BYTES, largest) - SMALL_BYTES) / (largest - SMALL_BYTES)
    };
    nodes.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster_of, pod};

    #[test]
    fn prefers_nodes_with_the_image() {
        let image = |name: &str, megabytes: i64| json!({"names": [name], "sizeBytes": megabytes << 20});
        let cluster = cluster_of(&[
            json!({"metadata": {"name": "a"}, "status": {"images": [image("nginx:latest", 800)]}}),
            json!({"metadata": {"name": "b"}, "status": {"images": [image("nginx:latest", 2000)]}}),
            json!({"metadata": {"name": "c"}, "status": {"images": [image("busybox:latest", 2)]}}),
        ]);
        let nodes: Vec<&NodeInfo> = cluster.nodes().iter().collect();
        let wanted = pod(json!({"spec": {"containers": [{"name": "c", "image": "nginx"}]}}));
        assert_eq!(score(&wanted, &cluster, &nodes), [52, 100, 0]);
    }

    /// Three nodes with images as `name:MiB`; the pod's images.
    #[track_caller]
    fn check(nodes: [&str; 3], images: &[&str], expected: [i64; 3]) {
        let image = |text: &str| {
            let (name, megabytes) = text.rsplit_once('=').unwrap();
            json!({"names": [name], "sizeBytes": megabytes.parse::<i64>().unwrap() << 20})
        };
        let node = |(name, images): (usize, &str)| {
            let images: Vec<_> = images.split_whitespace().map(image).collect();
            json!({"metadata": {"name": name.to_string()}, "status": {"images": images}})
        };
        let nodes: Vec<_> = nodes.into_iter().enumerate().map(node).collect();
        let cluster = cluster_of(&nodes);
        let containers: Vec<_> = images.iter().map(|image| json!({"name": "c", "image": image})).collect();
        let nodes: Vec<&NodeInfo> = cluster.nodes().iter().collect();
        assert_eq!(score(&pod(json!({"spec": {"containers": containers}})), &cluster, &nodes), expected, "{images:?}");
    }

    #[test]
    fn sums_up_scaled_by_how_far_an_image_is_spread() {
        check(["a:1=300", "a:1=300", ""], &["a:1"], [18, 18, 0]); // 300 MiB on two of three count 200.
        check(["a:1=300", "", ""], &["a:1"], [7, 0, 0]);
        check(["a:1=600 b:1=600", "a:1=600", ""], &["a:1", "b:1"], [29, 19, 0]); // 400 and 200 of 2,000.
        check(["a:1=30", "", ""], &["a:1"], [0, 0, 0]); // Too small to matter.
        check(["a:1=9000", "a:1=9000", "a:1=9000"], &["a:1"], [100, 100, 100]);
        check(["a:latest=600", "a:1=600", ""], &["a"], [18, 0, 0]);
        check(["a@sha256:0=600", "", ""], &["a@sha256:0"], [18, 0, 0]);
        check(["r:5000/a:latest=600", "", ""], &["r:5000/a"], [18, 0, 0]);
    }
}
