//! Node and client tiers: real containers, a real registry on loopback, the real kubectl.

mod apps_conformance;
mod clients;
mod comparison;
mod durability;
mod etcd;
mod hardships;
mod images;
mod machines;
mod network_conformance;
mod node_conformance;
mod one_machine;
mod pods;
mod services;
mod storage;
mod workloads;
