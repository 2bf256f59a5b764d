//! `kubectl create`: from files, or from words by one of its generators.

use serde_json::{Value, json};

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{self, FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, report, report_typed, typed};
use crate::rest::{JSON, Url};
use crate::selection::{Info, SELECTOR, from_files};
use crate::session::Session;
use crate::value::{object_at, set};

pub mod configmap;
mod cronjob;
mod deployment;
pub mod hash;
mod ingress;
mod job;
mod namespace;
mod poddisruptionbudget;
mod priorityclass;
mod quota;
mod role;
pub mod rolebinding;
mod secret;
mod service;
mod serviceaccount;
mod token;

pub use job::parse_environment;

pub static CREATE: Command = Command {
    name: "create",
    about: "Create objects from a file, from standard input, or from words.",
    usage: "-f FILENAME [options]",
    examples: "
# What a file describes
kubectl create -f web.yaml

# A deployment without any file
kubectl create deployment web --image=nginx",
    flags: &[FILENAMES, GENERATED, DRY_RUN, PRINT, SELECTOR, FLAGS],
    subcommands: &[
        &role::CLUSTER_ROLE,
        &rolebinding::CLUSTER_ROLE_BINDING,
        &configmap::CONFIG_MAP,
        &cronjob::CRON_JOB,
        &deployment::DEPLOYMENT,
        &ingress::INGRESS,
        &job::JOB,
        &namespace::NAMESPACE,
        &poddisruptionbudget::POD_DISRUPTION_BUDGET,
        &priorityclass::PRIORITY_CLASS,
        &quota::QUOTA,
        &role::ROLE,
        &rolebinding::ROLE_BINDING,
        &secret::SECRET,
        &service::SERVICE,
        &serviceaccount::SERVICE_ACCOUNT,
        &token::TOKEN,
    ],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::switch("edit", "Edit the object before it is created."),
    Flag::text("raw", "Path to post the file to, as it stands."),
    Flag::switch("windows-line-endings", "Use CR LF in the editor."),
];

/// Flags of every generator.
pub const GENERATED: &[Flag] = &[
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-create"),
    Flag::switch("save-config", "Keep the configuration in an annotation, for a later apply."),
    Flag::text("validate", "strict (or true): fail on unknown and duplicate fields; warn; ignore (or false).").default("strict").bare("strict"),
];

/// `fieldValidation` of `--validate`.
pub fn validation(args: &Parsed) -> Result<&'static str> {
    match args.text("validate") {
        "strict" | "true" | "" => Ok("Strict"),
        "warn" => Ok("Warn"),
        "ignore" | "false" => Ok("Ignore"),
        other => fail!("invalid - validate option {other:?}; must be one of: strict (or true), warn, ignore (or false)"),
    }
}

async fn run(session: &Session, args: &Parsed) -> Result {
    if !files::given(args) {
        if let Some(word) = args.args.first() {
            return Err(session.usage_error(format!("Unexpected args: [{word}]")));
        }
        fail!("must specify one of -f and -k");
    }
    if !args.args.is_empty() {
        return Err(session.usage_error(format!("Unexpected args: [{}]", args.args.join(" "))));
    }
    validation(args)?;
    if args.changed("raw") {
        let manifests = files::manifests(session, args).await?;
        let Some(first) = manifests.first() else { fail!("no objects passed to create") };
        let body = first.object.to_string().into_bytes();
        let answer = session.call_raw(http::Method::POST, Url::new(args.text("raw")), JSON, JSON, body).await?;
        return session.print(answer);
    }
    let dry_run = DryRun::of(session, args)?;
    let infos = from_files(session, args).await?;
    if infos.is_empty() {
        fail!("no objects passed to create");
    }
    let mut problems = Vec::new();
    for mut info in infos {
        if args.is_set("edit") {
            let Some(edited) = super::edit::edit_object(session, &info.object, args.text("output") == "json", super::edit::Unchanged::Goes).await? else { continue };
            info = crate::selection::local(session, edited, &info.source).await?;
        }
        if args.is_set("save-config") {
            save_configuration(&mut info.object);
        }
        if let Err(error) = post(session, args, &mut info, dry_run).await {
            let source = info.source.clone();
            problems.push(error.when("creating", &source));
            continue;
        }
        report(session, args, &info, "created", dry_run)?;
    }
    Error::all(problems)
}

/// Sends the object unless the client alone tries; `info` has the answer then.
pub async fn post(session: &Session, args: &Parsed, info: &mut Info, dry_run: DryRun) -> Result {
    if dry_run == DryRun::Client {
        return Ok(());
    }
    let url = info
        .collection()
        .with_filled("dryRun", dry_run.query())
        .with_filled("fieldManager", args.text("field-manager"))
        .with("fieldValidation", validation(args)?);
    // What is made anew has no version yet, whatever the manifest was written down from.
    object_at(&mut info.object, &["metadata"]).remove("resourceVersion");
    info.object = session.post(url, &info.object).await?;
    let name = crate::value::name(&info.object).to_owned();
    info.name = name;
    Ok(())
}

pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Keeps the object in its own annotation, as `apply` will want to read it.
pub fn save_configuration(object: &mut Value) -> String {
    object_at(object, &["metadata", "annotations"]).remove(LAST_APPLIED);
    let configuration = crate::output::go_json(object) + "\n";
    keep_configuration(object, configuration)
}

