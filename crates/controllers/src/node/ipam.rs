//! Gives every node its range of pod addresses out of the cluster's.
//!
//! Invariant: no two nodes have overlapping ranges. There is one worker, and what it gave away is in its
//! cache before it gives again.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, Patch};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::runner::{Controller, Next, Queue};

/// The original's `--node-cidr-mask-size-ipv4` and `-ipv6`.
const MASK_IPV4: u8 = 24;
const MASK_IPV6: u8 = 64;

pub(crate) struct NodeIpam {
    context: Arc<Context>,
    recorder: EventRecorder,
    nodes: Arc<Informer<Node>>,
}

impl NodeIpam {
    pub fn new(context: &Arc<Context>) -> Self {
        NodeIpam { context: context.clone(), recorder: context.recorder("cidrAllocator"), nodes: context.informer() }
    }
}

#[async_trait]
impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let (queue, nodes) = (queue.clone(), self.nodes.clone());
        self.nodes.subscribe(move |change: &Change<Node>| match change {
            // A range came free: somebody may be waiting for one.
            Change::Deleted(_) => {
                let waiting = nodes.list().into_iter().filter(|node| ranges_of(node).is_empty());
                waiting.for_each(|node| queue.add(ObjectKey::of(&node.metadata)));
            }
            change => queue.add(ObjectKey::of(&change.object().metadata)),
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Settled) };
        if !ranges_of(&node).is_empty() {
            return Ok(Next::Settled);
        }
        let taken: BTreeSet<IpNet> = self.nodes.list().iter().flat_map(|node| ranges_of(node)).collect();
        let free: Option<Vec<String>> = self
            .context
            .settings
            .cluster_cidrs
            .iter()
            .map(|cluster| first_free(*cluster, &taken).map(|range| range.to_string()))
            .collect();
        let Some(ranges) = free else {
            let about = client::object_ref(&*node);
            let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.event(&about, EventType::Normal, "CIDRNotAvailable", text);
            return Ok(Next::Settled);
        };
        let Some(first) = ranges.first() else { return Ok(Next::Settled) };
        let patch = json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": first, "podCIDRs": ranges},
        });
        self.context.patch::<Node>(key, &Patch::Merge(patch)).await?;
        Ok(Next::Settled)
    }
}

fn ranges_of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let ranges = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    ranges.filter_map(|text| text.parse().ok()).collect()
}

/// Pure. The lowest range of the usual size that touches none of `taken`.
fn first_free(cluster: IpNet, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let usual = match cluster {
        IpNet::V4(_) => MASK_IPV4,
        IpNet::V6(_) => MASK_IPV6,
    };
    let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    let mut candidates = cluster.subnets(usual.max(cluster.prefix_len())).ok()?;
    candidates.find(|candidate| !taken.iter().any(|range| overlaps(candidate, range)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cluster: &str, taken: &str, expected: Option<&str>) {
        let taken = taken.split_whitespace().map(|text| text.parse().unwrap()).collect();
        let free = first_free(cluster.parse().unwrap(), &taken);
        assert_eq!(free.map(|range| range.to_string()).as_deref(), expected);
    }

    #[test]
    fn the_lowest_free_range_is_next() {
        check("10.42.0.0/16", "", Some("10.42.0.0/24"));
        check("10.42.0.0/16", "10.42.0.0/24 10.42.2.0/24", Some("10.42.1.0/24"));
        check("10.42.0.0/16", "10.42.0.0/23", Some("10.42.2.0/24"));
        check("10.42.0.0/24", "10.42.0.0/24", None);
        check("10.42.0.0/28", "", Some("10.42.0.0/28"));
        check("fd00::/56", "fd00::/64", Some("fd00:0:0:1::/64"));
    }
}
