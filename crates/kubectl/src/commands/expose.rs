//! `kubectl expose`

use serde_json::{Value, json};

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{self, FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::selection::{Info, one, select};
use crate::session::Session;
use crate::value::{list, map, plain, text};

pub static EXPOSE: Command = Command {
    name: "expose",
    about: "Make a service for a deployment, replica set, service, replication controller or pod.",
    usage: "(-f FILENAME | TYPE NAME) [--port=port] [--protocol=TCP|UDP|SCTP] [--target-port=number-or-name] [--name=name] [--external-ip=external-ip-of-service] [--type=type] [options]",
    examples: "kubectl expose deployment web --port=80 --target-port=8080",
    flags: &[FLAGS, FILENAMES, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("cluster-ip", "The address to take, or None for a headless service."),
    Flag::text("external-ip", "A further address of the service."),
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-expose"),
    Flag::text("labels", "Labels of the service.").short('l'),
    Flag::text("selector", "Selector of the service; the object's own if left out."),
    Flag::text("load-balancer-ip", "Address of the load balancer."),
    Flag::text("name", "Name of the service."),
    Flag::text("override-type", "How --overrides is applied.").default("merge"),
    Flag::text("overrides", "JSON that overrides fields of the service."),
    Flag::text("port", "The port of the service; that of the object when left out."),
    Flag::text("protocol", "TCP, UDP or SCTP; that of the object, or TCP."),
    Flag::switch("save-config", "Keep the configuration in an annotation, for a later apply."),
    Flag::text("session-affinity", "None or ClientIP."),
    Flag::text("target-port", "Number or name of the container's port."),
    Flag::text("type", "ClusterIP, NodePort, LoadBalancer or ExternalName."),
    Flag::text("validate", "").default("strict").hidden(),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    // Here --selector is the service's, not a way to find objects.
    let infos = if files::given(args) {
        let (infos, problems) = select(session, args, &args.args).await?;
        Error::all(problems)?;
        infos
    } else {
        vec![one(session, &args.args, "").await?]
    };
    for info in infos {
        let mut service = service(&info, args)?;
        if args.changed("overrides") {
            let overrides: Value = serde_json::from_str(args.text("overrides")).map_err(|error| Error::Message(error.to_string()))?;
            service = api::patch::merge_patch(&service, &overrides);
        }
        let resource = session.resource_of_kind("v1", "Service").await?;
        let dry_run = crate::output::DryRun::of(session, args)?;
        let name = crate::value::name(&service).to_owned();
        let mut made = Info { resource, namespace: info.namespace.clone(), name, object: service, source: String::new() };
        super::create::post(session, args, &mut made, dry_run).await?;
        crate::output::report(session, args, &made, "exposed", dry_run)?;
    }
    Ok(())
}

fn service(info: &Info, args: &Parsed) -> Result<Value> {
    let object = &info.object;
    let kind = info.resource.kind.as_str();
    let (selector, containers) = match kind {
        "Pod" => (object["metadata"]["labels"].clone(), "/spec/containers"),
        "Service" | "ReplicationController" => (object["spec"]["selector"].clone(), "/spec/template/spec/containers"),
        "Deployment" | "ReplicaSet" => (object["spec"]["selector"]["matchLabels"].clone(), "/spec/template/spec/containers"),
        _ => fail!("cannot expose a {}.{}", kind, info.resource.group),
    };
    if !selector.as_object().is_some_and(|labels| !labels.is_empty()) && !args.changed("selector") {
        match kind {
            "Pod" => fail!("couldn't retrieve selectors via --selector flag or introspection: the pod has no labels and cannot be exposed"),
            _ => fail!("couldn't retrieve selectors via --selector flag or introspection: invalid {kind}: no selectors, therefore cannot be exposed"),
        }
    }
    let selector = if args.changed("selector") {
        let mut chosen = json!({});
        for pair in args.text("selector").split(',') {
            let Some((key, value)) = pair.split_once('=') else { fail!("unexpected selector: {pair}") };
            chosen[key] = value.into();
        }
        chosen
    } else {
        selector
    };
    let own_ports: Vec<(i64, String)> = if kind == "Service" {
        list(object, "/spec/ports").iter().map(|port| (port["port"].as_i64().unwrap_or(0), text(port, "/protocol").to_owned())).collect()
    } else {
        list(object, containers).iter().flat_map(|one| list(one, "/ports"))
            .map(|port| (port["containerPort"].as_i64().unwrap_or(0), text(port, "/protocol").to_owned())).collect()
    };
    let wanted: Vec<i64> = if args.changed("port") {
        let parse = |port: &str| port.parse::<i64>().map_err(|_| Error::Message(format!("strconv.Atoi: parsing {port:?}: invalid syntax")));
        args.text("port").split(',').map(parse).collect::<Result<_>>()?
    } else {
        own_ports.iter().map(|(port, _)| *port).collect()
    };
    if wanted.is_empty() {
        fail!("couldn't find port via --port flag or introspection");
    }
    let protocol_of = |port: i64| {
        let own = own_ports.iter().find(|(known, protocol)| *known == port && !protocol.is_empty()).map(|(_, protocol)| protocol.as_str());
        if args.changed("protocol") { args.text("protocol").to_owned() } else { own.unwrap_or("TCP").to_owned() }
    };
    let ports: Vec<Value> = wanted.iter().enumerate().map(|(index, port)| {
        let target: Value = match args.text("target-port") {
            "" => (*port).into(),
            given => given.parse::<i64>().map_or_else(|_| given.into(), Value::from),
        };
        let mut entry = json!({"port": port, "protocol": protocol_of(*port), "targetPort": target});
        if wanted.len() > 1 {
            entry["name"] = format!("port-{}", index + 1).into();
        }
        entry
    }).collect();
    let mut spec = json!({"ports": ports, "selector": selector});
    for (flag, field) in [("type", "type"), ("cluster-ip", "clusterIP"), ("session-affinity", "sessionAffinity"), ("load-balancer-ip", "loadBalancerIP")] {
        if args.changed(flag) {
            spec[field] = args.text(flag).into();
        }
    }
    if args.changed("external-ip") {
        spec["externalIPs"] = json!([args.text("external-ip")]);
    }
    let name = if args.changed("name") { args.text("name").to_owned() } else { info.name.chars().take(63).collect() };
    let mut metadata = json!({"name": name, "namespace": info.namespace});
    let mut labels = json!({});
    for (key, value) in map(object, "/metadata/labels") {
        labels[key] = plain(value).into();
    }
    for pair in args.text("labels").split(',').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else { fail!("unexpected label spec: {pair}") };
        labels[key] = value.into();
    }
    if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        metadata["labels"] = labels;
    }
    Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": {"loadBalancer": {}}}))
}
