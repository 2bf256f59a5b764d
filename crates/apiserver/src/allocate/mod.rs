//! What the server hands out: cluster IPs and node ports of Services.
//!
//! Invariant: an address or port belongs to one Service at most. What is taken lives in memory, read from the stored
//! Services at start; the store needs no bitmap. Deliberately absent: agreement between several API servers over one
//! store.

mod ip_range;
mod pool;
mod ports;
mod service;

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
