//! `kubectl delete`

use std::time::Duration;

use serde_json::json;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{self, FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun};
use crate::rest::{JSON, Url};
use crate::selection::{ALL, ALL_NAMESPACES, FIELD_SELECTOR, Info, SELECTOR, from_files, items, list_all, list_url, targets, unlisted};
use crate::session::Session;
use crate::value::text;

pub static DELETE: Command = Command {
    name: "delete",
    about: "Delete objects by file, standard input, type and name, or selector.",
    usage: "([-f FILENAME] | [-k DIRECTORY] | TYPE [(NAME | -l label | --all)]) [options]",
    examples: "
kubectl delete -f web.yaml
kubectl delete pods,services -l app=web
kubectl delete pod stuck --now",
    flags: &[FLAGS, FILENAMES, SELECTOR, FIELD_SELECTOR, ALL, ALL_NAMESPACES, DRY_RUN],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("cascade", "What happens to dependents: background, orphan or foreground.").default("background").bare("background"),
    Flag::switch("force", "Delete at once, without waiting for the object's node."),
    Flag::int("grace-period", "-1", "Seconds for the object to end by itself. Negative: its own. 1: at once. 0 needs --force."),
    Flag::switch("ignore-not-found", "Succeed when the object does not exist."),
    Flag::switch("interactive", "Ask before deleting.").short('i'),
    Flag::switch("now", "As little grace as possible: --grace-period=1."),
    Flag::text("output", "Output format: name.").short('o'),
    Flag::text("raw", "Path to delete, as it stands."),
    Flag::duration("timeout", "0s", "How long to wait; zero means as long as it takes."),
    Flag::switch("wait", "Wait until the objects are gone.").default("true"),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    if args.changed("raw") {
        let bytes = session.call_raw(http::Method::DELETE, Url::new(args.text("raw")), JSON, "", Vec::new()).await?;
        return session.print(bytes);
    }
    let output = args.text("output");
    if !output.is_empty() && output != "name" {
        fail!("unexpected -o output mode: {output}. We only support '-o name'");
    }
    let plan = Plan::of(session, args)?;
    let (mut infos, mut problems) = (Vec::new(), Vec::new());
    if files::given(args) {
        infos = from_files(session, args).await?;
    } else {
        gather(session, args, &mut infos, &mut problems).await?;
    }
    if args.is_set("interactive") && !confirmed(session, &infos).await? {
        return Ok(());
    }
    let mut deleted = Vec::new();
    for info in infos {
        match delete(session, &info, &plan).await {
            Ok(()) => {
                say_deleted(session, args, &info, &plan)?;
                deleted.push(info);
            }
            Err(error) if error.is_not_found() && args.is_set("ignore-not-found") => {}
            Err(error) if error.is_not_found() && files::given(args) => {
                let source = info.source.clone();
                problems.push(error.when("deleting", &source));
            }
            Err(error) => problems.push(error),
        }
    }
    if deleted.is_empty() && problems.is_empty() && !args.is_set("ignore-not-found") {
        session.say("No resources found")?;
    }
    session.flush()?;
    if args.is_set("wait") && plan.dry_run == DryRun::None {
        let limit = if args.duration("timeout").is_zero() { Duration::from_secs(7 * 24 * 3600) } else { args.duration("timeout") };
        let deadline = tokio::time::Instant::now() + limit;
        for info in &deleted {
            if let Err(error) = gone(session, info, deadline).await {
                problems.push(error);
            }
        }
    }
    Error::all(problems)
}

struct Plan {
    options: serde_json::Value,
    dry_run: DryRun,
    at_once: bool,
}

impl Plan {
    fn of(session: &Session, args: &Parsed) -> Result<Self> {
        let mut grace = args.int("grace-period");
        if args.is_set("now") {
            if grace != -1 {
                fail!("--now and --grace-period cannot be specified together");
            }
            grace = 1;
        }
        let force = args.is_set("force");
        if grace == 0 && !force {
            // The original waits a little rather than endanger data.
            grace = 1;
        } else if force && grace < 0 {
            grace = 0;
        }
        if force && grace > 0 {
            fail!("--force and --grace-period greater than 0 cannot be specified together");
        }
        if force {
            session.complain("Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.");
        }
        let dry_run = DryRun::of(session, args)?;
        Ok(Plan { options: options(args, grace, dry_run)?, dry_run, at_once: force && grace == 0 })
    }
}

