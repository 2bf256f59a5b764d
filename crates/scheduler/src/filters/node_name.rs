//! `spec.nodeName`, where it is set already.

use super::{Filter, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub fn check(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    match pod.node_name.as_ref().is_none_or(|name| *name == node.name) {
        true => Ok(()),
        false => Err(Rejection::final_one(Filter::NodeName, "node(s) didn't match the requested node name")),
    }
}
