//! `kubectl run`

use serde_json::{Value, json};

use super::create::parse_environment;
use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::FILENAMES;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, report_typed};
use crate::rest::{JSON, Url};
use crate::selection::Info;
use crate::session::Session;
use crate::value::{list, text};

pub static RUN: Command = Command {
    name: "run",
    about: "Run an image in a pod.",
    usage: "NAME --image=image [--env=\"key=value\"] [--port=port] [--dry-run=server|client] [--overrides=inline-json] [--command] -- [COMMAND] [args...] [options]",
    examples: "
kubectl run web --image=nginx
kubectl run -it --rm shell --image=busybox -- sh",
    flags: &[FLAGS, FILENAMES, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::array("annotations", "Annotations of the pod."),
    Flag::switch("attach", "Attach to the pod once it runs."),
    Flag::text("cascade", "What --rm does with dependents: background, foreground or orphan.").default("background").bare("background"),
    Flag::switch("command", "What follows -- is the command, not its arguments."),
    Flag::array("env", "Environment variables of the container."),
    Flag::switch("expose", "Also create a service for the pod."),
    Flag::switch("force", "With --rm, do not wait for the pod to end by itself."),
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-run"),
    Flag::int("grace-period", "-1", "With --rm, seconds for the pod to end by itself."),
    Flag::text("image", "The image to run."),
    Flag::text("image-pull-policy", "When to pull the image."),
    Flag::text("labels", "Labels of the pod, separated by commas.").short('l'),
    Flag::switch("leave-stdin-open", "Keep standard input open when the first attach ends."),
    Flag::text("override-type", "How --overrides is applied: json, merge or strategic.").default("merge"),
    Flag::text("overrides", "JSON that overrides fields of the pod."),
    Flag::duration("pod-running-timeout", "1m0s", "How long to wait until the pod runs."),
    Flag::text("port", "The port that the container exposes."),
    Flag::switch("privileged", "Run privileged."),
    Flag::switch("quiet", "Show only what the command writes.").short('q'),
    Flag::text("restart", "Always, OnFailure or Never.").default("Always"),
    Flag::switch("rm", "Delete the pod when the attached process has ended."),
    Flag::switch("stdin", "Keep standard input open.").short('i'),
    Flag::switch("save-config", "Keep the configuration in an annotation, for a later apply."),
    Flag::duration("timeout", "0s", "With --rm, how long to wait for the deletion."),
    Flag::switch("tty", "Give the container a terminal.").short('t'),
    Flag::switch("wait", "With --rm, wait until the pod is gone."),
    Flag::text("container", "").hidden(),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    if !args.changed("image") {
        fail!("required flag(s) \"image\" not set");
    }
    let Some(name) = args.args.first() else { return Err(session.usage_error("NAME is required for run")) };
    let image = args.text("image");
    if image.is_empty() {
        fail!("--image is required");
    }
    if image.contains(char::is_whitespace) || image.chars().any(char::is_uppercase) && !image.contains('/') && !image.contains(':') {
        fail!("Invalid image name {image:?}: invalid reference format");
    }
    if args.is_set("tty") && !args.is_set("stdin") {
        fail!("-i/--stdin is required for containers with -t/--tty=true");
    }
    if args.is_set("expose") && !args.changed("port") {
        return Err(session.usage_error("--port must be set when exposing a service"));
    }
    let attach = if args.changed("attach") { args.is_set("attach") } else { args.is_set("stdin") };
    if args.is_set("rm") && !attach {
        fail!("--rm should only be used for attached containers");
    }
    let dry_run = DryRun::of(session, args)?;
    if attach && dry_run != DryRun::None {
        return Err(session.usage_error("--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)"));
    }
    let mut pod = pod(name, args)?;
    if args.changed("overrides") {
        pod = overridden(&pod, args)?;
    }
    let selected = session.selected()?;
    if selected.namespace_given {
        crate::value::set(&mut pod, &["metadata", "namespace"], selected.namespace.clone().into());
    }
    if args.is_set("save-config") {
        super::create::save_configuration(&mut pod);
    }
    let resource = session.resource_of_kind("v1", "Pod").await?;
    let mut info = Info { resource, namespace: selected.namespace.clone(), name: name.clone(), object: pod, source: String::new() };
    if dry_run != DryRun::Client {
        let url = info.collection().with_filled("dryRun", dry_run.query()).with("fieldManager", args.text("field-manager"));
        info.object = session.post(url, &info.object).await?;
    }
    if args.is_set("expose") {
        expose(session, args, &info, dry_run).await?;
        if args.text("output") == "yaml" {
            session.say("---")?;
        }
    }
    if !attach {
        return report_typed(session, args, &info, "created", dry_run);
    }
    let outcome = attach_when_running(session, args, &mut info).await;
    if args.is_set("rm") {
        let grace = if args.is_set("force") { 0 } else { -1 };
        session.delete(info.url(), &super::delete::options(args, grace, dry_run)?).await?;
        if !args.is_set("quiet") {
            session.say(format!("pod {:?} deleted from {} namespace", info.name, info.namespace))?;
        }
    }
    outcome
}

fn pod(name: &str, args: &Parsed) -> Result<Value> {
    let mut container = json!({"name": name, "image": args.text("image"), "resources": {}});
    let words = &args.args[1..];
    if !words.is_empty() {
        container[if args.is_set("command") { "command" } else { "args" }] = words.to_vec().into();
    }
    let environment = parse_environment(&args.list("env"))?;
    if !environment.is_empty() {
        container["env"] = environment.into();
    }
    if args.changed("port") {
        let port: u16 = args.text("port").parse().map_err(|_| Error::Message(format!("strconv.Atoi: parsing {:?}: invalid syntax", args.text("port"))))?;
        container["ports"] = json!([{"containerPort": port}]);
    }
    if args.changed("image-pull-policy") {
        container["imagePullPolicy"] = args.text("image-pull-policy").into();
    }
    if args.is_set("stdin") {
        container["stdin"] = true.into();
        if !args.is_set("leave-stdin-open") {
            container["stdinOnce"] = true.into();
        }
    }
    if args.is_set("tty") {
        container["tty"] = true.into();
    }
    if args.is_set("privileged") {
        container["securityContext"] = json!({"privileged": true});
    }
    let restart = args.text("restart");
    if !["Always", "OnFailure", "Never"].contains(&restart) {
        fail!("invalid restart policy: {restart}\nSee 'kubectl run -h' for help and examples");
    }
    let mut labels = json!({});
    if args.changed("labels") {
        for pair in args.text("labels").split(',').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else { fail!("unexpected label spec: {pair}") };
            labels[key] = value.into();
        }
    } else {
        labels["run"] = name.into();
    }
    let mut metadata = json!({"name": name, "labels": labels});
    for pair in args.list("annotations").iter().flat_map(|pairs| pairs.split(',')) {
        let Some((key, value)) = pair.split_once('=') else { fail!("invalid annotation: {pair}") };
        crate::value::set(&mut metadata, &["annotations", key], value.into());
    }
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": restart}, "status": {}}))
}

