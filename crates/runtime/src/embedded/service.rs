//! CRI's calls, each a few lines over what the other files do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::launch::{self, Inputs};
use super::state::{Container, ContainerRecord, Live, state_name};
use super::streams::{self, ExecOptions};
use super::{EmbeddedRuntime, blocking, new_id, ports, spawn, teardown, usage};
use crate::cri::*;
use crate::shim::protocol::{Operation, Reply};
use crate::spec::{ExitRecord, read_json, write_json};
use crate::sys::now_nanoseconds;

use super::shim_client::CallError;

/// After SIGKILL to all of a container.
const KILL_MAX: Duration = Duration::from_secs(15);

#[async_trait]
impl RuntimeService for EmbeddedRuntime {
    async fn version(&self) -> CriResult<VersionResponse> {
        Ok(VersionResponse {
            runtime_name: "coracle".to_string(),
            runtime_version: env!("CARGO_PKG_VERSION").to_string(),
            runtime_api_version: "v1".to_string(),
        })
    }

    async fn status(&self) -> CriResult<Option<String>> {
        // The original's words.
        const REASON: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:";
        Ok(self.config.network.not_ready().map(|why| format!("{REASON}{why}")))
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> CriResult<String> {
        spawn::run_pod_sandbox(&self.me(), config).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> CriResult<()> {
        match self.pod(id) {
            Ok(pod) => teardown::stop_pod(&self.me(), &pod).await,
            Err(_) => Ok(()),
        }
    }

    async fn remove_pod_sandbox(&self, id: &str) -> CriResult<()> {
        match self.pod(id) {
            Ok(pod) => teardown::remove_pod(&self.me(), &pod).await,
            Err(_) => Ok(()),
        }
    }

    async fn pod_sandbox_status(&self, id: &str) -> CriResult<PodSandboxStatus> {
        Ok(self.pod(id)?.status())
    }

    async fn list_pod_sandboxes(&self) -> CriResult<Vec<PodSandboxStatus>> {
        Ok(self.pods.read().values().map(|pod| pod.status()).collect())
    }

    async fn create_container(&self, pod_sandbox_id: &str, config: ContainerConfig) -> CriResult<String> {
        let pod = self.pod(pod_sandbox_id)?;
        pod.shim()?;
        let id = new_id();
        let (worker, made) = (self.me(), id.clone());
        let created = blocking(move || {
            let container = create(&worker, &pod, &made, config);
            if container.is_err() {
                let _ = worker.config.images.release(&made);
                let _ = std::fs::remove_dir_all(pod.files.container(&made).directory);
            }
            container
        });
        let container = created.await??;
        self.containers.write().insert(id.clone(), container.clone());
        self.announce(ContainerEventKind::Created, &id, &container.pod);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> CriResult<()> {
        let container = self.container(id)?;
        let _turn = container.turn.lock().await;
        match container.live().state {
            ContainerState::Created => {}
            state => {
                return Err(CriError::Internal(format!("failed to set starting state for container {id:?}: container is in {} state", state_name(state))));
            }
        }
        let shim = container.pod.shim()?;
        match shim.call(Operation::Start { container: id.to_string() }, Vec::new()).await {
            Ok((Reply::Started { pid, started_at }, _)) => {
                self.container_started(&container, pid, started_at);
                Ok(())
            }
            Ok(_) => Err(CriError::Internal("the shim answered something else".to_string())),
            Err(CallError::Failed(message)) => {
                let exit = ExitRecord {
                    exit_code: 128,
                    finished_at: now_nanoseconds(),
                    reason: "StartError".to_string(),
                    message: message.clone(),
                    ..ExitRecord::default()
                };
                if let Err(cause) = write_json(&container.files.exit(), &exit) {
                    tracing::warn!(container = id, %cause, "an exit is not recorded");
                }
                self.container_exited(&container, exit);
                Err(CriError::Internal(message))
            }
            Err(cause) => Err(cause.into()),
        }
    }

    async fn stop_container(&self, id: &str, timeout_seconds: i64) -> CriResult<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        if container.live().state != ContainerState::Running {
            return Ok(());
        }
        let grace = Duration::from_secs(timeout_seconds.max(0) as u64);
        let signal = container.record.lock().stop_signal;
        if !grace.is_zero() {
            self.signal(&container, signal, false).await?;
            if ended(&container, grace).await {
                return Ok(());
            }
        }
        self.signal(&container, libc::SIGKILL, true).await?;
        match ended(&container, KILL_MAX).await {
            true => Ok(()),
            false => Err(CriError::Internal(format!(
                "failed to stop container {id:?}: an error occurs during waiting for container {id:?} to be killed: \
                 wait container {id:?}: context deadline exceeded"
            ))),
        }
    }

    async fn remove_container(&self, id: &str) -> CriResult<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let _turn = container.turn.lock().await;
        if container.live().state == ContainerState::Running {
            // As containerd does: whoever removes it wants it gone.
            self.stop_container(id, 0).await?;
        }
        teardown::remove_container(&self.me(), &container).await
    }

    async fn container_status(&self, id: &str) -> CriResult<ContainerStatus> {
        Ok(self.container(id)?.status())
    }

    async fn list_containers(&self) -> CriResult<Vec<ContainerStatus>> {
        Ok(self.containers.read().values().map(|container| container.status()).collect())
    }

    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> CriResult<()> {
        let container = self.container(id)?;
        let _turn = container.turn.lock().await;
        let (runtime, updated) = (self.me(), container.clone());
        blocking(move || update(&runtime, &updated, resources)).await?
    }

    async fn reopen_container_log(&self, id: &str) -> CriResult<()> {
        let container = self.container(id)?;
        container.running()?;
        let shim = container.pod.shim()?;
        Ok(shim.call(Operation::ReopenLog { container: id.to_string() }, Vec::new()).await.map(drop)?)
    }

    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout_seconds: i64) -> CriResult<ExecSyncResponse> {
        let container = self.container(id)?;
        container.running()?;
        let limit = (timeout_seconds > 0).then(|| Duration::from_secs(timeout_seconds as u64));
        streams::exec_sync(&container.pod.shim()?, id, command, limit).await
    }

