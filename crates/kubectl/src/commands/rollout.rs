//! `kubectl rollout`: status, history, undo, pause, resume, restart

use serde_json::{Value, json};

use crate::command::{Alone, COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::FILENAMES;
use crate::flags::{Flag, Parsed};
use crate::output::live::{bar, clear};
use crate::output::tabs::{DESCRIBE, align};
use crate::output::{DRY_RUN, DryRun, Format, PRINT, report};
use crate::rest::{JSON, JSON_PATCH, STRATEGIC_PATCH, Url};
use crate::selection::{Info, SELECTOR, select_or_all};
use crate::session::Session;
use crate::value::{flag, int, list, name, text};

pub static ROLLOUT: Command = Command {
    name: "rollout",
    about: "Manage the rollout of deployments, daemon sets and stateful sets.",
    usage: "SUBCOMMAND [options]",
    examples: "
kubectl rollout status deployment/web
kubectl rollout undo deployment/web
kubectl rollout restart daemonset/agent",
    alone: Alone::HelpsAndFails,
    subcommands: &[&HISTORY, &PAUSE, &RESTART, &RESUME, &STATUS, &UNDO],
    ..COMMAND
};

const MANAGER: &[Flag] = &[Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-rollout")];
const REVISION: &[Flag] = &[Flag::int("revision", "0", "The revision to show, or to wait for.")];

static HISTORY: Command = Command {
    name: "history",
    about: "Show earlier revisions.",
    usage: "(TYPE NAME | TYPE/NAME) [flags] [options]",
    examples: "kubectl rollout history deployment/web --revision=3",
    flags: &[REVISION, FILENAMES, SELECTOR, PRINT],
    run: Some(|session, args| Box::pin(history(session, args))),
    ..COMMAND
};
static PAUSE: Command = Command {
    name: "pause",
    about: "Let a deployment's changes wait.",
    usage: "RESOURCE [options]",
    examples: "kubectl rollout pause deployment/web",
    flags: &[MANAGER, FILENAMES, SELECTOR, PRINT],
    run: Some(|session, args| Box::pin(change(session, args, "paused"))),
    ..COMMAND
};
static RESUME: Command = Command {
    name: "resume",
    about: "Let a paused deployment go on.",
    usage: "RESOURCE [options]",
    examples: "kubectl rollout resume deployment/web",
    flags: &[MANAGER, FILENAMES, SELECTOR, PRINT],
    run: Some(|session, args| Box::pin(change(session, args, "resumed"))),
    ..COMMAND
};
static RESTART: Command = Command {
    name: "restart",
    about: "Replace all pods by new ones, step by step.",
    usage: "RESOURCE [options]",
    examples: "
kubectl rollout restart deployment/web
kubectl rollout restart deployment --selector=app=web",
    flags: &[MANAGER, FILENAMES, SELECTOR, PRINT],
    run: Some(|session, args| Box::pin(change(session, args, "restarted"))),
    ..COMMAND
};
static STATUS: Command = Command {
    name: "status",
    about: "Show how the latest rollout goes, until it is done.",
    usage: "(TYPE NAME | TYPE/NAME) [flags] [options]",
    examples: "kubectl rollout status deployment/web --timeout=2m",
    flags: &[
        &[Flag::switch("watch", "Wait until the rollout is done.").short('w').default("true"), Flag::duration("timeout", "0s", "How long to wait; zero means as long as it takes.")],
        REVISION,
        FILENAMES,
        SELECTOR,
    ],
    run: Some(|session, args| Box::pin(status(session, args))),
    ..COMMAND
};
static UNDO: Command = Command {
    name: "undo",
    about: "Go back to an earlier revision.",
    usage: "(TYPE NAME | TYPE/NAME) [flags] [options]",
    examples: "kubectl rollout undo deployment/web --to-revision=2",
    flags: &[&[Flag::int("to-revision", "0", "The revision to go back to; the one before when left out.")], FILENAMES, SELECTOR, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(undo(session, args))),
    ..COMMAND
};

async fn chosen(session: &Session, args: &Parsed) -> Result<Vec<Info>> {
    if args.args.is_empty() && !crate::files::given(args) {
        fail!("required resource not specified");
    }
    // A type alone means all of it.
    let (infos, problems) = select_or_all(session, args, &args.args).await?;
    Error::all(problems)?;
    Ok(infos)
}

async fn change(session: &Session, args: &Parsed, done: &str) -> Result {
    let mut problems = Vec::new();
    for mut info in chosen(session, args).await? {
        let kind = info.resource.name.as_str();
        let paused = flag(&info.object, "/spec/paused");
        let shown = format!("{}.{} {:?}", info.resource.name, info.resource.group, info.name);
        let patch = match done {
            "paused" | "resumed" if kind != "deployments" => {
                problems.push(Error::Message(format!("{} {:?} {} is not supported", info.resource.qualified(), info.name, if done == "paused" { "pausing" } else { "resuming" })));
                continue;
            }
            "paused" if paused => {
                problems.push(Error::Message(format!("{shown} is already paused")));
                continue;
            }
            "paused" => json!({"spec": {"paused": true}}),
            "resumed" if !paused => {
                problems.push(Error::Message(format!("{shown} is not paused")));
                continue;
            }
            "resumed" => json!({"spec": {"paused": null}}),
            _ if !matches!(kind, "deployments" | "daemonsets" | "statefulsets") => {
                problems.push(Error::Message(format!("{} {:?} restarting is not supported", info.resource.qualified(), info.name)));
                continue;
            }
            _ if paused => {
                problems.push(Error::Message(format!("{} {:?} can't restart paused deployment (run rollout resume first)", info.resource.qualified(), info.name)));
                continue;
            }
            _ => {
                let now = jiff::Timestamp::from_second(session.clock.now().as_second()).expect("a clock's second is in range").to_string();
                json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}})
            }
        };
        let url = info.url().with("fieldManager", args.text("field-manager"));
        match session.patch(url, STRATEGIC_PATCH, &patch).await {
            Ok(object) => {
                info.object = object;
                report(session, args, &info, done, DryRun::None)?;
            }
            Err(error) => problems.push(error),
        }
    }
    Error::all(problems)
}

