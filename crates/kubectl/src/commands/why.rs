//! `kubectl why KIND/NAME`: why something is not what it should be.
//!
//! Invariant: read from status, events and objects that every Kubernetes has; nothing here is private to Coracle.

use serde_json::Value;

use super::describe::{last_seen, object_events};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::output::age_of;
use crate::output::tabs::{DESCRIBE, align};
use crate::rest::Url;
use crate::selection::{Info, one, pods_of};
use crate::session::Session;
use crate::value::{int, list, map, name, name_of, plain, text};

pub static WHY: Command = Command {
    name: "why",
    about: "Say why a pod waits or restarts, why a rollout hangs, what holds a namespace or object that is being deleted.",
    usage: "(POD | TYPE/NAME) [options]",
    examples: "
kubectl why web-5d4f8c7b9-x2x7k
kubectl why deployment/web
kubectl why namespace/team-a",
    run: Some(|session, args| Box::pin(async move {
        if args.args.is_empty() {
            return Err(session.usage_error("POD or TYPE/NAME is required"));
        }
        let info = one(session, &args.args, "pods").await?;
        explain(session, &info).await
    })),
    ..COMMAND
};

/// Lines of a log that are shown of a container that ended.
const LOG_LINES: &str = "5";

async fn explain(session: &Session, info: &Info) -> Result {
    let mut reasons = Vec::new();
    if !text(&info.object, "/metadata/deletionTimestamp").is_empty() {
        reasons.extend(held(session, info).await);
    }
    match info.resource.kind.as_str() {
        "Pod" => reasons.extend(pod(session, &info.object).await),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" => reasons.extend(workload(session, info).await?),
        _ if reasons.is_empty() => reasons.extend(false_conditions(&info.object)),
        _ => {}
    }
    if info.resource.kind != "Pod" {
        reasons.extend(warnings(session, info).await);
    }
    if reasons.is_empty() {
        return session.say(format!("{} is as it should be: nothing waits, fails or is held.", info.shown()));
    }
    session.say(format!("{}:", info.shown()))?;
    for reason in reasons {
        session.print(align(&reason, DESCRIBE))?;
    }
    Ok(())
}

/// What keeps an object from going.
async fn held(session: &Session, info: &Info) -> Vec<String> {
    let object = &info.object;
    let since = age_of(text(object, "/metadata/deletionTimestamp"), session.clock.now());
    let mut out = vec![format!("  being deleted since {since}\n")];
    let finalizers = list(object, "/metadata/finalizers").iter().chain(list(object, "/spec/finalizers"));
    for finalizer in finalizers {
        out.push(format!("  held by the finalizer {}: whoever set it has yet to remove it\n", plain(finalizer)));
    }
    for condition in list(object, "/status/conditions").iter().filter(|one| text(one, "/status") == "True" && info.resource.kind == "Namespace") {
        out.push(format!("  {}: {}\n", text(condition, "/reason"), text(condition, "/message")));
    }
    out
}

fn false_conditions(object: &Value) -> Vec<String> {
    let bad = |one: &&Value| {
        let pressure = text(one, "/type").ends_with("Pressure") || text(one, "/type").ends_with("Unavailable") || text(one, "/type").contains("Fail");
        text(one, "/status") == if pressure { "True" } else { "False" }
    };
    list(object, "/status/conditions")
        .iter()
        .filter(bad)
        .map(|one| format!("  {} is {}: {} {}\n", text(one, "/type"), text(one, "/status"), text(one, "/reason"), text(one, "/message")))
        .collect()
}

