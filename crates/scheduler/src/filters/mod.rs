//! What a node must offer to take a pod: one plain function a file.
//!
//! Invariant: a filter looks only at its arguments. The first that rejects a node names the reasons, as in the
//! original, whose order this is.

pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources;
pub mod node_unschedulable;
pub mod pod_affinity;
pub mod taint_toleration;
pub mod topology_spread;
pub mod volume_binding;
pub mod volume_limits;
pub mod volume_restrictions;
pub mod volume_zone;

use std::borrow::Cow;

use crate::cycle::Cycle;
use crate::node_info::NodeInfo;

/// Who rejected a node: decides which news may make the pod fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    /// Nothing that happens in the cluster helps.
    Unsupported,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub filter: Filter,
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether room made by preempting pods on the node could help.
    pub resolvable: bool,
}

impl Rejection {
    pub fn final_one(filter: Filter, reason: &'static str) -> Self {
        Rejection { filter, reasons: vec![Cow::Borrowed(reason)], resolvable: false }
    }

    pub fn resolvable(filter: Filter, reason: &'static str) -> Self {
        Rejection { filter, reasons: vec![Cow::Borrowed(reason)], resolvable: true }
    }
}

/// All filters in order. `node` may differ from the cluster's by pods added or removed for the sake of argument.
pub fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
    let pod = cycle.pod;
    // Asked for every node: a profile that takes nothing away is the rule.
    let all = pod.profile.disabled_filters.is_empty();
    let runs = |filter: Filter| all || pod.profile.has(filter);
    if runs(Filter::NodeUnschedulable) {
        node_unschedulable::check(pod, node)?;
    }
    if runs(Filter::NodeName) {
        node_name::check(pod, node)?;
    }
    if runs(Filter::TaintToleration) {
        taint_toleration::check(pod, node)?;
    }
    if runs(Filter::NodeAffinity) {
        node_affinity::check(pod, node)?;
    }
    if runs(Filter::NodePorts) {
        node_ports::check(pod, node)?;
    }
    if runs(Filter::NodeResourcesFit) {
        node_resources::check(pod, node)?;
    }
    if runs(Filter::VolumeRestrictions) {
        volume_restrictions::check(cycle, node)?;
    }
    if runs(Filter::NodeVolumeLimits) {
        volume_limits::check(cycle, node)?;
    }
    if runs(Filter::VolumeBinding) {
        volume_binding::check(cycle, node)?;
    }
    if runs(Filter::VolumeZone) {
        volume_zone::check(cycle, node)?;
    }
    if runs(Filter::PodTopologySpread) {
        topology_spread::check(cycle, node)?;
    }
    if runs(Filter::InterPodAffinity) {
        pod_affinity::check(cycle, node)?;
    }
    Ok(())
}
