//! What `spec.os` allows, and the options of containers on Windows.

use serde_json::Value;

use crate::kinds::{Cursor, Problems, checks};

const CREDENTIAL_SPEC_MAX_KIB: usize = 64;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;
/// Of a NetBIOS name.
const NETBIOS_MAX: usize = 15;

const CONTAINERS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

pub fn validate_options(options: &Cursor, problems: &mut Problems) {
    let (name, spec) = (options.at("gmsaCredentialSpecName"), options.at("gmsaCredentialSpec"));
    if name.exists() {
        checks::subdomain(&name, problems);
    }
    if spec.exists() {
        if spec.is_empty() {
            problems.invalid(&spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > CREDENTIAL_SPEC_MAX_KIB * 1024 {
            problems.invalid(&spec, &format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_MAX_KIB} KiB"));
        }
    }
    let user = options.at("runAsUserName");
    if user.exists() {
        validate_user(&user, problems);
    }
}

/// `DOMAIN\user`
fn validate_user(at: &Cursor, problems: &mut Problems) {
    let name = at.str();
    if name.is_empty() {
        return problems.invalid(at, "runAsUserName cannot be an empty string");
    }
    if name.bytes().any(|byte| byte.is_ascii_control()) {
        return problems.invalid(at, "runAsUserName cannot contain control characters");
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, user)) if user.contains('\\') => {
            return problems.invalid(at, "runAsUserName cannot contain more than one backslash");
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_MAX {
            let sentence = format!("runAsUserName's Domain length must be under {DOMAIN_MAX} characters");
            problems.invalid(at, &sentence);
        }
        if !is_netbios(domain) && !domain.split('.').all(is_dns_label) {
            problems.invalid(at, "runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        problems.invalid(at, "runAsUserName's User cannot be empty");
    } else if user.len() > USER_MAX {
        problems.invalid(at, &format!("runAsUserName's User length must not be longer than {USER_MAX} characters"));
    }
    if !user.is_empty() && user.bytes().all(|byte| matches!(byte, b'.' | b' ')) {
        problems.invalid(at, "runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        problems.invalid(
            at,
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
        );
    }
}

fn is_netbios(name: &str) -> bool {
    let count = name.chars().count();
    (1..=NETBIOS_MAX).contains(&count)
        && !name.starts_with('.')
        && !name.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns_label(label: &str) -> bool {
    let plain = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    label.len() <= 63
        && plain(label.bytes().next())
        && plain(label.bytes().last())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Containers that are processes of the host: all of them or none, with the host's network.
pub fn validate_host_process(spec: &Cursor, problems: &mut Problems) {
    let of_pod = spec.at("securityContext.windowsOptions.hostProcess");
    let (mut all, mut of_host) = (0, 0);
    for list in CONTAINERS {
        for container in spec.at(list).items() {
            let own = container.at("securityContext.windowsOptions.hostProcess");
            all += 1;
            of_host += usize::from(if own.exists() { own.bool() } else { of_pod.bool() });
            if own.exists() && of_pod.exists() && own.bool() != of_pod.bool() {
                let sentence =
                    format!("pod hostProcess value must be identical if both are specified, was {}", of_pod.bool());
                problems.invalid(&own, &sentence);
            }
        }
    }
    if of_host == 0 {
        return;
    }
    if of_host != all {
        problems.invalid_str(
            spec,
            "",
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        );
    }
    if !spec.at("hostNetwork").bool() {
        problems.invalid_plain(
            &spec.at("hostNetwork"),
            false,
            "hostNetwork must be true if pod contains any hostProcess containers",
        );
    }
}

/// What makes no sense on Windows, in the original's order.
const LINUX_POD_FIELDS: &[&str] = &[
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "hostUsers",
    "hostPID",
    "hostIPC",
    "securityContext.seccompProfile",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.sysctls",
    "shareProcessNamespace",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
    "securityContext.seLinuxChangePolicy",
];

const LINUX_CONTAINER_FIELDS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `spec.os` says which fields make sense.
pub fn validate_os(spec: &Cursor, problems: &mut Problems) {
    let os = spec.at("os");
    if !os.exists() {
        return;
    }
    let name = os.at("name");
    if name.is_empty() {
        return problems.required(&name, "cannot be empty");
    }
    let (pod_fields, container_fields, sentence): (&[&str], &[&str], &str) = match name.str() {
        "linux" => {
            (&["securityContext.windowsOptions"], &["windowsOptions"], "windows options cannot be set for a linux pod")
        }
        "windows" => (LINUX_POD_FIELDS, LINUX_CONTAINER_FIELDS, "cannot be set for a windows pod"),
        other => return problems.not_supported_str(&os, other, &["linux", "windows"]),
    };
    for field in pod_fields {
        let at = spec.at(field);
        // The host's namespaces are not asked for by saying no; the others count as soon as they are said.
        let set = match *field {
            "hostPID" | "hostIPC" => at.bool(),
            "securityContext.sysctls" => !at.is_empty(),
            _ => at.exists(),
        };
        if set {
            problems.forbidden(&at, sentence);
        }
    }
    for list in CONTAINERS {
        for container in spec.at(list).items() {
            let context = container.at("securityContext");
            for field in container_fields {
                let at = context.at(field);
                if *at.value != Value::Null {
                    problems.forbidden(&at, sentence);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::{Value, json};

    fn pod(fields: Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "nginx"}]});
        for (field, value) in fields.as_object().expect("an object") {
            spec[field] = value.clone();
        }
        spec
    }

    #[test]
    fn each_system_has_its_fields() {
        check(pod(json!({"os": {"name": "linux"}, "securityContext": {"runAsUser": 5}})), "");
        check(
            pod(json!({"os": {"name": "plan9"}})),
            "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        );
        check(pod(json!({"os": {"name": ""}})), "spec.os.name: Required value: cannot be empty");
        check(
            pod(json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}})),
            "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
        );
        check(
            pod(json!({"os": {"name": "windows"}, "hostUsers": true, "hostPID": false, "shareProcessNamespace": false,
                "securityContext": {"fsGroup": 1, "sysctls": []}})),
            "spec.hostUsers: Forbidden: cannot be set for a windows pod\n\
             spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod\n\
             spec.shareProcessNamespace: Forbidden: cannot be set for a windows pod",
        );
        check(
            json!({"os": {"name": "windows"}, "containers": [
                {"name": "c", "image": "x", "securityContext": {"privileged": false, "capabilities": {}}}]}),
            "spec.containers[0].securityContext.capabilities: Forbidden: cannot be set for a windows pod\n\
             spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
        );
    }

    #[test]
    fn users_of_windows() {
        #[track_caller]
        fn user(name: &str, expected: &str) {
            let expected = match expected {
                "" => String::new(),
                expected => {
                    let shown = name.escape_debug();
                    format!("spec.securityContext.windowsOptions.runAsUserName: Invalid value: \"{shown}\": {expected}")
                }
            };
            check(pod(json!({"securityContext": {"windowsOptions": {"runAsUserName": name}}})), &expected);
        }
        user("NT AUTHORITY\\NETWORK SERVICE", "");
        user("example.org\\me", "");
        user("", "runAsUserName cannot be an empty string");
        user("a\\b\\c", "runAsUserName cannot contain more than one backslash");
        user("a:b", "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
        user("...", "runAsUserName's User cannot contain only periods or spaces");
        user(".bad\\me", "runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        user(&"u".repeat(105), "runAsUserName's User length must not be longer than 104 characters");
    }

    #[test]
    fn processes_of_the_host() {
        let with = |own: Value, of_pod: Value, network: bool| {
            json!({"hostNetwork": network, "securityContext": {"windowsOptions": {"hostProcess": of_pod}},
                "containers": [{"name": "a", "image": "x", "securityContext": {"windowsOptions": {"hostProcess": own}}},
                    {"name": "b", "image": "x"}]})
        };
        check(with(json!(true), json!(true), true), "");
        check(
            with(json!(false), json!(true), false),
            "spec.containers[0].securityContext.windowsOptions.hostProcess: Invalid value: false: pod hostProcess value must be identical if both are specified, was true\n\
             spec: Invalid value: \"\": If pod contains any hostProcess containers then all containers must be HostProcess containers\n\
             spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
        );
    }
}
