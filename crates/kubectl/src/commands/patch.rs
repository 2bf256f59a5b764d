//! `kubectl patch`

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::FILENAMES;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, name_line, report};
use crate::rest::{JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Url};
use crate::selection::select;
use crate::session::Session;

pub static PATCH: Command = Command {
    name: "patch",
    about: "Change fields of an object by a strategic merge patch, a JSON merge patch or a JSON patch.",
    usage: "(-f FILENAME | TYPE NAME) [-p PATCH|--patch-file FILE] [options]",
    examples: "
kubectl patch node n1 -p '{\"spec\":{\"unschedulable\":true}}'
kubectl patch pod web --type=json -p='[{\"op\":\"replace\",\"path\":\"/spec/containers/0/image\",\"value\":\"nginx\"}]'",
    flags: &[FLAGS, FILENAMES, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-patch"),
    Flag::switch("local", "Change what the file says without asking a server."),
    Flag::text("patch", "The patch, as JSON or YAML.").short('p'),
    Flag::text("patch-file", "File with the patch."),
    Flag::text("subresource", "Subresource to change."),
    Flag::text("type", "Kind of patch: json, merge or strategic.").default("strategic"),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let kind = match args.text("type") {
        "json" => JSON_PATCH,
        "merge" => MERGE_PATCH,
        "strategic" => STRATEGIC_PATCH,
        other => fail!("--type must be one of [json merge strategic], not {other:?}"),
    };
    let content = match (args.changed("patch"), args.changed("patch-file")) {
        (true, true) => fail!("cannot specify --patch and --patch-file together"),
        (false, false) => fail!("must specify --patch or --patch-file containing the contents of the patch"),
        (true, false) => args.text("patch").as_bytes().to_vec(),
        (false, true) => std::fs::read(args.text("patch-file"))
            .map_err(|error| Error::Message(format!("unable to read patch file: open {}: {}", args.text("patch-file"), crate::kubeconfig::go_io(&error))))?,
    };
    let (infos, mut problems, dry_run) = if args.is_set("local") {
        (crate::files::local(session, args).await?, Vec::new(), DryRun::Client)
    } else {
        let dry_run = DryRun::of(session, args)?;
        let (infos, problems) = select(session, args, &args.args).await?;
        (infos, problems, dry_run)
    };
    if infos.is_empty() {
        return Error::all(problems);
    }
    let (patch, _) = api::yaml::to_json(&content)
        .map_err(|error| Error::Message(format!("unable to parse {:?}: {}", String::from_utf8_lossy(&content), crate::files::go_yaml(&error.to_string()))))?;
    for mut info in infos {
        let before = info.object.clone();
        if dry_run == DryRun::Client {
            info.object = locally(&info, kind, &patch)?;
        } else {
            let subresource = args.text("subresource");
            let url = if subresource.is_empty() { info.url() } else { Url::new(format!("{}/{subresource}", info.url().as_str())) };
            let url = url.with_filled("dryRun", dry_run.query()).with("fieldManager", args.text("field-manager"));
            match session.patch(url, kind, &patch).await {
                Ok(object) => info.object = object,
                Err(error) => {
                    problems.push(error);
                    continue;
                }
            }
        }
        let same = crate::value::text(&before, "/metadata/resourceVersion") == crate::value::text(&info.object, "/metadata/resourceVersion") && before == info.object;
        if !args.text("subresource").is_empty() && crate::value::text(&info.object, "/kind") != info.resource.kind {
            // A scale is another kind of object.
            session.say(format!("{} patched{}", name_line(&info.object).trim_end(), dry_run.suffix()))?;
            continue;
        }
        report(session, args, &info, if same { "patched (no change)" } else { "patched" }, dry_run)?;
    }
    Error::all(problems)
}

fn locally(info: &crate::selection::Info, kind: &str, patch: &serde_json::Value) -> Result<serde_json::Value> {
    let patched = match (kind, api::schema::definition_of_kind(&info.resource.api_version(), &info.resource.kind)) {
        (JSON_PATCH, _) => api::patch::json_patch(&info.object, patch),
        (STRATEGIC_PATCH, Some(definition)) => api::patch::strategic_merge_patch(&info.object, patch, definition),
        _ => Ok(api::patch::merge_patch(&info.object, patch)),
    };
    patched.map_err(|error| Error::Message(error.to_string()))
}
