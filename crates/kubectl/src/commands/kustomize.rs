//! `kubectl kustomize`: shows what a kustomization makes.

use std::path::Path;

use serde_json::Value;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::kubeconfig::go_io;
use crate::kustomize::{Loading, objects};
use crate::session::Session;
use crate::value::{name, text};

pub static KUSTOMIZE: Command = Command {
    name: "kustomize",
    about: "Show the objects that a kustomization makes.",
    usage: "DIR [flags] [options]",
    examples: "
kubectl kustomize overlays/production
kubectl kustomize overlays/production | kubectl diff -f -",
    flags: &[FLAGS],
    run: Some(|session, args| Box::pin(async move { run(session, args) })),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::switch("as-current-user", "Run functions as the user of this command. Not supported."),
    Flag::switch("enable-alpha-plugins", "Use plugins. Not supported."),
    Flag::switch("enable-helm", "Inflate helm charts. Not supported."),
    Flag::array("env", "Environment of functions. Not supported.").short('e'),
    Flag::array("helm-api-versions", "API versions for helm. Not supported."),
    Flag::text("helm-command", "The helm program. Not supported.").default("helm"),
    Flag::switch("helm-debug", "Debug output of helm. Not supported."),
    Flag::text("helm-kube-version", "Kubernetes version for helm. Not supported."),
    Flag::text("load-restrictor", "LoadRestrictionsNone: files may lie outside the directory of their kustomization.").default("LoadRestrictionsRootOnly"),
    Flag::array("mount", "Mounts of functions. Not supported."),
    Flag::switch("network", "Network for functions. Not supported."),
    Flag::text("network-name", "Network of functions. Not supported.").default("bridge"),
    Flag::text("output", "File or directory to write to.").short('o'),
];

const REFUSED: &[&str] = &["as-current-user", "enable-alpha-plugins", "enable-helm", "env", "helm-api-versions", "helm-debug", "helm-kube-version", "mount", "network"];

fn run(session: &Session, args: &Parsed) -> Result {
    let directory = match args.args.as_slice() {
        [] => ".",
        [directory] => directory,
        _ => fail!("specify one path to kustomization.yaml"),
    };
    if let Some(flag) = REFUSED.iter().find(|flag| args.changed(flag)) {
        return Err(Error::not_supported(&format!("kustomize --{flag}")));
    }
    let loading = match args.text("load-restrictor") {
        "LoadRestrictionsRootOnly" => Loading::RootOnly,
        "LoadRestrictionsNone" => Loading::Anywhere,
        other => fail!("illegal flag value --load-restrictor {other}; legal values: [LoadRestrictionsRootOnly LoadRestrictionsNone]"),
    };
    let objects = objects(session, Path::new(directory), loading)?;
    let output = args.text("output");
    if !output.is_empty() && Path::new(output).is_dir() {
        for object in &objects {
            write(&Path::new(output).join(file_name(object)), &api::yaml::to_yaml(object))?;
        }
        return Ok(());
    }
    let all: Vec<String> = objects.iter().map(api::yaml::to_yaml).collect();
    let all = all.join("---\n");
    if output.is_empty() { session.print(all) } else { write(Path::new(output), &all) }
}

fn write(path: &Path, content: &str) -> Result {
    std::fs::write(path, content).map_err(|error| Error::Message(format!("open {}: {}", path.display(), go_io(&error))))
}

/// `apps_v1_deployment_web.yaml`
fn file_name(object: &Value) -> String {
    let parts = [text(object, "/apiVersion").replace('/', "_"), text(object, "/kind").to_owned(), name(object).to_owned()];
    format!("{}.yaml", parts.join("_").to_lowercase())
}
