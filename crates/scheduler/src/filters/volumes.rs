//! Volumes that the pod uses must be within reach of the node, or can be bound or made for it.

use super::{Filter, Rejection};
use crate::cycle::Cycle;
use crate::node_info::NodeInfo;

pub fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    let volumes = &cycle.volumes;
    if volumes.is_empty() && volumes.exclusive.is_empty() {
        return Ok(());
    }
    let reject = |reason| Err(Rejection::final_one(Filter::Volumes, reason));
    if cycle.exclusive_claim_elsewhere {
        // Victims on this very node may hold the claim.
        let here = |claim: &String| {
            let others = node.pods.values().filter(|pod| pod.key.namespace == cycle.pod.key.namespace);
            others.into_iter().any(|pod| pod.claims.contains(claim))
        };
        let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        if volumes.exclusive.iter().any(here) || !cycle.relieved {
            return Err(Rejection::resolvable(Filter::Volumes, reason));
        }
    }
    if let Some(reason) = volumes.conflict(node) {
        return reject(reason);
    }
    if volumes.has_waiting() && cycle.cluster.storage.plan(volumes, node).is_none() {
        return reject("node(s) didn't find available persistent volumes to bind");
    }
    if volumes.zone_conflict(node) {
        return reject("node(s) had no available volume zone");
    }
    Ok(())
}
