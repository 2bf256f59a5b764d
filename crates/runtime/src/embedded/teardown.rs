//! The ways out: stopping, removing, and what a lost shim or a crash leaves behind.
//!
//! Every step is idempotent and is taken even if an earlier one failed; the first error is reported.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};

use super::state::{Container, Pod};
use super::{EmbeddedRuntime, blocking, spawn};
use crate::cgroup;
use crate::cri::{ContainerEventKind, ContainerState, CriError, CriResult};
use crate::shim::protocol::Operation;
use crate::spec::{ExitRecord, PodFiles, write_json};
use crate::sys::now_nanoseconds;

/// The shim itself gives its containers ten seconds.
const SHUTDOWN_MAX: Duration = Duration::from_secs(15);
/// Killed processes leave their group in the background.
const GROUP_EMPTY_MAX: Duration = Duration::from_secs(5);

/// Stops its containers by force, gives up its network, ends its shim. Its containers' exits remain known.
pub async fn stop_pod(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) -> CriResult<()> {
    let _turn = pod.turn.lock().await;
    stop_in_turn(runtime, pod).await
}

async fn stop_in_turn(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) -> CriResult<()> {
    // From here on its end is expected.
    let written = pod.update(|record| record.stopped = true);
    let shim = pod.shim.lock().take();
    if let Some(shim) = shim {
        if shim.call_within(SHUTDOWN_MAX, Operation::Shutdown, Vec::new()).await.is_err() {
            kill_groups(runtime, pod).await?;
        }
        runtime.announce(ContainerEventKind::Stopped, &pod.id, pod);
    }
    for container in runtime.containers_of(&pod.id) {
        give_up(runtime, &container);
    }
    let torn_down = release(runtime, pod).await;
    written.map_err(|cause| CriError::Internal(format!("failed to record sandbox {:?}: {cause}", pod.id)))?;
    torn_down
}

/// Network and mounts of a pod.
async fn release(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) -> CriResult<()> {
    let host_network = pod.record.lock().host_network();
    let mut result = Ok(());
    if !host_network {
        let netns = pod.files.netns().display().to_string();
        result = runtime.config.network.tear_down(&pod.id, &netns).await.map_err(|cause| {
            CriError::Internal(format!("failed to destroy network for sandbox {:?}: {cause}", pod.id))
        });
    }
    let files = pod.files.clone();
    // A shim that is still making its sandbox would mount again.
    let unmounted = blocking(move || spawn::outlive(&files).and_then(|()| unmount(&files))).await?;
    result.and(unmounted.map_err(|cause| CriError::Internal(format!("failed to unmount: {cause}"))))
}

fn unmount(files: &PodFiles) -> io::Result<()> {
    let mut result = Ok(());
    for place in [files.netns(), files.shm()] {
        match umount2(&place, MntFlags::MNT_DETACH) {
            // Not there, or nothing mounted on it.
            Ok(()) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL) => {}
            Err(cause) => result = Err(io::Error::other(format!("{}: {cause}", place.display()))),
        }
    }
    result
}

/// A container that was not seen to end, and cannot be running any more.
fn give_up(runtime: &EmbeddedRuntime, container: &Container) {
    let live = container.live();
    if live.state != ContainerState::Running {
        return;
    }
    let exit: ExitRecord = crate::spec::read_json(&container.files.exit()).unwrap_or_else(|_| ExitRecord {
        exit_code: 137,
        started_at: live.started_at,
        finished_at: now_nanoseconds(),
        reason: "ContainerStatusUnknown".to_string(),
        message: "The container could not be located when its pod's shim ended. It was killed.".to_string(),
        ..ExitRecord::default()
    });
    if let Err(cause) = write_json(&container.files.exit(), &exit) {
        tracing::warn!(container = container.id, %cause, "an exit is not recorded");
    }
    runtime.container_exited(container, exit);
}

/// A shim that ended before its pod was listed was missed by [`shim_lost`].
pub async fn notice_lost_shim(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) {
    let gone = pod.shim.lock().as_ref().is_some_and(|shim| shim.is_gone());
    if gone {
        shim_lost(runtime, pod).await;
    }
}

/// The shim ended without being told to: its containers are killed, and the pod is not ready any more.
pub async fn shim_lost(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) {
    let _turn = pod.turn.lock().await;
    // Stopped meanwhile: its end was expected. Not in the list: whoever makes it sees the failure.
    if pod.shim.lock().is_none() || !runtime.pods.read().contains_key(&pod.id) {
        return;
    }
    tracing::warn!(sandbox = pod.id, "the pod's shim has ended unexpectedly");
    pod.shim.lock().take();
    if let Err(cause) = pod.update(|record| record.stopped = true) {
        tracing::warn!(sandbox = pod.id, %cause, "a sandbox is not recorded as stopped");
    }
    without_shim(runtime, pod).await;
}