async fn pod(session: &Session, pod: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if !text(pod, "/status/reason").is_empty() {
        out.push(format!("  {}: {}\n", text(pod, "/status/reason"), text(pod, "/status/message")));
    }
    let unscheduled = list(pod, "/status/conditions").iter().find(|one| text(one, "/type") == "PodScheduled" && text(one, "/status") == "False");
    if let Some(condition) = unscheduled {
        out.push(unschedulable(text(condition, "/message")));
    } else if text(pod, "/spec/nodeName").is_empty() && text(pod, "/status/phase") == "Pending" {
        let scheduler = text(pod, "/spec/schedulerName");
        out.push(format!("  waiting to be scheduled: no scheduler named {scheduler:?} has looked at it yet\n"));
    }
    for (specs, statuses) in [("/spec/initContainers", "/status/initContainerStatuses"), ("/spec/containers", "/status/containerStatuses")] {
        for status in list(pod, statuses) {
            out.extend(container(session, pod, list(pod, specs), status).await);
        }
    }
    let events = pod_warnings(session, pod).await;
    out.extend(events);
    out
}

/// The scheduler's sentence as a table: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint ...`
fn unschedulable(message: &str) -> String {
    let Some((count, reasons)) = message.split_once(": ") else { return format!("  cannot be scheduled: {message}\n") };
    let (reasons, rest) = reasons.split_once(". ").unwrap_or((reasons.trim_end_matches('.'), ""));
    let mut out = format!("  cannot be scheduled: {count}\n    NODES\tREASON\n");
    for reason in reasons.split(", ") {
        match reason.split_once(' ').filter(|(number, _)| number.parse::<u32>().is_ok()) {
            Some((number, why)) => out += &format!("    {number}\t{}\n", why.trim_start_matches("node(s) ")),
            None => out += &format!("    \t{reason}\n"),
        }
    }
    if rest.is_empty() { out } else { out + &format!("    {}\n", rest.trim_end_matches('.')) }
}

async fn container(session: &Session, pod: &Value, specs: &[Value], status: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let container_name = name_of(status);
    if let Some(waiting) = status.pointer("/state/waiting")
        && !matches!(text(waiting, "/reason"), "PodInitializing" | "ContainerCreating")
    {
        out.push(format!("  container {container_name} waits: {}: {}\n", text(waiting, "/reason"), text(waiting, "/message")));
    }
    let restarted = int(status, "/restartCount") > 0;
    let ended = status.pointer("/state/terminated").or_else(|| status.pointer("/lastState/terminated"));
    if let Some(ended) = ended.filter(|ended| restarted || int(ended, "/exitCode") != 0) {
        out.push(format!("  container {container_name} ended: {}\n", ending(ended, specs.iter().find(|spec| name_of(spec) == container_name))));
        if restarted {
            out.push(format!("    restarted {} times\n", int(status, "/restartCount")));
        }
        let previous = if status.pointer("/state/terminated").is_some() { "false" } else { "true" };
        let url = Url::new(format!("/api/v1/namespaces/{}/pods/{}/log", crate::value::namespace(pod), name(pod)))
            .with("container", container_name)
            .with("previous", previous)
            .with("tailLines", LOG_LINES);
        if let Ok(log) = session.call_raw(http::Method::GET, url, "*/*", "", Vec::new()).await
            && !log.is_empty()
        {
            let lines: String = String::from_utf8_lossy(&log).lines().map(|line| format!("      {}\n", line.replace('\t', "    "))).collect();
            out.push(format!("    its last lines:\n{lines}"));
        }
    }
    if status.pointer("/state/running").is_some() && !crate::value::flag(status, "/ready") {
        out.push(format!("  container {container_name} runs but is not ready\n"));
    }
    out
}

/// Exit code, signal and memory limit in words.
fn ending(ended: &Value, spec: Option<&Value>) -> String {
    let (code, reason) = (int(ended, "/exitCode"), text(ended, "/reason"));
    if reason == "OOMKilled" {
        let limit = spec.map(|spec| text(spec, "/resources/limits/memory")).filter(|limit| !limit.is_empty()).unwrap_or("none");
        return format!("OOMKilled: it used more memory than its limit ({limit})");
    }
    let meaning = match code {
        0 => "it finished, and its restart policy starts it again".to_owned(),
        126 => "the command is not executable".to_owned(),
        127 => "the command was not found".to_owned(),
        128..=192 => format!("killed by signal {}{}", code - 128, match code - 128 {
            6 => " (SIGABRT)",
            9 => " (SIGKILL)",
            11 => " (SIGSEGV)",
            15 => " (SIGTERM)",
            _ => "",
        }),
        _ => "its own error".to_owned(),
    };
    let message = text(ended, "/message");
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    format!("exit code {code}, {meaning}{message}")
}

