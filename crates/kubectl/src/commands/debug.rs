//! `kubectl debug`: a container of one's own in a pod, in a copy of it, or on a node.
//!
//! Invariant: what is sent is made by pure functions from the object found and what the user wishes. Deliberately
//! absent: the tools; they come with the image.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::create::parse_environment;
use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::rest::{JSON, STRATEGIC_PATCH, Url};
use crate::selection::{Info, from_files, one};
use crate::session::Session;
use crate::value::{flag, list, name, name_of, namespace, object_at, set, text};

pub static DEBUG: Command = Command {
    name: "debug",
    about: "Look into a pod or a node from a container of one's own.",
    usage: "(POD | TYPE[[.VERSION].GROUP]/NAME) [ -- COMMAND [args...] ] [options]",
    examples: "
# In the pod, beside its containers
kubectl debug web -it --image=busybox --target=main

# In a copy of the pod, whose containers see one another's processes
kubectl debug web -it --image=busybox --copy-to=web-debug --share-processes

# In a copy with another image, or another command
kubectl debug web --copy-to=web-debug --set-image=*=busybox
kubectl debug web -it --copy-to=web-debug --container=main -- sh

# On a node: its files are at /host
kubectl debug node/worker-1 -it --image=busybox",
    flags: &[FLAGS],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::switch("arguments-only", "What follows -- are arguments of the image's command, not a command."),
    Flag::switch("attach", "Attach once the container runs; with -i that is the default."),
    Flag::text("container", "Name of the debugging container, or of the one to change.").short('c'),
    Flag::text("copy-to", "Name of a copy of the pod to debug in."),
    Flag::text("custom", "File with a part of a container's specification to merge into the profile's."),
    Flag::list("env", "Environment variables: NAME=value."),
    Flag::list("filename", "File that names what to debug.").short('f'),
    Flag::text("image", "Image of the debugging container."),
    Flag::text("image-pull-policy", "When to pull the image; the server's default if left out."),
    Flag::switch("keep-annotations", "With --copy-to: keep the pod's annotations."),
    Flag::switch("keep-init-containers", "With --copy-to: run its init containers.").default("true"),
    Flag::switch("keep-labels", "With --copy-to: keep the pod's labels."),
    Flag::switch("keep-liveness", "With --copy-to: keep liveness probes."),
    Flag::switch("keep-readiness", "With --copy-to: keep readiness probes."),
    Flag::switch("keep-startup", "With --copy-to: keep startup probes."),
    Flag::text("profile", "What the container may do: legacy, general, baseline, netadmin, restricted or sysadmin.").default("legacy"),
    Flag::switch("quiet", "Say nothing but what the container says.").short('q'),
    Flag::switch("replace", "With --copy-to: delete the original pod."),
    Flag::switch("same-node", "With --copy-to: on the same node."),
    Flag::list("set-image", "With --copy-to: container=image, or *=image for all."),
    Flag::switch("share-processes", "With --copy-to: containers see one another's processes.").default("true"),
    Flag::switch("stdin", "Pass standard input on.").short('i'),
    Flag::text("target", "Container whose processes the debugging container sees."),
    Flag::switch("tty", "Standard input is a terminal.").short('t'),
];

/// What the user wishes.
struct Wishes {
    image: String,
    container: String,
    copy_to: String,
    target: String,
    command: Vec<String>,
    arguments_only: bool,
    environment: Vec<Value>,
    pull_policy: String,
    set_images: BTreeMap<String, String>,
    stdin: bool,
    tty: bool,
    same_node: bool,
    share_processes: Option<bool>,
    profile: Profile,
    keep: Keep,
    custom: Option<Value>,
}

/// What a copy keeps of the original.
struct Keep {
    labels: bool,
    annotations: bool,
    liveness: bool,
    readiness: bool,
    startup: bool,
    init_containers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    Legacy,
    General,
    Baseline,
    NetAdmin,
    Restricted,
    SysAdmin,
}

