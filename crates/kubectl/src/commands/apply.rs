//! `kubectl apply`: declared state, by client-side three-way patches or server-side apply.

use serde_json::{Value, json};

use super::create::{LAST_APPLIED, save_configuration, validation};
use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{self, FILENAMES, PLAIN_FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, Format, PRINT, list_of, report};
use crate::rest::{APPLY_PATCH, MERGE_PATCH, STRATEGIC_PATCH};
use crate::selection::{ALL, Info, SELECTOR, from_files};
use crate::session::Session;
use crate::threeway;
use crate::value::text;

pub static APPLY: Command = Command {
    name: "apply",
    about: "Make the cluster be as files or standard input say.",
    usage: "(-f FILENAME | -k DIRECTORY) [options]",
    examples: "
kubectl apply -f web.yaml
cat web.yaml | kubectl apply -f -
kubectl apply --server-side -f web.yaml",
    flags: &[FLAGS, FILENAMES, SELECTOR, ALL, DRY_RUN, PRINT],
    subcommands: &[&EDIT_LAST_APPLIED, &SET_LAST_APPLIED, &VIEW_LAST_APPLIED],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("cascade", "What happens to dependents of pruned objects.").default("background").bare("background"),
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-client-side-apply"),
    Flag::switch("force", "Delete and create anew what cannot be changed."),
    Flag::switch("force-conflicts", "Take fields from other managers, with --server-side."),
    Flag::int("grace-period", "-1", "Seconds for deleted objects to end by themselves."),
    Flag::switch("openapi-patch", "Use the schema to merge lists.").default("true"),
    Flag::switch("overwrite", "Resolve conflicts by the file's values.").default("true"),
    Flag::switch("prune", "Delete objects that were applied once and are no longer in the files."),
    Flag::array("prune-allowlist", "Kinds to prune: <group/version/kind>."),
    Flag::text("applyset", "Object that keeps what belongs together, for --prune.").hidden(),
    Flag::switch("server-side", "Let the server merge."),
    Flag::text("subresource", "Subresource to change, with --server-side."),
    Flag::duration("timeout", "0s", "How long to wait for a deletion."),
    Flag::text("validate", "strict (or true): fail on unknown and duplicate fields; warn; ignore (or false).").default("strict").bare("strict"),
    Flag::switch("wait", "Wait until deleted objects are gone."),
];

static EDIT_LAST_APPLIED: Command = Command {
    name: "edit-last-applied",
    about: "Edit what was applied last.",
    usage: "(RESOURCE/NAME | -f FILENAME) [options]",
    examples: "kubectl apply edit-last-applied deployment/web",
    flags: &[
        &[
            Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-client-side-apply"),
            Flag::text("validate", "strict (or true): fail on unknown and duplicate fields; warn; ignore (or false).").default("strict").bare("strict"),
            Flag::switch("windows-line-endings", "Use CR LF in the editor."),
        ],
        FILENAMES,
        PRINT,
    ],
    run: Some(|session, args| Box::pin(edit_last(session, args))),
    ..COMMAND
};

static VIEW_LAST_APPLIED: Command = Command {
    name: "view-last-applied",
    about: "Show what was applied last.",
    usage: "(TYPE [NAME | -l label] | TYPE/NAME | -f FILENAME) [options]",
    examples: "
kubectl apply view-last-applied deployment/web
kubectl apply view-last-applied -f web.yaml -o json",
    flags: &[&[Flag::text("output", "yaml or json.").short('o').default("yaml")], FILENAMES, SELECTOR, ALL],
    run: Some(|session, args| Box::pin(view(session, args))),
    ..COMMAND
};

static SET_LAST_APPLIED: Command = Command {
    name: "set-last-applied",
    about: "Set what was applied last to what a file says.",
    usage: "-f FILENAME [options]",
    examples: "kubectl apply set-last-applied -f web.yaml --create-annotation=true",
    flags: &[&[Flag::switch("create-annotation", "Set it also where there is none.")], PLAIN_FILENAMES, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(set_last(session, args))),
    ..COMMAND
};

