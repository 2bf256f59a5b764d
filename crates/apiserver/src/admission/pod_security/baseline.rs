//! The baseline level: no known way out of the container.

use serde_json::Value;

use super::Violation;
use super::view::{PodView, containers, name, plural, quoted};

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

const SELINUX_TYPES: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

/// In the order of the original's check names. Some checks have a stricter form in the restricted level.
pub fn check(pod: &PodView<'_>, restricted_follows: bool, out: &mut Vec<Violation>) {
    app_armor(pod, out);
    if !restricted_follows {
        capabilities(pod, out);
    }
    host_namespaces(pod, out);
    if !restricted_follows {
        host_paths(pod, out);
    }
    host_ports(pod, out);
    probe_hosts(pod, out);
    privileged(pod, out);
    proc_mount(pod, out);
    se_linux(pod, out);
    if !restricted_follows {
        seccomp(pod, out);
    }
    sysctls(pod, out);
    windows_host_process(pod, out);
}

fn app_armor(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let mut details = Vec::new();
    let unconfined = |context: &Value| context["appArmorProfile"]["type"] == "Unconfined";
    if unconfined(&pod.spec["securityContext"]) {
        details.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    let names = pod.names_where(|container| unconfined(&container["securityContext"]));
    if !names.is_empty() {
        details.push(format!("{} must not set AppArmor profile type to \"Unconfined\"", containers(&names)));
    }
    for (key, value) in pod.annotations.as_object().into_iter().flatten() {
        let profile = value.as_str().unwrap_or("");
        let allowed = matches!(profile, "" | "runtime/default") || profile.starts_with("localhost/");
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed {
            details.push(format!("annotation {key}={profile:?}"));
        }
    }
    if !details.is_empty() {
        let reason = if details.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
        out.push(Violation { reason, detail: details.join(", ") });
    }
}

fn capabilities(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let mut forbidden: Vec<String> = Vec::new();
    let names = pod.names_where(|container| {
        let added = container["securityContext"]["capabilities"]["add"].as_array().into_iter().flatten();
        let bad: Vec<String> =
            added.filter_map(Value::as_str).filter(|own| !CAPABILITIES.contains(own)).map(str::to_owned).collect();
        let any = !bad.is_empty();
        forbidden.extend(bad);
        any
    });
    if !names.is_empty() {
        forbidden.sort_unstable();
        forbidden.dedup();
        let detail = format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(&forbidden)
        );
        out.push(Violation { reason: "non-default capabilities", detail });
    }
}

fn host_namespaces(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod.spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if !set.is_empty() {
        out.push(Violation { reason: "host namespaces", detail: set.join(", ") });
    }
}

fn host_paths(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten();
    let names: Vec<String> = volumes.filter(|volume| !volume["hostPath"].is_null()).map(name).collect();
    if !names.is_empty() {
        out.push(Violation { reason: "hostPath volumes", detail: plural("volume", "volumes", &names) });
    }
}

fn host_ports(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let mut ports: Vec<i64> = Vec::new();
    let names = pod.names_where(|container| {
        let own = container["ports"].as_array().into_iter().flatten();
        let own: Vec<i64> = own.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect();
        let any = !own.is_empty();
        ports.extend(own);
        any
    });
    if !names.is_empty() {
        ports.sort_unstable();
        ports.dedup();
        let uses = if names.len() == 1 { "uses" } else { "use" };
        let list: Vec<String> = ports.iter().map(i64::to_string).collect();
        let detail = format!("{} {uses} {}", containers(&names), plural("hostPort", "hostPorts", &list));
        out.push(Violation { reason: "hostPort", detail });
    }
}