/// One revision that there was.
struct Revision {
    number: i64,
    cause: String,
    template: Value,
    /// What to apply to go back, for kinds whose history is patches.
    patch: Value,
}

async fn revisions(session: &Session, info: &Info) -> Result<Vec<Revision>> {
    const NUMBER: &str = "/metadata/annotations/deployment.kubernetes.io~1revision";
    const CAUSE: &str = "/metadata/annotations/kubernetes.io~1change-cause";
    let selector = api::selector::LabelSelector::from_json(&info.object["spec"]["selector"]).map_err(|error| Error::Message(error.to_string()))?;
    let is_deployment = info.resource.name == "deployments";
    if !is_deployment && !matches!(info.resource.name.as_str(), "daemonsets" | "statefulsets") {
        fail!("no history viewer has been implemented for {:?}", format!("{}.{}", info.resource.kind, info.resource.group));
    }
    let collection = if is_deployment { "replicasets" } else { "controllerrevisions" };
    let url = Url::new(format!("/apis/apps/v1/namespaces/{}/{collection}", info.namespace)).with_filled("labelSelector", &selector.to_string());
    let found = session.get(url).await?;
    let uid = text(&info.object, "/metadata/uid");
    let mut revisions: Vec<Revision> = list(&found, "/items")
        .iter()
        .filter(|item| list(item, "/metadata/ownerReferences").iter().any(|owner| text(owner, "/uid") == uid))
        .map(|item| Revision {
            number: if is_deployment { text(item, NUMBER).parse().unwrap_or(0) } else { int(item, "/revision") },
            cause: text(item, CAUSE).to_owned(),
            template: if is_deployment { item["spec"]["template"].clone() } else { item["data"]["spec"]["template"].clone() },
            patch: item["data"].clone(),
        })
        .filter(|revision| revision.number > 0)
        .collect();
    revisions.sort_by_key(|revision| revision.number);
    Ok(revisions)
}

async fn history(session: &Session, args: &Parsed) -> Result {
    for info in chosen(session, args).await? {
        let found = revisions(session, &info).await?;
        let wanted = args.int("revision");
        if wanted == 0 {
            if found.is_empty() {
                session.say("No rollout history found.")?;
                continue;
            }
            let mut table = "REVISION\tCHANGE-CAUSE\n".to_owned();
            for revision in &found {
                let cause = if revision.cause.is_empty() { "<none>" } else { &revision.cause };
                table += &format!("{}\t{cause}\n", revision.number);
            }
            session.say(format!("{} ", info.shown()))?;
            session.say(align(&table, DESCRIBE))?;
            continue;
        }
        let Some(revision) = found.iter().find(|revision| revision.number == wanted) else {
            fail!("unable to find the specified revision");
        };
        let mut format = Format::of(args)?;
        if !format.is_table() {
            session.print(format.show(&revision.template, args)?)?;
            continue;
        }
        session.say(format!("{} with revision #{wanted}", info.shown()))?;
        session.say(align(&super::describe::template(&revision.template, &revision.cause), DESCRIBE))?;
    }
    Ok(())
}

async fn undo(session: &Session, args: &Parsed) -> Result {
    let dry_run = DryRun::of(session, args)?;
    let mut problems = Vec::new();
    for info in chosen(session, args).await? {
        if let Err(error) = undo_one(session, args, info, dry_run).await {
            problems.push(error);
        }
    }
    Error::all(problems)
}