impl Profile {
    fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "legacy" => Profile::Legacy,
            "general" => Profile::General,
            "baseline" => Profile::Baseline,
            "netadmin" => Profile::NetAdmin,
            "restricted" => Profile::Restricted,
            "sysadmin" => Profile::SysAdmin,
            other => fail!("unknown profile: {other}"),
        })
    }

    /// What the debugging container may do in a pod.
    fn in_pod(self, container: &mut Value) {
        if self == Profile::Legacy {
            return;
        }
        if let Some(fields) = container.as_object_mut() {
            fields.remove("securityContext");
        }
        let context = match self {
            Profile::General => json!({"capabilities": {"add": ["SYS_PTRACE"]}}),
            Profile::NetAdmin => json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}),
            Profile::Restricted => restricted(),
            Profile::SysAdmin => json!({"privileged": true}),
            Profile::Legacy | Profile::Baseline => return,
        };
        container["securityContext"] = context;
    }

    fn on_node(self, pod: &mut Value) {
        if matches!(self, Profile::Legacy | Profile::General | Profile::SysAdmin) {
            set(pod, &["spec", "volumes"], json!([{"name": "host-root", "hostPath": {"path": "/"}}]));
            pod["spec"]["containers"][0]["volumeMounts"] = json!([{"mountPath": "/host", "name": "host-root"}]);
        }
        if !matches!(self, Profile::Baseline | Profile::Restricted) {
            for field in ["hostNetwork", "hostPID", "hostIPC"] {
                pod["spec"][field] = true.into();
            }
        }
        let context = match self {
            Profile::NetAdmin => json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}),
            Profile::Restricted => restricted(),
            Profile::SysAdmin => json!({"privileged": true}),
            Profile::Legacy | Profile::General | Profile::Baseline => return,
        };
        pod["spec"]["containers"][0]["securityContext"] = context;
    }
}

fn restricted() -> Value {
    json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}})
}

async fn run(session: &Session, args: &Parsed) -> Result {
    let (targets, command) = match args.dash {
        Some(at) if args.args.len() > at => (args.args[..at].to_vec(), args.args[at..].to_vec()),
        _ => (args.args.clone(), Vec::new()),
    };
    let wishes = wishes(args, command)?;
    validate(args, &wishes, &targets)?;
    if !wishes.target.is_empty() && !args.is_set("quiet") {
        session.say(format!(
            "Targeting container {:?}. If you don't see processes from this container it may be because the container runtime doesn't support this feature.",
            wishes.target
        ))?;
    }
    if wishes.profile == Profile::Legacy {
        session.complain("--profile=legacy is deprecated and will be removed in the future. It is recommended to explicitly specify a profile, for example \"--profile=general\".");
    }
    session.flush()?;
    for info in infos(session, args, &targets).await? {
        let (pod, container) = match info.resource.qualified().as_str() {
            "nodes" => on_node(session, args, &wishes, &info).await?,
            "pods" if wishes.copy_to.is_empty() => in_pod(session, args, &wishes, &info).await?,
            "pods" => in_copy(session, args, &wishes, &info).await?,
            _ => fail!("{:?} not supported by debug", info.resource.group_version_kind()),
        };
        let attach = if args.changed("attach") { args.is_set("attach") } else { wishes.stdin };
        if attach && !container.is_empty() {
            attach_to(session, args, &pod, &container).await?;
        }
    }
    Ok(())
}

async fn infos(session: &Session, args: &Parsed, targets: &[String]) -> Result<Vec<Info>> {
    let mut infos = Vec::new();
    if args.changed("filename") {
        for info in from_files(session, args).await? {
            let object = session.get(info.url()).await?;
            infos.push(Info { object, ..info });
        }
    }
    for target in targets {
        infos.push(one(session, std::slice::from_ref(target), "pods").await?);
    }
    Ok(infos)
}

