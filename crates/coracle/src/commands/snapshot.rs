//! `coracle snapshot save`, `ls`, `restore`: the store in a file, and back.

use std::path::PathBuf;
use std::sync::Arc;

use api::clock::Clock;
use clap::{Arg, ArgMatches, Command};
use jiff::Timestamp;
use store::embedded::EmbeddedStore;

use super::{block_on, data_dir_argument, instance, process, say, seconds, table};
use crate::instance::Instance;
use crate::local::{self, Request};
use crate::snapshot::{self, Header, Source};

pub fn command() -> Command {
    let file = |help: &'static str| Arg::new("file").value_name("FILE").help(help);
    Command::new("snapshot")
        .about("Save, list and restore snapshots of the store")
        .after_help("A snapshot holds every object, Secrets too, and the keys of the cluster: keep it like a private key.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(data_dir_argument().global(true))
        .subcommand(
            Command::new("save")
                .about("Write a snapshot, of a running server too")
                .arg(file("Where to (default: <data-dir>/server/snapshots/snapshot-<time>)")),
        )
        .subcommand(Command::new("ls").alias("list").about("List the snapshots in <data-dir>/server/snapshots"))
        .subcommand(
            Command::new("restore")
                .about("Put a snapshot in the store's place; the server must be stopped, and the old store is kept")
                .arg(file("A snapshot's file, or its name in <data-dir>/server/snapshots").required(true)),
        )
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let instance = instance(matches)?;
    match matches.subcommand() {
        Some(("save", matches)) => save(&instance, matches.get_one::<String>("file")),
        Some(("restore", matches)) => restore(&instance, matches.get_one::<String>("file").map_or("", String::as_str)),
        _ => list(&instance),
    }
}

fn save(instance: &Instance, file: Option<&String>) -> Result<(), String> {
    let named = || instance.snapshots().join(Timestamp::now().strftime("snapshot-%Y%m%d-%H%M%S").to_string());
    let path = file.map_or_else(named, PathBuf::from);
    let path = std::path::absolute(&path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    let header = block_on(async {
        if process::running(&instance.lock()).is_some() {
            let reply = local::ask(&instance.server_socket(), &Request::SaveSnapshot { path: path.clone() }).await?;
            return reply.snapshot.ok_or_else(|| "the server did not say what it saved".to_owned());
        }
        let _lock = process::lock(&instance.lock())?;
        if !instance.store().exists() {
            return Err(format!("{}: there is no store here", instance.store().display()));
        }
        let store = EmbeddedStore::open(instance.store()).map_err(|cause| format!("{}: {cause}", instance.store().display()))?;
        Source { store: Arc::new(store), tls: instance.tls(), clock: Clock::system() }.save(&path).await
    })?;
    say(&format!("saved {} keys at revision {} to {}", header.keys, header.revision, path.display()));
    Ok(())
}

fn list(instance: &Instance) -> Result<(), String> {
    let directory = instance.snapshots();
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            say("No snapshots found.");
            return Ok(());
        }
        Err(cause) => return Err(format!("{}: {cause}", directory.display())),
    };
    let mut rows: Vec<[String; 5]> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // What cannot be read as one is something else that lies there.
            let Header { taken_at, revision, keys, .. } = snapshot::header(&entry.path()).ok()?;
            let size = format!("{:.1} MiB", entry.metadata().ok()?.len() as f64 / f64::from(1 << 20));
            let name = entry.file_name().to_string_lossy().into_owned();
            Some([name, size, seconds(taken_at), revision.to_string(), keys.to_string()])
        })
        .collect();
    rows.sort();
    say(&table(["NAME", "SIZE", "TAKEN", "REVISION", "KEYS"], &rows));
    Ok(())
}

fn restore(instance: &Instance, file: &str) -> Result<(), String> {
    let kept = instance.snapshots().join(file);
    let path = if kept.exists() { kept } else { PathBuf::from(file) };
    // No server may start while the store is exchanged.
    let _lock = process::lock(&instance.lock()).map_err(|problem| format!("{problem}; stop it first"))?;
    let (header, old) = snapshot::restore(&path, instance, Timestamp::now())?;
    say(&format!("restored {} keys of {}", header.keys, seconds(header.taken_at)));
    if let Some(old) = old {
        say(&format!("the store as it was is kept in {}", old.display()));
    }
    say("coracle up starts the cluster with it");
    Ok(())
}
