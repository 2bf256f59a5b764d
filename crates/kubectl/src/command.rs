//! What a command is, how its help reads, and how a command line finds its command.
//!
//! Invariant: a command is one static that names its flags and its `run`; everything else loops over the tree.

use std::future::Future;
use std::pin::Pin;

use crate::error::{Error, Result};
use crate::flags::{Flag, Kind, Parsed, parse};
use crate::session::Session;

pub type Run = for<'a> fn(&'a Session, &'a Parsed) -> Pin<Box<dyn Future<Output = Result> + 'a>>;

pub struct Command {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// One line for the list of commands.
    pub about: &'static str,
    /// What follows the command's path in the usage line.
    pub usage: &'static str,
    pub examples: &'static str,
    pub flags: &'static [&'static [Flag]],
    pub subcommands: &'static [&'static Command],
    /// Headings of the list of subcommands, each with the name of the first one below it. What stands below a heading
    /// without text is not listed.
    pub groups: &'static [(&'static str, &'static str)],
    pub run: Option<Run>,
    /// Flags end at the first argument: what follows belongs to the command to be run.
    pub interspersed: bool,
    /// What a command without `run` does when none of its subcommands is named.
    pub alone: Alone,
}

/// The original's groups of commands are of three minds about being called alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Help on standard output, success.
    Helps,
    /// Help on standard output, failure.
    HelpsAndFails,
    /// Help on standard error, failure.
    Complains,
}

/// What a command is unless it says otherwise.
pub const COMMAND: Command = Command {
    name: "",
    aliases: &[],
    about: "",
    usage: "[options]",
    examples: "",
    flags: &[],
    subcommands: &[],
    groups: &[],
    run: None,
    interspersed: true,
    alone: Alone::Helps,
};

/// A command found, with its words read.
pub struct Found {
    pub command: &'static Command,
    /// `kubectl create deployment`
    pub path: String,
    pub parsed: Parsed,
}

/// Finds the command that `words` name. Global flags may stand before it.
pub fn find(root: &'static Command, globals: &'static [Flag], words: &[String]) -> Result<Found> {
    let mut command = root;
    let mut path = root.name.to_owned();
    let mut rest = words.to_vec();
    while !command.subcommands.is_empty() {
        let Some(at) = first_argument(globals, command, &rest) else { break };
        let name = rest[at].clone();
        let Some(next) = command.subcommands.iter().find(|sub| sub.name == name || sub.aliases.contains(&name.as_str())) else {
            if command.run.is_some() {
                break;
            }
            if command.alone != Alone::Helps {
                return Err(Error::Message(format!("unknown command {name:?}\nSee '{path} -h' for help and examples")));
            }
            return Err(unknown(command, &path, &name));
        };
        rest.remove(at);
        path = format!("{path} {}", next.name);
        command = next;
    }
    let flags = all_flags(command, globals);
    let parsed = parse(&flags, &rest, command.interspersed)
        .map_err(|error| Error::Message(format!("{error}\nSee '{path} --help' for usage.")))?;
    Ok(Found { command, path, parsed })
}

fn unknown(command: &Command, path: &str, name: &str) -> Error {
    let close: Vec<String> = command
        .subcommands
        .iter()
        .filter(|sub| distance(sub.name, name) <= 2 || sub.name.starts_with(name))
        .map(|sub| format!("\t{}", sub.name))
        .collect();
    let hint = if close.is_empty() { String::new() } else { format!("\n\nDid you mean this?\n{}", close.join("\n")) };
    Error::Message(format!("unknown command {name:?} for {path:?}{hint}"))
}

/// The position of the first word that is neither a flag nor a flag's value.
fn first_argument(globals: &[Flag], command: &Command, words: &[String]) -> Option<usize> {
    let flags = all_flags(command, globals);
    let mut at = 0;
    while at < words.len() {
        let word = &words[at];
        if word == "--" {
            return None;
        } else if let Some(long) = word.strip_prefix("--") {
            let takes = !long.contains('=') && flags.iter().any(|flag| flag.long == long && flag.bare.is_none());
            at += if takes { 2 } else { 1 };
        } else if word.len() > 1 && word.starts_with('-') {
            let last = word.chars().next_back();
            let takes = word.chars().count() == 2 && flags.iter().any(|flag| flag.short == last && flag.bare.is_none());
            at += if takes { 2 } else { 1 };
        } else {
            return Some(at);
        }
    }
    None
}

pub fn all_flags(command: &Command, globals: &[Flag]) -> Vec<Flag> {
    let mut flags: Vec<Flag> = command.flags.iter().flat_map(|group| group.iter().copied()).collect();
    let own = |flag: &&Flag| !command.flags.iter().flat_map(|group| group.iter()).any(|mine| mine.long == flag.long);
    flags.extend(globals.iter().filter(own).map(|flag| Flag {
        // A command's own shorthand wins over a global one.
        short: flag.short.filter(|short| !command.flags.iter().flat_map(|group| group.iter()).any(|mine| mine.short == Some(*short))),
        ..*flag
    }));
    flags
}

/// The text of `--help`.
pub fn help(command: &Command, path: &str) -> String {
    let mut out = format!("{}\n", command.about);
    if !command.aliases.is_empty() {
        out += &format!("\nAliases:\n{}, {}\n", command.name, command.aliases.join(", "));
    }
    if !command.examples.is_empty() {
        out += "\nExamples:\n";
        for line in command.examples.trim_matches('\n').lines() {
            out += &if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") };
        }
    }
    if !command.subcommands.is_empty() {
        let width = command.subcommands.iter().map(|sub| sub.name.len()).max().unwrap_or(0);
        let mut heading = "Available Commands:";
        for (at, sub) in command.subcommands.iter().enumerate() {
            let begins = command.groups.iter().find(|(_, first)| *first == sub.name);
            heading = begins.map_or(heading, |(heading, _)| heading);
            if heading.is_empty() {
                continue;
            }
            if at == 0 || begins.is_some() {
                out += &format!("\n{heading}\n");
            }
            out += &format!("  {:width$}   {}\n", sub.name, sub.about);
        }
    }
    let mut flags: Vec<&Flag> = command.flags.iter().flat_map(|group| group.iter()).filter(|flag| !flag.hidden).collect();
    flags.sort_by_key(|flag| flag.long);
    if !flags.is_empty() {
        out += "\nOptions:\n";
        let shown: Vec<String> = flags.into_iter().map(flag_help).collect();
        out += &shown.join("\n");
    }
    out += &format!("\nUsage:\n  {path} {}\n", command.usage);
    if !command.subcommands.is_empty() {
        out += &format!("\nUse \"{path} <command> --help\" for more information about a given command.");
    }
    out + "\nUse \"kubectl options\" for a list of global command-line options (applies to all commands).\n"
}

pub fn flag_help(flag: &Flag) -> String {
    let default = match flag.kind {
        Kind::Bool | Kind::Int | Kind::Duration => flag.default.to_owned(),
        Kind::Text => format!("'{}'", flag.default),
        Kind::Pairs => String::new(),
        Kind::List | Kind::Array => format!("[{}]", flag.default),
    };
    let short = flag.short.map(|short| format!("-{short}, ")).unwrap_or_default();
    format!("    {short}--{}={default}:\n\t{}\n", flag.long, flag.help)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let cost = if left == *right { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}
