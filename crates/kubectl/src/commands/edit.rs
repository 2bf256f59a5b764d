//! `kubectl edit`

use serde_json::Value;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::FILENAMES;
use crate::flags::{Flag, Parsed};
use crate::output::{DryRun, PRINT, drop_managed_fields, pretty_json, report};
use crate::rest::{MERGE_PATCH, STRATEGIC_PATCH};
use crate::selection::{Info, select};
use crate::session::Session;
use crate::threeway;

pub static EDIT: Command = Command {
    name: "edit",
    about: "Edit an object of the server in the editor that KUBE_EDITOR or EDITOR names.",
    usage: "(RESOURCE/NAME | -f FILENAME) [options]",
    examples: "KUBE_EDITOR=nano kubectl edit deployment/web",
    flags: &[FLAGS, FILENAMES, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-edit"),
    Flag::switch("output-patch", "Show the patch."),
    Flag::switch("save-config", "Keep the configuration in an annotation, for a later apply."),
    Flag::text("subresource", "Subresource to edit."),
    Flag::text("validate", "strict, warn or ignore.").default("strict").bare("strict"),
    Flag::switch("windows-line-endings", "Use CR LF."),
];

/// How often a broken edit is given back.
const ROUNDS_MAX: usize = 100;

async fn run(session: &Session, args: &Parsed) -> Result {
    let (infos, problems) = select(session, args, &args.args).await?;
    Error::all(problems)?;
    if infos.is_empty() {
        fail!("edit: no objects to edit");
    }
    let mut failed = Vec::new();
    for info in infos {
        if let Err(error) = edit(session, args, info).await {
            failed.push(error);
        }
    }
    Error::all(failed)
}

const HEADER: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,\n# and an empty file will abort the edit. If an error occurs while saving this file will be\n# reopened with the relevant failures.\n#\n";

async fn edit(session: &Session, args: &Parsed, mut info: Info) -> Result {
    let json = args.text("output") == "json";
    let mut before = info.object.clone();
    if !args.is_set("show-managed-fields") {
        drop_managed_fields(&mut before);
    }
    let sent = rounds(session, &before, json, Unchanged::Cancels, async |after| match send(session, args, &info, &before, &after).await {
        Err(error) if error.is_reason("Invalid") || error.is_reason("BadRequest") => {
            session.complain(error.message());
            Ok(Err(error.message()))
        }
        outcome => outcome.map(Ok),
    });
    let Some(object) = sent.await? else { return Ok(()) };
    info.object = object;
    report(session, args, &info, "edited", DryRun::None)
}

/// What it means that nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unchanged {
    Cancels,
    Goes,
}

/// One object through the editor; None when the user gave up.
pub async fn edit_object(session: &Session, before: &Value, json: bool, unchanged: Unchanged) -> Result<Option<Value>> {
    let object = async |after: Value| Ok(if after.is_object() { Ok(after) } else { Err("The edited file is no object".to_owned()) });
    rounds(session, before, json, unchanged, object).await
}

/// Gives the object to the editor until `accept` takes what comes out, or says why that cannot be mended. None when the
/// user gave up. What `accept` refuses is told at the head of the next round.
async fn rounds<T>(
    session: &Session,
    before: &Value,
    json: bool,
    unchanged: Unchanged,
    accept: impl AsyncFn(Value) -> Result<std::result::Result<T, String>>,
) -> Result<Option<T>> {
    let shown = if json { pretty_json(before) + "\n" } else { api::yaml::to_yaml(before) };
    let mut content = format!("{HEADER}{shown}");
    let file = TemporaryFile::new(if json { "json" } else { "yaml" })?;
    let kept = || session.complain(format!("A copy of your changes has been stored to {:?}", file.keep().display().to_string()));
    for round in 0..ROUNDS_MAX {
        std::fs::write(&file.path, &content)?;
        open_editor(session, &file.path)?;
        let edited = std::fs::read_to_string(&file.path)?;
        let stripped: String = edited.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        if stripped.trim().is_empty() {
            session.complain("Edit cancelled, saved file was empty.");
            return Ok(None);
        }
        if round > 0 && edited == content {
            break;
        }
        if unchanged == Unchanged::Cancels && (stripped == shown || edited == content) {
            session.complain("Edit cancelled, no changes made.");
            return Ok(None);
        }
        let problem = match api::yaml::to_json(stripped.as_bytes()) {
            Ok((after, _)) => match accept(after).await {
                Ok(Ok(done)) => return Ok(Some(done)),
                Ok(Err(problem)) => problem,
                Err(error) => {
                    kept();
                    return Err(error);
                }
            },
            Err(error) => error.to_string(),
        };
        content = with_problem(&problem, &stripped);
    }
    kept();
    fail!("Edit cancelled, no valid changes were saved.")
}

fn with_problem(problem: &str, content: &str) -> String {
    let lines: String = problem.lines().map(|line| format!("# {line}\n")).collect();
    format!("{HEADER}{lines}#\n{content}")
}

async fn send(session: &Session, args: &Parsed, info: &Info, before: &Value, after: &Value) -> Result<Value> {
    for field in ["apiVersion", "kind"] {
        if before[field] != after[field] {
            fail!("At least one of apiVersion, kind and name was changed");
        }
    }
    let (kind, patch) = match api::schema::definition_of_kind(&info.resource.api_version(), &info.resource.kind) {
        Some(definition) => (STRATEGIC_PATCH, threeway::strategic(before, after, before, definition)),
        None => (MERGE_PATCH, threeway::merge(before, after, before)),
    };
    if args.is_set("output-patch") {
        session.say(format!("Patch: {patch}"))?;
    }
    let url = info.url().with("fieldManager", args.text("field-manager")).with("fieldValidation", super::create::validation(args)?);
    session.patch(url, kind, &patch).await
}

fn open_editor(session: &Session, path: &std::path::Path) -> Result {
    let environment = &session.environment;
    let editor = ["KUBE_EDITOR", "EDITOR"].iter().find_map(|name| environment.var(name).filter(|value| !value.is_empty())).unwrap_or("vi");
    session.flush()?;
    let status = std::process::Command::new("/bin/sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => fail!("there was a problem with the editor {editor:?}: {status}"),
        Err(error) => fail!("unable to launch the editor {editor:?}: {error}"),
    }
}

/// Removed when dropped, unless it is kept.
struct TemporaryFile {
    path: std::path::PathBuf,
    kept: std::cell::Cell<bool>,
}

impl TemporaryFile {
    fn new(ending: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("kubectl-edit-{}-{}.{ending}", std::process::id(), rand::random::<u32>()));
        Ok(TemporaryFile { path, kept: std::cell::Cell::new(false) })
    }

    fn keep(&self) -> &std::path::Path {
        self.kept.set(true);
        &self.path
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.kept.get() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
