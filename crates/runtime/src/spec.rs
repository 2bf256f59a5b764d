//! What the shim is told to build: sandbox and container with every default already applied.
//!
//! Invariant: a spec holds no decision that is still open except those that need the container's own files (users,
//! the command's place). Written once as JSON by the agent, read by the shim; fields are only ever added.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cri::{LinuxContainerResources, MountPropagation};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    pub id: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_ipc: bool,
    /// Its containers share one process namespace, whose first process the shim makes.
    pub shared_processes: bool,
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    pub id: String,
    pub rootfs: RootfsSpec,
    pub readonly_rootfs: bool,
    pub args: Vec<String>,
    /// `NAME=value`, each name once.
    pub env: Vec<String>,
    pub cwd: String,
    pub user: UserSpec,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub log_path: Option<PathBuf>,
    pub mounts: Vec<MountSpec>,
    pub devices: Vec<DeviceSpec>,
    /// `/sys` and cgroups writable, every device of the host.
    pub privileged: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// Bit `n` is capability number `n`.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    /// Compiled programs in base64, to be loaded in this order. Empty: unconfined.
    pub seccomp: Vec<String>,
    pub processes: ProcessNamespace,
    /// The container whose process namespace it joins instead; empty: none.
    pub beside: String,
    /// Relative to each hierarchy's root.
    pub cgroup: String,
    pub resources: LinuxContainerResources,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootfsSpec {
    /// Topmost first.
    pub lower_dirs: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessNamespace {
    #[default]
    Own,
    Pod,
    Host,
}

/// `user` is `""`, `name`, `uid`, `name:group`, `uid:gid`: looked up in the container's own files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UserSpec {
    pub user: String,
    pub supplemental_groups: Vec<u32>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MountSpec {
    pub source: PathBuf,
    pub target: String,
    pub readonly: bool,
    pub recursive_readonly: bool,
    pub propagation: MountPropagation,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceSpec {
    pub source: PathBuf,
    pub target: String,
    pub permissions: String,
}

/// How a container ended; `exit.json` beside its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitRecord {
    pub exit_code: i32,
    pub started_at: i64,
    pub finished_at: i64,
    pub oom_killed: bool,
    /// Empty: to be derived from the code.
    pub reason: String,
    pub message: String,
}

/// That a container was started; `started.json` beside its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartRecord {
    pub pid: i32,
    pub started_at: i64,
}

/// Where a pod's files are, below its own directory.
#[derive(Clone, Debug)]
pub struct PodFiles {
    pub directory: PathBuf,
}

impl PodFiles {
    pub fn sandbox_spec(&self) -> PathBuf {
        self.directory.join("spec.json")
    }
    pub fn record(&self) -> PathBuf {
        self.directory.join("sandbox.json")
    }
    pub fn socket(&self) -> PathBuf {
        self.directory.join("shim.sock")
    }
    pub fn shim_pid(&self) -> PathBuf {
        self.directory.join("shim.pid")
    }
    /// What a shim has to complain about. It holds a lock on this file for as long as it lives.
    pub fn shim_log(&self) -> PathBuf {
        self.directory.join("shim.log")
    }
    /// The pod's network namespace is bound here.
    pub fn netns(&self) -> PathBuf {
        self.directory.join("netns")
    }
    /// `/dev/shm` of the pod.
    pub fn shm(&self) -> PathBuf {
        self.directory.join("shm")
    }
    /// `/etc/hostname` of the pod's containers.
    pub fn hostname(&self) -> PathBuf {
        self.directory.join("hostname")
    }
    pub fn containers(&self) -> PathBuf {
        self.directory.join("containers")
    }
    pub fn container(&self, id: &str) -> ContainerFiles {
        ContainerFiles { directory: self.containers().join(id) }
    }
}

#[derive(Clone, Debug)]
pub struct ContainerFiles {
    pub directory: PathBuf,
}

impl ContainerFiles {
    pub fn spec(&self) -> PathBuf {
        self.directory.join("spec.json")
    }
    pub fn record(&self) -> PathBuf {
        self.directory.join("container.json")
    }
    pub fn started(&self) -> PathBuf {
        self.directory.join("started.json")
    }
    pub fn exit(&self) -> PathBuf {
        self.directory.join("exit.json")
    }
    /// Where the container mounts its root, in its own mount namespace only.
    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }
}

/// Why a container could not be started, in the words that users of containerd and runc know and search for.
pub fn start_error(problem: &str) -> String {
    format!(
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: \
         unable to start container process: {problem}: unknown"
    )
}

/// Writes `value` so that a reader finds the old or the new content, never a part.
pub fn write_json<T: Serialize>(path: &std::path::Path, value: &T) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec(value)?)?;
    std::fs::rename(&temporary, path)
}

pub fn read_json<T: for<'de> Deserialize<'de>>(path: &std::path::Path) -> std::io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}
