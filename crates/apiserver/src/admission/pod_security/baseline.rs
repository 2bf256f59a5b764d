//! The baseline level: no known way out of the container.

use serde_json::Value;

use super::{Violation, restricted};
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

/// With the minor version that first allows each.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.tcp_wmem", 32),
];

/// The same.
const SELINUX_TYPES: &[(&str, u32)] =
    &[("", 0), ("container_t", 0), ("container_init_t", 0), ("container_kvm_t", 0), ("container_engine_t", 31)];
/// The versions from which on a check is made.
const PROBE_HOSTS_FROM: u32 = 34;
const SECCOMP_FROM: u32 = 19;

/// In the order of the original's check names. Some checks have a stricter form in the restricted level.
pub fn check(pod: &PodView<'_>, restricted_follows: bool, out: &mut Vec<Violation>) {
    app_armor(pod, out);
    if !restricted_follows || pod.minor < restricted::CAPABILITIES_FROM {
        capabilities(pod, out);
    }
    host_namespaces(pod, out);
    if !restricted_follows {
        host_paths(pod, out);
    }
    host_ports(pod, out);
    if pod.minor >= PROBE_HOSTS_FROM {
        probe_hosts(pod, out);
    }
    privileged(pod, out);
    proc_mount(pod, out);
    se_linux(pod, out);
    if !restricted_follows && pod.minor >= SECCOMP_FROM {
        seccomp(pod, out);
    }
    sysctls(pod, out);
    windows_host_process(pod, out);
}

fn allows(list: &[(&str, u32)], wanted: &str, minor: u32) -> bool {
    list.iter().any(|(own, from)| *own == wanted && minor >= *from)
}

fn app_armor(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let (mut who, mut values) = (Vec::new(), Vec::new());
    let mut bad = |context: &Value| match context["appArmorProfile"]["type"].as_str() {
        None | Some("RuntimeDefault" | "Localhost") => false,
        Some(other) => {
            values.push(other.to_owned());
            true
        }
    };
    if bad(&pod.spec["securityContext"]) {
        who.push("pod".to_owned());
    }
    let names = pod.names_where(|container| bad(&container["securityContext"]));
    if !names.is_empty() {
        who.push(containers(&names));
    }
    values.sort_unstable();
    values.dedup();
    let annotations = pod.annotations.as_object().into_iter().flatten().filter_map(|(key, value)| {
        let profile = value.as_str().unwrap_or("");
        let allowed = matches!(profile, "" | "runtime/default") || profile.starts_with("localhost/");
        let own = key.starts_with("container.apparmor.security.beta.kubernetes.io/");
        (own && !allowed).then(|| format!("{key}={profile:?}"))
    });
    let before = values.len();
    values.extend(annotations);
    match values.len() - before {
        0 => {}
        1 => who.push("annotation".to_owned()),
        _ => who.push("annotations".to_owned()),
    }
    if !who.is_empty() {
        let reason = if values.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
        // Quotes within are not escaped, as in the original.
        let values: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
        let detail = format!("{} must not set AppArmor profile type to {}", who.join(" and "), values.join(", "));
        out.push(Violation { reason, detail });
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
        if !allows(SELINUX_TYPES, kind, pod.minor) {
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
        set.filter_map(|sysctl| sysctl["name"].as_str()).filter(|name| !allows(SYSCTLS, name, pod.minor)).collect();
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
