//! `kubectl describe`: one object in words, with its events

mod access;
mod generic;
mod kinds;
mod limits;
mod network;
mod pod;
mod storage;
mod volumes;

use serde_json::Value;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::FILENAMES;
use crate::flags::{Flag, Parsed};
use crate::output::age_of;
use crate::output::tabs::{DESCRIBE, align};
use crate::rest::Url;
use crate::selection::{ALL_NAMESPACES, CHUNK, Info, SELECTOR, items, list_all, list_url, targets};
use crate::session::Session;
use crate::value::{int, list, map, name, plain, text};

pub use access::compact;
pub use pod::template;

pub static DESCRIBE_COMMAND: Command = Command {
    name: "describe",
    about: "Show an object, what belongs to it, and its events.",
    usage: "(-f FILENAME | TYPE [NAME_PREFIX | -l label] | TYPE/NAME) [options]",
    examples: "
kubectl describe node n1
kubectl describe pods -l app=web",
    flags: &[&[Flag::switch("show-events", "Show the events of the object.").default("true")], FILENAMES, SELECTOR, ALL_NAMESPACES, CHUNK],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

async fn run(session: &Session, args: &Parsed) -> Result {
    let mut problems = Vec::new();
    let mut infos = Vec::new();
    let by_prefix = std::cell::Cell::new(false);
    if crate::files::given(args) {
        let (found, failed) = crate::selection::select(session, args, &[]).await?;
        infos = found;
        problems = failed;
    } else {
        if args.args.is_empty() {
            fail!("You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of supported resources.\n");
        }
        for target in targets(session, &args.args).await? {
            let resource = target.resource;
            match target.name {
                Some(wanted) => {
                    let namespace = if resource.namespaced { session.namespace()? } else { "" };
                    match session.get(Url::new(resource.object(namespace, &wanted))).await {
                        Ok(object) => infos.push(Info::new(resource, object)),
                        // A prefix of names will do.
                        Err(error) if error.is_not_found() => {
                            let mut all = list_all(session, list_url(session, &resource, args)?, 500).await?;
                            let matching: Vec<Info> = items(&resource, &mut all).into_iter().filter(|info| info.name.starts_with(&wanted)).collect();
                            if matching.is_empty() {
                                problems.push(error);
                            }
                            by_prefix.set(true);
                            infos.extend(matching);
                        }
                        Err(error) => problems.push(error),
                    }
                }
                None => match list_all(session, list_url(session, &resource, args)?, args.int("chunk-size")).await {
                    Ok(mut found) => infos.extend(items(&resource, &mut found)),
                    Err(error) => problems.push(error),
                },
            }
        }
    }
    if infos.is_empty() && problems.is_empty() {
        session.complain(format!("No resources found in {} namespace.", session.namespace()?));
    }
    let mut first = true;
    let by_prefix = by_prefix.get();
    for info in infos {
        if !first && !by_prefix {
            session.print("\n\n")?;
        }
        first = false;
        let mut text = describe(session, &info).await?;
        let eventful = !matches!(
            info.resource.kind.as_str(),
            "Namespace" | "Secret" | "ResourceQuota" | "LimitRange" | "NetworkPolicy" | "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding"
        );
        if args.is_set("show-events") && eventful {
            text += &events(session, &info).await;
        }
        session.print(align(&text, DESCRIBE))?;
        if by_prefix {
            session.say("")?;
        }
    }
    Error::all(problems)
}

async fn describe(session: &Session, info: &Info) -> Result<String> {
    let object = &info.object;
    let group = info.resource.group.as_str();
    Ok(match (group, info.resource.kind.as_str()) {
        ("", "Pod") => pod::pod(object, session.clock.now()),
        ("apps", "Deployment") => kinds::deployment(session, info).await,
        ("apps", "ReplicaSet") | ("", "ReplicationController") => kinds::replica_set(session, info).await,
        ("apps", "StatefulSet") => kinds::stateful_set(session, info).await,
        ("apps", "DaemonSet") => kinds::daemon_set(session, info).await,
        ("batch", "Job") => kinds::job(object),
        ("batch", "CronJob") => kinds::cron_job(object),
        ("", "Service") => kinds::service(session, info).await,
        ("", "Node") => kinds::node(session, info).await,
        ("", "Namespace") => kinds::namespace(session, info).await,
        ("", "ConfigMap") => kinds::config_map(object),
        ("", "Secret") => kinds::secret(object),
        ("", "ServiceAccount") => access::service_account(session, info).await,
        ("", "PersistentVolume") => storage::volume(object, session.clock.now()),
        ("", "PersistentVolumeClaim") => storage::claim(session, info).await,
        ("", "ResourceQuota") => limits::quota(object),
        ("", "LimitRange") => limits::limit_range(object),
        ("", "Endpoints") => network::endpoints_object(object),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(object),
        ("networking.k8s.io", "Ingress") => network::ingress(session, info).await,
        ("networking.k8s.io", "IngressClass") => network::ingress_class(object),
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy(object),
        ("networking.k8s.io", "ServiceCIDR") => network::service_range(object),
        ("networking.k8s.io", "IPAddress") => network::ip_address(object),
        ("policy", "PodDisruptionBudget") => limits::disruption_budget(object),
        ("scheduling.k8s.io", "PriorityClass") => limits::priority_class(object),
        ("autoscaling", "HorizontalPodAutoscaler") => limits::autoscaler(object),
        ("storage.k8s.io", "StorageClass") => storage::storage_class(object),
        ("storage.k8s.io", "CSINode") => storage::csi_node(object),
        ("storage.k8s.io", "VolumeAttributesClass") => storage::volume_attributes_class(object),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => access::role(object),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => access::binding(object),
        ("certificates.k8s.io", "CertificateSigningRequest") => access::certificate_request(object),
        _ => generic::generic(object),
    })
}

/// The events of an object, as `describe` ends with. Events that cannot be had are left out.
pub async fn events(session: &Session, info: &Info) -> String {
    let found = object_events(session, info).await;
    if found.is_empty() {
        return "Events:\t<none>\n".to_owned();
    }
    let now = session.clock.now();
    let mut out = "Events:\n  Type\tReason\tAge\tFrom\tMessage\n  ----\t------\t----\t----\t-------\n".to_owned();
    for event in found {
        let first = first_seen(&event);
        let count = int(&event, "/count").max(int(&event, "/series/count"));
        let age = if count > 1 {
            format!("{} (x{count} over {})", age_of(last_seen(&event), now), age_of(first, now))
        } else {
            age_of(first, now)
        };
        let source = text(&event, "/source/component");
        let source = if source.is_empty() { text(&event, "/reportingComponent") } else { source };
        out += &format!("  {}\t{}\t{age}\t{source}\t{}\n", text(&event, "/type"), text(&event, "/reason"), text(&event, "/message").trim());
    }
    out
}

pub async fn object_events(session: &Session, info: &Info) -> Vec<Value> {
    let selector = format!("involvedObject.name={},involvedObject.namespace={},involvedObject.kind={}", info.name, info.namespace, info.resource.kind);
    let uid = text(&info.object, "/metadata/uid");
    let selector = selector.replace("involvedObject.namespace=,", "");
    // What a kubelet says of its node carries the name in place of the UID.
    let uids: &[&str] = match (info.resource.kind.as_str(), uid) {
        ("Node", uid) => &[uid, &info.name],
        (_, "") => &[],
        (_, uid) => &[uid],
    };
    let selectors = if uids.is_empty() { vec![selector] } else { uids.iter().map(|uid| format!("{selector},involvedObject.uid={uid}")).collect() };
    let path = if info.namespace.is_empty() { "/api/v1/events".to_owned() } else { format!("/api/v1/namespaces/{}/events", info.namespace) };
    let mut events = Vec::new();
    for selector in selectors {
        let found = session.get(Url::new(path.clone()).with("fieldSelector", &selector)).await.unwrap_or_default();
        events.extend(list(&found, "/items").iter().cloned());
    }
    // As the original orders: those that tell no such time come first.
    events.sort_by(|a, b| text(a, "/lastTimestamp").cmp(text(b, "/lastTimestamp")));
    events
}

pub fn first_seen(event: &Value) -> &str {
    ["/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"].iter().map(|pointer| text(event, pointer)).find(|time| !time.is_empty()).unwrap_or("")
}

pub fn last_seen(event: &Value) -> &str {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"].iter().map(|pointer| text(event, pointer)).find(|time| !time.is_empty()).unwrap_or("")
}

/// `Labels:` and `Annotations:`: one pair on a line, further ones below each other.
pub fn pairs_block(title: &str, object: &Value, pointer: &str, separator: &str) -> String {
    let shown = map(object, pointer).filter(|(key, _)| *key != super::create::LAST_APPLIED).map(|(key, value)| {
        let value = plain(value);
        let value = value.strip_suffix('\n').unwrap_or(&value);
        if separator == ": " && (key.len() + value.len() + 2 > ANNOTATION_MAX || value.contains('\n')) {
            let lines: Vec<String> = value.lines().map(|line| format!("\t  {}", shorten(line, ANNOTATION_MAX - 2))).collect();
            format!("{key}:\n{}", lines.join("\n"))
        } else {
            format!("{key}{separator}{value}")
        }
    });
    let all: Vec<String> = shown.collect();
    if all.is_empty() { format!("{title}:\t<none>\n") } else { format!("{title}:\t{}\n", all.join("\n\t")) }
}

/// Longer annotations get lines of their own.
const ANNOTATION_MAX: usize = 140;

fn shorten(line: &str, most: usize) -> String {
    if line.chars().count() > most { line.chars().take(most).chain("...".chars()).collect() } else { line.to_owned() }
}

/// Name, namespace, labels, annotations.
pub fn head(object: &Value) -> String {
    let mut out = format!("Name:\t{}\n", name(object));
    if !crate::value::namespace(object).is_empty() {
        out += &format!("Namespace:\t{}\n", crate::value::namespace(object));
    }
    out
}

pub fn labels_and_annotations(object: &Value) -> String {
    pairs_block("Labels", object, "/metadata/labels", "=") + &pairs_block("Annotations", object, "/metadata/annotations", ": ")
}

/// `Sat, 21 Nov 2026 02:36:19 +0000`
pub fn rfc1123(time: &str) -> String {
    match crate::output::timestamp(time) {
        Some(time) => time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        None => "<unset>".to_owned(),
    }
}

/// A `metav1.LabelSelector` as one line.
pub fn selector_text(selector: &Value) -> String {
    if selector.is_null() {
        return "<none>".to_owned();
    }
    match api::selector::LabelSelector::from_json(selector) {
        Ok(parsed) if parsed.is_empty() => "<none>".to_owned(),
        Ok(parsed) => parsed.to_string(),
        Err(error) => error.to_string(),
    }
}

pub fn conditions(object: &Value, reason: bool) -> String {
    let found = list(object, "/status/conditions");
    if found.is_empty() {
        return String::new();
    }
    let mut out = if reason { "Conditions:\n  Type\tStatus\tReason\n  ----\t------\t------\n".to_owned() } else { "Conditions:\n  Type\tStatus\n".to_owned() };
    for condition in found {
        out += &format!("  {} \t{}", text(condition, "/type"), text(condition, "/status"));
        if reason {
            out += &format!("\t{}", text(condition, "/reason"));
        }
        out += "\n";
    }
    if reason { out.replace(" \t", "\t") } else { out }
}
