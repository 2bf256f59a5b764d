//! Making a pod sandbox: directory, control group, shim, network; all of it or nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::shim_client::ShimClient;
use super::state::{Pod, SandboxRecord};
use super::{EmbeddedRuntime, blocking, new_id, teardown};
use crate::cri::{CriError, CriResult, NamespaceMode, PodSandboxConfig};
use crate::shim::protocol::Operation;
use crate::spec::{PodFiles, SandboxSpec, write_json};
use crate::sys::{mount, now_nanoseconds, process};

/// A shim that has not made its namespaces by then never will.
const SHIM_START_MAX: Duration = Duration::from_secs(30);

pub async fn run_pod_sandbox(runtime: &Arc<EmbeddedRuntime>, config: PodSandboxConfig) -> CriResult<String> {
    let id = new_id();
    let files = runtime.pod_files(&id);
    let record = SandboxRecord { id: id.clone(), config, created_at: now_nanoseconds(), ..SandboxRecord::default() };
    let pod = Pod::new(files, record);
    match build(runtime, &pod).await {
        Ok(()) => {
            runtime.pods.write().insert(id.clone(), pod.clone());
            runtime.announce(crate::cri::ContainerEventKind::Created, &id, &pod);
            runtime.announce(crate::cri::ContainerEventKind::Started, &id, &pod);
            teardown::notice_lost_shim(runtime, &pod).await;
            Ok(id)
        }
        Err(problem) => {
            if let Err(cause) = teardown::destroy(runtime, &pod).await {
                tracing::warn!(sandbox = id, %cause, "a sandbox that could not be made is not wholly removed");
            }
            Err(problem)
        }
    }
}

async fn build(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) -> CriResult<()> {
    let failed = |cause: io::Error| CriError::Internal(format!("failed to create sandbox: {cause}"));
    let (worker, writer) = (runtime.clone(), pod.clone());
    blocking(move || prepare(&worker, &writer)).await?.map_err(failed)?;

    let (sender, greeting) = oneshot::channel();
    let stream = spawn(&runtime.shim_program, &pod.files).map_err(failed)?;
    let client = ShimClient::new(stream, Some(sender), runtime.shim_events(pod)).map_err(failed)?;
    *pod.shim.lock() = Some(client);
    match tokio::time::timeout(SHIM_START_MAX, greeting).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(problem))) => return Err(CriError::Internal(format!("failed to start sandbox: {problem}"))),
        Ok(Err(_)) => {
            let log = std::fs::read_to_string(pod.files.shim_log()).unwrap_or_default();
            return Err(CriError::Internal(format!("failed to start sandbox: the shim ended: {}", log.trim())));
        }
        Err(_) => return Err(CriError::Internal("failed to start sandbox: context deadline exceeded".to_string())),
    }

    let config = pod.record.lock().config.clone();
    let mut ips = Vec::new();
    if config.namespaces.network != NamespaceMode::Node {
        let netns = pod.files.netns().display().to_string();
        ips = runtime.config.network.set_up(&pod.id, &netns, &config).await.map_err(|cause| {
            CriError::Internal(format!("failed to setup network for sandbox {:?}: {cause}", pod.id))
        })?;
    }
    pod.update(|record| {
        record.ips = ips;
        record.complete = true;
    })
    .map_err(failed)?;
    Ok(pod.shim()?.call(Operation::Adopt, Vec::new()).await.map(drop)?)
}

fn prepare(runtime: &EmbeddedRuntime, pod: &Pod) -> io::Result<()> {
    std::fs::create_dir_all(pod.files.containers())?;
    let (config, parent) = {
        let record = pod.record.lock();
        (record.config.clone(), record.cgroup_parent())
    };
    // Written before anything is made that would have to be found again.
    let group = runtime.cgroups.group(&parent);
    let missing = group.missing();
    pod.update(|record| record.made_cgroups = missing)?;
    group.create()?;
    let spec = SandboxSpec {
        id: pod.id.clone(),
        hostname: config.hostname,
        host_network: config.namespaces.network == NamespaceMode::Node,
        host_ipc: config.namespaces.ipc == NamespaceMode::Node,
        shared_processes: config.namespaces.pid == NamespaceMode::Pod,
        sysctls: config.sysctls,
    };
    write_json(&pod.files.sandbox_spec(), &spec)?;
    if !config.log_directory.is_empty() {
        std::fs::create_dir_all(&config.log_directory)?;
    }
    Ok(())
}

/// The shim's program. Containers briefly are this very program and can name it as `/proc/self/exe`: seen through
/// a read-only mount of its own, none of them can write to it.
pub enum ShimProgram {
    Protected(OwnedFd),
    /// It was deleted from the disk meanwhile, or the kernel is old.
    Plain(PathBuf),
}

impl ShimProgram {
    pub fn open(exe: &Path) -> ShimProgram {
        let protect = || -> io::Result<OwnedFd> {
            let copy = mount::copy_tree(exe, false)?;
            mount::restrict(&copy, mount::READONLY, false)?;
            Ok(copy)
        };
        match protect() {
            Ok(mount) => ShimProgram::Protected(mount),
            Err(cause) => {
                tracing::warn!(%cause, "containers may see the runtime's program writable");
                ShimProgram::Plain(exe.into())
            }
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            ShimProgram::Protected(mount) => format!("/proc/self/fd/{}", mount.as_raw_fd()).into(),
            ShimProgram::Plain(path) => path.clone(),
        }
    }
}

/// Starts the shim with our end of a socket as the other side of its stdin. It makes itself a session leader.
fn spawn(program: &ShimProgram, files: &PodFiles) -> io::Result<std::os::unix::net::UnixStream> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let log = std::fs::File::create(files.shim_log())?;
    log.lock()?;
    let mut child = tokio::process::Command::new(program.path())
        .arg0("coracle")
        .arg(crate::shim::COMMAND)
        .arg(&files.directory)
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    // Collected when it ends, as long as this agent is its parent.
    tokio::spawn(async move { child.wait().await });
    Ok(ours)
}

/// Waits until the shim of a pod, whoever started it, does not live any more; kills it when it takes too long.
pub fn outlive(files: &PodFiles) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    const STEP: Duration = Duration::from_millis(2);
    let log = match std::fs::File::open(files.shim_log()) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()), // There never was one.
        log => log?,
    };
    let wait = || -> bool {
        let mut left = PATIENCE;
        while log.try_lock().is_err() {
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(STEP);
            left = left.saturating_sub(STEP);
        }
        true
    };
    if wait() {
        return Ok(());
    }
    // It holds the lock, so the number is still its own.
    let pid = std::fs::read_to_string(files.shim_pid())?;
    process::kill(pid.trim().parse().map_err(io::Error::other)?, libc::SIGKILL)?;
    if wait() { Ok(()) } else { Err(io::Error::other(format!("the shim {pid} does not end"))) }
}

/// Connects to the shim that an earlier agent started.
pub fn reconnect(files: &PodFiles) -> io::Result<std::os::unix::net::UnixStream> {
    // By descriptor, since the path of a socket may have 107 bytes only.
    let directory = std::fs::File::open(&files.directory)?;
    let name = files.socket();
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let number = directory.as_raw_fd();
    std::os::unix::net::UnixStream::connect(format!("/proc/self/fd/{number}/{name}"))
}
