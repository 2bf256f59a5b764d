//! Pods and pod templates

use serde_json::Value;

use super::volumes::volumes;
use super::{head, labels_and_annotations, pairs_block, rfc1123, selector_text};
use crate::output::age_of;
use crate::value::{flag, int, list, map, name_of, pairs, plain, text};

pub fn pod(pod: &Value, now: jiff::Timestamp) -> String {
    let mut out = head(pod);
    let number = pod.pointer("/spec/priority").map(plain).unwrap_or_else(|| "0".to_owned());
    out += &format!("Priority:\t{number}\n");
    if !text(pod, "/spec/priorityClassName").is_empty() {
        out += &format!("Priority Class Name:\t{}\n", text(pod, "/spec/priorityClassName"));
    }
    if !text(pod, "/spec/runtimeClassName").is_empty() {
        out += &format!("Runtime Class Name:\t{}\n", text(pod, "/spec/runtimeClassName"));
    }
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        out += &format!("Service Account:\t{}\n", text(pod, "/spec/serviceAccountName"));
    }
    match text(pod, "/spec/nodeName") {
        "" => out += "Node:\t<none>\n",
        node => out += &format!("Node:\t{node}/{}\n", text(pod, "/status/hostIP")),
    }
    if !text(pod, "/status/startTime").is_empty() {
        out += &format!("Start Time:\t{}\n", rfc1123(text(pod, "/status/startTime")));
    }
    out += &labels_and_annotations(pod);
    let phase = text(pod, "/status/phase");
    let deleted = text(pod, "/metadata/deletionTimestamp");
    if deleted.is_empty() || phase == "Succeeded" || phase == "Failed" {
        out += &format!("Status:\t{phase}\n");
    } else {
        out += &format!("Status:\tTerminating (lasts {})\nTermination Grace Period:\t{}s\n", age_of(deleted, now), int(pod, "/metadata/deletionGracePeriodSeconds"));
    }
    for (title, pointer) in [("Reason", "/status/reason"), ("Message", "/status/message")] {
        if !text(pod, pointer).is_empty() {
            out += &format!("{title}:\t{}\n", text(pod, pointer));
        }
    }
    if let Some(profile) = pod.pointer("/spec/securityContext/seccompProfile/type") {
        out += &format!("SeccompProfile:\t{}\n", plain(profile));
    }
    out += &format!("IP:\t{}\n", text(pod, "/status/podIP"));
    let ips = list(pod, "/status/podIPs");
    if ips.is_empty() {
        out += "IPs:\t<none>\n";
    } else {
        out += "IPs:\n";
        for ip in ips {
            out += &format!("  IP:\t{}\n", text(ip, "/ip"));
        }
    }
    if let Some(owner) = list(pod, "/metadata/ownerReferences").iter().find(|owner| flag(owner, "/controller")) {
        out += &format!("Controlled By:\t{}/{}\n", text(owner, "/kind"), name_of(owner));
    }
    if !text(pod, "/status/nominatedNodeName").is_empty() {
        out += &format!("NominatedNodeName:\t{}\n", text(pod, "/status/nominatedNodeName"));
    }
    out += &containers("Init Containers", list(pod, "/spec/initContainers"), list(pod, "/status/initContainerStatuses"), Some(pod));
    out += &containers("Containers", list(pod, "/spec/containers"), list(pod, "/status/containerStatuses"), Some(pod));
    out += &containers("Ephemeral Containers", list(pod, "/spec/ephemeralContainers"), list(pod, "/status/ephemeralContainerStatuses"), Some(pod));
    let gates = list(pod, "/spec/readinessGates");
    if !gates.is_empty() {
        out += "Readiness Gates:\n  Type\tStatus\n";
    }
    for gate in gates {
        let wanted = text(gate, "/conditionType");
        let found = list(pod, "/status/conditions").iter().find(|one| text(one, "/type") == wanted);
        out += &format!("  {wanted} \t{} \n", found.map_or("<none>", |one| text(one, "/status")));
    }
    let conditions = list(pod, "/status/conditions");
    if !conditions.is_empty() {
        out += "Conditions:\n  Type\tStatus\n";
        for condition in conditions {
            out += &format!("  {} \t{} \n", text(condition, "/type"), text(condition, "/status"));
        }
    }
    out += &volumes(list(pod, "/spec/volumes"), "");
    if !text(pod, "/status/qosClass").is_empty() {
        out += &format!("QoS Class:\t{}\n", text(pod, "/status/qosClass"));
    }
    out += &pairs_block("Node-Selectors", pod, "/spec/nodeSelector", "=");
    out += &tolerations(list(pod, "/spec/tolerations"), "");
    out + &spread(list(pod, "/spec/topologySpreadConstraints"), "")
}

