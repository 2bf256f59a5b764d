//! Workloads, services, nodes and the smaller kinds

use serde_json::Value;

use super::pod::template;
use super::{conditions, head, labels_and_annotations, rfc1123, selector_text};
use crate::output::{age_of, timestamp};
use crate::rest::Url;
use crate::selection::Info;
use crate::session::Session;
use crate::value::{flag, int, list, map, name, name_of, pairs, plain, text};

fn replicas(object: &Value) -> i64 {
    object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1)
}

fn controlled_by(object: &Value) -> String {
    match list(object, "/metadata/ownerReferences").iter().find(|owner| flag(owner, "/controller")) {
        Some(owner) => format!("Controlled By:\t{}/{}\n", text(owner, "/kind"), name_of(owner)),
        None => String::new(),
    }
}

pub async fn deployment(session: &Session, info: &Info) -> String {
    let object = &info.object;
    let mut out = head(object);
    out += &format!("CreationTimestamp:\t{}\n", rfc1123(text(object, "/metadata/creationTimestamp")));
    out += &labels_and_annotations(object);
    out += &format!("Selector:\t{}\n", selector_text(&object["spec"]["selector"]));
    out += &format!(
        "Replicas:\t{} desired | {} updated | {} total | {} available | {} unavailable\n",
        replicas(object), int(object, "/status/updatedReplicas"), int(object, "/status/replicas"), int(object, "/status/availableReplicas"), int(object, "/status/unavailableReplicas")
    );
    out += &format!("StrategyType:\t{}\nMinReadySeconds:\t{}\n", text(object, "/spec/strategy/type"), int(object, "/spec/minReadySeconds"));
    if let Some(rolling) = object.pointer("/spec/strategy/rollingUpdate") {
        out += &format!("RollingUpdateStrategy:\t{} max unavailable, {} max surge\n", plain(&rolling["maxUnavailable"]), plain(&rolling["maxSurge"]));
    }
    out += &template(&object["spec"]["template"], "");
    out += &conditions(object, true);
    let url = Url::new(format!("/apis/apps/v1/namespaces/{}/replicasets", info.namespace)).with_filled("labelSelector", &selector_text(&object["spec"]["selector"]));
    let found = session.get(url).await.unwrap_or_default();
    let uid = text(object, "/metadata/uid");
    let revision = text(object, "/metadata/annotations/deployment.kubernetes.io~1revision");
    let (mut old, mut new) = (Vec::new(), "<none>".to_owned());
    for set in list(&found, "/items").iter().filter(|set| list(set, "/metadata/ownerReferences").iter().any(|owner| text(owner, "/uid") == uid)) {
        let shown = format!("{} ({}/{} replicas created)", name(set), int(set, "/status/replicas"), replicas(set));
        if text(set, "/metadata/annotations/deployment.kubernetes.io~1revision") == revision {
            new = shown;
        } else {
            old.push(shown);
        }
    }
    let old = if old.is_empty() { "<none>".to_owned() } else { old.join(", ") };
    out + &format!("OldReplicaSets:\t{old}\nNewReplicaSet:\t{new}\n")
}

/// How many of the workload's own pods are in which phase.
async fn pod_counts(session: &Session, info: &Info) -> String {
    let selector = &info.object["spec"]["selector"];
    let selector = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() { selector_text(selector) } else { pairs(&info.object, "/spec/selector", "") };
    let url = Url::new(format!("/api/v1/namespaces/{}/pods", info.namespace)).with_filled("labelSelector", &selector);
    let found = session.get(url).await.unwrap_or_default();
    let uid = text(&info.object, "/metadata/uid");
    let owned = |pod: &&Value| list(pod, "/metadata/ownerReferences").iter().any(|owner| flag(owner, "/controller") && text(owner, "/uid") == uid);
    let count = |phase: &str| list(&found, "/items").iter().filter(owned).filter(|pod| text(pod, "/status/phase") == phase).count();
    format!("Pods Status:\t{} Running / {} Waiting / {} Succeeded / {} Failed\n", count("Running"), count("Pending"), count("Succeeded"), count("Failed"))
}

