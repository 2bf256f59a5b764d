//! `kubectl plugin`, and commands that are programs named `kubectl-...` on the path.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::command::{Alone, COMMAND, Command};
use crate::error::{Error, Result};
use crate::session::{Environment, Session};

pub static PLUGIN: Command = Command {
    name: "plugin",
    about: "Show the plugins: programs on the path whose names begin with kubectl-.",
    usage: "[flags] [options]",
    examples: "kubectl plugin list",
    alone: Alone::Complains,
    subcommands: &[&LIST],
    ..COMMAND
};

static LIST: Command = Command {
    name: "list",
    about: "List all plugins on the path.",
    usage: "[flags] [options]",
    examples: "kubectl plugin list --name-only",
    flags: &[&[crate::flags::Flag::switch("name-only", "Show names, not whole paths.")]],
    run: Some(|session, args| Box::pin(async move { list(session, args.is_set("name-only")) })),
    ..COMMAND
};

fn list(session: &Session, name_only: bool) -> Result {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut seen_directories = Vec::new();
    for directory in directories(&session.environment) {
        if seen_directories.contains(&directory) {
            continue;
        }
        seen_directories.push(directory.clone());
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                let (shown, why) = (directory.display().to_string(), crate::kubeconfig::go_io(&error));
                session.complain(format!("Unable to read directory {shown:?} from your PATH: open {shown}: {why}. Skipping..."));
                continue;
            }
        };
        let mut names: Vec<PathBuf> = entries.filter_map(std::result::Result::ok).map(|entry| entry.path()).collect();
        names.sort();
        let is_plugin = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl-"));
        found.extend(names.into_iter().filter(is_plugin));
    }
    if found.is_empty() {
        return Err(Error::Message("unable to find any kubectl plugins in your PATH".to_owned()));
    }
    session.say("The following compatible plugins are available:\n")?;
    let mut warnings = 0;
    for (index, path) in found.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        session.say(if name_only { name.clone() } else { path.display().to_string() })?;
        session.flush()?;
        for warning in problems(path, &name, &found[..index]) {
            session.complain(format!("  - warning: {warning}"));
            warnings += 1;
        }
    }
    match warnings {
        0 => Ok(()),
        1 => Err(Error::Message("one plugin warning was found".to_owned())),
        count => Err(Error::Message(format!("{count} plugin warnings were found"))),
    }
}

/// Why a plugin would not be run, or not this one.
fn problems(path: &Path, name: &str, before: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    let (mut command, mut path_of_command) = (&super::ROOT, "kubectl".to_owned());
    for word in name.split('-').skip(1) {
        let Some(sub) = command.subcommands.iter().find(|sub| sub.name == word || sub.aliases.contains(&word)) else { break };
        command = sub;
        path_of_command = format!("{path_of_command} {}", sub.name);
    }
    if path_of_command != "kubectl" {
        found.push(format!("{name} overwrites existing command: {path_of_command:?}"));
    }
    if !is_executable(path) {
        found.push(format!("{} identified as a kubectl plugin, but it is not executable", path.display()));
    } else if let Some(first) = before.iter().find(|other| other.file_name() == path.file_name()) {
        found.push(format!("{} is overshadowed by a similarly named plugin: {}", path.display(), first.display()));
    }
    found
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

fn directories(environment: &Environment) -> Vec<PathBuf> {
    environment.var("PATH").unwrap_or_default().split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect()
}

/// First words of the plugins there are, for completion.
pub fn names(environment: &Environment) -> Vec<String> {
    let mut found: Vec<String> = directories(environment)
        .iter()
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .filter_map(std::result::Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("kubectl-").map(|name| name.split('-').next().unwrap_or(name).replace('_', "-")))
        .filter(|name| name != "complete_")
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Runs `kubectl-a-b` for `kubectl a b ...`: the longest name that there is. None when there is none.
pub fn try_plugin(args: &[String], environment: &Environment) -> Option<u8> {
    let words: Vec<String> = args.iter().take_while(|word| !word.starts_with('-')).map(|word| word.replace('-', "_")).collect();
    for count in (1..=words.len()).rev() {
        let name = format!("kubectl-{}", words[..count].join("-"));
        let program = directories(environment).into_iter().map(|directory| directory.join(&name)).find(|path| is_executable(path));
        if let Some(program) = program {
            let status = std::process::Command::new(program).args(&args[count..]).status().ok()?;
            return Some(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1));
        }
    }
    None
}