fn wishes(args: &Parsed, command: Vec<String>) -> Result<Wishes> {
    let mut set_images = BTreeMap::new();
    for pair in args.list("set-image") {
        match pair.split_once('=') {
            Some((container, image)) => drop(set_images.insert(container.to_owned(), image.to_owned())),
            None => fail!("invalid argument {pair:?} for \"--set-image\" flag: {pair} must be formatted as key=value"),
        }
    }
    let text = |flag: &str| args.text(flag).to_owned();
    Ok(Wishes {
        image: text("image"),
        container: text("container"),
        copy_to: text("copy-to"),
        target: text("target"),
        command,
        arguments_only: args.is_set("arguments-only"),
        environment: parse_environment(&args.list("env"))?,
        pull_policy: text("image-pull-policy"),
        set_images,
        stdin: args.is_set("stdin"),
        tty: args.is_set("tty"),
        same_node: args.is_set("same-node"),
        share_processes: args.changed("share-processes").then(|| args.is_set("share-processes")),
        profile: Profile::parse(args.text("profile"))?,
        keep: Keep {
            labels: args.is_set("keep-labels"),
            annotations: args.is_set("keep-annotations"),
            liveness: args.is_set("keep-liveness"),
            readiness: args.is_set("keep-readiness"),
            startup: args.is_set("keep-startup"),
            init_containers: args.is_set("keep-init-containers"),
        },
        custom: custom(args.text("custom"))?,
    })
}

fn custom(path: &str) -> Result<Option<Value>> {
    if path.is_empty() {
        return Ok(None);
    }
    let content = std::fs::read(path).map_err(|error| Error::Message(format!("must pass a container spec json file for custom profile: open {path}: {}", crate::kubeconfig::go_io(&error))))?;
    let (part, _) = api::yaml::to_json(&content).map_err(|error| Error::Message(format!("{path} does not contain a valid container spec: {error}")))?;
    for field in ["name", "command", "image", "lifecycle", "volumeDevices"] {
        if part.get(field).is_some() {
            fail!("name, command, image, lifecycle and volume devices are not modifiable via custom profile");
        }
    }
    Ok(Some(part))
}

fn validate(args: &Parsed, wishes: &Wishes, targets: &[String]) -> Result {
    if args.is_set("attach") && wishes.image.is_empty() && wishes.container.is_empty() {
        fail!("you must specify --container or create a new container using --image in order to attach.");
    }
    if wishes.copy_to.is_empty() {
        for flag in ["replace", "same-node"] {
            if args.is_set(flag) {
                fail!("--{flag} may only be used with --copy-to.");
            }
        }
        if !wishes.set_images.is_empty() {
            fail!("--set-image may only be used with --copy-to.");
        }
        if wishes.image.is_empty() {
            fail!("you must specify --image when not using --copy-to.");
        }
    } else {
        if wishes.image.is_empty() && wishes.set_images.is_empty() && wishes.command.is_empty() {
            fail!("you must specify --image, --set-image or command arguments.");
        }
        if !wishes.command.is_empty() && wishes.container.is_empty() && wishes.image.is_empty() {
            fail!("you must specify an existing container or a new image when specifying args.");
        }
    }
    if !wishes.image.is_empty() && !is_image(&wishes.image) {
        fail!("invalid image name {:?}: invalid reference format", wishes.image);
    }
    if targets.is_empty() && !args.changed("filename") {
        fail!("NAME or filename is required for debug");
    }
    if !matches!(wishes.pull_policy.as_str(), "" | "Always" | "IfNotPresent" | "Never") {
        fail!("invalid image pull policy: {}", wishes.pull_policy);
    }
    for (container, image) in &wishes.set_images {
        if !is_image(image) {
            fail!("invalid image name {image:?} for container {container:?}: invalid reference format");
        }
    }
    if !wishes.target.is_empty() && !wishes.copy_to.is_empty() {
        fail!("--target is incompatible with --copy-to. Use --share-processes instead.");
    }
    if wishes.tty && !wishes.stdin {
        fail!("-i/--stdin is required for containers with -t/--tty=true");
    }
    Ok(())
}

fn is_image(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let path = name.rsplit_once('/').map_or(name, |(_, last)| last);
    let last = path.split(':').next().unwrap_or_default();
    !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
}

/// The debugging container as far as all ways of debugging agree.
fn container(wishes: &Wishes, name: &str) -> Value {
    let mut container = json!({"name": name, "image": wishes.image, "resources": {}});
    dress(&mut container, wishes);
    container
}

fn dress(container: &mut Value, wishes: &Wishes) {
    if !wishes.command.is_empty() {
        let command: Value = wishes.command.clone().into();
        if wishes.arguments_only {
            container["args"] = command;
        } else {
            container["command"] = command;
            object_at(container, &[]).remove("args");
        }
    }
    if !wishes.environment.is_empty() {
        container["env"] = wishes.environment.clone().into();
    }
    if !wishes.image.is_empty() {
        container["image"] = wishes.image.clone().into();
    }
    if !wishes.pull_policy.is_empty() {
        container["imagePullPolicy"] = wishes.pull_policy.clone().into();
    }
    for (field, wished) in [("stdin", wishes.stdin), ("tty", wishes.tty)] {
        if wished {
            container[field] = true.into();
        } else {
            object_at(container, &[]).remove(field);
        }
    }
}

