//! What the agent remembers of pods and containers: a record on disk that is written once, and what is now.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::shim_client::ShimClient;
use crate::cri::{
    ContainerConfig, ContainerState, ContainerStatus, CriError, CriResult, NamespaceMode, PodSandboxConfig,
    PodSandboxState, PodSandboxStatus,
};
use crate::spec::{ContainerFiles, ExitRecord, PodFiles};

/// `sandbox.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxRecord {
    pub id: String,
    pub config: PodSandboxConfig,
    pub created_at: i64,
    pub ips: Vec<String>,
    /// False while it is being made: what is found so was left by a crash.
    pub complete: bool,
    /// It has been stopped, or its shim was lost.
    pub stopped: bool,
    /// Control groups above the containers' that did not exist before.
    pub made_cgroups: Vec<PathBuf>,
}

impl SandboxRecord {
    pub fn host_network(&self) -> bool {
        self.config.namespaces.network == NamespaceMode::Node
    }

    /// Below which the pod's containers have their groups.
    pub fn cgroup_parent(&self) -> String {
        match self.config.cgroup_parent.trim_matches('/') {
            "" => format!("coracle/{}", self.id),
            parent => parent.to_string(),
        }
    }

    pub fn container_cgroup(&self, container: &str) -> String {
        format!("{}/{container}", self.cgroup_parent())
    }
}

pub struct Pod {
    pub id: String,
    pub files: PodFiles,
    pub record: Mutex<SandboxRecord>,
    /// None when it is stopped.
    pub shim: Mutex<Option<Arc<ShimClient>>>,
    /// Stopping and removing take turns.
    pub turn: tokio::sync::Mutex<()>,
}

impl Pod {
    pub fn new(files: PodFiles, record: SandboxRecord) -> Arc<Pod> {
        Arc::new(Pod {
            id: record.id.clone(),
            files,
            record: Mutex::new(record),
            shim: Mutex::new(None),
            turn: tokio::sync::Mutex::default(),
        })
    }

    pub fn shim(&self) -> CriResult<Arc<ShimClient>> {
        let gone = || CriError::Unavailable(format!("sandbox {:?} is not running", self.id));
        self.shim.lock().clone().ok_or_else(gone)
    }

    pub fn status(&self) -> PodSandboxStatus {
        let record = self.record.lock();
        let ready = record.complete && !record.stopped && self.shim.lock().is_some();
        PodSandboxStatus {
            id: self.id.clone(),
            metadata: record.config.metadata.clone(),
            state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
            created_at: record.created_at,
            ips: record.ips.clone(),
            namespaces: record.config.namespaces,
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }
    }

    /// Changes the record and writes it.
    pub fn update(&self, change: impl FnOnce(&mut SandboxRecord)) -> std::io::Result<()> {
        let mut record = self.record.lock();
        change(&mut record);
        crate::spec::write_json(&self.files.record(), &*record)
    }
}

/// `container.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerRecord {
    pub id: String,
    pub config: ContainerConfig,
    pub created_at: i64,
    /// As the status shows them.
    pub image: String,
    pub image_ref: String,
    pub stop_signal: i32,
    pub upper: PathBuf,
}

/// ```text
/// Created -> Running -> Exited
///       \---------------^        (start failed)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    pub state: ContainerState,
    pub pid: i32,
    pub started_at: i64,
    pub exit: ExitRecord,
}

impl Live {
    pub fn created() -> Live {
        Live { state: ContainerState::Created, pid: 0, started_at: 0, exit: ExitRecord::default() }
    }

    pub fn running(pid: i32, started_at: i64) -> Live {
        Live { state: ContainerState::Running, pid, started_at, exit: ExitRecord::default() }
    }

    pub fn exited(mut exit: ExitRecord) -> Live {
        if exit.reason.is_empty() {
            exit.reason = match (exit.oom_killed, exit.exit_code) {
                (true, _) => "OOMKilled",
                (false, 0) => "Completed",
                (false, _) => "Error",
            }
            .to_string();
        }
        Live { state: ContainerState::Exited, pid: 0, started_at: exit.started_at, exit }
    }
}

pub struct Container {
    pub id: String,
    pub pod: Arc<Pod>,
    pub files: ContainerFiles,
    pub record: Mutex<ContainerRecord>,
    live: watch::Sender<Live>,
    /// Starting, stopping and removing take turns.
    pub turn: tokio::sync::Mutex<()>,
}

impl Container {
    pub fn new(pod: Arc<Pod>, record: ContainerRecord, live: Live) -> Arc<Container> {
        Arc::new(Container {
            id: record.id.clone(),
            files: pod.files.container(&record.id),
            pod,
            record: Mutex::new(record),
            live: watch::Sender::new(live),
            turn: tokio::sync::Mutex::default(),
        })
    }

    pub fn live(&self) -> Live {
        self.live.borrow().clone()
    }

    /// Goes forward only; true when it was a change.
    pub fn advance(&self, to: Live) -> bool {
        let rank = |live: &Live| match live.state {
            ContainerState::Created => 0,
            ContainerState::Running => 1,
            ContainerState::Exited | ContainerState::Unknown => 2,
        };
        self.live.send_if_modified(|live| {
            let forward = rank(&to) > rank(live);
            if forward {
                *live = to;
            }
            forward
        })
    }

    pub fn subscribe(&self) -> watch::Receiver<Live> {
        self.live.subscribe()
    }

    pub fn cgroup(&self) -> String {
        self.pod.record.lock().container_cgroup(&self.id)
    }

    pub fn running(&self) -> CriResult<Live> {
        let live = self.live();
        match live.state {
            ContainerState::Running => Ok(live),
            state => Err(CriError::Internal(format!("container is in {} state", state_name(state)))),
        }
    }

    pub fn status(&self) -> ContainerStatus {
        let (record, live) = (self.record.lock(), self.live());
        ContainerStatus {
            id: self.id.clone(),
            pod_sandbox_id: self.pod.id.clone(),
            metadata: record.config.metadata.clone(),
            state: live.state,
            created_at: record.created_at,
            started_at: live.started_at,
            finished_at: live.exit.finished_at,
            exit_code: live.exit.exit_code,
            image: record.image.clone(),
            image_ref: record.image_ref.clone(),
            reason: live.exit.reason,
            message: live.exit.message,
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            log_path: log_path(&self.pod, &record.config),
            pid: live.pid,
        }
    }
}

fn log_path(pod: &Pod, config: &ContainerConfig) -> String {
    match config.log_path.as_str() {
        "" => String::new(),
        path => format!("{}/{path}", pod.record.lock().config.log_directory.trim_end_matches('/')),
    }
}

pub fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "CONTAINER_CREATED",
        ContainerState::Running => "CONTAINER_RUNNING",
        ContainerState::Exited => "CONTAINER_EXITED",
        ContainerState::Unknown => "CONTAINER_UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(exit_code: i32, oom_killed: bool, reason: &str, expected: &str) {
        let exit = ExitRecord { exit_code, oom_killed, reason: reason.into(), ..Default::default() };
        assert_eq!(Live::exited(exit).exit.reason, expected);
    }

    #[test]
    fn names_the_reason() {
        check(0, false, "", "Completed");
        check(1, false, "", "Error");
        check(137, true, "", "OOMKilled");
        check(0, true, "", "OOMKilled");
        check(128, false, "StartError", "StartError");
    }
}