    async fn exec(&self, id: &str, command: Vec<String>, options: StreamOptions) -> CriResult<ProcessStreams> {
        let container = self.container(id)?;
        container.running()?;
        streams::exec(&container.pod.shim()?, ExecOptions { container: id.to_string(), command, options }).await
    }

    async fn attach(&self, id: &str, options: StreamOptions) -> CriResult<ProcessStreams> {
        let container = self.container(id)?;
        container.running()?;
        let (tty, stdin_once) = {
            let record = container.record.lock();
            (record.config.tty, record.config.stdin_once)
        };
        let options = StreamOptions { tty, ..options };
        streams::attach(&container, options, stdin_once).await
    }

    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> CriResult<Box<dyn Duplex>> {
        let pod = self.pod(pod_sandbox_id)?;
        pod.shim()?;
        let netns = (!pod.record.lock().host_network()).then(|| pod.files.netns());
        ports::connect(netns, port).await
    }

    async fn container_stats(&self, id: &str) -> CriResult<ContainerStats> {
        let (runtime, container) = (self.me(), self.container(id)?);
        blocking(move || usage::stats(&runtime, &container)).await?
    }

    async fn list_container_stats(&self) -> CriResult<Vec<ContainerStats>> {
        let runtime = self.me();
        blocking(move || {
            let containers: Vec<_> = runtime.containers.read().values().cloned().collect();
            // One that ends meanwhile is left out.
            containers.iter().filter_map(|container| usage::stats(&runtime, container).ok()).collect()
        })
        .await
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}

impl EmbeddedRuntime {
    async fn signal(&self, container: &Container, signal: i32, all: bool) -> CriResult<()> {
        let shim = match container.pod.shim() {
            Ok(shim) => shim,
            Err(_) => return Ok(()), // With its shim the container ends as well.
        };
        let operation = Operation::Signal { container: container.id.clone(), signal, all };
        match shim.call_within(KILL_MAX, operation, Vec::new()).await {
            Ok(_) | Err(CallError::Gone | CallError::NotFound(_)) => Ok(()),
            // A shim that hangs must not save its containers.
            Err(CallError::TimedOut) if all => {
                self.cgroups.group(&container.cgroup()).kill();
                Ok(())
            }
            Err(cause) => Err(cause.into()),
        }
    }
}

/// Waits for its end; false when it does not come in time.
async fn ended(container: &Container, limit: Duration) -> bool {
    let mut live = container.subscribe();
    let exited = live.wait_for(|live| live.state == ContainerState::Exited);
    tokio::time::timeout(limit, exited).await.is_ok_and(|it| it.is_ok())
}

/// Everything that a container needs on disk. It has no process before it is started.
fn create(
    runtime: &EmbeddedRuntime,
    pod: &Arc<super::state::Pod>,
    id: &str,
    config: ContainerConfig,
) -> CriResult<Arc<Container>> {
    let failed = |cause: std::io::Error| CriError::Internal(format!("failed to create container {id:?}: {cause}"));
    let (sandbox, cgroup) = {
        let record = pod.record.lock();
        (record.config.clone(), record.container_cgroup(id))
    };
    let rootfs = runtime.config.images.prepare(&config.image, id)?;
    for mount in &config.mounts {
        let source = std::path::Path::new(&mount.host_path);
        if !source.exists() {
            std::fs::create_dir_all(source).map_err(|cause| {
                CriError::Internal(format!("failed to generate container {id:?} spec: failed to mkdir {:?}: {cause}", mount.host_path))
            })?;
        }
    }
    usage::check_propagation(&config.mounts).map_err(|problem| {
        CriError::Internal(format!("failed to generate container {id:?} spec: failed to generate spec: {problem}"))
    })?;
    let hostname = match sandbox.hostname.as_str() {
        "" => nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        name => name.to_string(),
    };
    let hostname_file = pod.files.hostname();
    std::fs::write(&hostname_file, format!("{hostname}\n")).map_err(failed)?;
    let shm = pod.files.shm();
    let inputs = Inputs { id, sandbox: &sandbox, container: &config, rootfs: &rootfs, shm, cgroup, hostname, hostname_file };
    let spec = launch::spec(&inputs)?;
    let image_signal = rootfs.config.config().as_ref().and_then(|it| it.stop_signal().clone()).unwrap_or_default();
    let stop_signal = match config.stop_signal.as_str() {
        "" => image_signal,
        name => name.to_string(),
    };
    let (image, image_ref) = runtime.config.images.names(&config.image);
    let record = ContainerRecord {
        id: id.to_string(),
        created_at: now_nanoseconds(),
        image,
        image_ref,
        stop_signal: launch::signal_number(&stop_signal).unwrap_or(libc::SIGTERM),
        upper: rootfs.upper,
        config,
    };
    let files = pod.files.container(id);
    std::fs::create_dir_all(&files.directory).map_err(failed)?;
    write_json(&files.spec(), &spec).map_err(failed)?;
    // Last: with it the container exists.
    write_json(&files.record(), &record).map_err(failed)?;
    Ok(Container::new(pod.clone(), record, Live::created()))
}

fn update(runtime: &EmbeddedRuntime, container: &Container, resources: LinuxContainerResources) -> CriResult<()> {
    let failed = |cause: std::io::Error| {
        CriError::Internal(format!("failed to update resources: failed to update spec: {cause}"))
    };
    match container.live().state {
        ContainerState::Created => {
            let mut spec: crate::spec::ContainerSpec = read_json(&container.files.spec()).map_err(failed)?;
            merge(&mut spec.resources, &resources);
            write_json(&container.files.spec(), &spec).map_err(failed)?;
        }
        ContainerState::Running => runtime.cgroups.group(&container.cgroup()).limit(&resources).map_err(failed)?,
        state => {
            return Err(CriError::Internal(format!(
                "failed to update resources: container is in {} state",
                state_name(state)
            )));
        }
    }
    let mut record = container.record.lock();
    merge(&mut record.config.resources, &resources);
    write_json(&container.files.record(), &*record).map_err(failed)
}

/// What an update leaves out stays.
fn merge(into: &mut LinuxContainerResources, update: &LinuxContainerResources) {
    let set = |into: &mut i64, value: i64| {
        if value != 0 {
            *into = value;
        }
    };
    set(&mut into.cpu_period, update.cpu_period);
    set(&mut into.cpu_quota, update.cpu_quota);
    set(&mut into.cpu_shares, update.cpu_shares);
    set(&mut into.memory_limit_in_bytes, update.memory_limit_in_bytes);
    set(&mut into.oom_score_adj, update.oom_score_adj);
    set(&mut into.pids_limit, update.pids_limit);
    for (into, value) in
        [(&mut into.cpuset_cpus, &update.cpuset_cpus), (&mut into.cpuset_mems, &update.cpuset_mems)]
    {
        if !value.is_empty() {
            into.clone_from(value);
        }
    }
}