/// The user's own part of the specification on top.
fn customise(container: &mut Value, wishes: &Wishes) -> Result {
    let (Some(part), Some(definition)) = (&wishes.custom, api::schema::definition("io.k8s.api.core.v1.Container")) else { return Ok(()) };
    *container = api::patch::strategic_merge_patch(container, part, definition).map_err(|error| Error::Message(error.to_string()))?;
    Ok(())
}

/// Five letters that make no word.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(LETTERS[usize::from(rand::random::<u8>()) % LETTERS.len()])).collect()
}

/// `--container`, or a name that the pod has not.
fn container_name(session: &Session, args: &Parsed, pod: &Value) -> Result<String> {
    if !args.text("container").is_empty() {
        return Ok(args.text("container").to_owned());
    }
    let known: Vec<String> = super::logs::containers(pod).into_iter().map(|(name, _)| name).collect();
    let mut chosen = format!("debugger-{}", suffix());
    while known.contains(&chosen) {
        chosen = format!("debugger-{}", suffix());
    }
    if !args.is_set("quiet") {
        session.say(format!("Defaulting debug container name to {chosen}."))?;
    }
    Ok(chosen)
}

async fn in_pod(session: &Session, args: &Parsed, wishes: &Wishes, info: &Info) -> Result<(Value, String)> {
    let chosen = container_name(session, args, &info.object)?;
    let mut container = container(wishes, &chosen);
    if !wishes.target.is_empty() {
        container["targetContainerName"] = wishes.target.clone().into();
    }
    wishes.profile.in_pod(&mut container);
    customise(&mut container, wishes)?;
    let mut order: Vec<Value> = list(&info.object, "/spec/ephemeralContainers").iter().map(|known| json!({"name": name_of(known)})).collect();
    order.push(json!({"name": chosen}));
    let patch = json!({"spec": {"$setElementOrder/ephemeralContainers": order, "ephemeralContainers": [container]}});
    let url = Url::new(format!("{}/ephemeralcontainers", info.url().as_str()));
    let pod = session.patch(url, STRATEGIC_PATCH, &patch).await.map_err(|error| match error {
        Error::Status(status) if text(&status, "/reason") == "NotFound" && text(&status, "/details/name").is_empty() => {
            Error::Message(format!("ephemeral containers are disabled for this cluster (error from server: {:?})", text(&status, "/message")))
        }
        other => other,
    })?;
    Ok((pod, chosen))
}

async fn in_copy(session: &Session, args: &Parsed, wishes: &Wishes, info: &Info) -> Result<(Value, String)> {
    let mut copied = copy(&info.object, wishes);
    let mut chosen = wishes.container.clone();
    let containers = list(&copied, "/spec/containers");
    let at = match containers.iter().position(|known| name_of(known) == chosen) {
        Some(at) => Some(at),
        None if wishes.image.is_empty() && !wishes.set_images.is_empty() => None,
        None if wishes.image.is_empty() => fail!("you must specify image when creating new container"),
        None => {
            let last = containers.len();
            if chosen.is_empty() {
                chosen = container_name(session, args, &copied)?;
            }
            let new = json!({"name": chosen, "resources": {}});
            if let Some(containers) = copied["spec"]["containers"].as_array_mut() {
                containers.push(new);
            }
            Some(last)
        }
    };
    match at {
        Some(at) => {
            strip(&mut copied, wishes);
            let container = &mut copied["spec"]["containers"][at];
            dress(container, wishes);
            wishes.profile.in_pod(container);
            customise(container, wishes)?;
        }
        None => chosen.clear(),
    }
    let created = session.post(info.collection(), &copied).await?;
    if args.is_set("replace") {
        session.delete(info.url(), &json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})).await?;
    }
    Ok((created, chosen))
}