async fn run(session: &Session, args: &Parsed) -> Result {
    if !files::given(args) {
        fail!("must specify one of -f and -k");
    }
    if !args.args.is_empty() {
        return Err(session.usage_error(format!("Unexpected args: [{}]", args.args.join(" "))));
    }
    if args.changed("applyset") && !super::applyset::enabled(session) {
        fail!("unknown flag: --applyset\nSee '{} --help' for usage.", session.path);
    }
    validation(args)?;
    let dry_run = DryRun::of(session, args)?;
    let server_side = args.is_set("server-side");
    if args.is_set("force-conflicts") && !server_side {
        fail!("--force-conflicts only works with --server-side");
    }
    if dry_run == DryRun::Client && server_side {
        fail!("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)");
    }
    if args.is_set("force") && server_side {
        fail!("--force cannot be used with --server-side");
    }
    let mut set = super::applyset::ApplySet::of(session, args).await?;
    if let Some(set) = &set {
        set.validate(session, args).await?;
    }
    super::prune::validate(args)?;
    let mut infos = from_files(session, args).await?;
    if args.changed("selector") {
        let wanted = api::selector::LabelSelector::parse(args.text("selector")).map_err(|error| Error::Message(error.to_string()))?;
        infos.retain(|info| wanted.matches_with(|key| info.object.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str)));
    }
    if infos.is_empty() {
        fail!("no objects passed to apply");
    }
    if let Some(set) = &mut set {
        set.label(&mut infos)?;
        set.before(session, args, &infos, dry_run).await?;
    }
    let collect = !matches!(Format::of(args)?, Format::Table { .. } | Format::Name) && infos.len() > 1;
    let mut problems = Vec::new();
    let mut shown = Vec::new();
    let mut visited = super::prune::Visited::default();
    for mut info in infos {
        let outcome = if server_side {
            serverside(session, args, &mut info, dry_run).await
        } else {
            clientside(session, args, &mut info, dry_run).await
        };
        visited.note(&info);
        match outcome {
            Err(error) => problems.push(error),
            Ok(_) if collect => shown.push(info.object),
            Ok(done) => report(session, args, &info, done, dry_run)?,
        }
    }
    if !shown.is_empty() {
        let text = Format::of(args)?.show(&list_of(shown), args)?;
        session.print(text)?;
    }
    Error::all(problems)?;
    match set {
        Some(set) => set.prune(session, args, &visited, dry_run).await,
        None if args.is_set("prune") => super::prune::prune(session, args, &visited, dry_run).await,
        None => Ok(()),
    }
}

async fn serverside(session: &Session, args: &Parsed, info: &mut Info, dry_run: DryRun) -> Result<&'static str> {
    let manager = if args.changed("field-manager") { args.text("field-manager") } else { "kubectl" };
    let mut url = info.url();
    let subresource = args.text("subresource");
    if !subresource.is_empty() {
        url = crate::rest::Url::new(format!("{}/{subresource}", url.as_str()));
    }
    let url = url
        .with_filled("dryRun", dry_run.query())
        .with("fieldManager", manager)
        .with("fieldValidation", validation(args)?)
        .with("force", if args.is_set("force-conflicts") { "true" } else { "false" });
    let configuration = info.object.clone();
    info.object = match session.patch(url.clone(), APPLY_PATCH, &configuration).await {
        Ok(object) => object,
        Err(error) if error.is_reason("Conflict") => return Err(conflict(&error)),
        Err(error) => return Err(error),
    };
    if subresource.is_empty() && super::migrate::migrate(session, info, manager, &url).await {
        // Only now can fields go that the old manager held.
        match session.patch(url, APPLY_PATCH, &configuration).await {
            Ok(object) => info.object = object,
            Err(error) => super::migrate::warn(session, "failed to re-apply configuration after performing Server-Side Apply migration", &error),
        }
    }
    warn_if_deleting(session, info);
    Ok("serverside-applied")
}

fn warn_if_deleting(session: &Session, info: &Info) {
    if info.object.pointer("/metadata/deletionTimestamp").is_some() {
        session.complain(format!("Warning: Detected changes to resource {} which is currently being deleted.", info.name));
    }
}

