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
use crate::spec::{ContainerFiles, ExitRecord, StartRecord, read_json};

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
    let connected = if stopped { None } else { connect(runtime, &pod).await };
    if !complete {
        if let Err(cause) = teardown::destroy(runtime, &pod).await {
            tracing::warn!(sandbox = id, %cause, "a half made sandbox is left");
        }
        return;
    }
    runtime.pods.write().insert(id.to_string(), pod.clone());
    let reports = connected.unwrap_or_default();
    for entry in std::fs::read_dir(pod.files.containers()).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let files = pod.files.container(&id);
        match read_json::<ContainerRecord>(&files.record()) {
            Ok(record) => {
                let live = live(&files, reports.iter().find(|report| report.id == id));
                let container = Container::new(pod.clone(), record, live);
                runtime.containers.write().insert(id, container);
            }
            Err(_) => {
                // Its creation was never acknowledged. The writable layer goes with those that have no owner.
                let _ = std::fs::remove_dir_all(&files.directory);
            }
        }
    }
    if !stopped && pod.shim.lock().is_none() {
        lose(runtime, &pod).await;
    }
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

fn live(files: &ContainerFiles, report: Option<&ContainerReport>) -> Live {
    if let Ok(exit) = read_json::<ExitRecord>(&files.exit()) {
        return Live::exited(exit);
    }
    match (report, read_json::<StartRecord>(&files.started())) {
        (Some(ContainerReport { exit: Some(exit), .. }), _) => Live::exited(exit.clone()),
        (Some(report), _) if report.started_at > 0 => Live::running(report.pid, report.started_at),
        // No shim knows it: seen as running here, it is given up with its pod at once.
        (None, Ok(start)) => Live::running(start.pid, start.started_at),
        _ => Live::created(),
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
