//! Security contexts of pod and container, joined, as the runtime wants them.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile as WireProfile};
use runtime::cri::{Image, LinuxContainerSecurityContext, NamespaceMode, NamespaceOptions, SeccompProfile};

use crate::pod::spec;

pub fn namespaces(pod: &Pod) -> NamespaceOptions {
    let spec = spec::spec(pod);
    let host_or = |host: Option<bool>, otherwise| if host.unwrap_or(false) { NamespaceMode::Node } else { otherwise };
    let pid = if spec.share_process_namespace.unwrap_or(false) { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOptions {
        network: host_or(spec.host_network, NamespaceMode::Pod),
        pid: host_or(spec.host_pid, pid),
        ipc: host_or(spec.host_ipc, NamespaceMode::Pod),
    }
}

pub fn seccomp(profile: Option<&WireProfile>, profile_root: &Path) -> SeccompProfile {
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => SeccompProfile::RuntimeDefault,
        Some(("Localhost", Some(path))) => SeccompProfile::Localhost(profile_root.join(path).to_string_lossy().into_owned()),
        _ => SeccompProfile::Unconfined,
    }
}

pub fn security_context(pod: &Pod, container: &Container, profile_root: &Path) -> LinuxContainerSecurityContext {
    let of_pod = spec::spec(pod).security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let capabilities = own.capabilities.unwrap_or_default();
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let mut supplemental_groups = of_pod.supplemental_groups.unwrap_or_default();
    supplemental_groups.extend(of_pod.fs_group);
    LinuxContainerSecurityContext {
        privileged,
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        run_as_user: own.run_as_user.or(of_pod.run_as_user),
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        run_as_username: String::new(),
        supplemental_groups,
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), profile_root),
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
        namespaces: namespaces(pod),
        process_target: String::new(),
    }
}

/// `runAsNonRoot` can be kept only where the user is known by number.
pub fn verify_run_as_non_root(pod: &Pod, container: &Container, image: &Image) -> Result<(), String> {
    let of_pod = spec::spec(pod).security_context.as_ref();
    let own = container.security_context.as_ref();
    let wanted = own.and_then(|own| own.run_as_non_root).or(of_pod.and_then(|of_pod| of_pod.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let whom = format!("(pod: \"{}\", container: {})", spec::full_name(pod), container.name);
    match own.and_then(|own| own.run_as_user).or(of_pod.and_then(|of_pod| of_pod.run_as_user)) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {whom}")),
        Some(_) => return Ok(()),
        None => {}
    }
    match (image.uid, image.username.as_str()) {
        (Some(0), _) => Err(format!("container has runAsNonRoot and image will run as root {whom}")),
        (Some(_), _) => Ok(()),
        (None, "") => Err(format!("container has runAsNonRoot and image will run as root {whom}")),
        (None, user) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {whom}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(context: serde_json::Value, uid: Option<i64>, username: &str, expected: &str) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"containers": [{"name": "c", "securityContext": context}]},
        }))
        .expect("a pod");
        let image = Image { uid, username: username.to_owned(), ..Image::default() };
        let container = spec::spec(&pod).containers[0].clone();
        let answer = verify_run_as_non_root(&pod, &container, &image).err().unwrap_or_default();
        assert_eq!(answer.split(" (pod").next(), Some(expected));
    }

    #[test]
    fn non_root() {
        check(json!({}), Some(0), "", "");
        check(json!({"runAsNonRoot": true}), Some(0), "", "container has runAsNonRoot and image will run as root");
        check(json!({"runAsNonRoot": true}), None, "", "container has runAsNonRoot and image will run as root");
        check(json!({"runAsNonRoot": true}), Some(1000), "", "");
        check(json!({"runAsNonRoot": true, "runAsUser": 0}), Some(1000), "", "container's runAsUser breaks non-root policy");
        check(json!({"runAsNonRoot": true, "runAsUser": 7}), Some(0), "", "");
        check(
            json!({"runAsNonRoot": true}),
            None,
            "nginx",
            "container has runAsNonRoot and image has non-numeric user (nginx), cannot verify user is non-root",
        );
    }
}