fn conflict(error: &Error) -> Error {
    Error::Message(format!(
        "Apply failed with {}\nPlease review the fields above--they currently have other managers. Here\nare the ways you can resolve this warning:\n* If you intend to manage all of these fields, please re-run the apply\n  command with the `--force-conflicts` flag.\n* If you do not intend to manage all of the fields, please edit your\n  manifest to remove references to the fields that should keep their\n  current managers.\n* You may co-own fields by updating your manifest to match the existing\n  value; in this case, you'll become the manager if the other manager(s)\n  stop managing the field (remove it from their configuration).\nSee https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts",
        error.bare().trim_start_matches("Apply failed with ")
    ))
}

async fn clientside(session: &Session, args: &Parsed, info: &mut Info, dry_run: DryRun) -> Result<&'static str> {
    let source = info.source.clone();
    if info.name.is_empty() {
        return Err(Error::Message(format!("error when retrieving current configuration of: {:?}: resource name may not be empty", info.resource.qualified())));
    }
    let current = match session.get(info.url()).await {
        Ok(current) => current,
        Err(error) if error.is_not_found() => {
            save_configuration(&mut info.object);
            super::create::post(session, args, info, dry_run).await.map_err(|error| error.when("creating", &source))?;
            return Ok("created");
        }
        Err(error) => return Err(retrieving(error, info)),
    };
    if text(&current, &annotation_pointer()).is_empty() {
        session.complain(format!(
            "Warning: resource {}/{} is missing the {LAST_APPLIED} annotation which is required by {path}. {path} should only be used on resources created declaratively by either {root} create --save-config or {path}. The missing annotation will be patched automatically.",
            info.resource.name,
            info.name,
            path = session.path,
            root = "kubectl",
        ));
    }
    let (kind, patch) = patch_for(info, &current);
    // Without a server the original makes no patch.
    if dry_run != DryRun::Client && patch.as_object().is_some_and(serde_json::Map::is_empty) {
        info.object = current;
        warn_if_deleting(session, info);
        return Ok("unchanged");
    }
    if dry_run == DryRun::Client {
        info.object = match api::schema::definition_of_kind(&info.resource.api_version(), &info.resource.kind) {
            Some(definition) if kind == STRATEGIC_PATCH => api::patch::strategic_merge_patch(&current, &patch, definition).unwrap_or(current),
            _ => api::patch::merge_patch(&current, &patch),
        };
        return Ok("configured");
    }
    let url = |info: &Info| -> Result<crate::rest::Url> {
        Ok(info.url().with_filled("dryRun", dry_run.query()).with("fieldManager", args.text("field-manager")).with("fieldValidation", validation(args)?))
    };
    match session.patch(url(info)?, kind, &patch).await {
        Ok(object) => info.object = object,
        Err(error) if args.is_set("force") && (error.is_reason("Conflict") || error.is_reason("Invalid")) => {
            session.delete(info.url(), &json!({"propagationPolicy": "Background", "gracePeriodSeconds": 0})).await?;
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
            super::delete::gone(session, &Info { object: current, ..info.clone() }, deadline).await?;
            super::create::post(session, args, info, dry_run).await.map_err(|error| error.when("creating", &source))?;
        }
        Err(error) => {
            let shown = patch.to_string();
            return Err(applying(error, &shown, info));
        }
    }
    warn_if_deleting(session, info);
    Ok("configured")
}

pub fn annotation_pointer() -> String {
    format!("/metadata/annotations/{}", LAST_APPLIED.replace('/', "~1"))
}

/// The patch from the last applied to the new configuration, and its content type. `info.object` gains the annotation.
pub fn patch_for(info: &mut Info, current: &Value) -> (&'static str, Value) {
    let original: Value = serde_json::from_str(text(current, &annotation_pointer())).unwrap_or(Value::Null);
    save_configuration(&mut info.object);
    match api::schema::definition_of_kind(&info.resource.api_version(), &info.resource.kind) {
        Some(definition) => (STRATEGIC_PATCH, threeway::strategic(&original, &info.object, current, definition)),
        None => (MERGE_PATCH, threeway::merge(&original, &info.object, current)),
    }
}

