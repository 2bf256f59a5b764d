//! `kubectl create role` and `clusterrole`

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{GENERATED, create, name_argument, required};
use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static ROLE: Command = Command {
    name: "role",
    about: "Create a role with a single rule.",
    usage: "NAME --verb=verb --resource=resource.group/subresource [--resource-name=resourcename] [--dry-run=server|client|none] [options]",
    examples: "kubectl create role pod-reader --verb=get,list,watch --resource=pods",
    flags: &[FLAGS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, "Role"))),
    ..COMMAND
};

pub static CLUSTER_ROLE: Command = Command {
    name: "clusterrole",
    about: "Create a cluster role.",
    usage: "NAME --verb=verb --resource=resource.group [--resource-name=resourcename] [--dry-run=server|client|none] [options]",
    examples: "kubectl create clusterrole node-reader --verb=get,list --resource=nodes",
    flags: &[FLAGS, CLUSTER_FLAGS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, "ClusterRole"))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::list("resource", "Resources that the rule is about."),
    Flag::array("resource-name", "Names that the rule is limited to."),
    Flag::list("verb", "Verbs that the rule allows."),
];
const CLUSTER_FLAGS: &[Flag] = &[
    Flag::pairs("aggregation-rule", "Label selector of the cluster roles to combine: key=value."),
    Flag::list("non-resource-url", "Paths that are no resources, which the rule is about."),
];

async fn run(session: &Session, args: &Parsed, kind: &str) -> Result {
    let name = name_argument(session, args)?;
    let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
    if kind == "ClusterRole" && args.changed("aggregation-rule") {
        let labels: BTreeMap<&str, &str> = args.text("aggregation-rule").split(',').filter_map(|pair| pair.split_once('=')).collect();
        role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
        role["rules"] = Value::Null;
        return create(session, args, role).await;
    }
    let paths = if kind == "ClusterRole" { args.list("non-resource-url") } else { Vec::new() };
    if !args.changed("verb") {
        fail!("at least one verb must be specified");
    }
    let verbs = args.list("verb");
    if paths.is_empty() && args.list("resource").is_empty() {
        if kind == "ClusterRole" {
            fail!("one of the following must be specified: --resource, --non-resource-url");
        }
        required(args, &["resource"]).map_err(|_| Error::Message("at least one resource must be specified".to_owned()))?;
    }
    role["rules"] = rules(session, args, &verbs, &paths).await?.into();
    create(session, args, role).await
}

async fn rules(session: &Session, args: &Parsed, verbs: &[String], paths: &[String]) -> Result<Vec<Value>> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for word in args.list("resource") {
        let (name, subresource) = match word.split_once('/') {
            Some((name, subresource)) => (name, format!("/{subresource}")),
            None => (word.as_str(), String::new()),
        };
        let (group, plural) = if name == "*" {
            (String::new(), "*".to_owned())
        } else {
            // Said without the usual `error: ` in front.
            let resource = session.resource(name).await.map_err(|error| Error::Unreachable(error.bare()))?;
            (resource.group.clone(), resource.name.clone())
        };
        let wanted = format!("{plural}{subresource}");
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, names)) => names.push(wanted),
            None => groups.push((group, vec![wanted])),
        }
    }
    let names = args.list("resource-name");
    let mut rules: Vec<Value> = groups
        .into_iter()
        .map(|(group, resources)| {
            let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
            if !names.is_empty() {
                rule["resourceNames"] = names.clone().into();
            }
            rule
        })
        .collect();
    if !paths.is_empty() {
        rules.push(json!({"nonResourceURLs": paths, "verbs": verbs}));
    }
    Ok(rules)
}
