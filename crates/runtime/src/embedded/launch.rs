//! From CRI's container configuration to the shim's spec: every default of a container, in one pure function.
//!
//! Invariant: no file is read here but the seccomp profile that the pod names.

use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

use crate::capabilities;
use crate::cri::{
    ContainerConfig, CriError, CriResult, LinuxContainerSecurityContext, Mount, NamespaceMode, PodSandboxConfig,
};
use crate::image::Rootfs;
use crate::seccomp;
use crate::spec::{ContainerSpec, DeviceSpec, MountSpec, ProcessNamespace, RootfsSpec, UserSpec};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// containerd's lists.
const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub struct Inputs<'a> {
    pub id: &'a str,
    pub sandbox: &'a PodSandboxConfig,
    pub container: &'a ContainerConfig,
    pub rootfs: &'a Rootfs,
    /// The pod's `/dev/shm`.
    pub shm: PathBuf,
    pub cgroup: String,
    /// The name that processes find in `$HOSTNAME`.
    pub hostname: String,
    /// The same name, for `/etc/hostname`.
    pub hostname_file: PathBuf,
}

pub fn spec(inputs: &Inputs<'_>) -> CriResult<ContainerSpec> {
    let Inputs { id, sandbox, container, rootfs, .. } = inputs;
    let security = &container.security_context;
    let invalid = |text: String| {
        CriError::InvalidArgument(format!("failed to generate container {id:?} spec: failed to generate spec: {text}"))
    };
    let capabilities =
        capabilities::of_container(security.privileged, &security.add_capabilities, &security.drop_capabilities)
            .map_err(invalid)?;
    let seccomp = match security.privileged {
        true => Vec::new(),
        false => seccomp::programs(&security.seccomp, capabilities).map_err(invalid)?,
    };
    let image = rootfs.config.config().clone().unwrap_or_default();
    let cwd = if container.working_dir.is_empty() { image.working_dir().clone() } else { Some(container.working_dir.clone()) };
    let log = || PathBuf::from(&sandbox.log_directory).join(&container.log_path);
    Ok(ContainerSpec {
        id: id.to_string(),
        rootfs: RootfsSpec {
            lower_dirs: rootfs.lower_dirs.clone(),
            upper: rootfs.upper.clone(),
            work: rootfs.work.clone(),
        },
        readonly_rootfs: security.readonly_rootfs,
        args: arguments(container, &rootfs.config).ok_or_else(|| invalid("no command specified".to_string()))?,
        env: environment(inputs),
        cwd: cwd.unwrap_or_default(),
        user: user(security, image.user().as_deref().unwrap_or_default()).map_err(invalid)?,
        tty: container.tty,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        log_path: (!container.log_path.is_empty()).then(log),
        mounts: mounts(inputs),
        devices: container
            .devices
            .iter()
            .map(|it| DeviceSpec {
                source: it.host_path.clone().into(),
                target: it.container_path.clone(),
                permissions: it.permissions.clone(),
            })
            .collect(),
        privileged: security.privileged,
        masked_paths: paths(security, &security.masked_paths, &MASKED_PATHS),
        readonly_paths: paths(security, &security.readonly_paths, &READONLY_PATHS),
        capabilities,
        no_new_privileges: security.no_new_privs,
        seccomp,
        processes: processes(sandbox, security),
        beside: security.process_target.clone(),
        cgroup: inputs.cgroup.clone(),
        resources: container.resources.clone(),
    })
}

/// The image's entrypoint stands when no command is given, its arguments only when nothing is.
fn arguments(container: &ContainerConfig, image: &ImageConfiguration) -> Option<Vec<String>> {
    let image = image.config().clone().unwrap_or_default();
    let mut args = match container.command.is_empty() {
        true => image.entrypoint().clone().unwrap_or_default(),
        false => container.command.clone(),
    };
    if container.command.is_empty() && container.args.is_empty() {
        args.extend(image.cmd().clone().unwrap_or_default());
    }
    args.extend(container.args.iter().cloned());
    (!args.is_empty()).then_some(args)
}

