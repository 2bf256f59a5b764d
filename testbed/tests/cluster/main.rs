//! Node and client tiers: real containers, a real registry on loopback, the real kubectl.

mod comparison;
mod durability;
mod hardships;
mod images;
mod node_conformance;
mod one_machine;
mod pods;
mod services;
mod storage;
