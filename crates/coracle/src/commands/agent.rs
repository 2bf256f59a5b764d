//! `coracle agent`: this machine as a further node of a cluster, in the foreground.

use clap::{Arg, ArgMatches, Command};

use super::server::run_as;
use crate::instance::Instance;
use crate::{agent, config};

pub fn command() -> Command {
    let command = Command::new("agent").about("Join this machine to a cluster as a node, and run it in the foreground").after_help(
        "The token comes from `coracle token create` on a server. Once joined, the machine starts again without it. The \
         ranges of pods and Services, the cluster's domain and its network backend are the servers'.",
    );
    let server = Arg::new("server").long("server").value_name("URL").help("A server of the cluster, https://HOST:6443");
    config::arguments(command.arg(server))
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let config = config::resolve(matches)?;
    let server = matches.get_one::<String>("server").cloned();
    let lock = Instance::of(&config.data_dir).lock();
    run_as("agent", &lock, config, |config, instance, cancel| agent::run(config, instance, server, cancel))
}