/// Later values win; each name stands once, where it first was.
fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default().to_string();
        match env.iter_mut().find(|known| known.split('=').next() == Some(name.as_str())) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
    };
    set(PATH.to_string());
    if inputs.container.tty {
        set("TERM=xterm".to_string());
    }
    set(format!("HOSTNAME={}", inputs.hostname));
    let image = inputs.rootfs.config.config().clone().unwrap_or_default();
    image.env().clone().unwrap_or_default().into_iter().for_each(&mut set);
    for (name, value) in &inputs.container.envs {
        set(format!("{name}={value}"));
    }
    env
}

fn user(security: &LinuxContainerSecurityContext, image_user: &str) -> Result<UserSpec, String> {
    let user = match (security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => uid.to_string(),
        (None, name) => name.to_string(),
    };
    let user = match (user.as_str(), security.run_as_group) {
        ("", Some(_)) => return Err("user group is specified without user".to_string()),
        ("", None) => image_user.to_string(),
        (user, Some(gid)) => format!("{user}:{gid}"),
        (user, None) => user.to_string(),
    };
    let supplemental_groups = security.supplemental_groups.iter().filter_map(|gid| u32::try_from(*gid).ok());
    Ok(UserSpec { user, supplemental_groups: supplemental_groups.collect() })
}

fn mounts(inputs: &Inputs<'_>) -> Vec<MountSpec> {
    let taken = |target: &str| inputs.container.mounts.iter().any(|it| it.container_path.trim_end_matches('/') == target);
    let bind = |it: &Mount| MountSpec {
        source: it.host_path.clone().into(),
        target: it.container_path.clone(),
        readonly: it.readonly,
        recursive_readonly: it.recursive_readonly,
        propagation: it.propagation,
    };
    let mut mounts: Vec<_> = inputs.container.mounts.iter().map(bind).collect();
    if !taken("/dev/shm") {
        let source = match inputs.sandbox.namespaces.ipc {
            NamespaceMode::Node => PathBuf::from("/dev/shm"),
            _ => inputs.shm.clone(),
        };
        mounts.push(MountSpec { source, target: "/dev/shm".to_string(), ..MountSpec::default() });
    }
    if !taken("/etc/hostname") {
        let readonly = inputs.container.security_context.readonly_rootfs;
        let (source, target) = (inputs.hostname_file.clone(), "/etc/hostname".to_string());
        mounts.push(MountSpec { source, target, readonly, ..MountSpec::default() });
    }
    mounts
}

fn paths(security: &LinuxContainerSecurityContext, given: &Option<Vec<String>>, default: &[&str]) -> Vec<String> {
    match given {
        _ if security.privileged => Vec::new(),
        Some(paths) => paths.clone(),
        None => default.iter().map(|path| path.to_string()).collect(),
    }
}

fn processes(sandbox: &PodSandboxConfig, security: &LinuxContainerSecurityContext) -> ProcessNamespace {
    if !security.process_target.is_empty() {
        return ProcessNamespace::Pod; // Not its own: its end does not end the others in it.
    }
    match (security.namespaces.pid, sandbox.namespaces.pid) {
        (NamespaceMode::Node, _) => ProcessNamespace::Host,
        (NamespaceMode::Pod, NamespaceMode::Pod) => ProcessNamespace::Pod,
        _ => ProcessNamespace::Own,
    }
}

