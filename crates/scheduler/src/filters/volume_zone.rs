//! A volume that is labelled with a zone is used there.

use super::{Filter, Rejection};
use crate::cycle::Cycle;
use crate::node_info::NodeInfo;

pub fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    // Asked for every node: mostly there is no volume at all.
    match !cycle.volumes.is_empty() && cycle.volumes.zone_conflict(node) {
        true => Err(Rejection::final_one(Filter::VolumeZone, "node(s) had no available volume zone")),
        false => Ok(()),
    }
}