fn overridden(pod: &Value, args: &Parsed) -> Result<Value> {
    let overrides: Value = serde_json::from_str(args.text("overrides")).map_err(|error| Error::Message(format!("Invalid JSON Patch: {error}")))?;
    let definition = api::schema::definition_of_kind("v1", "Pod").expect("pods are part of the schema");
    match args.text("override-type") {
        "merge" => Ok(api::patch::merge_patch(pod, &overrides)),
        "json" => api::patch::json_patch(pod, &overrides).map_err(|error| Error::Message(error.to_string())),
        "strategic" => api::patch::strategic_merge_patch(pod, &overrides, definition).map_err(|error| Error::Message(error.to_string())),
        other => fail!("invalid merge type: {other}"),
    }
}

async fn expose(session: &Session, args: &Parsed, pod: &Info, dry_run: DryRun) -> Result {
    let port: u16 = args.text("port").parse().unwrap_or_default();
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": pod.name},
        "spec": {"ports": [{"port": port, "protocol": "TCP", "targetPort": port}], "selector": pod.object["metadata"]["labels"]}, "status": {"loadBalancer": {}}});
    if session.selected()?.namespace_given {
        crate::value::set(&mut service, &["metadata", "namespace"], pod.namespace.clone().into());
    }
    let resource = session.resource_of_kind("v1", "Service").await?;
    let mut info = Info { resource, namespace: pod.namespace.clone(), name: pod.name.clone(), object: service, source: String::new() };
    if dry_run != DryRun::Client {
        info.object = session.post(info.collection().with_filled("dryRun", dry_run.query()).with("fieldManager", args.text("field-manager")), &info.object).await?;
    }
    report_typed(session, args, &info, "created", dry_run)
}

