//! `kubectl cordon`, `uncordon`, `drain`, `taint`: nodes in and out of service

use std::time::Duration;

use serde_json::{Value, json};

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, report};
use crate::rest::{JSON_PATCH, STRATEGIC_PATCH, Url};
use crate::selection::{ALL, Info, SELECTOR, select};
use crate::session::Session;
use crate::value::{flag, list, name, namespace, text};

pub static CORDON: Command = Command {
    name: "cordon",
    about: "Let no new pods onto a node.",
    usage: "NODE [options]",
    examples: "kubectl cordon n1",
    flags: &[SELECTOR, DRY_RUN],
    run: Some(|session, args| Box::pin(cordon(session, args, true))),
    ..COMMAND
};
pub static UNCORDON: Command = Command {
    name: "uncordon",
    about: "Let pods onto a node again.",
    usage: "NODE [options]",
    examples: "kubectl uncordon n1",
    flags: &[SELECTOR, DRY_RUN],
    run: Some(|session, args| Box::pin(cordon(session, args, false))),
    ..COMMAND
};
pub static DRAIN: Command = Command {
    name: "drain",
    about: "Move all pods off a node, for its maintenance.",
    usage: "NODE [options]",
    examples: "kubectl drain n1 --ignore-daemonsets",
    flags: &[DRAIN_FLAGS, SELECTOR, DRY_RUN],
    run: Some(|session, args| Box::pin(drain(session, args))),
    ..COMMAND
};
pub static TAINT: Command = Command {
    name: "taint",
    about: "Set or remove taints of nodes.",
    usage: "NODE NAME KEY_1=VAL_1:TAINT_EFFECT_1 ... KEY_N=VAL_N:TAINT_EFFECT_N [options]",
    examples: "
kubectl taint nodes n1 dedicated=special:NoSchedule
kubectl taint nodes n1 dedicated:NoSchedule-",
    flags: &[TAINT_FLAGS, SELECTOR, ALL, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(taint(session, args))),
    ..COMMAND
};

const DRAIN_FLAGS: &[Flag] = &[
    Flag::int("chunk-size", "500", "How many pods to ask for at once; 0 means all."),
    Flag::switch("delete-emptydir-data", "Go on even with pods whose emptyDir data is lost by it."),
    Flag::switch("disable-eviction", "Delete pods, past their disruption budgets."),
    Flag::switch("force", "Go on even with pods that nothing will create anew."),
    Flag::int("grace-period", "-1", "Seconds for each pod to end by itself; negative: its own."),
    Flag::switch("ignore-daemonsets", "Leave the pods of daemon sets."),
    Flag::text("pod-selector", "Only pods with these labels."),
    Flag::int("skip-wait-for-delete-timeout", "0", "Do not wait for pods that have been ending for longer."),
    Flag::duration("timeout", "0s", "How long to go on; zero means as long as it takes."),
];
const TAINT_FLAGS: &[Flag] = &[
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-taint"),
    Flag::switch("overwrite", "Replace taints that are there."),
    Flag::text("validate", "strict (or true): fail on unknown and duplicate fields; warn; ignore (or false).").default("strict").bare("strict"),
];

async fn nodes(session: &Session, args: &Parsed) -> Result<Vec<Info>> {
    let words = if args.changed("selector") {
        vec!["nodes".to_owned()]
    } else if args.args.is_empty() {
        let command = session.path.rsplit(' ').next().unwrap_or_default();
        return Err(session.usage_error(format!("USAGE: {command} NODE [flags]")));
    } else {
        args.args.iter().map(|word| if word.contains('/') { word.clone() } else { format!("node/{word}") }).collect()
    };
    let (infos, problems) = select(session, args, &words).await?;
    Error::all(problems)?;
    Ok(infos)
}

async fn set_unschedulable(session: &Session, info: &Info, wanted: bool, dry_run: DryRun) -> Result {
    let done = if wanted { "cordoned" } else { "uncordoned" };
    if flag(&info.object, "/spec/unschedulable") == wanted {
        return session.say(format!("node/{} already {done}{}", info.name, dry_run.suffix()));
    }
    if dry_run != DryRun::Client {
        let patch = json!({"spec": {"unschedulable": if wanted { Value::Bool(true) } else { Value::Null }}});
        session.patch(info.url().with_filled("dryRun", dry_run.query()), STRATEGIC_PATCH, &patch).await.map_err(|error| {
            Error::Message(format!("unable to {} node {:?}: {}", done.trim_end_matches("ed"), info.name, error.bare()))
        })?;
    }
    session.say(format!("node/{} {done}{}", info.name, dry_run.suffix()))
}

async fn cordon(session: &Session, args: &Parsed, wanted: bool) -> Result {
    let dry_run = DryRun::of(session, args)?;
    for info in nodes(session, args).await? {
        set_unschedulable(session, &info, wanted, dry_run).await?;
    }
    Ok(())
}

