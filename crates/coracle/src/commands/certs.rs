//! `coracle certs`: this machine's certificates, how long they last, and how to get new ones.
//!
//! Certificates that near their end are issued again at each start of a server, and by a running agent for itself.
//! Deliberately absent: another authority. That would be another cluster.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Command};
use jiff::{SignedDuration, Timestamp};
use x509_parser::pem::Pem;

use super::{data_dir_argument, instance, process, say, table};
use crate::instance::Instance;

pub fn command() -> Command {
    Command::new("certs")
        .about("Show and renew this machine's certificates")
        .arg(data_dir_argument().global(true))
        .subcommand(Command::new("check").about("Show them and how long they last; what the command does by itself"))
        .subcommand(
            Command::new("renew").about("Have the server issue its certificates anew when it starts next; the authority stays"),
        )
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let instance = instance(matches)?;
    match matches.subcommand() {
        Some(("renew", _)) => renew(&instance),
        _ => check(&instance),
    }
}

fn check(instance: &Instance) -> Result<(), String> {
    let found = certificates(instance)?;
    if found.is_empty() {
        return Err(format!("{}: there are no certificates here", instance.data_dir.display()));
    }
    let rows = found.iter().map(|path| row(instance, path, Timestamp::now())).collect::<Result<Vec<_>, _>>()?;
    say(&table(["CERTIFICATE", "SUBJECT", "EXPIRES", "RESIDUAL TIME", "AUTHORITY"], &rows));
    Ok(())
}

fn renew(instance: &Instance) -> Result<(), String> {
    let mut renewed = 0;
    for path in files(&instance.tls(), &["crt"])? {
        let key = path.with_extension("key");
        if is_authority(&path)? || !key.exists() {
            continue;
        }
        for file in [&path, &key] {
            std::fs::remove_file(file).map_err(|cause| format!("{}: {cause}", file.display()))?;
        }
        renewed += 1;
    }
    if renewed == 0 {
        return Err(format!("{}: a server has no certificates here", instance.tls().display()));
    }
    say(&format!("{renewed} certificates are issued anew at the next start"));
    if process::running(&instance.lock()).is_some() {
        say("the running server goes on with the old ones: coracle down, then coracle up");
    }
    Ok(())
}

fn certificates(instance: &Instance) -> Result<Vec<PathBuf>, String> {
    Ok([files(&instance.tls(), &["crt"])?, files(&instance.pki(), &["crt", "pem"])?].concat())
}

/// Files with one of these endings, in order; none where there is no such directory.
fn files(directory: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, String> {
    let entries = match std::fs::read_dir(directory) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|cause| format!("{}: {cause}", directory.display()))?,
    };
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.extension().and_then(|it| it.to_str()).is_some_and(|ending| endings.contains(&ending)));
    found.sort();
    Ok(found)
}

struct Facts {
    subject: String,
    issuer: String,
    expires: Timestamp,
    is_authority: bool,
}

fn facts(path: &Path) -> Result<Facts, String> {
    let named = |cause: &dyn std::fmt::Display| format!("{}: {cause}", path.display());
    let text = std::fs::read(path).map_err(|cause| named(&cause))?;
    // A node keeps its key in the same file.
    let pem = Pem::iter_from_buffer(&text).filter_map(Result::ok).find(|pem| pem.label == "CERTIFICATE");
    let pem = pem.ok_or_else(|| named(&"no certificate is in it"))?;
    let certificate = pem.parse_x509().map_err(|cause| named(&cause))?;
    Ok(Facts {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        expires: Timestamp::from_second(certificate.validity().not_after.timestamp()).map_err(|cause| named(&cause))?,
        is_authority: certificate.is_ca(),
    })
}

fn is_authority(path: &Path) -> Result<bool, String> {
    facts(path).map(|facts| facts.is_authority)
}

fn row(instance: &Instance, path: &Path, now: Timestamp) -> Result<[String; 5], String> {
    let Facts { subject, issuer, expires, is_authority } = facts(path)?;
    let name = path.strip_prefix(&instance.data_dir).unwrap_or(path).display().to_string();
    let authority = if is_authority { "itself".to_owned() } else { issuer };
    Ok([name, subject, expires.strftime("%b %d, %Y %H:%M UTC").to_string(), residual(expires.duration_since(now)), authority])
}

/// As kubeadm tells it: `9y`, `364d`, `5h`, or that it is over.
fn residual(left: SignedDuration) -> String {
    match left.as_hours() {
        _ if left.is_negative() => "expired".to_owned(),
        hours if hours < 24 => format!("{hours}h"),
        hours if hours < 24 * 365 => format!("{}d", hours / 24),
        hours => format!("{}y", hours / (24 * 365)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_one_unit() {
        for (hours, expected) in [(-1, "expired"), (0, "0h"), (23, "23h"), (24, "1d"), (24 * 365 - 1, "364d"), (24 * 3650, "10y")] {
            assert_eq!(residual(SignedDuration::from_hours(hours)), expected);
        }
    }

    #[test]
    fn leaves_are_issued_anew_and_the_authority_stays() {
        let scratch = tempfile::tempdir().expect("a directory");
        let instance = Instance::of(scratch.path());
        let now = Timestamp::now();
        let issue = || {
            let pki = apiserver::pki::Pki::open(&instance.tls(), now).expect("opens");
            pki.service_account_key().expect("makes");
            let names = ["localhost".to_owned()];
            (pki.authority_pem().to_owned(), pki.serving("apiserver", "kube-apiserver", &names).expect("issues").certificate_pem)
        };
        let (authority, leaf) = issue();
        assert!(!is_authority(&instance.tls().join("apiserver.crt")).expect("reads"));
        let told = row(&instance, &instance.tls().join("apiserver.crt"), now).expect("reads");
        assert_eq!((&*told[0], &*told[1], &*told[4]), ("server/tls/apiserver.crt", "CN=kube-apiserver", "CN=kubernetes"));
        renew(&instance).expect("renews");
        let (same, other) = issue();
        assert_eq!(authority, same);
        assert_ne!(leaf, other);
        assert!(renew(&Instance::of(&scratch.path().join("nothing"))).is_err());
    }
}