fn spread(constraints: &[Value], indent: &str) -> String {
    let mut sorted: Vec<&Value> = constraints.iter().collect();
    sorted.sort_by_key(|one| text(one, "/topologyKey"));
    let line = |one: &Value| {
        let selector = one.get("labelSelector").map(|selector| format!(" for selector {}", selector_text(selector))).unwrap_or_default();
        format!("{}:{} when max skew {} is exceeded{selector}", text(one, "/topologyKey"), text(one, "/whenUnsatisfiable"), int(one, "/maxSkew"))
    };
    let lines: Vec<String> = sorted.into_iter().map(line).collect();
    if lines.is_empty() { String::new() } else { format!("{indent}Topology Spread Constraints:\t{}\n", lines.join(&format!("\n{indent}\t"))) }
}

fn tolerations(found: &[Value], indent: &str) -> String {
    let mut shown: Vec<String> = found.iter().map(toleration).collect();
    shown.sort();
    let mut all = shown.into_iter();
    let mut out = format!("{indent}Tolerations:\t{}\n", all.next().unwrap_or_else(|| "<none>".to_owned()));
    for one in all {
        out += &format!("{indent}\t{one}\n");
    }
    out
}

fn toleration(toleration: &Value) -> String {
    let mut shown = text(toleration, "/key").to_owned();
    if !text(toleration, "/value").is_empty() {
        shown += &format!("={}", text(toleration, "/value"));
    }
    if !text(toleration, "/effect").is_empty() {
        shown += &format!(":{}", text(toleration, "/effect"));
    }
    if text(toleration, "/operator") == "Exists" && text(toleration, "/value").is_empty() {
        shown += if text(toleration, "/key").is_empty() && text(toleration, "/effect").is_empty() { "op=Exists" } else { " op=Exists" };
    }
    match toleration.get("tolerationSeconds") {
        Some(seconds) => format!("{shown} for {}s", plain(seconds)),
        None => shown,
    }
}