/// What becomes of a pod when its node is drained.
#[derive(Debug, PartialEq)]
enum Fate {
    Evict(Option<&'static str>),
    Leave(Option<&'static str>),
    Refuse(&'static str),
}

fn fate(pod: &Value, args: &Parsed) -> Fate {
    let finished = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    let controller = list(pod, "/metadata/ownerReferences").iter().find(|owner| flag(owner, "/controller"));
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Fate::Leave(None);
    }
    if controller.is_some_and(|owner| text(owner, "/kind") == "DaemonSet") && !finished {
        return if args.is_set("ignore-daemonsets") {
            Fate::Leave(Some("ignoring DaemonSet-managed Pods"))
        } else {
            Fate::Refuse("cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)")
        };
    }
    let has_data = list(pod, "/spec/volumes").iter().any(|volume| volume.get("emptyDir").is_some());
    if has_data && !finished && !args.is_set("delete-emptydir-data") {
        return Fate::Refuse("cannot delete Pods with local storage (use --delete-emptydir-data to override)");
    }
    if controller.is_none() && !finished {
        return if args.is_set("force") {
            Fate::Evict(Some("deleting Pods that declare no controller"))
        } else {
            Fate::Refuse("cannot delete cannot delete Pods that declare no controller (use --force to override)")
        };
    }
    Fate::Evict(None)
}

async fn drain(session: &Session, args: &Parsed) -> Result {
    let dry_run = DryRun::of(session, args)?;
    let nodes = nodes(session, args).await?;
    for node in &nodes {
        set_unschedulable(session, node, true, dry_run).await?;
    }
    let mut problems = Vec::new();
    for node in &nodes {
        let work = drain_node(session, args, node, dry_run);
        let limit = args.duration("timeout");
        let outcome = if limit.is_zero() {
            work.await
        } else {
            tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Error::Message(format!("drain did not complete within {}", args.text("timeout")))))
        };
        match outcome {
            Ok(()) => session.say(format!("node/{} drained{}", node.name, dry_run.suffix()))?,
            Err(error) => {
                session.complain(format!("error: unable to drain node {:?} due to error: {}, continuing command...", node.name, error.bare()));
                session.complain("There are pending nodes to be drained:");
                session.complain(format!(" {}", node.name));
                problems.push(error);
            }
        }
    }
    Error::all(problems)
}

async fn drain_node(session: &Session, args: &Parsed, node: &Info, dry_run: DryRun) -> Result {
    let url = Url::new("/api/v1/pods").with("fieldSelector", &format!("spec.nodeName={}", node.name)).with_filled("labelSelector", args.text("pod-selector"));
    let pods = session.get(url).await?;
    let (mut leaving, mut warnings, mut refusals): (Vec<&Value>, Vec<(&str, String)>, Vec<(&str, String)>) = Default::default();
    let note = |to: &mut Vec<(&'static str, String)>, why: &'static str, pod: &Value| {
        let shown = format!("{}/{}", namespace(pod), name(pod));
        match to.iter_mut().find(|(known, _)| *known == why) {
            Some((_, names)) => *names = format!("{names}, {shown}"),
            None => to.push((why, shown)),
        }
    };
    for pod in list(&pods, "/items") {
        match fate(pod, args) {
            Fate::Refuse(why) => note(&mut refusals, why, pod),
            Fate::Leave(why) => why.into_iter().for_each(|why| note(&mut warnings, why, pod)),
            Fate::Evict(why) => {
                leaving.push(pod);
                why.into_iter().for_each(|why| note(&mut warnings, why, pod));
            }
        }
    }
    if !refusals.is_empty() {
        let all: Vec<Error> = refusals.into_iter().map(|(why, names)| Error::Message(format!("{why}: {names}"))).collect();
        return Err(Error::Many(all));
    }
    if !warnings.is_empty() {
        let all: Vec<String> = warnings.into_iter().map(|(why, names)| format!("{why}: {names}")).collect();
        session.complain(format!("Warning: {}", all.join("; ")));
    }
    let outcomes = futures::future::join_all(leaving.into_iter().map(|pod| evict(session, args, pod, dry_run))).await;
    Error::all(outcomes.into_iter().filter_map(std::result::Result::err).collect())
}

async fn evict(session: &Session, args: &Parsed, pod: &Value, dry_run: DryRun) -> Result {
    let (namespace, name) = (namespace(pod), name(pod));
    let deletes = args.is_set("disable-eviction");
    if !deletes || dry_run != DryRun::None {
        session.say(format!("evicting pod {namespace}/{name}{}", dry_run.suffix()))?;
    }
    if dry_run == DryRun::Client {
        return Ok(());
    }
    let mut options = json!({});
    if args.int("grace-period") >= 0 {
        options["gracePeriodSeconds"] = args.int("grace-period").into();
    }
    if dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    loop {
        let answer = if args.is_set("disable-eviction") {
            session.delete(Url::new(path.clone()), &options).await
        } else {
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options});
            session.post(Url::new(format!("{path}/eviction")), &eviction).await
        };
        match answer {
            Ok(_) => break,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.is_reason("TooManyRequests") => {
                session.complain(format!("error when evicting pods/{name:?} -n {namespace:?} (will retry after 5s): {}", error.bare()));
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            Err(error) => fail!("error when evicting pods/{name:?} -n {namespace:?}: {}", error.bare()),
        }
    }
    if dry_run != DryRun::None {
        return Ok(());
    }
    let resource = session.resource_of_kind("v1", "Pod").await?;
    let info = Info::new(resource, pod.clone());
    super::delete::gone(session, &info, tokio::time::Instant::now() + Duration::from_secs(7 * 24 * 3600)).await?;
    session.say(format!("pod/{name} {}", if deletes { "deleted" } else { "evicted" }))
}

