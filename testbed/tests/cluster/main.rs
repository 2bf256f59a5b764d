//! Node and client tiers: real containers, a real registry on loopback, the real kubectl.

mod apps_conformance;
mod auth;
mod clients;
mod comparison;
mod durability;
mod etcd;
mod hardships;
mod images;
mod kube_rs;
mod kubectl_conformance;
mod kubectl_streams;
mod kubectl_terminal;
mod machines;
mod machines_chaos;
mod machines_loss;
mod machines_services;
mod network_conformance;
mod node_conformance;
mod one_machine;
mod ours;
mod pod_conformance;
mod pods;
mod services;
mod storage;
mod workloads;
mod why;