/// The number of a signal written `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = plain.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    let known: nix::sys::signal::Signal = format!("SIG{plain}").parse().ok()?;
    Some(known as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(json: &str) -> Rootfs {
        let config = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{json}}}"#);
        Rootfs {
            lower_dirs: vec!["/layers/a".into()],
            upper: "/upper".into(),
            work: "/work".into(),
            config: serde_json::from_str(&config).expect("an image configuration"),
        }
    }

    fn build(image_json: &str, container: ContainerConfig) -> CriResult<ContainerSpec> {
        let rootfs = image(image_json);
        let sandbox = PodSandboxConfig { log_directory: "/var/log/pods/p".into(), ..Default::default() };
        spec(&Inputs {
            id: "c1",
            sandbox: &sandbox,
            container: &container,
            rootfs: &rootfs,
            shm: "/run/shm".into(),
            cgroup: "kubepods/c1".into(),
            hostname: "web".into(),
            hostname_file: "/run/hostname".into(),
        })
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    #[track_caller]
    fn check_arguments(image: &str, command: &str, args: &str, expected: &str) {
        let container = ContainerConfig { command: words(command), args: words(args), ..Default::default() };
        let found = match build(image, container) {
            Ok(spec) => spec.args.join(" "),
            Err(problem) => problem.to_string(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn composes_the_command() {
        let image = r#"{"Entrypoint":["/entry"],"Cmd":["serve","-v"]}"#;
        check_arguments(image, "", "", "/entry serve -v");
        check_arguments(image, "", "other", "/entry other");
        check_arguments(image, "sh", "", "sh");
        check_arguments(image, "sh", "-c x", "sh -c x");
        check_arguments(r#"{"Cmd":["only"]}"#, "", "", "only");
        let none = "failed to generate container \"c1\" spec: failed to generate spec: no command specified";
        check_arguments("{}", "", "", none);
    }

    #[test]
    fn merges_the_environment() {
        let container = ContainerConfig {
            command: words("x"),
            envs: vec![("A".into(), "2".into()), ("B".into(), "x=y".into())],
            tty: true,
            ..Default::default()
        };
        let spec = build(r#"{"Env":["PATH=/bin","A=1"]}"#, container).unwrap();
        assert_eq!(spec.env, ["PATH=/bin", "TERM=xterm", "HOSTNAME=web", "A=2", "B=x=y"]);
    }

    #[track_caller]
    fn check_user(image: &str, uid: Option<i64>, name: &str, gid: Option<i64>, expected: &str) {
        let mut container = ContainerConfig { command: words("x"), ..Default::default() };
        container.security_context.run_as_user = uid;
        container.security_context.run_as_username = name.into();
        container.security_context.run_as_group = gid;
        let found = match build(&format!(r#"{{"User":"{image}"}}"#), container) {
            Ok(spec) => spec.user.user,
            Err(problem) => problem.to_string(),
        };
        assert!(found.ends_with(expected), "{found}, expected {expected}");
    }

    #[test]
    fn chooses_the_user() {
        check_user("web:staff", None, "", None, "web:staff");
        check_user("web:staff", Some(5), "", None, "5");
        check_user("web", Some(5), "", Some(6), "5:6");
        check_user("", None, "web", Some(6), "web:6");
        check_user("web", None, "", Some(6), "user group is specified without user");
    }

    #[test]
    fn defaults_of_a_container() {
        let spec = build("{}", ContainerConfig { command: words("x"), log_path: "c/0.log".into(), ..Default::default() }).unwrap();
        assert_eq!(spec.log_path, Some("/var/log/pods/p/c/0.log".into()));
        assert_eq!(spec.masked_paths.len(), MASKED_PATHS.len());
        let targets: Vec<&str> = spec.mounts.iter().map(|it| it.target.as_str()).collect();
        assert_eq!(targets, ["/dev/shm", "/etc/hostname"]);

        let mut container = ContainerConfig { command: words("x"), ..Default::default() };
        container.security_context.privileged = true;
        container.mounts = ["/dev/shm/", "/etc/hostname"]
            .map(|path| Mount { container_path: path.into(), host_path: "/x".into(), ..Default::default() })
            .into();
        let spec = build("{}", container).unwrap();
        assert!(spec.masked_paths.is_empty() && spec.readonly_paths.is_empty() && spec.log_path.is_none());
        assert_eq!((spec.mounts.len(), spec.capabilities), (2, capabilities::ALL));
    }

    #[test]
    fn numbers_signals() {
        for (name, number) in
            [("SIGTERM", Some(15)), ("quit", Some(3)), ("9", Some(9)), ("SIGRTMIN+3", Some(37)), ("99", None), ("NONE", None)]
        {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }
}
