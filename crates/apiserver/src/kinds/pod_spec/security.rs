//! Security contexts of pods and containers.

use super::volumes::relative_path;
use super::windows;
use crate::kinds::{Cursor, Problems, checks};

const ID: &str = "must be between 0 and 2147483647, inclusive";
const APP_ARMOR_PATH_MAX: usize = 4095;

pub fn validate_pod(spec: &Cursor, problems: &mut Problems) {
    let context = spec.at("securityContext");
    if !context.exists() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        validate_id(&context.at(field), problems);
    }
    for group in context.at("supplementalGroups").items() {
        validate_id(&group, problems);
    }
    if spec.at("shareProcessNamespace").bool() && spec.at("hostPID").bool() {
        problems.invalid_plain(
            &context.at("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    validate_sysctls(spec, &context.at("sysctls"), problems);
    checks::optional_one_of(&context.at("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], problems);
    validate_seccomp(&context.at("seccompProfile"), problems);
    windows::validate_options(&context.at("windowsOptions"), problems);
    validate_app_armor(&context.at("appArmorProfile"), problems);
    checks::optional_one_of(&context.at("supplementalGroupsPolicy"), &["Merge", "Strict"], problems);
    checks::optional_one_of(&context.at("seLinuxChangePolicy"), &["MountOption", "Recursive"], problems);
}

fn validate_id(id: &Cursor, problems: &mut Problems) {
    if id.exists() && !(0..=i64::from(i32::MAX)).contains(&id.int()) {
        problems.invalid(id, ID);
    }
}

fn validate_sysctls(spec: &Cursor, sysctls: &Cursor, problems: &mut Problems) {
    let mut seen: Vec<&str> = Vec::new();
    for sysctl in sysctls.items() {
        let name = sysctl.at("name");
        if name.is_empty() {
            problems.required(&name, "");
        } else if !is_sysctl(name.str()) {
            problems.invalid(&name, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if seen.contains(&name.str()) {
            problems.duplicate(&name);
        }
        let dotted = name.str().replace('/', ".");
        if spec.at("hostNetwork").bool() && dotted.starts_with("net.") {
            problems.invalid(&name, "may not be specified when 'hostNetwork' is true");
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix))
            || dotted == "kernel.sem";
        if spec.at("hostIPC").bool() && ipc {
            problems.invalid(&name, "may not be specified when 'hostIPC' is true");
        }
        seen.push(name.str());
    }
}

fn is_sysctl(name: &str) -> bool {
    let segment = |text: &str| {
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        edge(text.bytes().next())
            && edge(text.bytes().last())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

pub fn validate_seccomp(profile: &Cursor, problems: &mut Problems) {
    if !profile.exists() {
        return;
    }
    let (kind, local) = (profile.at("type"), profile.at("localhostProfile"));
    match kind.str() {
        "" => problems.required(&kind, "type is required when seccompProfile is set"),
        _ => checks::one_of(&kind, &["Localhost", "RuntimeDefault", "Unconfined"], problems),
    }
    if kind.str() == "Localhost" {
        if local.exists() {
            relative_path(&local, problems);
        } else {
            problems.required(&local, "must be set when seccomp type is Localhost");
        }
    } else if local.exists() {
        problems.invalid(&local.with(profile.value), "can only be set when seccomp type is Localhost");
    }
}

pub fn validate_app_armor(profile: &Cursor, problems: &mut Problems) {
    if !profile.exists() {
        return;
    }
    let (kind, local) = (profile.at("type"), profile.at("localhostProfile"));
    match kind.str() {
        "" => problems.required(&kind, "type is required when appArmorProfile is set"),
        "Localhost" => {
            if local.str().trim() != local.str() {
                problems.invalid(&local, "must not be padded with whitespace");
            } else if local.is_empty() {
                problems.required(&local, "must be set when AppArmor type is Localhost");
            }
            if local.len() > APP_ARMOR_PATH_MAX {
                problems.too_long(&local, APP_ARMOR_PATH_MAX);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if local.exists() {
                problems.invalid(&local, "can only be set when AppArmor type is Localhost");
            }
        }
        _ => checks::one_of(&kind, &["Localhost", "RuntimeDefault", "Unconfined"], problems),
    }
}

pub fn validate_container(context: &Cursor, host_users: bool, problems: &mut Problems) {
    if !context.exists() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        validate_id(&context.at(field), problems);
    }
    let proc_mount = context.at("procMount");
    if proc_mount.exists() {
        checks::one_of(&proc_mount, &["Default", "Unmasked"], problems);
        if host_users && proc_mount.str() == "Unmasked" {
            problems.invalid(&proc_mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    validate_seccomp(&context.at("seccompProfile"), problems);
    if context.at("allowPrivilegeEscalation").value.as_bool() == Some(false) {
        if context.at("privileged").bool() {
            problems.invalid(context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if context.at("capabilities.add").array().iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            problems.invalid(
                context,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    windows::validate_options(&context.at("windowsOptions"), problems);
    validate_app_armor(&context.at("appArmorProfile"), problems);
}

/// A user namespace of its own and the host's other namespaces do not go together.
pub fn validate_host_users(spec: &Cursor, problems: &mut Problems) {
    if spec.at("hostUsers").value.as_bool() != Some(false) {
        return;
    }
    for (field, named) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.at(field).bool() {
            problems.forbidden(&spec.at(named), "when `pod.Spec.HostUsers` is false");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::{Value, json};

    #[test]
    fn contexts() {
        let container =
            |context: Value| json!({"containers": [{"name": "c", "image": "nginx", "securityContext": context}]});
        check(container(json!({"runAsUser": 1000, "capabilities": {"add": ["NET_ADMIN"]}})), "");
        check(
            container(json!({"runAsUser": -1})),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        );
        check(
            container(json!({"seccompProfile": {"type": "Localhost"}})),
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        );
        let pod = |context: Value| json!({"containers": [{"name": "c", "image": "nginx"}], "securityContext": context});
        check(pod(json!({"sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}]})), "");
        check(
            pod(json!({"fsGroupChangePolicy": "Never"})),
            "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \"OnRootMismatch\"",
        );
    }
}