/// The pod under another name.
fn copy(pod: &Value, wishes: &Wishes) -> Value {
    let mut copied = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": wishes.copy_to, "namespace": namespace(pod)}, "spec": pod["spec"]});
    for field in ["labels", "annotations"] {
        if let Some(value) = pod["metadata"].get(field) {
            copied["metadata"][field] = value.clone();
        }
    }
    let spec = object_at(&mut copied, &["spec"]);
    spec.remove("ephemeralContainers");
    if !wishes.same_node {
        spec.remove("nodeName");
    }
    if let Some(share) = wishes.share_processes {
        spec.insert("shareProcessNamespace".to_owned(), share.into());
    }
    for field in ["containers", "initContainers"] {
        for container in copied["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let image = wishes.set_images.get(name_of(container)).or_else(|| wishes.set_images.get("*").filter(|_| field == "containers"));
            if let Some(image) = image.cloned() {
                container["image"] = image.into();
            }
        }
    }
    copied
}

/// Takes from a copy that is debugged what belongs to the original alone: nothing is to find it by its labels, or to
/// kill it for a probe.
fn strip(copied: &mut Value, wishes: &Wishes) {
    let keep = &wishes.keep;
    let legacy = wishes.profile == Profile::Legacy;
    let metadata = object_at(copied, &["metadata"]);
    if !keep.labels {
        metadata.remove("labels");
    }
    if legacy {
        return;
    }
    if !keep.annotations {
        metadata.remove("annotations");
    }
    let spec = object_at(copied, &["spec"]);
    if !keep.init_containers {
        spec.remove("initContainers");
    }
    spec.insert("shareProcessNamespace".to_owned(), wishes.share_processes.unwrap_or(true).into());
    for container in spec.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
        let fields = object_at(container, &[]);
        for (probe, kept) in [("livenessProbe", keep.liveness), ("readinessProbe", keep.readiness), ("startupProbe", keep.startup)] {
            if !kept {
                fields.remove(probe);
            }
        }
    }
}

async fn on_node(session: &Session, args: &Parsed, wishes: &Wishes, info: &Info) -> Result<(Value, String)> {
    let chosen = if wishes.container.is_empty() { "debugger" } else { &wishes.container };
    let mut pod = node_pod(wishes, &info.name, chosen, &suffix());
    wishes.profile.on_node(&mut pod);
    customise(&mut pod["spec"]["containers"][0], wishes)?;
    if !args.is_set("quiet") {
        session.say(format!("Creating debugging pod {} with container {chosen} on node {}.", name(&pod), info.name))?;
    }
    let created = session.post(Url::new(format!("/api/v1/namespaces/{}/pods", session.namespace()?)), &pod).await?;
    Ok((created, chosen.to_owned()))
}

fn node_pod(wishes: &Wishes, node: &str, container_name: &str, suffix: &str) -> Value {
    let container = container(wishes, container_name);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("node-debugger-{node}-{suffix}")},
        "spec": {"containers": [container], "nodeName": node, "restartPolicy": "Never", "tolerations": [{"operator": "Exists"}]},
    })
}

/// The container's state, of whatever sort the container is.
fn state<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let statuses = ["/status/containerStatuses", "/status/initContainerStatuses", "/status/ephemeralContainerStatuses"];
    statuses.iter().flat_map(|pointer| list(pod, pointer)).find(|status| name_of(status) == container)?.get("state")
}

