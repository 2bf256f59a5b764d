//! `coracle server`: control plane and node in the foreground.

use std::path::Path;

use clap::{ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::process;
use crate::config::{self, Config};
use crate::instance::Instance;
use crate::own_address::{Ended, start_anew};

pub fn command() -> Command {
    config::arguments(Command::new("server").about("Run control plane and node in the foreground"))
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let config = config::resolve(matches)?;
    if !config.token.is_empty() && !config.datastore.is_shared() {
        return Err("--token is for coracle agent, and for servers that share a datastore; on a server, coracle token create makes tokens".into());
    }
    let lock = Instance::of(&config.data_dir).lock();
    run_as("server", &lock, config, crate::server::run)
}

/// In the foreground, until a signal: with the lock held, a log and an event loop.
pub fn run_as<F: Future<Output = Result<Ended, String>>>(
    command: &str,
    lock: &Path,
    config: Config,
    main: impl FnOnce(Config, Instance, CancellationToken) -> F,
) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err(format!("coracle {command} must run as root"));
    }
    let instance = Instance::of(&config.data_dir);
    let lock = process::lock(lock)?;
    log_to_stderr(&config);
    // Few threads: the work is short and memory counts.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("coracle")
        .build()
        .map_err(|cause| format!("cannot start: {cause}"))?;
    let cancel = CancellationToken::new();
    let outcome = runtime.block_on(async {
        tokio::spawn(cancel_on_signal(cancel.clone()));
        main(config, instance, cancel).await
    });
    // Crash-only: whatever still runs in the background is not waited for.
    runtime.shutdown_background();
    match outcome? {
        Ended::Stopped => Ok(()),
        Ended::Moved => {
            drop(lock);
            Err(start_anew())
        }
    }
}

pub async fn cancel_on_signal(cancel: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; containers go on");
    cancel.cancel();
}

/// klog's habits: 2 is what operators read, 4 and more is for debugging. `RUST_LOG` overrides.
fn log_to_stderr(config: &Config) {
    let level = match config.verbosity {
        0 | 1 => "warn",
        2 | 3 => "info",
        4 | 5 => "info,api=debug,apiserver=debug,client=debug,controllers=debug,coracle=debug,dns=debug,kubelet=debug,net=debug,proxy=debug,runtime=debug,scheduler=debug,store=debug",
        6..=8 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