fn probe_hosts(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let mut hosts: Vec<String> = Vec::new();
    let names = pod.names_where(|container| {
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &container["lifecycle"]["postStart"],
            &container["lifecycle"]["preStop"],
        ];
        let own: Vec<String> = handlers
            .into_iter()
            .flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]])
            .filter_map(Value::as_str)
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect();
        let any = !own.is_empty();
        hosts.extend(own);
        any
    });
    if !names.is_empty() {
        hosts.sort_unstable();
        hosts.dedup();
        let uses = if names.len() == 1 { "uses" } else { "use" };
        let hosts: Vec<String> = hosts.iter().map(|host| format!("{host:?}")).collect();
        let detail = format!("{} {uses} probe or lifecycle {}", containers(&names), plural("host", "hosts", &hosts));
        out.push(Violation { reason: "probe or lifecycle host", detail });
    }
}

fn privileged(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let names = pod.names_where(|container| container["securityContext"]["privileged"] == true);
    if !names.is_empty() {
        let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
        out.push(Violation { reason: "privileged", detail });
    }
}

fn proc_mount(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    // A user namespace makes an unmasked /proc harmless.
    if pod.spec["hostUsers"] == false {
        return;
    }
    let mut kinds: Vec<String> = Vec::new();
    let names = pod.names_where(|container| {
        let mount = container["securityContext"]["procMount"].as_str().unwrap_or("Default");
        if mount != "Default" {
            kinds.push(mount.to_owned());
        }
        mount != "Default"
    });
    if !names.is_empty() {
        kinds.sort_unstable();
        kinds.dedup();
        let detail = format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&kinds));
        out.push(Violation { reason: "procMount", detail });
    }
}

fn se_linux(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let (mut types, mut user, mut role) = (Vec::new(), false, false);
    let mut bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let kind = options["type"].as_str().unwrap_or("");
        let mut found = false;
        if !SELINUX_TYPES.contains(&kind) {
            types.push(kind.to_owned());
            found = true;
        }
        for (field, seen) in [("user", &mut user), ("role", &mut role)] {
            if options[field].as_str().is_some_and(|own| !own.is_empty()) {
                *seen = true;
                found = true;
            }
        }
        found
    };
    let mut who = Vec::new();
    if bad(&pod.spec["securityContext"]) {
        who.push("pod".to_owned());
    }
    let names = pod.names_where(|container| bad(&container["securityContext"]));
    if !names.is_empty() {
        who.push(containers(&names));
    }
    if who.is_empty() {
        return;
    }
    types.sort_unstable();
    types.dedup();
    let mut what = Vec::new();
    if !types.is_empty() {
        let quoted: Vec<String> = types.iter().map(|kind| format!("{kind:?}")).collect();
        what.push(plural("type", "types", &quoted));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    let detail = format!("{} set forbidden securityContext.seLinuxOptions: {}", who.join(" and "), what.join("; "));
    out.push(Violation { reason: "seLinuxOptions", detail });
}

fn seccomp(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let unconfined = |context: &Value| context["seccompProfile"]["type"] == "Unconfined";
    let mut who = Vec::new();
    if unconfined(&pod.spec["securityContext"]) {
        who.push("pod".to_owned());
    }
    let names = pod.names_where(|container| unconfined(&container["securityContext"]));
    if !names.is_empty() {
        who.push(containers(&names));
    }
    if !who.is_empty() {
        let detail =
            format!("{} must not set securityContext.seccompProfile.type to \"Unconfined\"", who.join(" and "));
        out.push(Violation { reason: "seccompProfile", detail });
    }
}

fn sysctls(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let set = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let forbidden: Vec<&str> =
        set.filter_map(|sysctl| sysctl["name"].as_str()).filter(|name| !SYSCTLS.contains(name)).collect();
    if !forbidden.is_empty() {
        out.push(Violation { reason: "forbidden sysctls", detail: forbidden.join(", ") });
    }
}

fn windows_host_process(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let is = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let mut who = Vec::new();
    if is(&pod.spec["securityContext"]) {
        who.push("pod".to_owned());
    }
    let names = pod.names_where(|container| is(&container["securityContext"]));
    if !names.is_empty() {
        who.push(containers(&names));
    }
    if !who.is_empty() {
        let detail = format!("{} must not set securityContext.windowsOptions.hostProcess=true", who.join(" and "));
        out.push(Violation { reason: "hostProcess", detail });
    }
}
