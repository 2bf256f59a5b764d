//! `kubectl diff`: what `apply` would change

use serde_json::Value;

use super::apply::patch_for;
use super::create::save_configuration;
use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{self, FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::drop_managed_fields;
use crate::rest::APPLY_PATCH;
use crate::selection::{Info, SELECTOR, from_files};
use crate::session::Session;

pub static DIFF: Command = Command {
    name: "diff",
    about: "Show how the cluster differs from what files or standard input say. Exit code 1: there are differences.",
    usage: "-f FILENAME [options]",
    examples: "kubectl diff -f web.yaml",
    flags: &[FLAGS, FILENAMES, SELECTOR],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::int("concurrency", "1", "How many objects to compare at once. Has no effect."),
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-client-side-apply"),
    Flag::switch("force-conflicts", "Take fields from other managers, with --server-side."),
    Flag::switch("prune", "Show also what an apply with --prune would delete."),
    Flag::array("prune-allowlist", "Kinds to prune: <group/version/kind>."),
    Flag::switch("server-side", "Let the server merge."),
    Flag::switch("show-managed-fields", "Compare managedFields too."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let directory = std::env::temp_dir().join(format!("kubectl-diff-{}-{}", std::process::id(), rand::random::<u32>()));
    let outcome = compare(session, args, &directory).await;
    // What was compared is of no further use.
    let _ = std::fs::remove_dir_all(&directory);
    // One means that there are differences.
    outcome.map_err(|error| match error {
        Error::Exit(code) => Error::Exit(code),
        other => {
            session.complain(other.message());
            Error::Exit(2)
        }
    })
}

async fn compare(session: &Session, args: &Parsed, directory: &std::path::Path) -> Result {
    if !files::given(args) {
        fail!("must specify one of -f and -k");
    }
    let (live, merged) = (directory.join("LIVE"), directory.join("MERGED"));
    std::fs::create_dir_all(&live)?;
    std::fs::create_dir_all(&merged)?;
    let mut visited = super::prune::Visited::default();
    for info in from_files(session, args).await? {
        let mut before = match session.get(info.url()).await {
            Ok(object) => Some(object),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        visited.note(&crate::selection::Info { object: before.clone().unwrap_or_default(), ..info.clone() });
        let mut after = applied(session, args, &info, before.as_ref()).await?;
        if !args.is_set("show-managed-fields") {
            before.iter_mut().for_each(drop_managed_fields);
            drop_managed_fields(&mut after);
        }
        let file = format!("{}.{}.{}.{}", info.resource.api_version().replace('/', "."), info.resource.kind, info.namespace, info.name);
        // What was applied is written down for the next apply; nobody wants to compare it.
        for object in before.iter_mut().chain([&mut after]) {
            if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
                annotations.remove(super::create::LAST_APPLIED);
            }
        }
        if let Some(before) = before {
            std::fs::write(live.join(&file), api::yaml::to_yaml(&before))?;
        }
        std::fs::write(merged.join(&file), api::yaml::to_yaml(&after))?;
    }
    if args.is_set("prune") {
        for info in super::prune::candidates(session, args, &visited).await? {
            let mut object = info.object;
            if !args.is_set("show-managed-fields") {
                drop_managed_fields(&mut object);
            }
            let file = format!("{}.{}.{}.{}", info.resource.api_version().replace('/', "."), info.resource.kind, info.namespace, info.name);
            std::fs::write(live.join(&file), api::yaml::to_yaml(&object))?;
        }
    }
    let program = session.environment.var("KUBECTL_EXTERNAL_DIFF").unwrap_or("diff -u -N").to_owned();
    let mut words = program.split_whitespace();
    let name = words.next().unwrap_or("diff");
    let output = std::process::Command::new(name).args(words).arg(&live).arg(&merged).output();
    let output = output.map_err(|error| Error::Message(format!("failed to run {name:?}: {error}")))?;
    session.print(&output.stdout)?;
    session.print_err(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(()),
        code => Err(Error::Exit(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
    }
}

/// What the object would be, by the server's own dry run.
async fn applied(session: &Session, args: &Parsed, info: &Info, before: Option<&Value>) -> Result<Value> {
    let mut info = info.clone();
    let manager = args.text("field-manager").to_owned();
    if args.is_set("server-side") {
        let force = if args.is_set("force-conflicts") { "true" } else { "false" };
        let url = info.url().with("dryRun", "All").with("fieldManager", "kubectl").with("force", force);
        return session.patch(url, APPLY_PATCH, &info.object).await;
    }
    let Some(before) = before else {
        save_configuration(&mut info.object);
        return session.post(info.collection().with("dryRun", "All").with("fieldManager", &manager), &info.object).await;
    };
    let (kind, patch) = patch_for(&mut info, before);
    if patch.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok(before.clone());
    }
    session.patch(info.url().with("dryRun", "All").with("fieldManager", &manager), kind, &patch).await
}
