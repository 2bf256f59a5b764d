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

fn pod_counts(object: &Value) -> String {
    format!("{} Running / {} Waiting / {} Succeeded / {} Failed", int(object, "/status/readyReplicas"), int(object, "/status/replicas") - int(object, "/status/readyReplicas"), 0, 0)
}

pub fn replica_set(object: &Value) -> String {
    let selector = &object["spec"]["selector"];
    let selector = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() { selector_text(selector) } else { pairs(object, "/spec/selector", "<none>") };
    let mut out = head(object) + &format!("Selector:\t{selector}\n") + &labels_and_annotations(object) + &controlled_by(object);
    out += &format!("Replicas:\t{} current / {} desired\nPods Status:\t{}\n", int(object, "/status/replicas"), replicas(object), pod_counts(object));
    out + &template(&object["spec"]["template"], "") + &conditions(object, true)
}

pub fn stateful_set(object: &Value) -> String {
    let mut out = head(object) + &format!("CreationTimestamp:\t{}\nSelector:\t{}\n", rfc1123(text(object, "/metadata/creationTimestamp")), selector_text(&object["spec"]["selector"]));
    out += &labels_and_annotations(object);
    out += &format!("Replicas:\t{} desired | {} total\nUpdate Strategy:\t{}\n", replicas(object), int(object, "/status/replicas"), text(object, "/spec/updateStrategy/type"));
    if let Some(partition) = object.pointer("/spec/updateStrategy/rollingUpdate/partition") {
        out += &format!("  Partition:\t{}\n", plain(partition));
    }
    out += &format!("Pods Status:\t{}\n", pod_counts(object));
    out += &template(&object["spec"]["template"], "");
    let claims = list(object, "/spec/volumeClaimTemplates");
    if claims.is_empty() {
        return out + "Volume Claims:\t<none>\n";
    }
    out += "Volume Claims:\n";
    for claim in claims {
        out += &format!("  Name:\t{}\n  StorageClass:\t{}\n", name(claim), text(claim, "/spec/storageClassName"));
        out += &format!("  Labels:\t{}\n  Annotations:\t{}\n", pairs(claim, "/metadata/labels", "<none>"), pairs(claim, "/metadata/annotations", "<none>"));
        let modes: Vec<String> = list(claim, "/spec/accessModes").iter().map(plain).collect();
        out += &format!("  Capacity:\t{}\n  Access Modes:\t[{}]\n", text(claim, "/spec/resources/requests/storage"), modes.join(" "));
    }
    out
}

pub fn daemon_set(object: &Value) -> String {
    let mut out = head(object) + &format!("Selector:\t{}\n", selector_text(&object["spec"]["selector"]));
    out += &format!("Node-Selector:\t{}\n", pairs(object, "/spec/template/spec/nodeSelector", "<none>"));
    out += &labels_and_annotations(object);
    let count = |field: &str| int(object, &format!("/status/{field}"));
    out += &format!("Desired Number of Nodes Scheduled: {}\nCurrent Number of Nodes Scheduled: {}\n", count("desiredNumberScheduled"), count("currentNumberScheduled"));
    out += &format!("Number of Nodes Scheduled with Up-to-date Pods: {}\nNumber of Nodes Scheduled with Available Pods: {}\n", count("updatedNumberScheduled"), count("numberAvailable"));
    out += &format!("Number of Nodes Misscheduled: {}\nPods Status:\t{} Running / {} Waiting / 0 Succeeded / 0 Failed\n", count("numberMisscheduled"), count("numberReady"), count("currentNumberScheduled") - count("numberReady"));
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
    let (start, end) = (text(object, "/status/startTime"), text(object, "/status/completionTime"));
    if !start.is_empty() {
        out += &format!("Start Time:\t{}\n", rfc1123(start));
    }
    if !end.is_empty() {
        out += &format!("Completed At:\t{}\n", rfc1123(end));
        out += &format!("Duration:\t{}\n", timestamp(end).map_or_else(|| "<unknown>".to_owned(), |end| age_of(start, end)));
    }
    let count = |field: &str| int(object, &format!("/status/{field}"));
    out += &format!("Pods Statuses:\t{} Active ({} Ready) / {} Succeeded / {} Failed\n", count("active"), count("ready"), count("succeeded"), count("failed"));
    out + &template(&object["spec"]["template"], "")
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
        out += &format!("IP Family Policy:\t{}\nIP Families:\t{}\n", text(object, "/spec/ipFamilyPolicy"), words("/spec/ipFamilies"));
    }
    out += &format!("IP:\t{}\nIPs:\t{}\n", text(object, "/spec/clusterIP"), if words("/spec/clusterIPs").is_empty() { "<none>".to_owned() } else { words("/spec/clusterIPs") });
    if !list(object, "/spec/externalIPs").is_empty() {
        out += &format!("External IPs:\t{}\n", words("/spec/externalIPs"));
    }
    if !text(object, "/spec/externalName").is_empty() {
        out += &format!("External Name:\t{}\n", text(object, "/spec/externalName"));
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
    out
}