/// Waits until the container runs or has ended, then attaches or shows what it wrote.
async fn attach_to(session: &Session, args: &Parsed, pod: &Value, container: &str) -> Result {
    session.flush()?;
    let collection = format!("/api/v1/namespaces/{}/pods", namespace(pod));
    let url = Url::new(format!("{collection}/{}", name(pod)));
    let begun = |pod: &Value| state(pod, container).is_some_and(|state| state.get("running").is_some() || state.get("terminated").is_some());
    let mut now = session.get(url.clone()).await?;
    while !begun(&now) {
        let watch = Url::new(collection.clone())
            .with("fieldSelector", &format!("metadata.name={}", name(pod)))
            .with("resourceVersion", text(&now, "/metadata/resourceVersion"))
            .with("watch", "true");
        let mut events = session.watch(watch, JSON).await?;
        while let Some((kind, object)) = events.event().await? {
            if kind == "DELETED" {
                fail!("pods {:?} not found", name(pod));
            }
            if kind == "BOOKMARK" {
                continue;
            }
            let waiting = state(&object, container).and_then(|state| state.get("waiting"));
            let why = waiting.map_or("", |waiting| text(waiting, "/message"));
            if !why.is_empty() {
                session.warn(&format!("container {container}: {why}"));
            }
            now = object;
            if begun(&now) {
                break;
            }
        }
    }
    let ended = state(&now, container).is_some_and(|state| state.get("terminated").is_some());
    if !ended {
        match super::exec::attach_container(session, args, &now, container).await {
            Ok(()) => return Ok(()),
            Err(Error::Remote(code)) => return Err(Error::Remote(code)),
            Err(error) => session.complain(format!("warning: couldn't attach to pod/{}, falling back to streaming logs: {}", name(pod), error.bare())),
        }
    }
    let logs = Url::new(format!("{}/log", url.as_str())).with("container", container);
    let mut lines = session.stream(logs).await?;
    while let Some(chunk) = lines.chunk().await? {
        session.print(chunk)?;
    }
    session.flush()
}

/// Whether a container of the pod, ephemeral ones included, has a terminal.
pub fn has_terminal(pod: &Value, container: &str) -> bool {
    ["/spec/containers", "/spec/ephemeralContainers"].iter().flat_map(|pointer| list(pod, pointer)).any(|one| name_of(one) == container && flag(one, "/tty"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wished(line: &str) -> Wishes {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let parsed = crate::flags::parse(FLAGS, &words, true).unwrap();
        let command = parsed.dash.map(|at| parsed.args[at..].to_vec()).unwrap_or_default();
        wishes(&parsed, command).map_err(|error| error.bare()).unwrap()
    }

    #[test]
    fn a_copy_leaves_behind_what_is_the_original_s() {
        let pod = json!({"metadata": {"name": "web", "namespace": "a", "labels": {"x": "y"}}, "spec": {"nodeName": "n", "containers": [
            {"name": "main", "image": "old", "livenessProbe": {}, "readinessProbe": {}}], "ephemeralContainers": [{"name": "e"}]}});
        #[track_caller]
        fn check(pod: &Value, line: &str, expected: Value) {
            let wishes = wished(line);
            let mut copied = copy(pod, &wishes);
            if !wishes.image.is_empty() {
                strip(&mut copied, &wishes);
            }
            assert_eq!(copied, expected, "{line}");
        }
        check(&pod, "--copy-to=c --set-image=*=new", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c", "namespace": "a", "labels": {"x": "y"}},
            "spec": {"containers": [{"name": "main", "image": "new", "livenessProbe": {}, "readinessProbe": {}}]}}));
        check(&pod, "--copy-to=c --profile=general --image=i --set-image=*=new", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c", "namespace": "a"},
            "spec": {"containers": [{"name": "main", "image": "new"}], "shareProcessNamespace": true}}));
        check(&pod, "--copy-to=c --profile=general --image=i --keep-labels --keep-liveness --same-node --share-processes=false", json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "c", "namespace": "a", "labels": {"x": "y"}},
            "spec": {"nodeName": "n", "containers": [{"name": "main", "image": "old", "livenessProbe": {}}], "shareProcessNamespace": false}}));
    }

    #[test]
    fn profiles_give_and_take() {
        let check = |profile: &str, expected: Value| {
            let mut container = json!({});
            Profile::parse(profile).map_err(|error| error.bare()).unwrap().in_pod(&mut container);
            assert_eq!(container["securityContext"], expected, "{profile}");
        };
        check("legacy", Value::Null);
        check("general", json!({"capabilities": {"add": ["SYS_PTRACE"]}}));
        check("baseline", Value::Null);
        check("netadmin", json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}));
        check("sysadmin", json!({"privileged": true}));
        let mut pod = node_pod(&wished("--image=busybox -it"), "n1", "debugger", "abcde");
        Profile::General.on_node(&mut pod);
        assert_eq!(name(&pod), "node-debugger-n1-abcde");
        assert_eq!(text(&pod, "/spec/containers/0/volumeMounts/0/mountPath"), "/host");
        assert!(flag(&pod, "/spec/hostPID") && flag(&pod, "/spec/containers/0/tty"));
    }
}