async fn undo_one(session: &Session, args: &Parsed, mut info: Info, dry_run: DryRun) -> Result {
    let wanted = args.int("to-revision");
    if wanted < 0 {
        fail!("unable to find specified revision {wanted} in history");
    }
    if flag(&info.object, "/spec/paused") {
        fail!("you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again");
    }
    let found = revisions(session, &info).await?;
    let target = if wanted == 0 {
        match found.len() {
            0 | 1 => fail!("no rollout history found for {} {:?}", info.resource.singular, info.name),
            count => &found[count - 2],
        }
    } else {
        match found.iter().find(|revision| revision.number == wanted) {
            Some(revision) => revision,
            None => fail!("unable to find specified revision {wanted} in history"),
        }
    };
    let mut template = target.template.clone();
    if info.resource.name == "deployments" {
        if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove("pod-template-hash");
        }
        let current = &info.object["spec"]["template"];
        if same_template(&template, current) {
            return report(session, args, &info, &format!("skipped rollback (current template already matches revision {wanted})"), dry_run);
        }
        if dry_run != DryRun::Client {
            let mut patch = vec![json!({"op": "replace", "path": "/spec/template", "value": template})];
            // The cause goes back with the revision.
            let mut annotations = info.object.pointer("/metadata/annotations").cloned().unwrap_or(json!({}));
            if target.cause.is_empty() {
                annotations.as_object_mut().map(|annotations| annotations.remove("kubernetes.io/change-cause"));
            } else {
                annotations["kubernetes.io/change-cause"] = target.cause.clone().into();
            }
            patch.push(json!({"op": "add", "path": "/metadata/annotations", "value": annotations}));
            info.object = session.patch(info.url().with_filled("dryRun", dry_run.query()), JSON_PATCH, &patch.into()).await?;
        }
    } else if dry_run != DryRun::Client {
        info.object = session.patch(info.url().with_filled("dryRun", dry_run.query()), STRATEGIC_PATCH, &target.patch).await?;
    }
    report(session, args, &info, "rolled back", dry_run)
}

fn same_template(a: &Value, b: &Value) -> bool {
    a["spec"] == b["spec"] && a["metadata"]["labels"] == b["metadata"]["labels"] && a["metadata"]["annotations"] == b["metadata"]["annotations"]
}

async fn status(session: &Session, args: &Parsed) -> Result {
    let mut problems = Vec::new();
    for info in chosen(session, args).await? {
        let waiting = wait_until_done(session, args, &info);
        let limit = args.duration("timeout");
        let outcome = if limit.is_zero() {
            waiting.await
        } else {
            match tokio::time::timeout(limit, waiting).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::Message("timed out waiting for the condition".to_owned())),
            }
        };
        problems.extend(outcome.err());
    }
    Error::all(problems)
}

async fn wait_until_done(session: &Session, args: &Parsed, info: &Info) -> Result {
    let mut object = info.object.clone();
    let mut said = String::new();
    loop {
        let step = |object: &Value, said: &mut String| -> Result<bool> {
            let (message, done) = progress(&info.resource.name, object, args.int("revision")).inspect_err(|_| {
                if session.live() && !said.is_empty() {
                    session.print_err(b"\n");
                }
            })?;
            if session.live() && args.is_set("watch") {
                session.print(if done { clear() + &message } else { drawn(session, info, object) })?;
                session.flush()?;
                *said = message;
            } else if message != *said {
                session.print(&message)?;
                session.flush()?;
                *said = message;
            }
            Ok(done)
        };
        if step(&object, &mut said)? || !args.is_set("watch") {
            return Ok(());
        }
        let url = info.collection()
            .with("fieldSelector", &format!("metadata.name={}", info.name))
            .with("resourceVersion", text(&object, "/metadata/resourceVersion"))
            .with("watch", "true");
        let mut events = session.watch(url, JSON).await?;
        while let Some((kind, next)) = events.event().await? {
            match kind.as_str() {
                "DELETED" => fail!("object has been deleted"),
                "BOOKMARK" => {}
                _ => {
                    object = next;
                    if step(&object, &mut said)? {
                        return Ok(());
                    }
                }
            }
        }
        object = session.get(info.url()).await?;
    }
}

/// How far a rollout is, as a bar.
fn drawn(session: &Session, info: &Info, object: &Value) -> String {
    let (wanted, ready, updated) = if info.resource.name == "daemonsets" {
        (int(object, "/status/desiredNumberScheduled"), int(object, "/status/numberAvailable"), int(object, "/status/updatedNumberScheduled"))
    } else {
        let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        (wanted, int(object, "/status/availableReplicas"), int(object, "/status/updatedReplicas"))
    };
    // What is old yet available is not what is waited for.
    let done = ready.min(updated);
    let what = format!("new and available ({updated} updated, {} in all)", int(object, "/status/replicas").max(int(object, "/status/currentNumberScheduled")));
    bar(&info.shown(), done, wanted, &what, session.colours())
}