pub async fn replica_set(session: &Session, info: &Info) -> String {
    let object = &info.object;
    let selector = &object["spec"]["selector"];
    let selector = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() { selector_text(selector) } else { pairs(object, "/spec/selector", "<none>") };
    let mut out = head(object) + &format!("Selector:\t{selector}\n") + &labels_and_annotations(object) + &controlled_by(object);
    out += &format!("Replicas:\t{} current / {} desired\n{}", int(object, "/status/replicas"), replicas(object), pod_counts(session, info).await);
    out + &template(&object["spec"]["template"], "") + &conditions(object, true)
}

pub async fn stateful_set(session: &Session, info: &Info) -> String {
    let object = &info.object;
    let mut out = head(object) + &format!("CreationTimestamp:\t{}\nSelector:\t{}\n", rfc1123(text(object, "/metadata/creationTimestamp")), selector_text(&object["spec"]["selector"]));
    out += &labels_and_annotations(object);
    out += &format!("Replicas:\t{} desired | {} total\nUpdate Strategy:\t{}\n", replicas(object), int(object, "/status/replicas"), text(object, "/spec/updateStrategy/type"));
    if let Some(partition) = object.pointer("/spec/updateStrategy/rollingUpdate/partition") {
        out += &format!("  Partition:\t{}\n", plain(partition));
    }
    if let Some(most) = object.pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable") {
        out += &format!("  MaxUnavailable:\t{}\n", plain(most));
    }
    out += &pod_counts(session, info).await;
    out += &template(&object["spec"]["template"], "");
    out + &super::storage::claim_templates(list(object, "/spec/volumeClaimTemplates"))
}

pub async fn daemon_set(session: &Session, info: &Info) -> String {
    let object = &info.object;
    let mut out = head(object) + &format!("Selector:\t{}\n", selector_text(&object["spec"]["selector"]));
    out += &format!("Node-Selector:\t{}\n", pairs(object, "/spec/template/spec/nodeSelector", "<none>"));
    out += &labels_and_annotations(object);
    let count = |field: &str| int(object, &format!("/status/{field}"));
    out += &format!("Desired Number of Nodes Scheduled: {}\nCurrent Number of Nodes Scheduled: {}\n", count("desiredNumberScheduled"), count("currentNumberScheduled"));
    out += &format!("Number of Nodes Scheduled with Up-to-date Pods: {}\nNumber of Nodes Scheduled with Available Pods: {}\n", count("updatedNumberScheduled"), count("numberAvailable"));
    out += &format!("Number of Nodes Misscheduled: {}\n{}", count("numberMisscheduled"), pod_counts(session, info).await);
    out + &template(&object["spec"]["template"], "")
}

pub fn job(object: &Value) -> String {
    let mut out = head(object) + &format!("Selector:\t{}\n", selector_text(&object["spec"]["selector"])) + &labels_and_annotations(object) + &controlled_by(object);
    out += &format!("Parallelism:\t{}\n", int(object, "/spec/parallelism"));
    out += &format!("Completions:\t{}\n", object.pointer("/spec/completions").map_or_else(|| "<unset>".to_owned(), plain));
    if !text(object, "/spec/completionMode").is_empty() {
        out += &format!("Completion Mode:\t{}\n", text(object, "/spec/completionMode"));
    }
    out += &format!("Suspend:\t{}\nBackoff Limit:\t{}\n", flag(object, "/spec/suspend"), int(object, "/spec/backoffLimit"));
    if let Some(seconds) = object.pointer("/spec/ttlSecondsAfterFinished") {
        out += &format!("TTL Seconds After Finished:\t{}\n", plain(seconds));
    }
    let (start, end) = (text(object, "/status/startTime"), text(object, "/status/completionTime"));
    if !start.is_empty() {
        out += &format!("Start Time:\t{}\n", rfc1123(start));
    }
    if !end.is_empty() {
        out += &format!("Completed At:\t{}\n", rfc1123(end));
        out += &format!("Duration:\t{}\n", timestamp(end).map_or_else(|| "<unknown>".to_owned(), |end| age_of(start, end)));
    }
    if let Some(seconds) = object.pointer("/spec/activeDeadlineSeconds") {
        out += &format!("Active Deadline Seconds:\t{}s\n", plain(seconds));
    }
    let count = |field: &str| int(object, &format!("/status/{field}"));
    out += &format!("Pods Statuses:\t{} Active ({} Ready) / {} Succeeded / {} Failed\n", count("active"), count("ready"), count("succeeded"), count("failed"));
    if text(object, "/spec/completionMode") == "Indexed" {
        let done = text(object, "/status/completedIndexes");
        out += &format!("Completed Indexes:\t{}\n", if done.is_empty() { "<none>".to_owned() } else { shortened(done) });
    }
    out + &template(&object["spec"]["template"], "")
}

