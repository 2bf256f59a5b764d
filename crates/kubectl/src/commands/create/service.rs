//! `kubectl create service`: clusterip, nodeport, loadbalancer, externalname

use serde_json::{Value, json};

use super::{GENERATED, create, name_argument, required};
use crate::command::{Alone, COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static SERVICE: Command = Command {
    name: "service",
    aliases: &["svc"],
    about: "Create a service by one of the commands below.",
    usage: "[flags] [options]",
    alone: Alone::Complains,
    subcommands: &[&CLUSTER_IP, &EXTERNAL_NAME, &LOAD_BALANCER, &NODE_PORT],
    ..COMMAND
};

const TCP: &[Flag] = &[Flag::list("tcp", "Port pairs: <port>:<targetPort>.")];

static CLUSTER_IP: Command = Command {
    name: "clusterip",
    about: "Create a ClusterIP service with the given name.",
    usage: "NAME [--tcp=<port>:<targetPort>] [--dry-run=server|client|none] [options]",
    examples: "
kubectl create service clusterip web --tcp=80:8080
kubectl create service clusterip db --clusterip=None",
    flags: &[TCP, &[Flag::text("clusterip", "The address to take, or None for a headless service.")], GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, "ClusterIP"))),
    ..COMMAND
};

static NODE_PORT: Command = Command {
    name: "nodeport",
    about: "Create a NodePort service with the given name.",
    usage: "NAME [--tcp=port:targetPort] [--dry-run=server|client|none] [options]",
    examples: "kubectl create service nodeport web --tcp=80:8080 --node-port=30080",
    flags: &[TCP, &[Flag::int("node-port", "0", "The port on every node.")], GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, "NodePort"))),
    ..COMMAND
};

static LOAD_BALANCER: Command = Command {
    name: "loadbalancer",
    about: "Create a LoadBalancer service with the given name.",
    usage: "NAME [--tcp=port:targetPort] [--dry-run=server|client|none] [options]",
    examples: "kubectl create service loadbalancer web --tcp=80:8080",
    flags: &[TCP, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, "LoadBalancer"))),
    ..COMMAND
};

static EXTERNAL_NAME: Command = Command {
    name: "externalname",
    about: "Create an ExternalName service with the given name.",
    usage: "NAME --external-name external.name [--dry-run=server|client|none] [options]",
    examples: "kubectl create service externalname db --external-name=db.example.com",
    flags: &[TCP, &[Flag::text("external-name", "The name that the service stands for.")], GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, "ExternalName"))),
    ..COMMAND
};

async fn run(session: &Session, args: &Parsed, kind: &str) -> Result {
    if kind == "ExternalName" {
        required(args, &["external-name"])?;
    }
    let name = name_argument(session, args)?;
    let headless = args.text("clusterip") == "None";
    if args.list("tcp").is_empty() && kind != "ExternalName" && !headless {
        fail!("at least one tcp port specifier must be provided");
    }
    let mut ports = args.list("tcp").iter().map(|pair| port(pair)).collect::<Result<Vec<Value>>>()?;
    if let (Some(first), true) = (ports.first_mut(), args.int("node-port") > 0) {
        first["nodePort"] = args.int("node-port").into();
    }
    let mut spec = json!({"type": kind, "selector": {"app": name}});
    if !ports.is_empty() {
        spec["ports"] = ports.into();
    }
    if args.changed("clusterip") {
        spec["clusterIP"] = args.text("clusterip").into();
    }
    if args.changed("external-name") {
        spec["externalName"] = args.text("external-name").into();
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}},
        "spec": spec, "status": {"loadBalancer": {}},
    });
    create(session, args, service).await
}

/// `80`, `80:8080`, `80:http`
fn port(pair: &str) -> Result<Value> {
    let (port, target) = pair.split_once(':').unwrap_or((pair, pair));
    let number: u16 = port.parse().map_err(|_| Error::Message(format!("strconv.ParseUint: parsing {port:?}: invalid syntax")))?;
    let target_value: Value = match target.parse::<u16>() {
        Ok(number) => number.into(),
        Err(_) => target.into(),
    };
    Ok(json!({"name": pair.replace(':', "-"), "port": number, "protocol": "TCP", "targetPort": target_value}))
}
