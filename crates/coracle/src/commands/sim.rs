//! `coracle sim`: a simulated cluster behind a real API endpoint on loopback.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use sim::{NodeConfig, ServeConfig};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{fail, say, server};

pub fn command() -> Command {
    let flag = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("VALUE").default_value(default).help(help)
    };
    Command::new("sim")
        .about("A simulated cluster of many nodes behind a real API endpoint")
        .arg(flag("nodes", "100", "How many nodes to simulate").value_parser(value_parser!(u32).range(0..=100_000)))
        .arg(flag("kubeconfig-out", "sim.kubeconfig", "Where the administrator's kubeconfig is written"))
        .arg(flag("https-listen-port", "0", "Port on 127.0.0.1, 0 for any").value_parser(value_parser!(u16)))
        .arg(flag("node-cpu", "32", "CPUs of each node"))
        .arg(flag("node-memory", "256Gi", "Memory of each node"))
        .arg(flag("node-pods", "110", "Pods that a node takes at most").value_parser(value_parser!(u32)))
        .arg(flag("zones", "3", "Zones that the nodes are spread over").value_parser(value_parser!(u32).range(1..)))
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let number = |name: &str| matches.get_one::<u32>(name).copied().unwrap_or_default();
    let (nodes, zones) = (number("nodes"), number("zones").max(1));
    let node = |index: u32| {
        let zone = format!("zone-{}", index % zones);
        let config = NodeConfig {
            cpu: text("node-cpu"),
            memory: text("node-memory"),
            pods: number("node-pods"),
            ..NodeConfig::named(format!("node-{index}"))
        };
        config.label("topology.kubernetes.io/zone", &zone).label("topology.kubernetes.io/region", "sim")
    };
    let directory = std::env::temp_dir().join(format!("coracle-sim-{}", std::process::id()));
    let config = ServeConfig {
        nodes: (0..nodes).map(node).collect(),
        port: matches.get_one::<u16>("https-listen-port").copied().unwrap_or(0),
        directory: directory.clone(),
        kubeconfig_out: PathBuf::from(text("kubeconfig-out")),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("coracle")
        .build()
        .map_err(|cause| format!("cannot start: {cause}"))?;
    let (cancel, kubeconfig) = (CancellationToken::new(), text("kubeconfig-out"));
    let outcome = runtime.block_on(async {
        tokio::spawn(server::cancel_on_signal(cancel.clone()));
        sim::serve(config, cancel, |address| say(&format!("{nodes} simulated nodes at https://{address}, kubeconfig {kubeconfig}"))).await
    });
    runtime.shutdown_background();
    // It holds nothing but this run's certificates.
    if let Err(cause) = std::fs::remove_dir_all(&directory)
        && cause.kind() != std::io::ErrorKind::NotFound
    {
        fail(&format!("{}: {cause}", directory.display()));
    }
    outcome.map_err(|cause| cause.to_string())
}
