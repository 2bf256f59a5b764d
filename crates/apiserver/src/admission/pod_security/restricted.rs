//! The restricted level: hardened as is best practice.

use serde_json::Value;

use super::Violation;
use super::view::{PodView, containers, name, plural, quoted};

const VOLUMES: &[&str] =
    &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

/// The versions from which on a check is made.
const PRIVILEGE_ESCALATION_FROM: u32 = 8;
pub const CAPABILITIES_FROM: u32 = 22;
const RUN_AS_USER_FROM: u32 = 23;
const SECCOMP_FROM: u32 = 19;

/// In the order of the original's check names.
pub fn check(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    if pod.minor >= PRIVILEGE_ESCALATION_FROM {
        privilege_escalation(pod, out);
    }
    if pod.minor >= CAPABILITIES_FROM {
        capabilities(pod, out);
    }
    volumes(pod, out);
    run_as_non_root(pod, out);
    if pod.minor >= RUN_AS_USER_FROM {
        run_as_user(pod, out);
    }
    if pod.minor >= SECCOMP_FROM {
        seccomp(pod, out);
    }
}

fn privilege_escalation(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    if pod.is_windows() {
        return;
    }
    let names = pod.names_where(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if !names.is_empty() {
        let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
        out.push(Violation { reason: "allowPrivilegeEscalation != false", detail });
    }
}

fn capabilities(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    if pod.is_windows() {
        return;
    }
    let list = |container: &Value, field: &str| -> Vec<String> {
        let all = container["securityContext"]["capabilities"][field].as_array().into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let keeping = pod.names_where(|container| !list(container, "drop").iter().any(|dropped| dropped == "ALL"));
    let mut forbidden: Vec<String> = Vec::new();
    let adding = pod.names_where(|container| {
        let bad: Vec<String> = list(container, "add").into_iter().filter(|added| added != "NET_BIND_SERVICE").collect();
        let any = !bad.is_empty();
        forbidden.extend(bad);
        any
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        forbidden.sort_unstable();
        forbidden.dedup();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adding),
            quoted(&forbidden)
        ));
    }
    if !details.is_empty() {
        out.push(Violation { reason: "unrestricted capabilities", detail: details.join("; ") });
    }
}

fn volumes(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let (mut names, mut kinds) = (Vec::new(), Vec::new());
    for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
        let mut sources =
            volume.as_object().into_iter().flatten().map(|(field, _)| field.as_str()).filter(|field| *field != "name");
        let source = sources.next().unwrap_or("unknown");
        // Image volumes are as harmless as the image itself.
        if !VOLUMES.contains(&source) && source != "image" {
            names.push(name(volume));
            kinds.push(format!("{source:?}"));
        }
    }
    if names.is_empty() {
        return;
    }
    kinds.sort_unstable();
    kinds.dedup();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let detail =
        format!("{} {uses} restricted volume {}", plural("volume", "volumes", &names), plural("type", "types", &kinds));
    out.push(Violation { reason: "restricted volume types", detail });
}

fn run_as_non_root(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let own = &pod.spec["securityContext"]["runAsNonRoot"];
    let mut bad = Vec::new();
    if *own == false {
        bad.push("pod".to_owned());
    }
    let explicit = pod.names_where(|container| container["securityContext"]["runAsNonRoot"] == false);
    if !explicit.is_empty() {
        bad.push(containers(&explicit));
    }
    if !bad.is_empty() {
        let detail = format!("{} must not set securityContext.runAsNonRoot=false", bad.join(" and "));
        out.push(Violation { reason: "runAsNonRoot != true", detail });
        return;
    }
    if *own == true {
        return;
    }
    let implicit = pod.names_where(|container| container["securityContext"]["runAsNonRoot"].is_null());
    if !implicit.is_empty() {
        let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&implicit));
        out.push(Violation { reason: "runAsNonRoot != true", detail });
    }
}

fn run_as_user(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    let mut bad = Vec::new();
    if pod.spec["securityContext"]["runAsUser"] == 0 {
        bad.push("pod".to_owned());
    }
    let names = pod.names_where(|container| container["securityContext"]["runAsUser"] == 0);
    if !names.is_empty() {
        bad.push(containers(&names));
    }
    if !bad.is_empty() {
        out.push(Violation {
            reason: "runAsUser=0",
            detail: format!("{} must not set runAsUser=0", bad.join(" and ")),
        });
    }
}

fn seccomp(pod: &PodView<'_>, out: &mut Vec<Violation>) {
    if pod.is_windows() {
        return;
    }
    fn kind(context: &Value) -> Option<&str> {
        context["seccompProfile"]["type"].as_str()
    }
    let allowed = |kind: Option<&str>| matches!(kind, Some("RuntimeDefault" | "Localhost"));
    let own = kind(&pod.spec["securityContext"]);
    let mut bad = Vec::new();
    let mut kinds: Vec<String> = Vec::new();
    if own.is_some() && !allowed(own) {
        bad.push("pod".to_owned());
        kinds.extend(own.map(str::to_owned));
    }
    let explicit = pod.names_where(|container| {
        let own = kind(&container["securityContext"]);
        let wrong = own.is_some() && !allowed(own);
        if wrong {
            kinds.extend(own.map(str::to_owned));
        }
        wrong
    });
    if !explicit.is_empty() {
        bad.push(containers(&explicit));
    }
    if !bad.is_empty() {
        kinds.sort_unstable();
        kinds.dedup();
        let detail =
            format!("{} must not set securityContext.seccompProfile.type to {}", bad.join(" and "), quoted(&kinds));
        out.push(Violation { reason: "seccompProfile", detail });
        return;
    }
    if own.is_some() {
        return;
    }
    let implicit = pod.names_where(|container| kind(&container["securityContext"]).is_none());
    if !implicit.is_empty() {
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&implicit)
        );
        out.push(Violation { reason: "seccompProfile", detail });
    }
}