/// The first indexes, cut at a comma.
fn shortened(indexes: &str) -> String {
    const ENOUGH: usize = 50;
    match indexes.get(ENOUGH..).and_then(|rest| rest.find(',')) {
        Some(comma) => format!("{},...", &indexes[..ENOUGH + comma]),
        None => indexes.to_owned(),
    }
}

pub fn cron_job(object: &Value) -> String {
    let mut out = head(object) + &labels_and_annotations(object);
    out += &format!("Schedule:\t{}\nConcurrency Policy:\t{}\n", text(object, "/spec/schedule"), text(object, "/spec/concurrencyPolicy"));
    out += &format!("Suspend:\t{}\n", if flag(object, "/spec/suspend") { "True" } else { "False" });
    let or_unset = |pointer: &str| object.pointer(pointer).map_or_else(|| "<unset>".to_owned(), plain);
    out += &format!("Successful Job History Limit:\t{}\nFailed Job History Limit:\t{}\n", or_unset("/spec/successfulJobsHistoryLimit"), or_unset("/spec/failedJobsHistoryLimit"));
    let deadline = object.pointer("/spec/startingDeadlineSeconds").map_or_else(|| "<unset>".to_owned(), |seconds| format!("{}s", plain(seconds)));
    out += &format!("Starting Deadline Seconds:\t{deadline}\nSelector:\t<unset>\nParallelism:\t{}\nCompletions:\t{}\n", or_unset("/spec/jobTemplate/spec/parallelism"), or_unset("/spec/jobTemplate/spec/completions"));
    out += &template(&object["spec"]["jobTemplate"]["spec"]["template"], "");
    out += &format!("Last Schedule Time:\t{}\n", rfc1123(text(object, "/status/lastScheduleTime")));
    let active: Vec<&str> = list(object, "/status/active").iter().map(name_of).collect();
    out + &format!("Active Jobs:\t{}\n", if active.is_empty() { "<none>".to_owned() } else { active.join(", ") })
}

