//! The start of an agent: pods that an earlier one left are found again, half made ones removed.
//!
//! What a container is: its exit record if there is one; else what its shim says; else, with a start record but
//! no shim, killed; else created.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::shim_client::ShimClient;
use super::state::{Container, ContainerRecord, Live, Pod, SandboxRecord};
use super::{EmbeddedRuntime, spawn, teardown};
use crate::shim::protocol::{ContainerReport, Operation, Reply};
use crate::spec::{ExitRecord, StartRecord, read_json};

/// A shim that does not tell its state by then is taken for dead.
const STATE_MAX: Duration = Duration::from_secs(10);

pub async fn recover(runtime: &Arc<EmbeddedRuntime>) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(runtime.config.state_dir.join("pods"))? {
        found.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let recovering = found.iter().map(|id| recover_pod(runtime, id));
    futures::future::join_all(recovering).await;
    release_ownerless(runtime).await;
    Ok(())
}

async fn recover_pod(runtime: &Arc<EmbeddedRuntime>, id: &str) {
    let files = runtime.pod_files(id);
    let record = read_json::<SandboxRecord>(&files.record());
    let complete = record.as_ref().is_ok_and(|record| record.complete);
    let record = record.unwrap_or_else(|_| SandboxRecord { id: id.to_string(), ..SandboxRecord::default() });
    let stopped = record.stopped;
    let pod = Pod::new(files, record);
    if !complete {
        connect(runtime, &pod).await;
        if let Err(cause) = teardown::destroy(runtime, &pod).await {
            tracing::warn!(sandbox = id, %cause, "a half made sandbox is left");
        }
        return;
    }
    // Listed before the shim is asked, so that what happens meanwhile finds whom it concerns.
    let containers = containers(&pod);
    runtime.pods.write().insert(id.to_string(), pod.clone());
    runtime.containers.write().extend(containers.iter().map(|it| (it.id.clone(), it.clone())));
    match connect(runtime, &pod).await {
        Some(reports) => {
            for report in reports {
                if let Some(container) = containers.iter().find(|it| it.id == report.id) {
                    apply(container, report);
                }
            }
            if stopped {
                // The agent ended in the midst of stopping it.
                if let Err(cause) = teardown::stop_pod(runtime, &pod).await {
                    tracing::warn!(sandbox = id, %cause, "a pod is not wholly stopped");
                }
            }
            teardown::notice_lost_shim(runtime, &pod).await;
        }
        None => {
            for container in &containers {
                // Seen as running here, it is given up with its pod at once.
                if let Ok(start) = read_json::<StartRecord>(&container.files.started()) {
                    container.advance(Live::running(start.pid, start.started_at));
                }
            }
            lose(runtime, &pod).await;
        }
    }
}

/// The pod's containers as their files tell: created, or exited.
fn containers(pod: &Arc<Pod>) -> Vec<Arc<Container>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(pod.files.containers()).into_iter().flatten().flatten() {
        let files = pod.files.container(&entry.file_name().to_string_lossy());
        match read_json::<ContainerRecord>(&files.record()) {
            Ok(record) => {
                let exit = read_json::<ExitRecord>(&files.exit());
                let live = exit.map_or_else(|_| Live::created(), Live::exited);
                found.push(Container::new(pod.clone(), record, live));
            }
            Err(_) => {
                // Its creation was never acknowledged. The writable layer goes with those that have no owner.
                let _ = std::fs::remove_dir_all(&files.directory);
            }
        }
    }
    found
}

fn apply(container: &Container, report: ContainerReport) {
    match report.exit {
        Some(exit) => container.advance(Live::exited(exit)),
        None if report.started_at > 0 => container.advance(Live::running(report.pid, report.started_at)),
        None => false, // Just starting: an event follows.
    };
}

/// The same as for a shim that ends under our eyes.
async fn lose(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) {
    if let Err(cause) = pod.update(|record| record.stopped = true) {
        tracing::warn!(sandbox = pod.id, %cause, "a sandbox is not recorded as stopped");
    }
    teardown::without_shim(runtime, pod).await;
}

async fn connect(runtime: &Arc<EmbeddedRuntime>, pod: &Arc<Pod>) -> Option<Vec<ContainerReport>> {
    let stream = spawn::reconnect(&pod.files).ok()?;
    let client = ShimClient::new(stream, None, runtime.shim_events(pod)).ok()?;
    match client.call_within(STATE_MAX, Operation::State, Vec::new()).await {
        Ok((Reply::State { containers }, _)) => {
            *pod.shim.lock() = Some(client);
            Some(containers)
        }
        _ => None,
    }
}

async fn release_ownerless(runtime: &Arc<EmbeddedRuntime>) {
    let known: std::collections::HashSet<String> = runtime.containers.read().keys().cloned().collect();
    let images = runtime.config.images.clone();
    let work = move || {
        for owner in images.owners().unwrap_or_default() {
            if !known.contains(&owner)
                && let Err(cause) = images.release(&owner)
            {
                tracing::warn!(container = owner, %cause, "a writable layer without a container is left");
            }
        }
    };
    let _ = super::blocking(work).await;
}