fn retrieving(error: Error, info: &Info) -> Error {
    match error {
        Error::Status(mut status) => {
            status["message"] = format!(
                "error when retrieving current configuration of:\nResource: {:?}, GroupVersionKind: {:?}\nName: {:?}, Namespace: {:?}\nfrom server for: {:?}: {}",
                format!("{}, Resource={}", info.resource.api_version(), info.resource.name),
                format!("{}, Kind={}", info.resource.api_version(), info.resource.kind),
                info.name, info.namespace, info.source, text(&status, "/message")
            ).into();
            Error::Status(status)
        }
        other => other,
    }
}

fn applying(error: Error, patch: &str, info: &Info) -> Error {
    match error {
        Error::Status(mut status) => {
            let group_version = if info.resource.group.is_empty() { format!("/{}", info.resource.version) } else { info.resource.api_version() };
            status["message"] = format!(
                "error when applying patch:\n{patch}\nto:\nResource: \"{group_version}, Resource={}\", GroupVersionKind: \"{group_version}, Kind={}\"\nName: {:?}, Namespace: {:?}\nfor: {:?}: error when patching {:?}: {}",
                info.resource.name, info.resource.kind, info.name, info.namespace, info.source, info.source, text(&status, "/message")
            ).into();
            Error::Status(status)
        }
        other => other,
    }
}

async fn view(session: &Session, args: &Parsed) -> Result {
    let (infos, problems) = crate::selection::select(session, args, &args.args).await?;
    for info in infos {
        let kept = text(&info.object, &annotation_pointer());
        if kept.is_empty() {
            fail!("no last-applied-configuration annotation found on resource: {}", info.name);
        }
        let object: Value = serde_json::from_str(kept).map_err(|error| Error::Message(error.to_string()))?;
        match args.text("output") {
            "json" => session.print(crate::output::pretty_json(&object).replace("    ", "  ") + "\n")?,
            "yaml" => session.print(api::yaml::to_yaml(&object))?,
            other => fail!("Unexpected -o output mode: {other}, the flag 'output' must be one of yaml|json"),
        }
    }
    Error::all(problems)
}

async fn set_last(session: &Session, args: &Parsed) -> Result {
    let dry_run = DryRun::of(session, args)?;
    for mut info in from_files(session, args).await? {
        let current = session.get(info.url()).await?;
        if text(&current, &annotation_pointer()).is_empty() && !args.is_set("create-annotation") {
            fail!("no last-applied-configuration annotation found on resource: {}, to create the annotation, run the command with --create-annotation", info.name);
        }
        let configuration = save_configuration(&mut info.object);
        if dry_run != DryRun::Client {
            let patch = json!({"metadata": {"annotations": {LAST_APPLIED: configuration}}});
            info.object = session.patch(info.url().with_filled("dryRun", dry_run.query()), MERGE_PATCH, &patch).await?;
        }
        report(session, args, &info, "configured", dry_run)?;
    }
    Ok(())
}

async fn edit_last(session: &Session, args: &Parsed) -> Result {
    let (infos, problems) = crate::selection::select(session, args, &args.args).await?;
    Error::all(problems)?;
    for mut info in infos {
        let kept = text(&info.object, &annotation_pointer());
        let Ok(before) = serde_json::from_str::<Value>(kept) else {
            fail!("no last-applied-configuration annotation found on resources, to create the annotation, use command `kubectl apply set-last-applied --create-annotation`");
        };
        let json = args.text("output") == "json";
        let Some(after) = super::edit::edit_object(session, &before, json, super::edit::Unchanged::Cancels).await? else { continue };
        let configuration = crate::output::go_json(&after) + "\n";
        let patch = json!({"metadata": {"annotations": {LAST_APPLIED: configuration}}});
        info.object = session.patch(info.url().with("fieldManager", args.text("field-manager")), MERGE_PATCH, &patch).await?;
        report(session, args, &info, "edited", DryRun::None)?;
    }
    Ok(())
}
