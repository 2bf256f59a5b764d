//! The `coracle` binary: the command line, the configuration, and the wiring of the rooms.
//!
//! Invariant: no logic of Kubernetes lives here. Deliberately absent: anything that a component could know itself.

mod agent;
mod announce;
mod api_flags;
mod cluster_settings;
mod commands;
mod component_metrics;
mod config;
mod control_plane;
mod datastore;
mod flat_network;
mod instance;
mod join_token;
mod kubeconfig;
mod local;
mod local_volumes;
mod manifests;
mod node;
mod own_address;
mod peers;
mod pod_network;
mod server;
mod snapshot;
mod stub_domains;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // Before any thread exists: the shim forks and must stay single-threaded.
    if arguments.get(1).is_some_and(|it| it == runtime::shim::COMMAND) {
        runtime::shim::main(&arguments[2..]);
    }
    commands::run(&arguments)
}
