//! The runtime's configuration of one container, from all the parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::hash::fnv32a;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use runtime::cri::{ContainerConfig, ContainerMetadata, Image, Mount, MountPropagation};

use super::expand::{expand, expand_strictly};
use super::{resources, security};
use crate::pod::spec;
use crate::volume::{Mounted, sub_path};

pub const NAME_LABEL: &str = "io.kubernetes.container.name";
pub const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";
pub const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
pub const TERMINATION_PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";

/// Directories and facts of the node and pod that the configuration is made from.
pub struct Places<'a> {
    pub pod_directory: &'a Path,
    pub seccomp_root: &'a Path,
    pub mounted: &'a BTreeMap<String, Mounted>,
    pub memory_capacity_bytes: i64,
}

pub fn container_config(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: &Image,
    variables: Vec<(String, String)>,
    places: &Places,
) -> Result<ContainerConfig, String> {
    security::verify_run_as_non_root(pod, container, image)?;
    let known: BTreeMap<String, String> = variables.iter().cloned().collect();
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|word| expand(word, &known)).collect();
    let mut security_context = security::security_context(pod, container, places.seccomp_root);
    if security_context.run_as_user.is_none() {
        security_context.run_as_user = image.uid;
        security_context.run_as_username = image.username.clone();
    }
    Ok(ContainerConfig {
        metadata: ContainerMetadata { name: container.name.clone(), attempt },
        image: image.id.clone(),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: mounts(pod, container, attempt, &known, places)?,
        envs: variables,
        devices: Vec::new(),
        labels: labels(pod, container),
        annotations: annotations(pod, container, attempt),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        resources: resources::container_resources(pod, container, places.memory_capacity_bytes),
        security_context,
        stop_signal: container.lifecycle.as_ref().and_then(|hooks| hooks.stop_signal.clone()).unwrap_or_default(),
    })
}

fn labels(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAME_LABEL.to_owned(), container.name.clone()),
        (POD_NAME_LABEL.to_owned(), spec::name(pod).to_owned()),
        (POD_NAMESPACE_LABEL.to_owned(), spec::namespace(pod).to_owned()),
        (POD_UID_LABEL.to_owned(), spec::uid(pod).to_owned()),
    ])
}

fn annotations(pod: &Pod, container: &Container, attempt: u32) -> BTreeMap<String, String> {
    let identity = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default());
    let grace = spec::spec(pod).termination_grace_period_seconds.unwrap_or(spec::DEFAULT_GRACE_PERIOD_SECONDS);
    BTreeMap::from([
        ("io.kubernetes.container.hash".to_owned(), format!("{:x}", fnv32a(identity.as_bytes()))),
        ("io.kubernetes.container.restartCount".to_owned(), attempt.to_string()),
        (TERMINATION_PATH_ANNOTATION.to_owned(), termination_path(container).to_owned()),
        (
            "io.kubernetes.container.terminationMessagePolicy".to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
        ),
        ("io.kubernetes.pod.terminationGracePeriod".to_owned(), grace.to_string()),
    ])
}

fn termination_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(DEFAULT_TERMINATION_PATH)
}

/// Where the container's last words are on the node.
pub fn termination_file(pod_directory: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_directory.join("containers").join(container).join(attempt.to_string())
}

fn mounts(pod: &Pod, container: &Container, attempt: u32, known: &BTreeMap<String, String>, places: &Places) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        mounts.push(volume_mount(container, index, wanted, known, places)?);
    }
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let taken = |path: &str, mounts: &[Mount]| mounts.iter().any(|mount| mount.container_path.trim_end_matches('/') == path);

    let read_only = container.security_context.as_ref().and_then(|context| context.read_only_root_filesystem).unwrap_or(false);
    for (inside, file) in [("/etc/hosts", "etc-hosts"), ("/etc/resolv.conf", "resolv.conf")] {
        let path = places.pod_directory.join(file);
        if !taken(inside, &mounts) && path.exists() {
            mounts.push(Mount { container_path: inside.to_owned(), host_path: text(path), readonly: read_only, ..Mount::default() });
        }
    }
    let last_words = termination_file(places.pod_directory, &container.name, attempt);
    if let Some(parent) = last_words.parent() {
        std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    std::fs::File::create(&last_words).map_err(|error| error.to_string())?;
    // Whoever the container runs as may write them.
    let anyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&last_words, anyone).map_err(|error| error.to_string())?;
    mounts.push(Mount { container_path: termination_path(container).to_owned(), host_path: text(last_words), ..Mount::default() });

    let host_ipc = spec::spec(pod).host_ipc.unwrap_or(false);
    if host_ipc && !taken("/dev/shm", &mounts) {
        mounts.push(Mount { container_path: "/dev/shm".to_owned(), host_path: "/dev/shm".to_owned(), ..Mount::default() });
    }
    Ok(mounts)
}

fn volume_mount(
    container: &Container,
    index: usize,
    wanted: &VolumeMount,
    known: &BTreeMap<String, String>,
    places: &Places,
) -> Result<Mount, String> {
    let Some(volume) = places.mounted.get(&wanted.name) else {
        return Err(format!("cannot find volume {:?} to mount into container {:?}", wanted.name, container.name));
    };
    let sub = match (wanted.sub_path_expr.as_deref().filter(|text| !text.is_empty()), wanted.sub_path.as_deref()) {
        (Some(expression), _) => expand_strictly(expression, known)?,
        (None, plain) => plain.unwrap_or_default().to_owned(),
    };
    let host_path = if sub.is_empty() {
        volume.path.clone()
    } else {
        let target = places.pod_directory.join("volume-subpaths").join(&wanted.name).join(&container.name).join(index.to_string());
        sub_path::bind(&volume.path, &sub, &target).map_err(|error| {
            tracing::warn!(%error, volume = wanted.name, "sub-path");
            format!("failed to prepare subPath for volumeMount {:?} of container {:?}", wanted.name, container.name)
        })?
    };
    let readonly = volume.read_only || wanted.read_only.unwrap_or(false);
    let inside = if wanted.mount_path.starts_with('/') { wanted.mount_path.clone() } else { format!("/{}", wanted.mount_path) };
    Ok(Mount {
        container_path: inside,
        host_path: host_path.to_string_lossy().into_owned(),
        readonly,
        recursive_readonly: readonly && matches!(wanted.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        },
    })
}

