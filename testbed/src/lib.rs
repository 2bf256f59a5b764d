//! What the tests with real containers need: images made from Debian packages, a registry on loopback that
//! serves them, and a cluster to throw away.
//!
//! Deliberately absent: anything that the product ships.

pub mod cluster;
pub mod conformance;
pub mod image;
pub mod issuer;
pub mod machines;
pub mod registry;
pub mod requests;
pub mod session;
