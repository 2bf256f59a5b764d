//! What the server hands out: cluster IPs and node ports of Services.
//!
//! Invariant: an address or port belongs to one Service at most. What is taken lives in memory, learnt from the stored
//! Services as they change; the store needs no bitmap. Servers that share a store may choose the same at once: then
//! one of them has to choose again, because each address has its IPAddress and each port a key of its own, written and
//! deleted in the transaction of its Service.

mod events;
mod ip_range;
mod pool;
mod ports;
mod published;
pub mod repair;
mod service;

pub use published::along;

use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;

use crate::allocation::Allocate;
use crate::cache::Cache;

pub struct AllocateConfig {
    /// The first decides the family of single-stack Services; a second makes the cluster dual-stack. Addresses come
    /// from the ServiceCIDRs, whose first these are.
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
}

pub fn allocator(config: AllocateConfig, cache: Arc<Cache>) -> Arc<dyn Allocate> {
    let published = published::FromCache::new(cache, config.service_cidrs.clone());
    Arc::new(service::ServiceAllocator::new(config, Box::new(published)))
}