pub async fn service(session: &Session, info: &Info) -> String {
    let object = &info.object;
    let words = |pointer: &str| list(object, pointer).iter().map(plain).collect::<Vec<_>>().join(",");
    let mut out = head(object) + &labels_and_annotations(object);
    out += &format!("Selector:\t{}\nType:\t{}\n", pairs(object, "/spec/selector", "<none>"), text(object, "/spec/type"));
    if !text(object, "/spec/ipFamilyPolicy").is_empty() {
        out += &format!("IP Family Policy:\t{}\n", text(object, "/spec/ipFamilyPolicy"));
    }
    let families = words("/spec/ipFamilies");
    out += &format!("IP Families:\t{}\n", if families.is_empty() { "<none>".to_owned() } else { families });
    out += &format!("IP:\t{}\nIPs:\t{}\n", text(object, "/spec/clusterIP"), if words("/spec/clusterIPs").is_empty() { "<none>".to_owned() } else { words("/spec/clusterIPs") });
    if !list(object, "/spec/externalIPs").is_empty() {
        out += &format!("External IPs:\t{}\n", words("/spec/externalIPs"));
    }
    if !text(object, "/spec/loadBalancerIP").is_empty() {
        out += &format!("Desired LoadBalancer IP:\t{}\n", text(object, "/spec/loadBalancerIP"));
    }
    if !text(object, "/spec/externalName").is_empty() {
        out += &format!("External Name:\t{}\n", text(object, "/spec/externalName"));
    }
    let ingress = |one: &Value| match (text(one, "/ip"), text(one, "/ipMode")) {
        ("", _) => text(one, "/hostname").to_owned(),
        (ip, "") => ip.to_owned(),
        (ip, mode) => format!("{ip} ({mode})"),
    };
    let ingresses: Vec<String> = list(object, "/status/loadBalancer/ingress").iter().map(ingress).collect();
    if !ingresses.is_empty() {
        out += &format!("LoadBalancer Ingress:\t{}\n", ingresses.join(", "));
    }
    let url = Url::new(format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", info.namespace)).with("labelSelector", &format!("kubernetes.io/service-name={}", info.name));
    let slices = session.get(url).await.unwrap_or_default();
    for port in list(object, "/spec/ports") {
        let port_name = if name_of(port).is_empty() { "<unset>" } else { name_of(port) };
        let protocol = text(port, "/protocol");
        out += &format!("Port:\t{port_name}\t{}/{protocol}\nTargetPort:\t{}/{protocol}\n", int(port, "/port"), plain(&port["targetPort"]));
        if int(port, "/nodePort") > 0 {
            out += &format!("NodePort:\t{port_name}\t{}/{protocol}\n", int(port, "/nodePort"));
        }
        out += &format!("Endpoints:\t{}\n", endpoints(list(&slices, "/items"), name_of(port)));
    }
    out += &format!("Session Affinity:\t{}\n", text(object, "/spec/sessionAffinity"));
    if !text(object, "/spec/externalTrafficPolicy").is_empty() {
        out += &format!("External Traffic Policy:\t{}\n", text(object, "/spec/externalTrafficPolicy"));
    }
    if !text(object, "/spec/internalTrafficPolicy").is_empty() {
        out += &format!("Internal Traffic Policy:\t{}\n", text(object, "/spec/internalTrafficPolicy"));
    }
    if int(object, "/spec/healthCheckNodePort") > 0 {
        out += &format!("HealthCheck NodePort:\t{}\n", int(object, "/spec/healthCheckNodePort"));
    }
    if !list(object, "/spec/loadBalancerSourceRanges").is_empty() {
        out += &format!("LoadBalancer Source Ranges:\t{}\n", words("/spec/loadBalancerSourceRanges"));
    }
    out
}

/// The addresses of a port, the first few of many.
pub fn endpoints(slices: &[Value], port_name: &str) -> String {
    let mut all = Vec::new();
    for slice in slices {
        let Some(port) = list(slice, "/ports").iter().find(|port| name_of(port) == port_name) else { continue };
        for endpoint in list(slice, "/endpoints").iter().filter(|one| one.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false)) {
            all.extend(list(endpoint, "/addresses").iter().map(|address| format!("{}:{}", plain(address), int(port, "/port"))));
        }
    }
    if all.len() > 3 { format!("{} + {} more...", all[..3].join(","), all.len() - 3) } else { all.join(",") }
}

