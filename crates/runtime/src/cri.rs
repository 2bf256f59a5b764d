//! The CRI seam: the two services by which the kubelet knows containers, with CRI's own names and fields.
//!
//! Source: the Container Runtime Interface, `runtime.v1`. Only what the kubelet uses is listed; exec, attach and
//! port-forward hand streams over directly where CRI hands out a URL. Times are nanoseconds since the epoch.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

pub type Labels = BTreeMap<String, String>;

#[derive(Debug)]
pub enum CriError {
    NotFound(String),
    InvalidArgument(String),
    /// Answered by a runtime or kernel that cannot do this.
    Unimplemented(String),
    Unavailable(String),
    /// An exec that did not end in its time.
    DeadlineExceeded(String),
    Internal(String),
}

impl std::fmt::Display for CriError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (CriError::NotFound(text)
        | CriError::InvalidArgument(text)
        | CriError::Unimplemented(text)
        | CriError::Unavailable(text)
        | CriError::DeadlineExceeded(text)
        | CriError::Internal(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for CriError {}

pub type CriResult<T> = Result<T, CriError>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxMetadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    pub host_ip: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    #[default]
    Pod,
    Container,
    Node,
}

/// `Pod`: shared by the pod's containers; `Container`: one each; `Node`: the host's.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOptions {
    pub network: NamespaceMode,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum SeccompProfile {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// Path of a JSON profile on the node.
    Localhost(String),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxConfig {
    pub metadata: PodSandboxMetadata,
    pub hostname: String,
    /// Directory on the host; containers log to files relative to it.
    pub log_directory: String,
    pub dns_config: DnsConfig,
    pub port_mappings: Vec<PortMapping>,
    pub labels: Labels,
    pub annotations: Labels,
    /// The pod's cgroup, relative to each hierarchy's root, e.g. `/kubepods/burstable/pod<uid>`. The kubelet made it.
    pub cgroup_parent: String,
    pub sysctls: BTreeMap<String, String>,
    pub namespaces: NamespaceOptions,
    pub seccomp: SeccompProfile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodSandboxState {
    Ready,
    NotReady,
}

#[derive(Clone, Debug)]
pub struct PodSandboxStatus {
    pub id: String,
    pub metadata: PodSandboxMetadata,
    pub state: PodSandboxState,
    pub created_at: i64,
    /// Primary address first; empty with the host's network.
    pub ips: Vec<String>,
    pub namespaces: NamespaceOptions,
    pub labels: Labels,
    pub annotations: Labels,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub container_path: String,
    pub host_path: String,
    pub readonly: bool,
    pub recursive_readonly: bool,
    pub propagation: MountPropagation,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub container_path: String,
    pub host_path: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerResources {
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds of CPU per period; 0 is no limit.
    pub cpu_quota: i64,
    pub cpu_shares: i64,
    /// Bytes; 0 is no limit.
    pub memory_limit_in_bytes: i64,
    pub oom_score_adj: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub pids_limit: i64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerSecurityContext {
    pub privileged: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    /// A name to be looked up in the image's /etc/passwd; used when `run_as_user` is absent.
    pub run_as_username: String,
    pub supplemental_groups: Vec<i64>,
    pub readonly_rootfs: bool,
    pub no_new_privs: bool,
    pub seccomp: SeccompProfile,
    /// None: the runtime's default list. Some([]): ProcMount Unmasked.
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub namespaces: NamespaceOptions,
    /// The running container of the pod whose process namespace this one joins (CRI's mode TARGET); empty: none.
    #[serde(default)]
    pub process_target: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerMetadata {
    pub name: String,
    pub attempt: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub metadata: ContainerMetadata,
    /// An image ID (config digest, `sha256:...`) that `ImageService` knows.
    pub image: String,
    /// Overrides the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Overrides the image's cmd when not empty.
    pub args: Vec<String>,
    pub working_dir: String,
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub labels: Labels,
    pub annotations: Labels,
    /// Relative to the sandbox's `log_directory`.
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: LinuxContainerResources,
    pub security_context: LinuxContainerSecurityContext,
    /// Signal name or number that asks it to end; empty: the image's, else SIGTERM.
    pub stop_signal: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

#[derive(Clone, Debug)]
pub struct ContainerStatus {
    pub id: String,
    pub pod_sandbox_id: String,
    pub metadata: ContainerMetadata,
    pub state: ContainerState,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    /// As the user wrote it.
    pub image: String,
    /// `name@sha256:...` or the image ID.
    pub image_ref: String,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerCannotRun`.
    pub reason: String,
    pub message: String,
    pub labels: Labels,
    pub annotations: Labels,
    pub log_path: String,
    /// Host pid of the container's first process; 0 when it does not run.
    pub pid: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// Pushed by the shim; nobody polls.
#[derive(Clone, Debug)]
pub struct ContainerEvent {
    pub kind: ContainerEventKind,
    pub container_id: String,
    pub pod_sandbox_id: String,
    /// The pod's UID.
    pub pod_uid: String,
    pub created_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A process, or a container's own stdio, with its streams. Dropping it detaches (attach) or ends it (exec).
pub struct ProcessStreams {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// None with a tty.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The exit code; an error when it could not start.
    pub exit: oneshot::Receiver<CriResult<i32>>,
}

#[derive(Clone, Debug, Default)]
pub struct ExecSyncResponse {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

#[derive(Clone, Debug, Default)]
pub struct ContainerStats {
    pub container_id: String,
    pub timestamp: i64,
    /// Nanoseconds of CPU since it started.
    pub cpu_usage_core_nanoseconds: u64,
    pub memory_usage_bytes: u64,
    /// Usage less inactive file cache: what eviction and HPA look at.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub writable_layer_used_bytes: u64,
    pub writable_layer_inodes: u64,
}

#[derive(Clone, Debug, Default)]
pub struct VersionResponse {
    pub runtime_name: String,
    pub runtime_version: String,
    pub runtime_api_version: String,
}

/// CRI's `RuntimeService`.
#[async_trait]
pub trait RuntimeService: Send + Sync + 'static {
    async fn version(&self) -> CriResult<VersionResponse>;
    /// Empty when ready; otherwise the reason, e.g. `network plugin not ready: ...`.
    async fn status(&self) -> CriResult<Option<String>>;

    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> CriResult<String>;
    /// Idempotent: stops all its containers by force and gives up its network.
    async fn stop_pod_sandbox(&self, id: &str) -> CriResult<()>;
    async fn remove_pod_sandbox(&self, id: &str) -> CriResult<()>;
    async fn pod_sandbox_status(&self, id: &str) -> CriResult<PodSandboxStatus>;
    async fn list_pod_sandboxes(&self) -> CriResult<Vec<PodSandboxStatus>>;

    async fn create_container(&self, pod_sandbox_id: &str, config: ContainerConfig) -> CriResult<String>;
    async fn start_container(&self, id: &str) -> CriResult<()>;
    /// Sends the stop signal, waits `timeout_seconds`, then kills. Idempotent.
    async fn stop_container(&self, id: &str, timeout_seconds: i64) -> CriResult<()>;
    /// Removes an exited container; idempotent.
    async fn remove_container(&self, id: &str) -> CriResult<()>;
    async fn container_status(&self, id: &str) -> CriResult<ContainerStatus>;
    async fn list_containers(&self) -> CriResult<Vec<ContainerStatus>>;
    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> CriResult<()>;
    /// After the log file was renamed away.
    async fn reopen_container_log(&self, id: &str) -> CriResult<()>;

    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout_seconds: i64) -> CriResult<ExecSyncResponse>;
    async fn exec(&self, id: &str, command: Vec<String>, options: StreamOptions) -> CriResult<ProcessStreams>;
    async fn attach(&self, id: &str, options: StreamOptions) -> CriResult<ProcessStreams>;
    /// A connection to `127.0.0.1:port` inside the pod's network.
    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> CriResult<Box<dyn Duplex>>;

    async fn container_stats(&self, id: &str) -> CriResult<ContainerStats>;
    async fn list_container_stats(&self) -> CriResult<Vec<ContainerStats>>;
    /// Every event from now on.
    fn events(&self) -> tokio::sync::broadcast::Receiver<ContainerEvent>;
}

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

#[derive(Clone, Debug, Default)]
pub struct Image {
    /// `sha256:<digest of the config>`.
    pub id: String,
    /// `docker.io/library/nginx:1.16`
    pub repo_tags: Vec<String>,
    /// `docker.io/library/nginx@sha256:...`
    pub repo_digests: Vec<String>,
    /// Bytes on disk, unpacked.
    pub size: u64,
    /// Numeric user of the image's config, if it is a number.
    pub uid: Option<i64>,
    /// Otherwise its name.
    pub username: String,
    /// Imported by hand or pinned: garbage collection never takes it.
    pub pinned: bool,
}

#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    pub username: String,
    pub password: String,
    pub registry_token: String,
}

#[derive(Clone, Debug, Default)]
pub struct FilesystemUsage {
    pub mountpoint: String,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

/// CRI's `ImageService`.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    async fn list_images(&self) -> CriResult<Vec<Image>>;
    /// `image` is a reference as the user wrote it, a digest reference, or an ID.
    async fn image_status(&self, image: &str) -> CriResult<Option<Image>>;
    /// Returns the image ID. Tries the credentials in turn, then none. Concurrent pulls of one image are one.
    async fn pull_image(&self, image: &str, auth: &[AuthConfig]) -> CriResult<String>;
    async fn remove_image(&self, image: &str) -> CriResult<()>;
    async fn image_fs_info(&self) -> CriResult<FilesystemUsage>;
}

/// What the runtime asks of the node's network when a pod sandbox comes and goes; CNI's ADD and DEL.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// `netns` is the path of the sandbox's network namespace, loopback already up. Returns its addresses.
    async fn set_up(&self, sandbox_id: &str, netns: &str, config: &PodSandboxConfig) -> CriResult<Vec<String>>;
    /// Idempotent, also when `netns` is gone.
    async fn tear_down(&self, sandbox_id: &str, netns: &str) -> CriResult<()>;
    /// Why no pod can be given a network at the moment.
    fn not_ready(&self) -> Option<String> {
        None
    }
}