/// The same for what a generator made.
fn save_typed_configuration(object: &mut Value) {
    let configuration = typed::compact(object) + "\n";
    keep_configuration(object, configuration);
}

fn keep_configuration(object: &mut Value, configuration: String) -> String {
    set(object, &["metadata", "annotations", LAST_APPLIED], configuration.clone().into());
    configuration
}

/// The one NAME a generator wants.
pub fn name_argument<'a>(session: &Session, args: &'a Parsed) -> Result<&'a str> {
    let before_dash = args.dash.unwrap_or(args.args.len());
    if before_dash != 1 {
        return Err(session.usage_error(format!("exactly one NAME is required, got {before_dash}")));
    }
    Ok(&args.args[0])
}

pub fn required(args: &Parsed, flags: &[&str]) -> Result {
    let missing: Vec<String> = flags.iter().filter(|flag| !args.changed(flag)).map(|flag| format!("{flag:?}")).collect();
    if missing.is_empty() { Ok(()) } else { fail!("required flag(s) {} not set", missing.join(", ")) }
}

/// Creates what a generator made.
pub async fn create(session: &Session, args: &Parsed, mut object: Value) -> Result {
    let dry_run = DryRun::of(session, args)?;
    let (api_version, kind) = (crate::value::text(&object, "/apiVersion").to_owned(), crate::value::text(&object, "/kind").to_owned());
    let resource = session.resource_of_kind(&api_version, &kind).await?;
    let selected = session.selected()?;
    if resource.namespaced && selected.namespace_given {
        set(&mut object, &["metadata", "namespace"], selected.namespace.clone().into());
    }
    if args.knows("append-hash") && args.is_set("append-hash") {
        hash::append(&mut object);
    }
    if args.is_set("save-config") {
        save_typed_configuration(&mut object);
    }
    let namespace = if resource.namespaced { selected.namespace.clone() } else { String::new() };
    let name = crate::value::name(&object).to_owned();
    let mut info = Info { resource, namespace, name, object, source: String::new() };
    let service_type = crate::value::text(&info.object, "/spec/type").to_owned();
    post(session, args, &mut info, dry_run).await.map_err(|error| failed_to_create(error, &kind, &service_type))?;
    report_typed(session, args, &info, "created", dry_run)
}

/// Generators say what they failed to create.
fn failed_to_create(error: Error, kind: &str, service_type: &str) -> Error {
    let what = match kind {
        // These hand on the server's answer as it is.
        "Namespace" | "Role" | "ClusterRole" => return error,
        "Secret" => "secret ".to_owned(),
        "PodDisruptionBudget" => "poddisruptionbudgets: ".to_owned(),
        "ResourceQuota" => "quota: ".to_owned(),
        "Service" => format!("{service_type} service: "),
        _ => format!("{}: ", kind.to_lowercase()),
    };
    match error {
        Error::Status(status) => Error::Message(format!("failed to create {what}{}", crate::value::text(&status, "/message"))),
        other => other,
    }
}

/// `--from-literal`, `--from-file`, `--from-env-file`: keys and values.
pub fn sources(args: &Parsed, kind: &str, name: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    for file in args.list("from-file") {
        let (key, path) = match file.split_once('=') {
            Some((key, path)) => (Some(key.to_owned()), path.to_owned()),
            None => (None, file),
        };
        let read = |path: &std::path::Path| {
            std::fs::read(path).map_err(|error| Error::Message(format!("error reading {}: {}", path.display(), crate::kubeconfig::go_io(&error))))
        };
        let path = std::path::Path::new(&path);
        if key.is_none() && path.is_dir() {
            let mut entries: Vec<_> = std::fs::read_dir(path)?.filter_map(std::result::Result::ok).map(|entry| entry.path()).filter(|path| path.is_file()).collect();
            entries.sort();
            for entry in entries {
                let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if api::names::config_map_key(&name).is_empty() {
                    pairs.push((name, read(&entry)?));
                }
            }
            continue;
        }
        let key = key.unwrap_or_else(|| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        pairs.push((key, read(path)?));
    }
    for literal in args.list("from-literal") {
        let Some((key, value)) = literal.split_once('=') else {
            fail!("invalid literal source {literal}, expected key=value");
        };
        pairs.push((key.to_owned(), value.trim_matches(|c| c == '"' || c == '\'').as_bytes().to_vec()));
    }
    for path in args.list("from-env-file") {
        let content = std::fs::read_to_string(&path).map_err(|error| Error::Message(format!("error reading {path}: {}", crate::kubeconfig::go_io(&error))))?;
        for line in content.lines() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some((key, value)) = line.split_once('=') {
                pairs.push((key.to_owned(), value.as_bytes().to_vec()));
            }
        }
    }
    for (key, _) in &pairs {
        if let Some(problem) = api::names::config_map_key(key).first() {
            fail!("{key:?} is not a valid key name for a {kind}: {problem}");
        }
    }
    for (index, (key, _)) in pairs.iter().enumerate() {
        if pairs[..index].iter().any(|(other, _)| other == key) {
            fail!("cannot add key {key:?}, another key by that name already exists in Data for {kind} {name:?}");
        }
    }
    Ok(pairs)
}

/// `web` of `registry:5000/team/web:1.2@sha256:...`
pub fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let name = last.split(['@', ':']).next().unwrap_or(last);
    name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect()
}

pub fn object(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}})
}
