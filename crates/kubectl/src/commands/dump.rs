//! `kubectl cluster-info dump`: what helps to find out what is wrong, all at once.

use std::path::Path;

use serde_json::Value;

use super::logs::containers;
use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::flags::{Flag, Parsed};
use crate::output::Format;
use crate::rest::Url;
use crate::session::Session;
use crate::value::{list, name};

pub static DUMP: Command = Command {
    name: "dump",
    about: "Write down nodes, workloads, events and logs, to find out what is wrong.",
    usage: "[flags] [options]",
    examples: "
kubectl cluster-info dump
kubectl cluster-info dump --all-namespaces --output-directory=/tmp/state",
    flags: &[FLAGS],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::switch("all-namespaces", "All namespaces.").short('A'),
    Flag::switch("allow-missing-template-keys", "Print nothing for fields that a template names and the object lacks.").default("true"),
    Flag::list("namespaces", "Namespaces; kube-system and the context's if left out."),
    Flag::text("output", "Output format: json, yaml, name, go-template, go-template-file, template, templatefile, jsonpath, jsonpath-as-json or jsonpath-file.").short('o').default("json"),
    Flag::text("output-directory", "Directory for a file of each; standard output if empty or -."),
    Flag::duration("pod-running-timeout", "20s", "How long to wait until a pod runs."),
    Flag::switch("show-managed-fields", "Keep managedFields in JSON and YAML."),
    Flag::text("template", "Template text or file for the output formats that take one."),
];

/// Path below the namespace, the collection, and the kind of its list.
const KINDS: &[(&str, &str, &str)] = &[
    ("events", "/api/v1", "events"),
    ("replication-controllers", "/api/v1", "replicationcontrollers"),
    ("services", "/api/v1", "services"),
    ("daemonsets", "/apis/apps/v1", "daemonsets"),
    ("deployments", "/apis/apps/v1", "deployments"),
    ("replicasets", "/apis/apps/v1", "replicasets"),
    ("pods", "/api/v1", "pods"),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let mut sink = Sink { session, args, format: Format::of(args)?, directory: args.text("output-directory") };
    let nodes = session.get(Url::new("/api/v1/nodes")).await?;
    sink.object("nodes", &nodes)?;
    let namespaces = if args.is_set("all-namespaces") {
        let found = session.get(Url::new("/api/v1/namespaces")).await?;
        list(&found, "/items").iter().map(|namespace| name(namespace).to_owned()).collect()
    } else if args.changed("namespaces") {
        args.list("namespaces")
    } else {
        vec!["kube-system".to_owned(), session.namespace()?.to_owned()]
    };
    for namespace in namespaces {
        let mut pods = Value::Null;
        for (file, base, collection) in KINDS {
            let found = session.get(Url::new(format!("{base}/namespaces/{namespace}/{collection}"))).await?;
            sink.object(&format!("{namespace}/{file}"), &found)?;
            if *collection == "pods" {
                pods = found;
            }
        }
        for pod in list(&pods, "/items") {
            let mut logs = String::new();
            for (container, field) in containers(pod) {
                if field != "ephemeralContainers" {
                    logs += &log(session, &namespace, name(pod), &container).await;
                }
            }
            sink.text(&format!("{namespace}/{}/logs", name(pod)), ".txt", &logs)?;
        }
    }
    if sink.to_files() {
        session.say(format!("Cluster info dumped to {}", sink.directory))?;
    }
    Ok(())
}

async fn log(session: &Session, namespace: &str, pod: &str, container: &str) -> String {
    let url = Url::new(format!("/api/v1/namespaces/{namespace}/pods/{pod}/log")).with("container", container);
    let said = match session.call_raw(http::Method::GET, url, "*/*", "", Vec::new()).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("Request log error: {}\n", error.bare()),
    };
    format!("==== START logs for container {container} of pod {namespace}/{pod} ====\n{said}==== END logs for container {container} of pod {namespace}/{pod} ====\n")
}

struct Sink<'a> {
    session: &'a Session,
    args: &'a Parsed,
    format: Format,
    directory: &'a str,
}

impl Sink<'_> {
    fn to_files(&self) -> bool {
        !self.directory.is_empty() && self.directory != "-"
    }

    fn object(&mut self, file: &str, object: &Value) -> Result {
        let shown = self.format.show(object, self.args)?;
        let ending = match self.args.text("output") {
            "json" => ".json",
            "yaml" => ".yaml",
            _ => ".txt",
        };
        self.text(file, ending, &shown)
    }

    fn text(&self, file: &str, ending: &str, content: &str) -> Result {
        if !self.to_files() {
            return self.session.print(content);
        }
        let path = Path::new(self.directory).join(format!("{file}{ending}"));
        let failed = |error: std::io::Error| Error::Message(format!("open {}: {}", path.display(), crate::kubeconfig::go_io(&error)));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        std::fs::write(&path, content).map_err(failed)
    }
}
