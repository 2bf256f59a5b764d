//! `kubectl apply --prune`: deletes what was applied once and is no longer in the files.
//!
//! Invariant: only objects that carry the annotation of an apply are deleted, of kinds on the list, in namespaces that
//! the files name. Deliberately absent: apply sets, which keep account of their members (`applyset`).

use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::Value;

use super::apply::annotation_pointer;
use crate::discovery::Resource;
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::Parsed;
use crate::output::{DryRun, report};
use crate::rest::Url;
use crate::selection::{Info, items, list_all};
use crate::session::Session;
use crate::value::text;

/// Group, version, kind.
const KINDS: &[(&str, &str, &str)] = &[
    ("", "v1", "ConfigMap"),
    ("", "v1", "Endpoints"),
    ("", "v1", "Namespace"),
    ("", "v1", "PersistentVolumeClaim"),
    ("", "v1", "PersistentVolume"),
    ("", "v1", "Pod"),
    ("", "v1", "ReplicationController"),
    ("", "v1", "Secret"),
    ("", "v1", "Service"),
    ("batch", "v1", "Job"),
    ("batch", "v1", "CronJob"),
    ("networking.k8s.io", "v1", "Ingress"),
    ("apps", "v1", "DaemonSet"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "ReplicaSet"),
    ("apps", "v1", "StatefulSet"),
];

/// What the flags say before anything is sent.
pub fn validate(args: &Parsed) -> Result {
    if !args.is_set("prune") {
        return Ok(());
    }
    if args.is_set("force") {
        fail!("--force cannot be used with --prune");
    }
    if args.is_set("all") && args.changed("selector") {
        fail!("cannot set --all and --selector at the same time");
    }
    if args.text("applyset").is_empty() && !args.is_set("all") && !args.changed("selector") {
        fail!("all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector");
    }
    if args.text("applyset").is_empty() && args.is_set("server-side") {
        fail!("--prune is in alpha and doesn't currently work on objects created by server-side apply");
    }
    for kind in args.list("prune-allowlist") {
        if kind.split('/').count() != 3 {
            fail!("invalid GroupVersionKind format: {kind}, please follow <group/version/kind>");
        }
    }
    Ok(())
}

/// What an apply has seen.
#[derive(Default)]
pub struct Visited {
    pub uids: BTreeSet<String>,
    pub namespaces: BTreeSet<String>,
}

impl Visited {
    pub fn note(&mut self, info: &Info) {
        self.uids.insert(text(&info.object, "/metadata/uid").to_owned());
        if info.resource.namespaced {
            self.namespaces.insert(info.namespace.clone());
        }
    }
}

pub async fn prune(session: &Session, args: &Parsed, visited: &Visited, dry_run: DryRun) -> Result {
    for info in candidates(session, args, visited).await? {
        delete_pruned(session, args, &info, dry_run).await.map_err(|error| pruning(error, &info.resource))?;
    }
    Ok(())
}

/// Deletes one object, and says so.
pub async fn delete_pruned(session: &Session, args: &Parsed, info: &Info, dry_run: DryRun) -> Result {
    if dry_run != DryRun::Client {
        session.delete(info.url(), &super::delete::options(args, args.int("grace-period"), dry_run)?).await?;
    }
    report(session, args, info, "pruned", dry_run)
}

/// Objects that were applied once and were not seen this time.
pub async fn candidates(session: &Session, args: &Parsed, visited: &Visited) -> Result<Vec<Info>> {
    let (namespaced, elsewhere): (Vec<_>, Vec<_>) = kinds(session, args).await?.into_iter().partition(|resource| resource.namespaced);
    let mut places: Vec<(String, Rc<Resource>)> = Vec::new();
    for namespace in &visited.namespaces {
        places.extend(namespaced.iter().map(|resource| (namespace.clone(), resource.clone())));
    }
    places.extend(elsewhere.into_iter().map(|resource| (String::new(), resource)));
    let pointer = annotation_pointer();
    let mut found = Vec::new();
    for (namespace, resource) in places {
        let url = Url::new(resource.collection(&namespace)).with_filled("labelSelector", args.text("selector"));
        let mut listed = list_all(session, url, 500).await.map_err(|error| pruning(error, &resource))?;
        found.extend(items(&resource, &mut listed).into_iter().filter(|info| {
            info.object.pointer(&pointer).and_then(Value::as_str).is_some() && !visited.uids.contains(text(&info.object, "/metadata/uid"))
        }));
    }
    Ok(found)
}

fn pruning(error: Error, resource: &Resource) -> Error {
    let kind = resource.group_version_kind();
    let sort = if resource.namespaced { "namespaced" } else { "nonNamespaced" };
    Error::Message(format!("error pruning {sort} object {kind}: {}", error.bare()))
}

async fn kinds(session: &Session, args: &Parsed) -> Result<Vec<Rc<Resource>>> {
    let wanted: Vec<(String, String, String)> = if args.changed("prune-allowlist") {
        let words = args.list("prune-allowlist");
        let split = |word: &String| {
            let mut parts = word.splitn(3, '/').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            let group = next();
            (if group == "core" { String::new() } else { group }, next(), next())
        };
        words.iter().map(split).collect()
    } else {
        KINDS.iter().map(|(group, version, kind)| ((*group).to_owned(), (*version).to_owned(), (*kind).to_owned())).collect()
    };
    let mut found = Vec::new();
    for (group, version, kind) in wanted {
        let api_version = if group.is_empty() { version } else { format!("{group}/{version}") };
        found.push(session.resource_of_kind(&api_version, &kind).await?);
    }
    Ok(found)
}