/// Waits until the pod runs or has ended; then attaches, or shows what it wrote.
async fn attach_when_running(session: &Session, args: &Parsed, info: &mut Info) -> Result {
    let settled = |pod: &Value| {
        let ready = list(pod, "/status/containerStatuses").iter().any(|status| status.pointer("/state/running").is_some());
        matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") || text(pod, "/status/phase") == "Running" && ready
    };
    let waiting = async {
        let object = session.get(info.url()).await?;
        if settled(&object) {
            return Ok::<Value, Error>(object);
        }
        let url = info.collection()
            .with("fieldSelector", &format!("metadata.name={}", info.name))
            .with("resourceVersion", text(&object, "/metadata/resourceVersion"))
            .with("watch", "true");
        let mut events = session.watch(url, JSON).await?;
        while let Some((kind, object)) = events.event().await? {
            if kind == "DELETED" {
                fail!("pod {} was deleted", info.name);
            }
            if kind != "BOOKMARK" && settled(&object) {
                return Ok(object);
            }
        }
        session.get(info.url()).await
    };
    let Ok(object) = tokio::time::timeout(args.duration("pod-running-timeout"), waiting).await else {
        fail!("timed out waiting for the condition");
    };
    info.object = object?;
    let ended = |phase: &str| phase == "Succeeded" || phase == "Failed";
    if !ended(text(&info.object, "/status/phase")) {
        match super::exec::attach_to(session, args, &info.object).await {
            Err(Error::Remote(code)) => return Err(Error::Remote(code)),
            Err(error) => session.complain(format!("warning: couldn't attach to pod/{}, falling back to streaming logs: {}", info.name, error.bare())),
            Ok(()) => return exit_code(session, args, info).await,
        }
    }
    let url = Url::new(format!("{}/log", info.url().as_str())).with("container", &info.name).with("follow", "true");
    let mut lines = session.stream(url).await?;
    while let Some(chunk) = lines.chunk().await? {
        session.print(chunk)?;
    }
    session.flush()?;
    exit_code(session, args, info).await
}

/// With `--restart=Never` the command's exit code is ours.
async fn exit_code(session: &Session, args: &Parsed, info: &Info) -> Result {
    if args.text("restart") != "Never" {
        return Ok(());
    }
    for _ in 0..2 {
        let pod = session.get(info.url()).await?;
        let ended = list(&pod, "/status/containerStatuses").iter().find_map(|status| status.pointer("/state/terminated/exitCode")).and_then(Value::as_i64);
        if let Some(code) = ended {
            return if code == 0 { Ok(()) } else { Err(Error::Remote(u8::try_from(code).unwrap_or(1))) };
        }
        let url = info.collection().with("fieldSelector", &format!("metadata.name={}", info.name))
            .with("resourceVersion", text(&pod, "/metadata/resourceVersion")).with("watch", "true").with("timeoutSeconds", "30");
        let mut events = session.watch(url, JSON).await?;
        while let Some((_, object)) = events.event().await? {
            if list(&object, "/status/containerStatuses").iter().any(|status| status.pointer("/state/terminated").is_some()) {
                break;
            }
        }
    }
    Ok(())
}
