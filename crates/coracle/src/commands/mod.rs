//! The command line: one file per command, each with its help, its flags and its `run`.

mod agent;
mod certs;
mod component;
mod down;
mod image;
mod process;
mod progress;
mod server;
mod sim;
mod snapshot;
mod status;
mod token;
mod up;

use std::ffi::OsStr;
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use crate::config::DEFAULT_DATA_DIR;
use crate::instance::Instance;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes v1.35)");

pub fn run(arguments: &[String]) -> ExitCode {
    let called_as = arguments.first().and_then(|it| Path::new(it).file_name()).and_then(OsStr::to_str);
    if called_as == Some("kubectl") {
        return kubectl::main(arguments[1..].to_vec());
    }
    if arguments.get(1).is_some_and(|it| it == "kubectl") {
        return kubectl::main(arguments[2..].to_vec());
    }
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(cause) => {
            // Help and version come this way too; a closed pipe is no reason to complain.
            let _ = cause.print();
            return ExitCode::from(u8::try_from(cause.exit_code()).unwrap_or(1));
        }
    };
    let done = match matches.subcommand() {
        Some(("up", matches)) => up::run(matches, arguments),
        Some(("down", matches)) => down::run(matches),
        Some(("status", matches)) => status::run(matches),
        Some(("server", matches)) => server::run(matches),
        Some(("agent", matches)) => agent::run(matches),
        Some(("token", matches)) => token::run(matches),
        Some(("image", matches)) => image::run(matches),
        Some(("sim", matches)) => sim::run(matches),
        Some(("snapshot", matches)) => snapshot::run(matches),
        Some(("certs", matches)) => certs::run(matches),
        Some((name, matches)) => component::run(name, matches),
        None => Err("no command given; see coracle --help".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            fail(&problem);
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    Command::new("coracle")
        .about("Kubernetes as one program")
        .version(VERSION)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(up::command())
        .subcommand(down::command())
        .subcommand(status::command())
        .subcommand(server::command())
        .subcommand(agent::command())
        .subcommand(token::command())
        .subcommand(image::command())
        .subcommand(snapshot::command())
        .subcommand(certs::command())
        .subcommand(sim::command())
        .subcommand(Command::new("kubectl").about("The Kubernetes command-line client").disable_help_flag(true))
        .subcommands(component::commands())
}

/// `--data-dir` alone, for commands that only need to find an installation.
fn data_dir_argument() -> Arg {
    Arg::new("data-dir").long("data-dir").value_name("DIR").default_value(DEFAULT_DATA_DIR).help("Where everything is kept")
}

fn instance(matches: &ArgMatches) -> Result<Instance, String> {
    let given = matches.get_one::<String>("data-dir").map_or(DEFAULT_DATA_DIR, String::as_str);
    let path = std::path::absolute(given).map_err(|cause| format!("--data-dir {given:?}: {cause}"))?;
    Ok(Instance::of(&path))
}

/// As the API writes times: whole seconds.
fn seconds(time: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Columns as wide as their widest cell.
fn table<const COLUMNS: usize>(header: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let header = header.map(str::to_owned);
    let lines = || std::iter::once(&header).chain(rows);
    let widths = |column: usize| lines().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(widths);
    let told: Vec<String> = lines()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("   ").trim_end().to_owned()
        })
        .collect();
    told.join("\n")
}

/// A line for the user. A closed pipe ends nothing: what was asked for is still done.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn fail(problem: &str) {
    let _ = writeln!(std::io::stderr(), "error: {problem}");
}

/// For short-lived commands: one thread.
fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| format!("cannot start: {cause}"))?
        .block_on(work)
}