fn endpoints(slices: &[Value], port_name: &str) -> String {
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
    let taints: Vec<String> = list(object, "/spec/taints").iter().map(|taint| {
        let value = text(taint, "/value");
        format!("{}{}{value}:{}", text(taint, "/key"), if value.is_empty() { "" } else { "=" }, text(taint, "/effect"))
    }).collect();
    out += &format!("Taints:\t{}\nUnschedulable:\t{}\n", if taints.is_empty() { "<none>".to_owned() } else { taints.join("\n\t") }, flag(object, "/spec/unschedulable"));
    if let Ok(lease) = session.get(Url::new(format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", info.name))).await {
        out += &format!("Lease:\n  HolderIdentity:\t{}\n  AcquireTime:\t{}\n  RenewTime:\t{}\n", text(&lease, "/spec/holderIdentity"), rfc1123(text(&lease, "/spec/acquireTime")), rfc1123(text(&lease, "/spec/renewTime")));
    }
    out += "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage\n  ----\t------\t-----------------\t------------------\t------\t-------\n";
    for condition in list(object, "/status/conditions") {
        out += &format!("  {} \t{} \t{} \t{} \t{} \t{}\n", text(condition, "/type"), text(condition, "/status"), rfc1123(text(condition, "/lastHeartbeatTime")), rfc1123(text(condition, "/lastTransitionTime")), text(condition, "/reason"), text(condition, "/message"));
    }
    out += "Addresses:\n";
    for address in list(object, "/status/addresses") {
        out += &format!("  {}:\t{}\n", text(address, "/type"), text(address, "/address"));
    }
    for (title, pointer) in [("Capacity", "/status/capacity"), ("Allocatable", "/status/allocatable")] {
        out += &format!("{title}:\n");
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
    let mut out = format!("Non-terminated Pods:\t({} in total)\n  Namespace\tName\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge\n  ---------\t----\t------------\t----------\t---------------\t-------------\t---\n", pods.len());
    let allocatable = |resource: &str| milli(text(node, &format!("/status/allocatable/{resource}"))).max(1);
    let sum = |pod: &Value, kind: &str, resource: &str| -> i64 {
        list(pod, "/spec/containers").iter().map(|one| milli(text(one, &format!("/resources/{kind}/{resource}")))).sum()
    };
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
        out += &format!("  {}\t{}", crate::value::namespace(pod), name(pod));
        for (index, (kind, resource)) in wanted.iter().enumerate() {
            let value = sum(pod, kind, resource);
            totals[index] = totals[index].saturating_add(value);
            out += &format!("\t{} ({}%)", shown(value, resource), percent(value, resource));
        }
        out += &format!("\t{}\n", age_of(text(pod, "/metadata/creationTimestamp"), now));
    }
    out += "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)\n  Resource\tRequests\tLimits\n  --------\t--------\t------\n";
    for (resource, at) in [("cpu", 0), ("memory", 2)] {
        out += &format!("  {resource}\t{} ({}%)\t{} ({}%)\n", shown(totals[at], resource), percent(totals[at], resource), shown(totals[at + 1], resource), percent(totals[at + 1], resource));
    }
    out
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
    if list(&quotas, "/items").is_empty() {
        out += "\nNo resource quota.\n";
    } else {
        out += "\nResource Quotas\n";
        for found in list(&quotas, "/items") {
            out += &format!("  Name:\t{}\n  Resource\tUsed\tHard\n  --------\t---\t---\n", name(found));
            for (resource, hard) in map(found, "/status/hard") {
                let used = found.pointer("/status/used").and_then(|used| used.get(resource)).map(plain).unwrap_or_default();
                out += &format!("  {resource}\t{used}\t{}\n", plain(hard));
            }
        }
    }
    let ranges = session.get(Url::new(format!("/api/v1/namespaces/{}/limitranges", info.name))).await.unwrap_or_default();
    if list(&ranges, "/items").is_empty() {
        out += "\nNo LimitRange resource.\n";
    }
    out
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
        out += &format!("{key}:\t{} bytes\n", decoded_length(&plain(value)));
    }
    out
}