/// Kills what a shim that is gone has left, and lets the kubelet know.
pub async fn without_shim(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) {
    if let Err(cause) = kill_groups(runtime, pod).await {
        tracing::warn!(sandbox = pod.id, %cause, "containers of a lost shim");
    }
    for container in runtime.containers_of(&pod.id) {
        give_up(runtime, &container);
    }
    runtime.announce(ContainerEventKind::Stopped, &pod.id, pod);
}

/// Kills every process in the groups of the pod's containers and waits until they are gone.
async fn kill_groups(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) -> CriResult<()> {
    for id in containers_on_disk(&pod.files) {
        let group = pod.record.lock().container_cgroup(&id);
        kill_group(runtime, &group).await?;
    }
    Ok(())
}

async fn kill_group(runtime: &Arc<EmbeddedRuntime>, group: &str) -> CriResult<()> {
    let deadline = tokio::time::Instant::now() + GROUP_EMPTY_MAX;
    loop {
        let (worker, path) = (runtime.clone(), group.to_string());
        let empty = blocking(move || {
            let group = worker.cgroups.group(&path);
            group.kill();
            group.processes().is_empty()
        });
        if empty.await? {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(CriError::Internal(format!("processes of {group} cannot be killed")));
        }
        // The kernel has no event for the end of somebody else's processes in version 1.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn remove_group(runtime: &Arc<EmbeddedRuntime>, group: &str) -> CriResult<()> {
    let deadline = tokio::time::Instant::now() + GROUP_EMPTY_MAX;
    loop {
        let (worker, path) = (runtime.clone(), group.to_string());
        match blocking(move || worker.cgroups.group(&path).remove()).await? {
            Ok(()) => return Ok(()),
            Err(cause) if tokio::time::Instant::now() > deadline => {
                return Err(CriError::Internal(format!("failed to remove cgroup {group}: {cause}")));
            }
            Err(_) => {
                // Somebody is still in it.
                let (worker, path) = (runtime.clone(), group.to_string());
                blocking(move || worker.cgroups.group(&path).kill()).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Removes a container that does not run: its group, its writable layer, its files.
pub async fn remove_container(runtime: &Arc<EmbeddedRuntime>, container: &Arc<Container>) -> CriResult<()> {
    let shim = container.pod.shim.lock().clone();
    if let Some(shim) = shim {
        // A shim that is gone has forgotten it already.
        let _ = shim.call(Operation::Forget { container: container.id.clone() }, Vec::new()).await;
    }
    remove_group(runtime, &container.cgroup()).await?;
    let (images, id, directory) =
        (runtime.config.images.clone(), container.id.clone(), container.files.directory.clone());
    blocking(move || {
        images.release(&id)?;
        remove_directory(&directory).map_err(|cause| CriError::Internal(format!("container {id:?}: {cause}")))
    })
    .await??;
    runtime.containers.write().remove(&container.id);
    runtime.announce(ContainerEventKind::Deleted, &container.id, &container.pod);
    Ok(())
}

pub async fn remove_pod(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) -> CriResult<()> {
    let _turn = pod.turn.lock().await;
    stop_in_turn(runtime, pod).await?;
    for container in runtime.containers_of(&pod.id) {
        let _turn = container.turn.lock().await;
        remove_container(runtime, &container).await?;
    }
    destroy(runtime, pod).await?;
    runtime.pods.write().remove(&pod.id);
    runtime.announce(ContainerEventKind::Deleted, &pod.id, pod);
    Ok(())
}

/// Removes whatever there is of a pod, also of one that was never finished.
pub async fn destroy(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) -> CriResult<()> {
    let shim = pod.shim.lock().take();
    if let Some(shim) = shim {
        let _ = shim.call_within(SHUTDOWN_MAX, Operation::Shutdown, Vec::new()).await;
    }
    let mut result = release(runtime, pod).await;
    for id in containers_on_disk(&pod.files) {
        let group = pod.record.lock().container_cgroup(&id);
        result = result.and(kill_group(runtime, &group).await).and(remove_group(runtime, &group).await);
        let images = runtime.config.images.clone();
        result = result.and(blocking(move || images.release(&id)).await?);
    }
    result?; // What could not be given up must be found again.
    let (made, parent) = {
        let record = pod.record.lock();
        (record.made_cgroups.clone(), record.cgroup_parent())
    };
    let (worker, files) = (runtime.clone(), pod.files.clone());
    blocking(move || {
        cgroup::remove_empty(&made);
        worker.cgroups.group(&parent).untrack();
        remove_directory(&files.directory)
    })
    .await?
    .map_err(|cause| CriError::Internal(format!("failed to remove sandbox {:?}: {cause}", pod.id)))
}

fn containers_on_disk(files: &PodFiles) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(files.containers()) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn remove_directory(directory: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}
