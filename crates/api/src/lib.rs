//! The object model of Kubernetes v1.35: schema, codecs, patches, apply, selectors, quantities.
//!
//! Invariant: everything here is a function of its arguments; no I/O, and no time but what `clock` hands out.

pub mod apply;
pub mod clock;
pub mod hash;
pub mod histogram;
pub mod json;
pub mod names;
pub mod patch;
pub mod percent;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod yaml;
