//! `kubectl logs`

use serde_json::Value;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::rest::Url;
use crate::selection::{SELECTOR, one, pods_of};
use crate::session::Session;
use crate::value::{list, name, name_of, namespace, text};

pub static LOGS: Command = Command {
    name: "logs",
    about: "Show what a container wrote.",
    usage: "[-f] [-p] (POD | TYPE/NAME) [-c CONTAINER] [options]",
    examples: "
kubectl logs web
kubectl logs -f -c sidecar web
kubectl logs -l app=web --all-containers --prefix
kubectl logs deployment/web --since=1h",
    flags: &[FLAGS, SELECTOR],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::switch("all-containers", "All containers of the pods."),
    Flag::switch("all-pods", "All pods of the workload, with --prefix."),
    Flag::text("container", "The container.").short('c'),
    Flag::switch("follow", "Go on as more is written.").short('f'),
    Flag::switch("ignore-errors", "Go on with the others when one fails."),
    Flag::switch("insecure-skip-tls-verify-backend", "Let the server not check the kubelet's certificate."),
    Flag::int("limit-bytes", "0", "How many bytes at most; zero means all."),
    Flag::int("max-log-requests", "5", "How many logs at most to follow at once."),
    Flag::duration("pod-running-timeout", "20s", "How long to wait until a pod runs."),
    Flag::switch("prefix", "Name the pod and the container in front of each line."),
    Flag::switch("previous", "What the container's previous instance wrote.").short('p'),
    Flag::duration("since", "0s", "Only what is younger than 5s, 2m or 3h."),
    Flag::text("since-time", "Only what is younger than this time (RFC 3339)."),
    Flag::int("tail", "-1", "How many of the last lines. All, but 10 with a selector."),
    Flag::switch("timestamps", "With the time in front of each line."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let (words, container_word) = match args.args.as_slice() {
        [] if !args.changed("selector") => return Err(session.usage_error("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command")),
        [] => (Vec::new(), None),
        [pod] => (vec![pod.clone()], None),
        [pod, container] => (vec![pod.clone()], Some(container.clone())),
        _ => return Err(session.usage_error("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command")),
    };
    if args.changed("selector") && !words.is_empty() {
        fail!("only a selector (-l) or a POD name is allowed");
    }
    if container_word.is_some() && args.changed("container") {
        fail!("only one of -c or an inline [CONTAINER] arg is allowed");
    }
    let wanted = container_word.or_else(|| args.changed("container").then(|| args.text("container").to_owned()));
    let sources = sources(session, args, &words, wanted.as_deref()).await?;
    if args.changed("since") && args.changed("since-time") {
        fail!("at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    let follow = args.is_set("follow");
    if follow && sources.len() as i64 > args.int("max-log-requests") {
        fail!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to increase the limit",
            sources.len(),
            args.int("max-log-requests")
        );
    }
    let outcomes = if follow {
        futures::future::join_all(sources.iter().map(|source| copy(session, args, source))).await
    } else {
        let mut outcomes = Vec::new();
        for source in &sources {
            outcomes.push(copy(session, args, source).await);
            if outcomes.last().is_some_and(std::result::Result::is_err) && !args.is_set("ignore-errors") {
                break;
            }
        }
        outcomes
    };
    let problems: Vec<Error> = outcomes.into_iter().filter_map(std::result::Result::err).collect();
    if args.is_set("ignore-errors") {
        for problem in problems {
            session.complain(format!("error: {}", problem.bare()));
        }
        return Ok(());
    }
    Error::all(problems)
}

struct Source {
    namespace: String,
    pod: String,
    container: String,
    prefix: String,
}

async fn sources(session: &Session, args: &Parsed, words: &[String], wanted: Option<&str>) -> Result<Vec<Source>> {
    let mut pods: Vec<Value>;
    if words.is_empty() {
        let url = Url::new(format!("/api/v1/namespaces/{}/pods", session.namespace()?)).with("labelSelector", args.text("selector"));
        pods = list(&session.get(url).await?, "/items").to_vec();
        if pods.is_empty() {
            session.complain(format!("No resources found in {} namespace.", session.namespace()?));
        }
    } else {
        let info = one(session, words, "pods").await.map_err(|error| match error {
            // The original words this one itself.
            Error::Status(status) if text(&status, "/reason") == "NotFound" => {
                let namespace = session.namespace().unwrap_or_default();
                Error::Message(format!("error from server (NotFound): {} in namespace {namespace:?}", text(&status, "/message")))
            }
            other => other,
        })?;
        pods = pods_of(session, &info).await?;
        if pods.is_empty() {
            fail!("timed out waiting for the condition");
        }
        if pods.len() > 1 && !args.is_set("all-pods") {
            session.complain(format!("Found {} pods, using pod/{}", pods.len(), name(&pods[0])));
            pods.truncate(1);
        }
    }
    let mut sources = Vec::new();
    for pod in &pods {
        let containers = containers(pod);
        let chosen: Vec<&str> = match wanted {
            _ if args.is_set("all-containers") => containers.iter().map(|(name, _)| name.as_str()).collect(),
            Some(wanted) => match containers.iter().find(|(name, _)| name == wanted) {
                Some((name, _)) => vec![name],
                None => fail!("container {wanted} is not valid for pod {}", name(pod)),
            },
            None => vec![default_container(session, pod, &containers)],
        };
        for container in chosen {
            sources.push(Source {
                namespace: namespace(pod).to_owned(),
                pod: name(pod).to_owned(),
                container: container.to_owned(),
                prefix: if args.is_set("prefix") || args.is_set("all-pods") { format!("[pod/{}/{container}] ", name(pod)) } else { String::new() },
            });
        }
    }
    Ok(sources)
}

/// All containers of a pod and the field they stand in, init containers first.
pub fn containers(pod: &Value) -> Vec<(String, &'static str)> {
    let mut all = Vec::new();
    for (pointer, field) in [
        ("/spec/initContainers", "initContainers"),
        ("/spec/containers", "containers"),
        ("/spec/ephemeralContainers", "ephemeralContainers"),
    ] {
        all.extend(list(pod, pointer).iter().map(|container| (name_of(container).to_owned(), field)));
    }
    all
}

/// The annotated default, or the first; says so when there are several.
pub fn default_container<'a>(session: &Session, pod: &'a Value, containers: &'a [(String, &'static str)]) -> &'a str {
    let annotated = text(pod, "/metadata/annotations/kubectl.kubernetes.io~1default-container");
    if let Some((name, _)) = containers.iter().find(|(name, _)| name == annotated) {
        return name;
    }
    let first = containers.iter().find(|(_, field)| *field == "containers").map_or("", |(name, _)| name);
    if containers.len() > 1 {
        let shown: Vec<String> = containers
            .iter()
            .filter(|(_, field)| *field == "containers")
            .chain(containers.iter().filter(|(_, field)| *field != "containers"))
            .map(|(name, field)| match *field {
                "initContainers" => format!("{name} (init)"),
                "ephemeralContainers" => format!("{name} (ephem)"),
                _ => name.clone(),
            })
            .collect();
        session.complain(format!("Defaulted container {first:?} out of: {}", shown.join(", ")));
    }
    first
}

