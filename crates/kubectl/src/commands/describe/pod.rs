//! Pods and pod templates

use serde_json::Value;

use super::{head, labels_and_annotations, pairs_block, rfc1123};
use crate::value::{flag, int, list, map, name_of, pairs, plain, text};

pub fn pod(pod: &Value) -> String {
    let mut out = head(pod);
    let number = pod.pointer("/spec/priority").map(plain).unwrap_or_else(|| "0".to_owned());
    out += &format!("Priority:\t{number}\n");
    if !text(pod, "/spec/priorityClassName").is_empty() {
        out += &format!("Priority Class Name:\t{}\n", text(pod, "/spec/priorityClassName"));
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
    if text(pod, "/metadata/deletionTimestamp").is_empty() {
        out += &format!("Status:\t{phase}\n");
    } else {
        out += &format!("Status:\tTerminating (lasts <invalid>)\nTermination Grace Period:\t{}s\n", int(pod, "/metadata/deletionGracePeriodSeconds"));
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
    out += &containers("Init Containers", list(pod, "/spec/initContainers"), list(pod, "/status/initContainerStatuses"), "");
    out += &containers("Containers", list(pod, "/spec/containers"), list(pod, "/status/containerStatuses"), "");
    out += &containers("Ephemeral Containers", list(pod, "/spec/ephemeralContainers"), list(pod, "/status/ephemeralContainerStatuses"), "");
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
    out + &tolerations(list(pod, "/spec/tolerations"), "")
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

fn containers(title: &str, specs: &[Value], statuses: &[Value], indent: &str) -> String {
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
        for from in list(spec, "/envFrom") {
            let (kind, reference) = match from.get("configMapRef") {
                Some(reference) => ("ConfigMap", reference),
                None => ("Secret", from.get("secretRef").unwrap_or(&Value::Null)),
            };
            out += &format!("{indent}    Environment Variables from:\n{indent}      {}\t{kind}\tOptional: {}\n", name_of(reference), flag(reference, "/optional"));
        }
        let environment = list(spec, "/env");
        out += &format!("{indent}    Environment:{}\n", if environment.is_empty() { "\t<none>" } else { "" });
        for variable in environment {
            out += &format!("{indent}      {}:\t{}\n", name_of(variable), variable_value(variable));
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
    }
    out
}

fn protocol(port: &Value) -> &str {
    match text(port, "/protocol") {
        "" => "TCP",
        protocol => protocol,
    }
}

fn variable_value(variable: &Value) -> String {
    let Some(from) = variable.get("valueFrom") else { return text(variable, "/value").replace('\n', "\n\t") };
    if let Some(field) = from.get("fieldRef") {
        return format!(" ({}:{})", if text(field, "/apiVersion").is_empty() { "v1" } else { text(field, "/apiVersion") }, text(field, "/fieldPath"));
    }
    if let Some(field) = from.get("resourceFieldRef") {
        return format!(" ({})", text(field, "/resource"));
    }
    for (field, kind) in [("secretKeyRef", "secret"), ("configMapKeyRef", "config map")] {
        if let Some(reference) = from.get(field) {
            return format!("<set to the key '{}' in {kind} '{}'>\tOptional: {}", text(reference, "/key"), name_of(reference), flag(reference, "/optional"));
        }
    }
    String::new()
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

fn volumes(volumes: &[Value], indent: &str) -> String {
    if volumes.is_empty() {
        return format!("{indent}Volumes:\t<none>\n");
    }
    let mut out = format!("{indent}Volumes:\n");
    for volume in volumes {
        out += &format!("  {}{}:\n", &indent[..indent.len().min(1)], name_of(volume));
        let indent = "";
        let mut line = |name: &str, value: String| out += &format!("{indent}    {name}:\t{value}\n");
        if let Some(found) = volume.get("emptyDir") {
            line("Type", "EmptyDir (a temporary directory that shares a pod's lifetime)".to_owned());
            line("Medium", text(found, "/medium").to_owned());
            line("SizeLimit", if text(found, "/sizeLimit").is_empty() { "<unset>".to_owned() } else { text(found, "/sizeLimit").to_owned() });
        } else if let Some(found) = volume.get("hostPath") {
            line("Type", "HostPath (bare host directory volume)".to_owned());
            line("Path", text(found, "/path").to_owned());
            line("HostPathType", text(found, "/type").to_owned());
        } else if let Some(found) = volume.get("configMap") {
            line("Type", "ConfigMap (a volume populated by a ConfigMap)".to_owned());
            line("Name", name_of(found).to_owned());
            line("Optional", flag(found, "/optional").to_string());
        } else if let Some(found) = volume.get("secret") {
            line("Type", "Secret (a volume populated by a Secret)".to_owned());
            line("SecretName", text(found, "/secretName").to_owned());
            line("Optional", flag(found, "/optional").to_string());
        } else if let Some(found) = volume.get("persistentVolumeClaim") {
            line("Type", "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)".to_owned());
            line("ClaimName", text(found, "/claimName").to_owned());
            line("ReadOnly", flag(found, "/readOnly").to_string());
        } else if let Some(found) = volume.get("projected") {
            line("Type", "Projected (a volume that contains injected data from multiple sources)".to_owned());
            for source in list(found, "/sources") {
                if let Some(token) = source.get("serviceAccountToken") {
                    line("TokenExpirationSeconds", int(token, "/expirationSeconds").to_string());
                } else if let Some(map) = source.get("configMap") {
                    line("ConfigMapName", name_of(map).to_owned());
                    line("Optional", flag(map, "/optional").to_string());
                } else if let Some(secret) = source.get("secret") {
                    line("SecretName", name_of(secret).to_owned());
                    line("Optional", flag(secret, "/optional").to_string());
                } else if source.get("downwardAPI").is_some() {
                    line("DownwardAPI", "true".to_owned());
                }
            }
        } else {
            let kind = volume.as_object().and_then(|fields| fields.keys().find(|key| *key != "name")).cloned().unwrap_or_default();
            line("Type", kind);
        }
    }
    out
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
    out += &containers("Init Containers", list(template, "/spec/initContainers"), &[], "  ");
    out += &containers("Containers", list(template, "/spec/containers"), &[], "  ");
    out += &volumes(list(template, "/spec/volumes"), "  ");
    if !text(template, "/spec/priorityClassName").is_empty() {
        out += &format!("  Priority Class Name:\t{}\n", text(template, "/spec/priorityClassName"));
    }
    let node_selector = pairs(template, "/spec/nodeSelector", "<none>");
    out += &format!("  Node-Selectors:\t{node_selector}\n");
    out + &tolerations(list(template, "/spec/tolerations"), "  ")
}
