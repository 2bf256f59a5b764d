//! What the server hands out: cluster IPs and node ports of Services.
//!
//! Invariant: an address or port belongs to one Service at most. What is taken lives in memory, learnt from the stored
//! Services as they change; the store needs no bitmap. Servers that share a store may choose the same at once: then
//! each address and port has a key of its own, written and deleted in the transaction of its Service, so that one of
//! them has to choose again.

mod ip_range;
mod pool;
mod ports;
mod service;

pub use service::claims;

use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;

use crate::allocation::Allocate;

pub struct AllocateConfig {
    /// The first decides the family of single-stack Services; a second makes the cluster dual-stack.
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
}

pub fn allocator(config: AllocateConfig) -> Arc<dyn Allocate> {
    Arc::new(service::ServiceAllocator::new(config))
}