/// The containers of a pod, or of a template where there is none.
fn containers(title: &str, specs: &[Value], statuses: &[Value], pod: Option<&Value>) -> String {
    let indent = if pod.is_some() { "" } else { "  " };
    if specs.is_empty() {
        return String::new();
    }
    let mut out = format!("{indent}{title}:\n");
    for spec in specs {
        let status = statuses.iter().find(|status| name_of(status) == name_of(spec));
        // Within a template names stand one deeper, what belongs to them does not.
        out += &format!("  {}{}:\n", &indent[..indent.len().min(1)], name_of(spec));
        let indent = "";
        let mut line = |name: &str, value: String| out += &format!("{indent}    {name}:\t{value}\n");
        if let Some(status) = status {
            line("Container ID", text(status, "/containerID").to_owned());
        }
        line("Image", text(spec, "/image").to_owned());
        if let Some(status) = status {
            line("Image ID", text(status, "/imageID").to_owned());
        }
        let ports: Vec<String> = list(spec, "/ports").iter().map(|port| format!("{}/{}", int(port, "/containerPort"), protocol(port))).collect();
        let host_ports: Vec<String> = list(spec, "/ports").iter().map(|port| format!("{}/{}", int(port, "/hostPort"), protocol(port))).collect();
        let several = if ports.len() > 1 { "s" } else { "" };
        let or_none = |all: Vec<String>| if all.is_empty() { "<none>".to_owned() } else { all.join(", ") };
        line(&format!("Port{several}"), or_none(ports));
        line(&format!("Host Port{several}"), or_none(host_ports));
        if let Some(profile) = spec.pointer("/securityContext/seccompProfile") {
            line("SeccompProfile", text(profile, "/type").to_owned());
            if text(profile, "/type") == "Localhost" {
                line("  LocalhostProfile", text(profile, "/localhostProfile").to_owned());
            }
        }
        drop(line);
        for (title, field) in [("Command", "/command"), ("Args", "/args")] {
            if !list(spec, field).is_empty() {
                out += &format!("{indent}    {title}:\n");
                for word in list(spec, field) {
                    for part in plain(word).lines() {
                        out += &format!("{indent}      {part}\n");
                    }
                }
            }
        }
        if let Some(status) = status {
            out += &state("State", status.get("state").unwrap_or(&Value::Null), indent);
            if status.get("lastState").is_some_and(|last| last.as_object().is_some_and(|last| !last.is_empty())) {
                out += &state("Last State", &status["lastState"], indent);
            }
            out += &format!("{indent}    Ready:\t{}\n{indent}    Restart Count:\t{}\n", if flag(status, "/ready") { "True" } else { "False" }, int(status, "/restartCount"));
        }
        for (title, field) in [("Limits", "/resources/limits"), ("Requests", "/resources/requests")] {
            let mut any = false;
            for (name, quantity) in map(spec, field) {
                if !any {
                    out += &format!("{indent}    {title}:\n");
                    any = true;
                }
                out += &format!("{indent}      {name}:\t{}\n", plain(quantity));
            }
        }
        for (title, field) in [("Liveness", "/livenessProbe"), ("Readiness", "/readinessProbe"), ("Startup", "/startupProbe")] {
            if let Some(found) = spec.pointer(field) {
                out += &format!("{indent}    {title}:\t{}\n", probe(found));
            }
        }
        if !list(spec, "/envFrom").is_empty() {
            out += &format!("{indent}    Environment Variables from:\n");
        }
        for from in list(spec, "/envFrom") {
            let (kind, reference) = match from.get("configMapRef") {
                Some(reference) => ("ConfigMap", reference),
                None => ("Secret", from.get("secretRef").unwrap_or(&Value::Null)),
            };
            let prefix = text(from, "/prefix");
            let prefix = if prefix.is_empty() { String::new() } else { format!(" with prefix '{prefix}'") };
            out += &format!("{indent}      {}\t{kind}{prefix}\tOptional: {}\n", name_of(reference), flag(reference, "/optional"));
        }
        let environment = list(spec, "/env");
        out += &format!("{indent}    Environment:{}\n", if environment.is_empty() { "\t<none>" } else { "" });
        for variable in environment {
            out += &format!("{indent}      {}:\t{}\n", name_of(variable), variable_value(variable, spec, pod));
        }
        let mounts = list(spec, "/volumeMounts");
        out += &format!("{indent}    Mounts:{}\n", if mounts.is_empty() { "\t<none>" } else { "" });
        let mut sorted: Vec<&Value> = mounts.iter().collect();
        sorted.sort_by_key(|mount| text(mount, "/mountPath").to_owned());
        for mount in sorted {
            let mut how = if flag(mount, "/readOnly") { "ro".to_owned() } else { "rw".to_owned() };
            if !text(mount, "/subPath").is_empty() {
                how += &format!(",path={:?}", text(mount, "/subPath"));
            }
            out += &format!("{indent}      {} from {} ({how})\n", text(mount, "/mountPath"), name_of(mount));
        }
        let devices = list(spec, "/volumeDevices");
        if !devices.is_empty() {
            out += &format!("{indent}    Devices:{}\n", if mounts.is_empty() { "\t<none>" } else { "" });
        }
        for device in devices {
            out += &format!("{indent}      {} from {}\n", text(device, "/devicePath"), name_of(device));
        }
    }
    out
}

fn protocol(port: &Value) -> &str {
    match text(port, "/protocol") {
        "" => "TCP",
        protocol => protocol,
    }
}

fn variable_value(variable: &Value, container: &Value, pod: Option<&Value>) -> String {
    let Some(from) = variable.get("valueFrom") else { return text(variable, "/value").replace('\n', "\n      \t") };
    if let Some(field) = from.get("fieldRef") {
        let value = pod.map(|pod| field_value(pod, text(field, "/fieldPath"))).unwrap_or_default();
        return format!("{value} ({}:{})", if text(field, "/apiVersion").is_empty() { "v1" } else { text(field, "/apiVersion") }, text(field, "/fieldPath"));
    }
    if let Some(field) = from.get("resourceFieldRef") {
        let resource = text(field, "/resource");
        let value = resource_value(container, resource, text(field, "/divisor"));
        let value = if value == "0" && resource.starts_with("limits.") { "node allocatable".to_owned() } else { value };
        return format!("{value} ({resource})");
    }
    for (field, kind) in [("secretKeyRef", "in secret"), ("configMapKeyRef", "of config map")] {
        if let Some(reference) = from.get(field) {
            return format!("<set to the key '{}' {kind} '{}'>\tOptional: {}", text(reference, "/key"), name_of(reference), flag(reference, "/optional"));
        }
    }
    String::new()
}

/// What a downward field of the pod's metadata says.
fn field_value(pod: &Value, path: &str) -> String {
    match path {
        "metadata.name" | "metadata.namespace" | "metadata.uid" => text(pod, &format!("/{}", path.replace('.', "/"))).to_owned(),
        _ => String::new(),
    }
}