pub fn service_account(object: &Value) -> String {
    let names = |pointer: &str| -> String {
        let all: Vec<&str> = list(object, pointer).iter().map(name_of).collect();
        if all.is_empty() { "<none>".to_owned() } else { all.join("\n\t") }
    };
    head(object) + &labels_and_annotations(object) + &format!("Image pull secrets:\t{}\nMountable secrets:\t{}\nTokens:\t<none>\n", names("/imagePullSecrets"), names("/secrets"))
}

pub fn claim(object: &Value) -> String {
    let modes: Vec<String> = list(object, "/status/accessModes").iter().map(plain).collect();
    let finalizers: Vec<String> = list(object, "/metadata/finalizers").iter().map(plain).collect();
    let mut out = head(object) + &format!("StorageClass:\t{}\nStatus:\t{}\nVolume:\t{}\n", text(object, "/spec/storageClassName"), text(object, "/status/phase"), text(object, "/spec/volumeName"));
    out += &labels_and_annotations(object);
    out + &format!("Finalizers:\t[{}]\nCapacity:\t{}\nAccess Modes:\t{}\nVolumeMode:\t{}\n", finalizers.join(" "), text(object, "/status/capacity/storage"), modes.join(","), text(object, "/spec/volumeMode"))
}

pub fn quota(object: &Value) -> String {
    let mut out = head(object) + "Resource\tUsed\tHard\n--------\t----\t----\n";
    for (resource, hard) in map(object, "/status/hard") {
        let used = object.pointer("/status/used").and_then(|used| used.get(resource)).map(plain).unwrap_or_default();
        out += &format!("{resource}\t{used}\t{}\n", plain(hard));
    }
    out
}

pub fn ingress(object: &Value) -> String {
    let backend = |service: &Value| -> String {
        let port = &service["service"]["port"];
        format!("{}:{}", text(service, "/service/name"), port.get("number").or(port.get("name")).map(plain).unwrap_or_default())
    };
    let addresses: Vec<String> = list(object, "/status/loadBalancer/ingress").iter().map(|one| if text(one, "/ip").is_empty() { text(one, "/hostname") } else { text(one, "/ip") }.to_owned()).collect();
    let class = text(object, "/spec/ingressClassName");
    let mut out = format!("Name:\t{}\n", name(object)) + &super::pairs_block("Labels", object, "/metadata/labels", "=");
    out += &format!("Namespace:\t{}\nAddress:\t{}\nIngress Class:\t{}\n", crate::value::namespace(object), addresses.join(","), if class.is_empty() { "<none>" } else { class });
    out += &format!("Default backend:\t{}\n", object.pointer("/spec/defaultBackend").map_or_else(|| "<default>".to_owned(), backend));
    if !list(object, "/spec/tls").is_empty() {
        out += "TLS:\n";
        for tls in list(object, "/spec/tls") {
            let hosts: Vec<String> = list(tls, "/hosts").iter().map(plain).collect();
            out += &format!("  {} terminates {}\n", if text(tls, "/secretName").is_empty() { "SNI routes" } else { text(tls, "/secretName") }, hosts.join(","));
        }
    }
    out += "Rules:\n  Host\tPath\tBackends\n  ----\t----\t--------\n";
    for rule in list(object, "/spec/rules") {
        out += &format!("  {}\t\n", if text(rule, "/host").is_empty() { "*" } else { text(rule, "/host") });
        for path in list(rule, "/http/paths") {
            out += &format!("  \t{} \t{} ()\n", text(path, "/path"), backend(&path["backend"]));
        }
    }
    out + &super::pairs_block("Annotations", object, "/metadata/annotations", ": ")
}
