//! `kubectl label` and `annotate`

use serde_json::{Value, json};

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{self, FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, report};
use crate::rest::MERGE_PATCH;
use crate::selection::{ALL, ALL_NAMESPACES, FIELD_SELECTOR, Info, SELECTOR, select};
use crate::session::Session;
use crate::value::{map, object_at, plain};

pub static LABEL: Command = Command {
    name: "label",
    about: "Set, change or remove labels of objects.",
    usage: "[--overwrite] (-f FILENAME | TYPE NAME) KEY_1=VAL_1 ... KEY_N=VAL_N [--resource-version=version] [options]",
    examples: "
kubectl label pod web tier=front
kubectl label --overwrite pod web tier=back
kubectl label pod web tier-",
    flags: &[&[MANAGER.default(LABELS.manager)], FLAGS, FILENAMES, SELECTOR, FIELD_SELECTOR, ALL, ALL_NAMESPACES, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, &LABELS))),
    ..COMMAND
};

pub static ANNOTATE: Command = Command {
    name: "annotate",
    about: "Set, change or remove annotations of objects.",
    usage: "[--overwrite] (-f FILENAME | TYPE NAME) KEY_1=VAL_1 ... KEY_N=VAL_N [--resource-version=version] [options]",
    examples: "kubectl annotate pod web description='shows the page'",
    flags: &[&[MANAGER.default(ANNOTATIONS.manager)], FLAGS, FILENAMES, SELECTOR, FIELD_SELECTOR, ALL, ALL_NAMESPACES, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, &ANNOTATIONS))),
    ..COMMAND
};

const MANAGER: Flag = Flag::text("field-manager", "Name that owns the fields set here.");
const FLAGS: &[Flag] = &[
    Flag::switch("list", "Show the values there are."),
    Flag::switch("local", "Change what the file says without asking a server."),
    Flag::switch("overwrite", "Replace values that are there."),
    Flag::text("resource-version", "Change the object only while it has this version."),
];

struct Words {
    field: &'static str,
    noun: &'static str,
    done: &'static str,
    removed: &'static str,
    manager: &'static str,
}

const LABELS: Words = Words { field: "labels", noun: "label", done: "labeled", removed: "unlabeled", manager: "kubectl-label" };
const ANNOTATIONS: Words =
    Words { field: "annotations", noun: "annotation", done: "annotated", removed: "annotated", manager: "kubectl-annotate" };

async fn run(session: &Session, args: &Parsed, words: &Words) -> Result {
    let is_change = |word: &String| word.contains('=') || word.len() > 1 && word.ends_with('-');
    let first_change = args.args.iter().position(is_change).unwrap_or(args.args.len());
    let (objects, changes) = args.args.split_at(first_change);
    if let Some(wrong) = changes.iter().find(|word| !is_change(word)) {
        fail!("all resources must be specified before {} changes: {wrong}", words.noun);
    }
    if objects.is_empty() && !files::given(args) && !args.changed("selector") && !args.is_set("all") {
        fail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    if changes.is_empty() && !args.is_set("list") {
        fail!("at least one {} update is required", words.noun);
    }
    let (mut wanted, mut unwanted): (Vec<(&str, &str)>, Vec<&str>) = (Vec::new(), Vec::new());
    for change in changes {
        match change.split_once('=') {
            Some((key, value)) => wanted.push((key, value)),
            None => unwanted.push(change.trim_end_matches('-')),
        }
    }
    if wanted.iter().any(|(key, _)| unwanted.contains(key)) {
        fail!("can not both modify and remove {} {} in the same command", if words.noun == "label" { "a" } else { "an" }, words.noun);
    }
    for (key, value) in &wanted {
        if words.field == "labels"
            && let Some(problem) = api::names::label_value(value).first()
        {
            fail!("invalid label value: {:?}: {problem}", format!("{key}={value}"));
        }
    }
    let (infos, mut problems, dry_run) = if args.is_set("local") {
        (files::local(session, args).await?, Vec::new(), DryRun::Client)
    } else {
        let dry_run = DryRun::of(session, args)?;
        let (infos, problems) = select(session, args, objects).await?;
        (infos, problems, dry_run)
    };
    for info in infos {
        if let Err(error) = change(session, args, words, info, &wanted, &unwanted, dry_run).await {
            problems.push(error);
        }
    }
    Error::all(problems)
}

async fn change(session: &Session, args: &Parsed, words: &Words, mut info: Info, wanted: &[(&str, &str)], unwanted: &[&str], dry_run: DryRun) -> Result {
    let pointer = format!("/metadata/{}", words.field);
    let before: Vec<(String, String)> = map(&info.object, &pointer).map(|(key, value)| (key.to_owned(), plain(value))).collect();
    let value_of = |key: &str| before.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let mut patch = json!({});
    for (key, value) in wanted {
        match value_of(key) {
            Some(now) if now == *value => {}
            Some(now) if !args.is_set("overwrite") => match words.field {
                "labels" => fail!("'{key}' already has a value ({now}), and --overwrite is false"),
                _ => fail!("--overwrite is false but found the following declared annotation(s): '{key}' already has a value ({now})"),
            },
            _ => {
                object_at(&mut patch, &["metadata", words.field]).insert((*key).to_owned(), (*value).into());
            }
        }
    }
    for key in unwanted {
        if value_of(key).is_some() {
            object_at(&mut patch, &["metadata", words.field]).insert((*key).to_owned(), Value::Null);
        } else if words.field == "labels" {
            session.say(format!("label {key:?} not found."))?;
        }
    }
    if args.changed("resource-version") {
        object_at(&mut patch, &["metadata"]).insert("resourceVersion".to_owned(), args.text("resource-version").into());
    }
    let touched = patch.pointer(&pointer).and_then(Value::as_object);
    let done = match touched {
        None if words.field == "labels" => "not labeled",
        Some(touched) if touched.values().all(Value::is_null) => words.removed,
        _ => words.done,
    };
    if touched.is_some() && dry_run != DryRun::Client {
        let url = info.url().with_filled("dryRun", dry_run.query()).with("fieldManager", args.text("field-manager"));
        info.object = session.patch(url, MERGE_PATCH, &patch).await?;
    } else if dry_run == DryRun::Client {
        info.object = api::patch::merge_patch(&info.object, &patch);
    }
    if args.is_set("list") {
        for (key, value) in map(&info.object, &pointer) {
            session.say(format!("{key}={}", plain(value)))?;
        }
        return Ok(());
    }
    report(session, args, &info, done, dry_run)
}