async fn copy(session: &Session, args: &Parsed, source: &Source) -> Result {
    let mut url = Url::new(format!("/api/v1/namespaces/{}/pods/{}/log", source.namespace, source.pod)).with("container", &source.container);
    for (flag, parameter) in [("follow", "follow"), ("previous", "previous"), ("timestamps", "timestamps"), ("insecure-skip-tls-verify-backend", "insecureSkipTLSVerifyBackend")] {
        if args.is_set(flag) {
            url = url.with(parameter, "true");
        }
    }
    if args.changed("since") {
        url = url.with("sinceSeconds", &args.duration("since").as_secs_f64().ceil().to_string());
    }
    if args.changed("since-time") {
        url = url.with("sinceTime", args.text("since-time"));
    }
    if args.int("limit-bytes") > 0 {
        url = url.with("limitBytes", args.text("limit-bytes"));
    }
    let tail = if args.changed("tail") { args.int("tail") } else if args.changed("selector") { 10 } else { -1 };
    if tail >= 0 {
        url = url.with("tailLines", &tail.to_string());
    }
    let mut lines = session.stream(url).await?;
    if source.prefix.is_empty() && !args.is_set("follow") {
        while let Some(chunk) = lines.chunk().await? {
            session.print(chunk)?;
        }
        return Ok(());
    }
    while let Some(line) = lines.line().await? {
        session.print([source.prefix.as_bytes(), &line].concat())?;
        session.flush()?;
    }
    Ok(())
}