async fn taint(session: &Session, args: &Parsed) -> Result {
    let is_taint = |word: &String| word.contains('=') || word.contains(':') || word.ends_with('-');
    let first = args.args.iter().position(is_taint).unwrap_or(args.args.len());
    let (words, specs) = args.args.split_at(first);
    if words.is_empty() && !args.changed("selector") && !args.is_set("all") {
        fail!("one or more resources must be specified as <resource> <name>");
    }
    if specs.is_empty() {
        fail!("at least one taint update is required");
    }
    let mut wanted: Vec<Value> = Vec::new();
    let mut unwanted: Vec<(String, String)> = Vec::new();
    for spec in specs {
        let (body, remove) = match spec.strip_suffix('-') {
            Some(body) => (body, true),
            None => (spec.as_str(), false),
        };
        let (pair, effect) = body.split_once(':').unwrap_or((body, ""));
        let key_problems = api::names::qualified_name(pair.split_once('=').map_or(pair, |(key, _)| key));
        if !key_problems.is_empty() {
            return Err(session.usage_error(format!("invalid taint spec: {spec}, {}", key_problems.join("; "))));
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !effect.is_empty() && !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return Err(session.usage_error(format!("invalid taint effect: {effect}, unsupported taint effect")));
        }
        if remove {
            unwanted.push((key.to_owned(), effect.to_owned()));
        } else if effect.is_empty() {
            fail!("invalid taint spec: {spec}");
        } else {
            let mut taint = json!({"key": key, "effect": effect});
            if !value.is_empty() {
                taint["value"] = value.into();
            }
            wanted.push(taint);
        }
    }
    let both: Vec<String> = wanted
        .iter()
        .filter(|taint| unwanted.iter().any(|(key, effect)| text(taint, "/key") == key && (effect.is_empty() || text(taint, "/effect") == effect)))
        .map(|taint| format!("{}={}", text(taint, "/key"), text(taint, "/effect")))
        .collect();
    if !both.is_empty() {
        fail!("can not both modify and remove the following taint(s) in the same command: {}", both.join(", "));
    }
    let dry_run = DryRun::of(session, args)?;
    let kind = words.first().map_or("", |word| word.split('/').next().unwrap_or_default());
    if !kind.is_empty() && session.resource(kind).await?.name != "nodes" {
        fail!("invalid resource type {kind}, only node types are supported");
    }
    let (infos, mut problems) = select(session, args, words).await?;
    for mut info in infos {
        let replaces = wanted.iter().any(|new| list(&info.object, "/spec/taints").iter().any(|known| known["key"] == new["key"] && known["effect"] == new["effect"]));
        match tainted(&info.object, &wanted, &unwanted, args.is_set("overwrite")) {
            Err(error) => {
                problems.push(error);
                continue;
            }
            Ok(taints) => {
                if dry_run != DryRun::Client {
                    let patch = json!([{"op": "test", "path": "/metadata/resourceVersion", "value": info.object["metadata"]["resourceVersion"]},
                        {"op": "add", "path": "/spec/taints", "value": taints}]);
                    let url = info.url().with_filled("dryRun", dry_run.query()).with("fieldManager", args.text("field-manager"));
                    info.object = session.patch(url, JSON_PATCH, &patch).await?;
                }
            }
        }
        let done = match (wanted.is_empty(), unwanted.is_empty()) {
            (true, _) => "untainted",
            (false, true) if !replaces => "tainted",
            _ => "modified",
        };
        // The original does not say that it was a trial.
        report(session, args, &info, done, if dry_run == DryRun::Client { DryRun::None } else { dry_run })?;
    }
    Error::all(problems)
}

/// The node's taints after the change.
fn tainted(node: &Value, wanted: &[Value], unwanted: &[(String, String)], overwrite: bool) -> Result<Vec<Value>> {
    let mut taints = list(node, "/spec/taints").to_vec();
    for (key, effect) in unwanted {
        let before = taints.len();
        taints.retain(|taint| text(taint, "/key") != key || !effect.is_empty() && text(taint, "/effect") != effect);
        if taints.len() == before {
            let shown = if effect.is_empty() { key.clone() } else { format!("{key}:{effect}") };
            fail!("taint {shown:?} not found");
        }
    }
    for new in wanted {
        let same = |taint: &&mut Value| taint["key"] == new["key"] && taint["effect"] == new["effect"];
        match taints.iter_mut().find(same) {
            Some(_) if !overwrite => fail!("node {} already has {} taint(s) with same effect(s) and --overwrite is false", name(node), text(new, "/key")),
            Some(known) => *known = new.clone(),
            None => taints.push(new.clone()),
        }
    }
    Ok(taints)
}
