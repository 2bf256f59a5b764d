//! `kubectl create ingress`

use serde_json::{Value, json};

use super::{GENERATED, create, name_argument};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static INGRESS: Command = Command {
    name: "ingress",
    aliases: &["ing"],
    about: "Create an ingress with the given name.",
    usage: "NAME --rule=host/path=service:port[,tls[=secret]]  [options]",
    examples: "
kubectl create ingress web --rule='example.com/*=web:80'
kubectl create ingress safe --class=nginx --rule='example.com/=web:80,tls=cert'",
    flags: &[FLAGS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::array("annotation", "Annotation to set: annotation=value."),
    Flag::text("class", "Ingress class."),
    Flag::text("default-backend", "Service for everything else: svcname:port."),
    Flag::array("rule", "A rule: host/path=service:port[,tls=secretname]. A path that ends in * is a prefix."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let name = name_argument(session, args)?;
    if !args.changed("rule") && !args.changed("default-backend") {
        fail!("not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)");
    }
    let mut spec = json!({});
    if args.changed("class") {
        spec["ingressClassName"] = args.text("class").into();
    }
    if args.changed("default-backend") {
        spec["defaultBackend"] = backend(args.text("default-backend"))?;
    }
    let mut rules: Vec<(String, Vec<Value>)> = Vec::new();
    let mut tls: Vec<(String, Vec<String>)> = Vec::new();
    for rule in args.list("rule") {
        let (rule, secret) = match rule.split_once(',') {
            Some((rule, "tls")) => (rule.to_owned(), Some(String::new())),
            Some((rule, tls)) if tls.starts_with("tls=") => (rule.to_owned(), Some(tls[4..].to_owned())),
            Some(_) => fail!("rule {rule} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"),
            None => (rule, None),
        };
        let Some(((host, path), service)) = rule.split_once('=').and_then(|(left, service)| Some((left.split_once('/')?, service))) else {
            fail!("rule {rule} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]");
        };
        let (path, path_type) = match path.strip_suffix('*') {
            Some(prefix) => (prefix, "Prefix"),
            None => (path, "Exact"),
        };
        let entry = json!({"path": format!("/{path}"), "pathType": path_type, "backend": backend(service)?});
        match rules.iter_mut().find(|(known, _)| known == host) {
            Some((_, paths)) => paths.push(entry),
            None => rules.push((host.to_owned(), vec![entry])),
        }
        if let Some(secret) = secret {
            match tls.iter_mut().find(|(known, _)| *known == secret) {
                Some((_, hosts)) if !hosts.iter().any(|known| known == host) => hosts.push(host.to_owned()),
                Some(_) => {}
                None => tls.push((secret, vec![host.to_owned()])),
            }
        }
    }
    if !rules.is_empty() {
        let shown = rules.into_iter().map(|(host, paths)| {
            let mut rule = json!({"http": {"paths": paths}});
            if !host.is_empty() {
                rule["host"] = host.into();
            }
            rule
        });
        spec["rules"] = shown.collect::<Vec<Value>>().into();
    }
    if !tls.is_empty() {
        let shown = tls.into_iter().map(|(secret, hosts)| {
            let mut entry = json!({});
            if hosts.iter().any(|host| !host.is_empty()) {
                entry["hosts"] = hosts.into();
            }
            if !secret.is_empty() {
                entry["secretName"] = secret.into();
            }
            entry
        });
        spec["tls"] = shown.collect::<Vec<Value>>().into();
    }
    let mut metadata = json!({"name": name});
    for annotation in args.list("annotation") {
        let Some((key, value)) = annotation.split_once('=') else { fail!("invalid annotation: {annotation}") };
        crate::value::set(&mut metadata, &["annotations", key], value.into());
    }
    create(session, args, json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec, "status": {"loadBalancer": {}}})).await
}

/// `service:port`, the port a number or a name.
fn backend(text: &str) -> Result<Value> {
    let Some((service, port)) = text.split_once(':') else {
        fail!("backend {text} is invalid and should be in format svcname:port");
    };
    let port = match port.parse::<u16>() {
        Ok(number) => json!({"number": number}),
        Err(_) => json!({"name": port}),
    };
    Ok(json!({"service": {"name": service, "port": port}}))
}
