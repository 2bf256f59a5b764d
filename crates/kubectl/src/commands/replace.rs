//! `kubectl replace`

use serde_json::json;

use super::create::validation;
use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{self, FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, report};
use crate::selection::{Info, from_files};
use crate::session::Session;

pub static REPLACE: Command = Command {
    name: "replace",
    about: "Replace objects by what files or standard input say.",
    usage: "-f FILENAME [options]",
    examples: "
kubectl replace -f web.yaml
kubectl replace --force -f web.yaml",
    flags: &[FLAGS, FILENAMES, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("cascade", "What happens to dependents, with --force.").default("background").bare("background"),
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-replace"),
    Flag::switch("force", "Delete the object and create it anew."),
    Flag::int("grace-period", "-1", "Seconds for deleted objects to end by themselves."),
    Flag::text("raw", "Path to put the file to, as it stands."),
    Flag::switch("save-config", "Keep the configuration in an annotation, for a later apply."),
    Flag::text("subresource", "Subresource to replace."),
    Flag::duration("timeout", "0s", "How long to wait for a deletion."),
    Flag::text("validate", "strict (or true): fail on unknown and duplicate fields; warn; ignore (or false).").default("strict").bare("strict"),
    Flag::switch("wait", "Wait until deleted objects are gone."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    if !files::given(args) {
        fail!("must specify one of -f and -k");
    }
    let dry_run = DryRun::of(session, args)?;
    let infos = from_files(session, args).await?;
    if infos.is_empty() {
        fail!("no objects passed to replace");
    }
    let force = args.is_set("force") && dry_run == DryRun::None;
    if force {
        for info in &infos {
            remove(session, args, info).await?;
        }
    }
    let mut problems = Vec::new();
    for mut info in infos {
        if args.is_set("save-config") {
            super::create::save_configuration(&mut info.object);
        }
        let source = info.source.clone();
        let outcome = if force { super::create::post(session, args, &mut info, dry_run).await } else { put(session, args, &mut info, dry_run).await };
        match outcome {
            Ok(()) => report(session, args, &info, "replaced", dry_run)?,
            Err(error) => problems.push(error.when("replacing", &source)),
        }
    }
    Error::all(problems)
}

async fn remove(session: &Session, args: &Parsed, info: &Info) -> Result {
    let mut options = json!({"propagationPolicy": "Background"});
    let grace = args.int("grace-period");
    options["gracePeriodSeconds"] = if grace >= 0 { grace.into() } else { 0.into() };
    match session.delete(info.url(), &options).await {
        Err(error) if error.is_not_found() => return Ok(()),
        outcome => outcome?,
    };
    session.say(format!("{} {:?} deleted", info.resource.singular_qualified(), info.name))?;
    let limit = if args.duration("timeout").is_zero() { std::time::Duration::from_secs(300) } else { args.duration("timeout") };
    super::delete::gone(session, info, tokio::time::Instant::now() + limit).await
}

async fn put(session: &Session, args: &Parsed, info: &mut Info, dry_run: DryRun) -> Result {
    if dry_run == DryRun::Client {
        return Ok(());
    }
    let subresource = args.text("subresource");
    let url = if subresource.is_empty() { info.url() } else { crate::rest::Url::new(format!("{}/{subresource}", info.url().as_str())) };
    let url = url.with_filled("dryRun", dry_run.query()).with("fieldManager", args.text("field-manager")).with("fieldValidation", validation(args)?);
    if !crate::value::text(&info.object, "/metadata/resourceVersion").is_empty() {
        info.object = session.put(url, &info.object).await?;
        return Ok(());
    }
    // Kinds that may not be replaced blindly get the version that is there; somebody may be quicker.
    for last in [false, false, false, false, true] {
        let current = session.get(info.url()).await?;
        crate::value::set(&mut info.object, &["metadata", "resourceVersion"], current["metadata"]["resourceVersion"].clone());
        match session.put(url.clone(), &info.object).await {
            Err(error) if error.is_reason("Conflict") && !last => {}
            answer => {
                info.object = answer?;
                break;
            }
        }
    }
    Ok(())
}
