//! UDP flows that lead where nobody is any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use net::conntrack::Flow;

use crate::entry::Frontend;

/// What UDP frontends lead to now; those of interest only. An empty set: nowhere.
pub(crate) type UdpFrontends = BTreeMap<Frontend, BTreeSet<SocketAddr>>;

/// The flows that have to be forgotten so that their next packet finds its way anew: towards one of the frontends,
/// and not translated to one of its endpoints.
pub(crate) fn stale(flows: Vec<Flow>, frontends: &UdpFrontends) -> Vec<Flow> {
    flows.into_iter().filter(|flow| is_stale(flow, frontends)).collect()
}

fn is_stale(flow: &Flow, frontends: &UdpFrontends) -> bool {
    let destination = flow.original.destination;
    let protocol = flow.protocol;
    let address = Frontend::Address { ip: destination.ip(), protocol, port: destination.port() };
    if let Some(endpoints) = frontends.get(&address) {
        return !endpoints.contains(&flow.reply.source);
    }
    // A flow to the same port of somebody else is no node port's: what was not translated is left alone.
    let node_port = Frontend::NodePort { ipv6: destination.is_ipv6(), protocol, port: destination.port() };
    let was_translated = flow.reply.source != destination;
    was_translated && frontends.get(&node_port).is_some_and(|endpoints| !endpoints.contains(&flow.reply.source))
}
