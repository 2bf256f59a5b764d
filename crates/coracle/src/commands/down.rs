//! `coracle down`: stops the server, ends its pods, and removes what it put into the kernel.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{block_on, component, data_dir_argument, instance, process, say};
use crate::{kubeconfig, node};

const PATIENCE: Duration = Duration::from_secs(10);

pub fn command() -> Command {
    Command::new("down")
        .about("Stop the cluster, end its pods, remove its devices, rules and mounts")
        .arg(data_dir_argument())
        .arg(Arg::new("purge").long("purge").action(ArgAction::SetTrue).help("Also remove its data"))
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let instance = instance(matches)?;
    if !nix::unistd::geteuid().is_root() {
        return Err("coracle down must run as root".into());
    }
    process::stop(&instance.lock(), PATIENCE)?;
    for component in component::NAMES {
        process::stop(&instance.component_lock(component), PATIENCE)?;
    }
    // No server may start while its things are taken away.
    let lock = process::lock(&instance.lock())?;
    block_on(node::tear_down(&instance))?;
    if matches.get_flag("purge") {
        if let Err(cause) = std::fs::remove_dir_all(&instance.data_dir)
            && cause.kind() != std::io::ErrorKind::NotFound
        {
            return Err(format!("{}: {cause}", instance.data_dir.display()));
        }
        kubeconfig::remove(&instance.name)?;
        say(&format!("Stopped, and removed {}.", instance.data_dir.display()));
    } else {
        say(&format!("Stopped. Its data stays in {}; coracle up continues with it.", instance.data_dir.display()));
    }
    drop(lock);
    Ok(())
}
