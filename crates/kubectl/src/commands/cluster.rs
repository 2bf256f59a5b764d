//! `kubectl version`, `api-resources`, `api-versions`, `cluster-info`, `options`: about the server and this program

use serde_json::json;

use crate::command::{COMMAND, Command, flag_help};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::pretty_json;
use crate::output::tabs::{Rows, align};
use crate::rest::Url;
use crate::session::{GLOBALS, Session};
use crate::value::{list, name, namespace, text};

pub static VERSION: Command = Command {
    name: "version",
    about: "Show the versions of client and server.",
    usage: "[flags] [options]",
    examples: "
kubectl version
kubectl version --client -o yaml",
    flags: &[&[Flag::switch("client", "The client's alone; no server is asked."), Flag::text("output", "yaml or json.").short('o')]],
    run: Some(|session, args| Box::pin(version(session, args))),
    ..COMMAND
};

pub static API_VERSIONS: Command = Command {
    name: "api-versions",
    about: "Show the API versions that the server has, as group/version.",
    examples: "kubectl api-versions",
    run: Some(|session, args| Box::pin(api_versions(session, args))),
    ..COMMAND
};

pub static API_RESOURCES: Command = Command {
    name: "api-resources",
    about: "Show the kinds of objects that the server has.",
    usage: "[flags] [options]",
    examples: "
kubectl api-resources
kubectl api-resources -o wide --sort-by=name
kubectl api-resources --namespaced=false --verbs=list,get
kubectl api-resources --api-group=apps",
    flags: &[&[
        Flag::text("api-group", "Only those of this group."),
        Flag::switch("cached", "Take the cached list where there is one."),
        Flag::list("categories", "Only those of these categories."),
        Flag::switch("namespaced", "Only those in namespaces, or with =false only the others.").default("true"),
        Flag::switch("no-headers", "Leave out the header line."),
        Flag::text("output", "wide or name.").short('o'),
        Flag::text("sort-by", "name or kind."),
        Flag::list("verbs", "Only those that know these verbs."),
    ]],
    run: Some(|session, args| Box::pin(api_resources(session, args))),
    ..COMMAND
};

pub static CLUSTER_INFO: Command = Command {
    name: "cluster-info",
    about: "Show where the control plane and the services of the cluster are.",
    usage: "[flags] [options]",
    examples: "kubectl cluster-info",
    subcommands: &[&super::dump::DUMP],
    run: Some(|session, args| Box::pin(cluster_info(session, args))),
    ..COMMAND
};

pub static ALPHA: Command = Command {
    name: "alpha",
    about: "Commands that are still tried out. There are none.",
    run: Some(|session, args| Box::pin(async move {
        match args.args.first() {
            Some(word) => fail!("unknown command {word:?} for \"kubectl alpha\""),
            None => session.say("No alpha commands are available in this version of kubectl"),
        }
    })),
    ..COMMAND
};

pub static OPTIONS: Command = Command {
    name: "options",
    about: "Show the flags that all commands have.",
    run: Some(|session, _| Box::pin(async move {
        session.say("The following options can be passed to any command:\n")?;
        let shown: Vec<String> = GLOBALS.iter().filter(|flag| !flag.hidden).map(flag_help).collect();
        session.print(shown.join("\n").replace("'~/", &format!("'{}/", session.environment.home().display())))
    })),
    ..COMMAND
};

pub const CLIENT: &str = "v1.35.0";
/// Set where a release is built.
const COMMIT: &str = match option_env!("CORACLE_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
const KUSTOMIZE: &str = "v5.7.1";

async fn version(session: &Session, args: &Parsed) -> Result {
    if !args.args.is_empty() {
        fail!("extra arguments: [{}]", args.args.join(" "));
    }
    let mut answer = json!({
        "clientVersion": {"major": "1", "minor": "35", "gitVersion": CLIENT, "gitCommit": COMMIT, "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" })},
        "kustomizeVersion": KUSTOMIZE,
    });
    let server = if args.is_set("client") { None } else { Some(session.get(Url::new("/version")).await) };
    let mut problem = None;
    match server {
        Some(Ok(version)) => answer["serverVersion"] = version,
        Some(Err(error)) => problem = Some(error),
        None => {}
    }
    match args.text("output") {
        "json" => session.say(pretty_json(&answer).replace("    ", "  "))?,
        "yaml" => session.print(api::yaml::to_yaml(&answer))?,
        "" => {
            session.say(format!("Client Version: {CLIENT}\nKustomize Version: {KUSTOMIZE}"))?;
            if answer.get("serverVersion").is_some() {
                session.say(format!("Server Version: {}", text(&answer, "/serverVersion/gitVersion")))?;
            }
        }
        _ => fail!("--output must be 'yaml' or 'json'"),
    }
    if let Some(warning) = skew(text(&answer, "/serverVersion/gitVersion")) {
        session.complain(warning);
    }
    problem.map_or(Ok(()), Err)
}