/// What there is to say of a rollout, and whether it is over. Pure.
fn progress(kind: &str, object: &Value, revision: i64) -> Result<(String, bool)> {
    let object_name = name(object);
    let observed = int(object, "/metadata/generation") <= int(object, "/status/observedGeneration");
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let updated = int(object, "/status/updatedReplicas");
    match kind {
        "deployments" => {
            if revision > 0 {
                let current: i64 = text(object, "/metadata/annotations/deployment.kubernetes.io~1revision").parse().unwrap_or(0);
                if current != revision {
                    fail!("desired revision ({revision}) is different from the running revision ({current})");
                }
            }
            if !observed {
                return Ok(("Waiting for deployment spec update to be observed...\n".to_owned(), false));
            }
            let expired = list(object, "/status/conditions").iter().any(|one| text(one, "/type") == "Progressing" && text(one, "/reason") == "ProgressDeadlineExceeded");
            if expired {
                fail!("deployment {object_name:?} exceeded its progress deadline");
            }
            let (total, available) = (int(object, "/status/replicas"), int(object, "/status/availableReplicas"));
            let waiting = |what: String| Ok((format!("Waiting for deployment {object_name:?} rollout to finish: {what}...\n"), false));
            if updated < replicas {
                return waiting(format!("{updated} out of {replicas} new replicas have been updated"));
            }
            if total > updated {
                return waiting(format!("{} old replicas are pending termination", total - updated));
            }
            if available < updated {
                return waiting(format!("{available} of {updated} updated replicas are available"));
            }
            Ok((format!("deployment {object_name:?} successfully rolled out\n"), true))
        }
        "daemonsets" => {
            if text(object, "/spec/updateStrategy/type") == "OnDelete" {
                fail!("rollout status is only available for RollingUpdate strategy type");
            }
            if !observed {
                return Ok(("Waiting for daemon set spec update to be observed...\n".to_owned(), false));
            }
            let (desired, updated, available) =
                (int(object, "/status/desiredNumberScheduled"), int(object, "/status/updatedNumberScheduled"), int(object, "/status/numberAvailable"));
            let waiting = |what: String| Ok((format!("Waiting for daemon set {object_name:?} rollout to finish: {what}...\n"), false));
            if updated < desired {
                return waiting(format!("{updated} out of {desired} new pods have been updated"));
            }
            if available < desired {
                return waiting(format!("{available} of {desired} updated pods are available"));
            }
            Ok((format!("daemon set {object_name:?} successfully rolled out\n"), true))
        }
        "statefulsets" => {
            if text(object, "/spec/updateStrategy/type") == "OnDelete" {
                fail!("rollout status is only available for RollingUpdate strategy type");
            }
            if int(object, "/status/observedGeneration") == 0 || !observed {
                return Ok(("Waiting for statefulset spec update to be observed...\n".to_owned(), false));
            }
            let ready = int(object, "/status/readyReplicas");
            if ready < replicas {
                return Ok((format!("Waiting for {} pods to be ready...\n", replicas - ready), false));
            }
            let partition = int(object, "/spec/updateStrategy/rollingUpdate/partition");
            if partition > 0 {
                if updated < replicas - partition {
                    return Ok((format!("Waiting for partitioned roll out to finish: {updated} out of {} new pods have been updated...\n", replicas - partition), false));
                }
                return Ok((format!("partitioned roll out complete: {updated} new pods have been updated...\n"), true));
            }
            let (update, current) = (text(object, "/status/updateRevision"), text(object, "/status/currentRevision"));
            if update != current {
                return Ok((format!("waiting for statefulset rolling update to complete {updated} pods at revision {update}...\n"), false));
            }
            Ok((format!("statefulset rolling update complete {} pods at revision {current}...\n", int(object, "/status/currentReplicas")), true))
        }
        other => fail!("no status viewer has been implemented for {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: &str, object: Value, expected: &str) {
        let shown = match progress(kind, &object, 0) {
            Ok((message, done)) => format!("{message}{}", if done { "done" } else { "" }),
            Err(error) => error.message(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn progress_reads_as_the_original() {
        let web = |status: Value| json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status});
        check("deployments", web(json!({"observedGeneration": 1})), "Waiting for deployment spec update to be observed...\n");
        check("deployments", web(json!({"observedGeneration": 2, "updatedReplicas": 1})), "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...\n");
        check("deployments", web(json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4})), "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...\n");
        check("deployments", web(json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2})), "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...\n");
        check("deployments", web(json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3})), "deployment \"web\" successfully rolled out\ndone");
        check("statefulsets", web(json!({"observedGeneration": 2, "readyReplicas": 1})), "Waiting for 2 pods to be ready...\n");
    }
}
