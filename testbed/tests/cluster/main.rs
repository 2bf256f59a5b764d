//! Node and client tiers: real containers, a real registry on loopback, the real kubectl.

mod apps_conformance;
mod comparison;
mod durability;
mod hardships;
mod images;
mod machines;
mod node_conformance;
mod one_machine;
mod pods;
mod services;
mod storage;
mod workloads;