/// The `DeleteOptions` of `--cascade`. A negative grace period is the object's own.
pub fn options(args: &Parsed, grace_period_seconds: i64, dry_run: DryRun) -> Result<serde_json::Value> {
    let propagation = match args.text("cascade") {
        "background" | "true" => "Background",
        "foreground" => "Foreground",
        "orphan" | "false" => "Orphan",
        other => fail!("invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""),
    };
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation});
    if grace_period_seconds >= 0 {
        options["gracePeriodSeconds"] = grace_period_seconds.into();
    }
    if dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    Ok(options)
}

async fn gather(session: &Session, args: &Parsed, infos: &mut Vec<Info>, problems: &mut Vec<Error>) -> Result {
    let words = &args.args;
    let named = words.len() > 1 || words.first().is_some_and(|word| word.contains('/'));
    let selective = args.changed("selector") || args.changed("field-selector") || args.is_set("all");
    if words.is_empty() {
        fail!("You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'");
    }
    if !named && !selective {
        fail!("resource(s) were provided, but no name was specified");
    }
    if named && args.changed("selector") {
        fail!("name cannot be provided when a selector is specified");
    }
    if named && args.is_set("all") {
        fail!("name cannot be provided when a selector is specified");
    }
    for target in targets(session, words).await? {
        match target.name {
            Some(name) => {
                let namespace = if target.resource.namespaced { session.namespace()?.to_owned() } else { String::new() };
                infos.push(Info { resource: target.resource, namespace, name, object: json!({}), source: String::new() });
            }
            None => {
                let url = list_url(session, &target.resource, args)?;
                match list_all(session, url.clone(), 500).await {
                    Ok(mut found) => infos.extend(items(&target.resource, &mut found)),
                    // `all` names kinds that cannot be listed or deleted.
                    Err(error) if error.is_reason("MethodNotAllowed") => {}
                    Err(error) => problems.push(unlisted(error, &target.resource, &url)),
                }
            }
        }
    }
    Ok(())
}

async fn confirmed(session: &Session, infos: &[Info]) -> Result<bool> {
    session.say("You are about to delete the following resource(s):")?;
    for info in infos {
        session.say(info.shown())?;
    }
    session.print("Do you want to continue? (y/N): ")?;
    session.flush()?;
    let mut reader = tokio::io::BufReader::new(session.take_input());
    let mut answer = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut reader, &mut answer).await?;
    if matches!(answer.trim(), "y" | "Y") {
        return Ok(true);
    }
    session.say("deletion is cancelled")?;
    Ok(false)
}

async fn delete(session: &Session, info: &Info, plan: &Plan) -> Result {
    if plan.dry_run == DryRun::Client {
        session.get(info.url()).await?;
        return Ok(());
    }
    session.delete(info.url(), &plan.options).await.map(|_| ())
}

fn say_deleted(session: &Session, args: &Parsed, info: &Info, plan: &Plan) -> Result {
    let kind = info.resource.singular_qualified();
    if args.text("output") == "name" {
        return session.say(format!("{kind}/{}", info.name));
    }
    let how = if plan.at_once { "force deleted" } else { "deleted" };
    // Since 1.34 the namespace is named as well.
    let place = if info.namespace.is_empty() { String::new() } else { format!(" from {} namespace", info.namespace) };
    session.say(format!("{kind} {:?} {how}{place}{}", info.name, plan.dry_run.suffix()))
}

/// Waits until the object is gone, or another has taken its name.
pub async fn gone(session: &Session, info: &Info, deadline: tokio::time::Instant) -> Result {
    loop {
        let object = match session.get(info.url()).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let known = text(&info.object, "/metadata/uid");
        if !known.is_empty() && text(&object, "/metadata/uid") != known {
            return Ok(());
        }
        let uid = text(&object, "/metadata/uid").to_owned();
        let url = Url::new(info.resource.collection(&info.namespace))
            .with("fieldSelector", &format!("metadata.name={}", info.name))
            .with("resourceVersion", text(&object, "/metadata/resourceVersion"))
            .with("watch", "true");
        let watching = async {
            let mut events = session.watch(url, JSON).await?;
            while let Some((kind, object)) = events.event().await? {
                if kind == "DELETED" || text(&object, "/metadata/uid") != uid && kind != "BOOKMARK" {
                    return Ok::<bool, Error>(true);
                }
            }
            Ok(false)
        };
        match tokio::time::timeout_at(deadline, watching).await {
            Err(_) => fail!("timed out waiting for the condition on {}/{}", info.resource.name, info.name),
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => {}
            // A watch that has expired begins anew.
            Ok(Err(error)) if error.is_reason("Expired") || error.is_reason("Gone") => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}
