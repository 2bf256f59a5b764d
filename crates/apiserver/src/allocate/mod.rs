//! What the server hands out: cluster IPs and node ports.

use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use crate::allocation::{Allocate, Reservation};
use crate::error::RequestError;
use crate::kinds::Kind;

pub struct AllocateConfig {
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: RangeInclusive<u16>,
}

pub fn allocator(_config: AllocateConfig) -> Arc<dyn Allocate> {
    Arc::new(Nothing)
}

struct Nothing;

impl Allocate for Nothing {
    fn handles(&self, _kind: &Kind) -> bool {
        false
    }

    fn load(&self, _kind: &Kind, _existing: &[Value]) {}

    fn create(&self, _kind: &Kind, _object: &mut Value) -> Result<Reservation, RequestError> {
        Ok(Reservation::none())
    }

    fn update(&self, _kind: &Kind, _new: &mut Value, _old: &Value) -> Result<Reservation, RequestError> {
        Ok(Reservation::none())
    }

    fn deleted(&self, _kind: &Kind, _old: &Value) {}
}