pub async fn node(session: &Session, info: &Info) -> String {
    let object = &info.object;
    let mut roles: Vec<&str> = map(object, "/metadata/labels").filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    roles.sort_unstable();
    let mut out = format!("Name:\t{}\nRoles:\t{}\n", info.name, if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") });
    out += &labels_and_annotations(object);
    out += &format!("CreationTimestamp:\t{}\n", rfc1123(text(object, "/metadata/creationTimestamp")));
    let mut sorted: Vec<&Value> = list(object, "/spec/taints").iter().collect();
    sorted.sort_by_key(|taint| (text(taint, "/effect"), text(taint, "/key")));
    let taints: Vec<String> = sorted.into_iter().map(|taint| {
        let value = text(taint, "/value");
        format!("{}{}{value}:{}", text(taint, "/key"), if value.is_empty() { "" } else { "=" }, text(taint, "/effect"))
    }).collect();
    out += &format!("Taints:\t{}\nUnschedulable:\t{}\n", if taints.is_empty() { "<none>".to_owned() } else { taints.join("\n\t") }, flag(object, "/spec/unschedulable"));
    let lease = session.get(Url::new(format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", info.name))).await;
    if let Err(error) = &lease {
        out += &format!("Lease:\tFailed to get lease: {}\n", error.bare());
    }
    if let Ok(lease) = lease {
        out += &format!("Lease:\n  HolderIdentity:\t{}\n  AcquireTime:\t{}\n  RenewTime:\t{}\n", text(&lease, "/spec/holderIdentity"), rfc1123(text(&lease, "/spec/acquireTime")), rfc1123(text(&lease, "/spec/renewTime")));
    }
    if !list(object, "/status/conditions").is_empty() {
        out += "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage\n  ----\t------\t-----------------\t------------------\t------\t-------\n";
    }
    for condition in list(object, "/status/conditions") {
        out += &format!("  {} \t{} \t{} \t{} \t{} \t{}\n", text(condition, "/type"), text(condition, "/status"), rfc1123(text(condition, "/lastHeartbeatTime")), rfc1123(text(condition, "/lastTransitionTime")), text(condition, "/reason"), text(condition, "/message"));
    }
    out += "Addresses:\n";
    for address in list(object, "/status/addresses") {
        out += &format!("  {}:\t{}\n", text(address, "/type"), text(address, "/address"));
    }
    for (title, pointer) in [("Capacity", "/status/capacity"), ("Allocatable", "/status/allocatable")] {
        if map(object, pointer).next().is_some() {
            out += &format!("{title}:\n");
        }
        for (resource, quantity) in map(object, pointer) {
            out += &format!("  {resource}:\t{}\n", plain(quantity));
        }
    }
    out += "System Info:\n";
    for (title, field) in [("Machine ID", "machineID"), ("System UUID", "systemUUID"), ("Boot ID", "bootID"), ("Kernel Version", "kernelVersion"), ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"), ("Architecture", "architecture"), ("Container Runtime Version", "containerRuntimeVersion"), ("Kubelet Version", "kubeletVersion"), ("Kube-Proxy Version", "kubeProxyVersion")] {
        out += &format!("  {title}:\t{}\n", text(object, &format!("/status/nodeInfo/{field}")));
    }
    if !text(object, "/spec/podCIDR").is_empty() {
        let all: Vec<String> = list(object, "/spec/podCIDRs").iter().map(plain).collect();
        out += &format!("PodCIDR:\t{}\nPodCIDRs:\t{}\n", text(object, "/spec/podCIDR"), all.join(","));
    }
    let url = Url::new("/api/v1/pods").with("fieldSelector", &format!("spec.nodeName={},status.phase!=Succeeded,status.phase!=Failed", info.name));
    let pods = session.get(url).await.unwrap_or_default();
    out + &node_pods(list(&pods, "/items"), object, session.clock.now())
}

/// What the pods of a node ask for.
fn node_pods(pods: &[Value], node: &Value, now: jiff::Timestamp) -> String {
    let mut out = format!("Non-terminated Pods:\t({} in total)\n  Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge\n  ---------\t----\t\t------------\t----------\t---------------\t-------------\t---\n", pods.len());
    let allocatable = |resource: &str| milli(text(node, &format!("/status/allocatable/{resource}"))).max(1);
    let percent = |value: i64, resource: &str| value.saturating_mul(100) / allocatable(resource);
    let shown = |value: i64, resource: &str| -> String {
        if resource == "cpu" {
            if value % 1000 == 0 { (value / 1000).to_string() } else { format!("{value}m") }
        } else {
            api::quantity::Quantity::from_bytes(value / 1000).to_string()
        }
    };
    let wanted = [("requests", "cpu"), ("limits", "cpu"), ("requests", "memory"), ("limits", "memory")];
    let mut totals = [0i64; 4];
    for pod in pods {
        out += &format!("  {}\t{}\t", crate::value::namespace(pod), name(pod));
        for (index, (kind, resource)) in wanted.iter().enumerate() {
            let value = wants(pod, kind, resource);
            totals[index] = totals[index].saturating_add(value);
            out += &format!("\t{} ({}%)", shown(value, resource), percent(value, resource));
        }
        out += &format!("\t{}\n", age_of(text(pod, "/metadata/creationTimestamp"), now));
    }
    out += "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)\n  Resource\tRequests\tLimits\n  --------\t--------\t------\n";
    for (resource, at) in [("cpu", 0), ("memory", 2)] {
        out += &format!("  {resource}\t{} ({}%)\t{} ({}%)\n", shown(totals[at], resource), percent(totals[at], resource), shown(totals[at + 1], resource), percent(totals[at + 1], resource));
    }
    let allocatable_names = || map(node, "/status/allocatable").map(|(name, _)| name);
    let total = |kind: &str, resource: &str| pods.iter().map(|pod| wants(pod, kind, resource)).sum::<i64>();
    for resource in ["ephemeral-storage"].into_iter().chain(allocatable_names().filter(|name| name.starts_with("hugepages-"))) {
        let (requests, limits) = (total("requests", resource), total("limits", resource));
        out += &format!("  {resource}\t{} ({}%)\t{} ({}%)\n", shown(requests, resource), percent(requests, resource), shown(limits, resource), percent(limits, resource));
    }
    let standard = |name: &&str| name.starts_with("hugepages-") || matches!(*name, "cpu" | "memory" | "ephemeral-storage" | "pods");
    for resource in allocatable_names().filter(|name| !standard(name)) {
        out += &format!("  {resource}\t{}\t{}\n", total("requests", resource) / 1000, total("limits", resource) / 1000);
    }
    out
}

/// What a pod asks for, in thousandths: its containers together, or the hungriest of those that run before.
fn wants(pod: &Value, kind: &str, resource: &str) -> i64 {
    let of = |container: &Value| milli(text(container, &format!("/resources/{kind}/{resource}")));
    let mut total: i64 = list(pod, "/spec/containers").iter().map(of).sum();
    let (mut beside, mut before) = (0, 0);
    for container in list(pod, "/spec/initContainers") {
        if text(container, "/restartPolicy") == "Always" {
            beside += of(container);
            before = before.max(beside);
        } else {
            before = before.max(beside + of(container));
        }
    }
    total = (total + beside).max(before);
    let overhead = milli(text(pod, &format!("/spec/overhead/{resource}")));
    if kind == "requests" || total > 0 { total + overhead } else { total }
}

fn milli(quantity: &str) -> i64 {
    api::quantity::Quantity::parse(quantity).map_or(0, |quantity| quantity.milli_value())
}

pub async fn namespace(session: &Session, info: &Info) -> String {
    let mut out = format!("Name:\t{}\n", info.name) + &labels_and_annotations(&info.object);
    out += &format!("Status:\t{}\n", text(&info.object, "/status/phase"));
    let found = list(&info.object, "/status/conditions");
    if !found.is_empty() {
        out += "Conditions:\n  Type\tStatus\tLastTransitionTime\tReason\tMessage\n  ----\t------\t------------------\t------\t-------\n";
        for condition in found {
            out += &format!("  {}\t{}\t{}\t{}\t{}\n", text(condition, "/type"), text(condition, "/status"), rfc1123(text(condition, "/lastTransitionTime")), text(condition, "/reason"), text(condition, "/message"));
        }
    }
    let quotas = session.get(Url::new(format!("/api/v1/namespaces/{}/resourcequotas", info.name))).await.unwrap_or_default();
    out += &format!("\n{}", super::limits::quotas(list(&quotas, "/items")));
    let ranges = session.get(Url::new(format!("/api/v1/namespaces/{}/limitranges", info.name))).await.unwrap_or_default();
    out + &format!("\n{}", super::limits::limit_ranges(list(&ranges, "/items")))
}

pub fn config_map(object: &Value) -> String {
    let mut out = head(object) + &labels_and_annotations(object) + "\nData\n====\n";
    for (key, value) in map(object, "/data") {
        out += &format!("{key}:\n----\n{}\n\n", plain(value));
    }
    out += "\nBinaryData\n====\n";
    for (key, value) in map(object, "/binaryData") {
        out += &format!("{key}: {} bytes\n", decoded_length(&plain(value)));
    }
    out + "\n"
}

fn decoded_length(encoded: &str) -> usize {
    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded).map_or(0, |bytes| bytes.len())
}

pub fn secret(object: &Value) -> String {
    let mut out = head(object) + &labels_and_annotations(object) + &format!("\nType:\t{}\n\nData\n====\n", text(object, "/type"));
    for (key, value) in map(object, "/data") {
        // A token is what one wants to see.
        if key == "token" && text(object, "/type") == "kubernetes.io/service-account-token" {
            let token = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, plain(value)).unwrap_or_default();
            out += &format!("{key}:\t{}\n", String::from_utf8_lossy(&token));
            continue;
        }
        out += &format!("{key}:\t{} bytes\n", decoded_length(&plain(value)));
    }
    out
}