/// What there is to say when client and server are more than one minor version apart.
fn skew(server: &str) -> Option<String> {
    let minor = |version: &str| -> Option<(u32, u32)> {
        let mut parts = version.trim_start_matches('v').split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let (client, server) = (minor(CLIENT)?, minor(server)?);
    (client.0 != server.0 || client.1.abs_diff(server.1) > 1).then(|| {
        format!(
            "WARNING: version difference between client ({}.{}) and server ({}.{}) exceeds the supported minor version skew of +/-1",
            client.0, client.1, server.0, server.1
        )
    })
}

async fn api_versions(session: &Session, _args: &Parsed) -> Result {
    let found = crate::discovery::Discovery::fetch(session).await.map_err(|error| match error {
        Error::Status(status) => Error::Message(format!("couldn't get available api versions from server: {}", text(&status, "/message"))),
        other => other,
    })?;
    let mut versions = found.versions;
    versions.sort();
    for version in versions {
        session.say(version)?;
    }
    Ok(())
}

async fn api_resources(session: &Session, args: &Parsed) -> Result {
    if !args.args.is_empty() {
        return Err(session.usage_error(format!("unexpected arguments: [{}]", args.args.join(" "))));
    }
    let fresh;
    let found = if args.is_set("cached") {
        session.discovery().await?.as_ref()
    } else {
        fresh = crate::discovery::Discovery::fetch(session).await?;
        &fresh
    };
    let (verbs, categories) = (args.list("verbs"), args.list("categories"));
    let mut resources: Vec<_> = found
        .resources
        .iter()
        .filter(|one| found.is_preferred(one))
        .filter(|one| !args.changed("api-group") || one.group == args.text("api-group"))
        .filter(|one| !args.changed("namespaced") || one.namespaced == args.is_set("namespaced"))
        .filter(|one| verbs.iter().all(|verb| one.allows(verb)))
        .filter(|one| categories.iter().all(|category| one.categories.contains(category)))
        .collect();
    match args.text("sort-by") {
        "kind" => resources.sort_by(|a, b| a.kind.cmp(&b.kind)),
        "name" => resources.sort_by(|a, b| a.name.cmp(&b.name)),
        "" => resources.sort_by(|a, b| (&a.group, &a.name).cmp(&(&b.group, &b.name))),
        _ => fail!("--sort-by accepts only name or kind"),
    }
    let wide = match args.text("output") {
        "name" => {
            for one in resources {
                session.say(one.qualified())?;
            }
            return Ok(());
        }
        "wide" => true,
        "" => false,
        other => fail!("--output {other} is not available"),
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !args.is_set("no-headers") {
        let header = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", "VERBS", "CATEGORIES"];
        rows.push(header[..if wide { 7 } else { 5 }].iter().map(|cell| (*cell).to_owned()).collect());
    }
    for one in resources {
        let mut row = vec![one.name.clone(), one.short_names.join(","), one.api_version(), one.namespaced.to_string(), one.kind.clone()];
        if wide {
            row.extend([one.verbs.join(","), one.categories.join(",")]);
        }
        rows.push(row);
    }
    session.print(Rows::default().lines(&rows))
}

async fn cluster_info(session: &Session, _args: &Parsed) -> Result {
    let url = Url::new("/api/v1/namespaces/kube-system/services").with("labelSelector", "kubernetes.io/cluster-service=true");
    let found = session.get(url).await?;
    let server = &session.selected()?.server;
    session.say(format!("Kubernetes control plane is running at {server}"))?;
    for service in list(&found, "/items") {
        let label = text(service, "/metadata/labels/kubernetes.io~1name");
        let shown = if label.is_empty() { name(service) } else { label };
        let port = list(service, "/spec/ports").first().map(|port| text(port, "/name").to_owned()).unwrap_or_default();
        let port = if port.is_empty() { port } else { format!(":{port}") };
        session.say(format!("{shown} is running at {server}/api/v1/namespaces/{}/services/{}{port}/proxy", namespace(service), name(service)))?;
    }
    session.say("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.")
}

/// Cells as lines, for other commands' small tables.
pub fn table(rows: &[Vec<String>]) -> String {
    let text: String = rows.iter().map(|row| row.join("\t") + "\n").collect();
    align(&text, crate::output::tabs::TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_far_apart_are_told_of() {
        let check = |server: &str, told: bool| assert_eq!(skew(server).is_some(), told, "{server}");
        check("v1.35.0", false);
        check("v1.34.2+k3s1", false);
        check("v1.33.1", true);
        check("v1.37.0", true);
        check("", false);
    }
}