/// A limit or request of the container, in units of the divisor, rounded up.
fn resource_value(container: &Value, resource: &str, divisor: &str) -> String {
    let (kind, name) = resource.split_once('.').unwrap_or((resource, ""));
    let milli = |quantity: &str| api::quantity::Quantity::parse(quantity).map_or(0, |quantity| quantity.milli_value());
    let value = milli(text(container, &format!("/resources/{kind}/{name}")));
    let unit = match milli(divisor) {
        0 => 1000,
        unit => unit,
    };
    ((value + unit - 1) / unit).to_string()
}

fn state(title: &str, state: &Value, indent: &str) -> String {
    let mut out = String::new();
    let mut line = |level: &str, name: &str, value: &str| out += &format!("{indent}    {level}{name}:\t{value}\n");
    if let Some(running) = state.get("running") {
        line("", title, "Running");
        line("  ", "Started", &rfc1123(text(running, "/startedAt")));
    } else if let Some(waiting) = state.get("waiting") {
        line("", title, "Waiting");
        if !text(waiting, "/reason").is_empty() {
            line("  ", "Reason", text(waiting, "/reason"));
        }
    } else if let Some(terminated) = state.get("terminated") {
        line("", title, "Terminated");
        for (name, pointer) in [("Reason", "/reason"), ("Message", "/message")] {
            if !text(terminated, pointer).is_empty() {
                line("  ", name, text(terminated, pointer));
            }
        }
        line("  ", "Exit Code", &int(terminated, "/exitCode").to_string());
        if int(terminated, "/signal") > 0 {
            line("  ", "Signal", &int(terminated, "/signal").to_string());
        }
        line("  ", "Started", &rfc1123(text(terminated, "/startedAt")));
        line("  ", "Finished", &rfc1123(text(terminated, "/finishedAt")));
    } else {
        line("", title, "Waiting");
    }
    out
}

fn probe(probe: &Value) -> String {
    let action = if let Some(http) = probe.get("httpGet") {
        let scheme = text(http, "/scheme").to_lowercase();
        format!("http-get {}://{}:{}{}", if scheme.is_empty() { "http" } else { &scheme }, text(http, "/host"), plain(&http["port"]), text(http, "/path"))
    } else if let Some(exec) = probe.get("exec") {
        let words: Vec<String> = list(exec, "/command").iter().map(plain).collect();
        format!("exec [{}]", words.join(" "))
    } else if let Some(socket) = probe.get("tcpSocket") {
        format!("tcp-socket {}:{}", text(socket, "/host"), plain(&socket["port"]))
    } else if let Some(grpc) = probe.get("grpc") {
        format!("grpc <pod>:{} {}", int(grpc, "/port"), text(grpc, "/service"))
    } else {
        "unknown".to_owned()
    };
    let or = |pointer: &str, default: i64| probe.pointer(pointer).and_then(Value::as_i64).unwrap_or(default);
    format!(
        "{action} delay={}s timeout={}s period={}s #success={} #failure={}",
        or("/initialDelaySeconds", 0), or("/timeoutSeconds", 1), or("/periodSeconds", 10), or("/successThreshold", 1), or("/failureThreshold", 3)
    )
}

/// `Pod Template:` of workloads and of `rollout history`.
pub fn template(template: &Value, cause: &str) -> String {
    let mut out = "Pod Template:\n".to_owned();
    let labels = pairs_block("  Labels", template, "/metadata/labels", "=");
    out += &labels;
    if map(template, "/metadata/annotations").next().is_some() {
        out += &pairs_block("  Annotations", template, "/metadata/annotations", ": ");
    } else if !cause.is_empty() {
        out += &format!("  Annotations:\tkubernetes.io/change-cause: {cause}\n");
    }
    if !text(template, "/spec/serviceAccountName").is_empty() {
        out += &format!("  Service Account:\t{}\n", text(template, "/spec/serviceAccountName"));
    }
    out += &containers("Init Containers", list(template, "/spec/initContainers"), &[], None);
    out += &containers("Containers", list(template, "/spec/containers"), &[], None);
    out += &volumes(list(template, "/spec/volumes"), "  ");
    out += &spread(list(template, "/spec/topologySpreadConstraints"), "  ");
    if !text(template, "/spec/priorityClassName").is_empty() {
        out += &format!("  Priority Class Name:\t{}\n", text(template, "/spec/priorityClassName"));
    }
    let node_selector = pairs(template, "/spec/nodeSelector", "<none>");
    out += &format!("  Node-Selectors:\t{node_selector}\n");
    out + &tolerations(list(template, "/spec/tolerations"), "  ")
}