async fn pod_warnings(session: &Session, pod: &Value) -> Vec<String> {
    let Ok(resource) = session.resource_of_kind("v1", "Pod").await else { return Vec::new() };
    warnings(session, &Info::new(resource, pod.clone())).await
}

/// The last warning of each reason.
async fn warnings(session: &Session, info: &Info) -> Vec<String> {
    let events = object_events(session, info).await;
    let mut last: Vec<&Value> = Vec::new();
    for event in events.iter().filter(|event| text(event, "/type") == "Warning" && text(event, "/reason") != "FailedScheduling") {
        last.retain(|known| text(known, "/reason") != text(event, "/reason"));
        last.push(event);
    }
    let now = session.clock.now();
    last.into_iter()
        .map(|event| format!("  {} {} ago: {}\n", text(event, "/reason"), age_of(last_seen(event), now), text(event, "/message").trim().replace('\n', "\n    ")))
        .collect()
}

async fn workload(session: &Session, info: &Info) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let object = &info.object;
    if crate::value::flag(object, "/spec/paused") {
        out.push("  paused: changes wait for `kubectl rollout resume`\n".to_owned());
    }
    out.extend(false_conditions(object));
    // A quota or an admission refusal stops a workload at its replica set, whose events say so.
    if info.resource.kind == "Deployment" {
        let url = Url::new(format!("/apis/apps/v1/namespaces/{}/replicasets", info.namespace));
        let found = session.get(url).await?;
        let resource = session.resource_of_kind("apps/v1", "ReplicaSet").await?;
        let owned = |set: &&Value| list(set, "/metadata/ownerReferences").iter().any(|owner| text(owner, "/uid") == text(object, "/metadata/uid"));
        for set in list(&found, "/items").iter().filter(owned).filter(|set| int(set, "/spec/replicas") > int(set, "/status/readyReplicas")) {
            let failure = list(set, "/status/conditions").iter().find(|one| text(one, "/type") == "ReplicaFailure");
            if let Some(failure) = failure {
                out.push(format!("  replicaset/{}: {}: {}\n", name(set), text(failure, "/reason"), text(failure, "/message")));
            } else {
                let lines = warnings(session, &Info::new(resource.clone(), set.clone())).await;
                out.extend(lines.into_iter().map(|line| format!("  replicaset/{}:{line}", name(set))));
            }
        }
    }
    if map(object, "/spec/selector").next().is_none() {
        fail!("{} has no selector", info.shown());
    }
    for found in pods_of(session, info).await? {
        let lines = Box::pin(pod(session, &found)).await;
        if !lines.is_empty() {
            out.push(format!("  pod/{}:\n", name(&found)));
            out.extend(lines.into_iter().map(|line| line.lines().map(|line| format!("  {line}\n")).collect::<String>()));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words() {
        assert_eq!(
            align(&unschedulable("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {a: b}. preemption: 0/3 nodes are available."), DESCRIBE),
            "  cannot be scheduled: 0/3 nodes are available\n    NODES  REASON\n    1      Insufficient cpu\n    2      had untolerated taint {a: b}\n    preemption: 0/3 nodes are available\n"
        );
        assert_eq!(ending(&json!({"exitCode": 137, "reason": "Error"}), None), "exit code 137, killed by signal 9 (SIGKILL)");
        assert_eq!(ending(&json!({"exitCode": 137, "reason": "OOMKilled"}), Some(&json!({"resources": {"limits": {"memory": "64Mi"}}}))), "OOMKilled: it used more memory than its limit (64Mi)");
    }
}
