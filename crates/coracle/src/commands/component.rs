//! `coracle apiserver`, `controller-manager`, `scheduler`, `kubelet`, `proxy`: one component alone, in the foreground.
//!
//! They take the settings of `coracle server`, so that one file of them serves all. Invariant: of controllers and
//! schedulers that run alone, the one with the Lease works.

use std::path::PathBuf;

use api::clock::Clock;
use clap::{Arg, ArgMatches, Command};
use client::Informers;
use tokio_util::sync::CancellationToken;

use super::server::run_as;
use crate::config::{self, Config};
use crate::control_plane::{self, Authority, Turns};
use crate::instance::Instance;
use crate::own_address::Ended;
use crate::{agent, component_metrics, node, server};

/// Those that have a lock of their own, beside the API server's.
pub const NAMES: [&str; 4] = ["controller-manager", "scheduler", "kubelet", "proxy"];

pub fn commands() -> impl Iterator<Item = Command> {
    let about = |name: &str| match name {
        "controller-manager" => "The controllers alone; needs the authority in <data-dir>/server/tls, ca.crt and ca.key",
        "scheduler" => "The scheduler alone",
        "kubelet" => "The kubelet alone; its kubeconfig speaks for system:node:NAME",
        _ => "The service proxy and the network policies alone",
    };
    let kubeconfig = Arg::new("kubeconfig")
        .long("kubeconfig")
        .value_name("FILE")
        .help("How to reach the API server (default: <data-dir>/server/admin.kubeconfig)");
    let authority = Arg::new("client-ca-file")
        .long("client-ca-file")
        .value_name("FILE")
        .help("Whose certificates may ask the kubelet (default: <data-dir>/server/tls/ca.crt)");
    let others = NAMES.into_iter().map(move |name| {
        let command = Command::new(name).about(about(name)).arg(kubeconfig.clone());
        config::arguments(if name == "kubelet" { command.arg(authority.clone()) } else { command })
    });
    let api_server = Command::new("apiserver").about("The API server alone: no controllers, no scheduler, no node");
    std::iter::once(config::arguments(api_server)).chain(others)
}

pub fn run(name: &str, matches: &ArgMatches) -> Result<(), String> {
    let mut config = config::resolve(matches)?;
    let instance = Instance::of(&config.data_dir);
    if name == "apiserver" {
        config.disable_agent = true;
        config.disable.extend(["controller-manager", "scheduler"].map(str::to_owned));
        return run_as(name, &instance.lock(), config, server::run);
    }
    let file = |flag: &str, default: PathBuf| matches.get_one::<String>(flag).map_or(default, PathBuf::from);
    let kubeconfig = file("kubeconfig", instance.admin_kubeconfig());
    let client_authority = match name {
        "kubelet" => Some(file("client-ca-file", instance.tls().join("ca.crt"))),
        _ => None,
    };
    run_as(name, &instance.component_lock(name), config, |config, instance, cancel| async move {
        let client = client::from_kubeconfig(&kubeconfig).await.map_err(|cause| format!("{}: {cause}", kubeconfig.display()))?;
        match client_authority {
            Some(path) => {
                let pem = std::fs::read(&path).map_err(|cause| format!("{}: {cause}", path.display()))?;
                agent::run_kubelet(config, instance, client, pem, cancel).await
            }
            None => {
                start(name, &config, &instance, client, &cancel)?;
                cancel.cancelled().await;
                Ok(Ended::Stopped)
            }
        }
    })
}

fn start(name: &str, config: &Config, instance: &Instance, client: kube::Client, cancel: &CancellationToken) -> Result<(), String> {
    let clock = Clock::system();
    let turns = Turns::by_lease(&config.node_name, &clock, cancel);
    match name {
        "controller-manager" => {
            let read = |file: &str| {
                let path = instance.tls().join(file);
                std::fs::read_to_string(&path).map_err(|cause| format!("{}: {cause}", path.display()))
            };
            let authority = Authority { certificate_pem: read("ca.crt")?, key_pem: read("ca.key")? };
            control_plane::controller_manager(config, &turns, client.clone(), client, authority, &clock);
            component_metrics::serve(component_metrics::CONTROLLER_MANAGER, cancel);
        }
        "scheduler" => {
            control_plane::scheduler(config, &turns, client, &clock);
            component_metrics::serve(component_metrics::SCHEDULER, cancel);
        }
        _ => {
            let informers = Informers::new(client, cancel.clone());
            node::start_proxy(config, instance, &informers, cancel)?;
            node::start_policies(config, instance, &informers, cancel)?;
        }
    }
    Ok(())
}
