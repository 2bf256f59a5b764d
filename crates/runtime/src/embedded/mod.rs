//! The embedded runtime: CRI in the agent's own process, over one shim per pod.
//!
//! ```text
//! <state_dir>/pods/<sandbox>/  sandbox.json spec.json shim.sock netns shm/
//!     containers/<container>/  container.json spec.json started.json exit.json rootfs/
//! ```
//!
//! Invariant: what a container is can always be told from these files and its shim, so the agent may die at any
//! instruction. Events come from shims; nothing is listed on a timer. Deliberately absent: the pod's network
//! (asked for through `PodNetwork`) and images (through `RootfsProvider`).

mod launch;
mod ports;
mod recovery;
mod rootfs;
mod service;
mod shim_client;
mod spawn;
mod state;
mod streams;
mod teardown;
mod usage;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use tokio::sync::broadcast;

pub use rootfs::RootfsProvider;

use crate::cgroup::Cgroups;
use crate::cri::{ContainerEvent, ContainerEventKind, CriError, CriResult, PodNetwork};
use crate::spec::{ExitRecord, PodFiles};
use crate::sys::now_nanoseconds;
use shim_client::ShimEvent;
use state::{Container, Live, Pod};

/// A subscriber that is this far behind misses events and is told so.
const EVENTS_MAX: usize = 4096;

pub struct EmbeddedConfig {
    /// Lasts: nothing but what images and containers keep on disk.
    pub root_dir: PathBuf,
    /// May be emptied by a reboot.
    pub state_dir: PathBuf,
    pub network: Arc<dyn PodNetwork>,
    pub images: Arc<dyn RootfsProvider>,
    /// The binary that is a shim when called as `internal-shim`, usually `/proc/self/exe`.
    pub shim_exe: PathBuf,
}

pub struct EmbeddedRuntime {
    this: Weak<EmbeddedRuntime>,
    config: EmbeddedConfig,
    cgroups: Cgroups,
    shim_program: spawn::ShimProgram,
    pods: RwLock<HashMap<String, Arc<Pod>>>,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    events: broadcast::Sender<ContainerEvent>,
}

impl EmbeddedRuntime {
    /// Finds again what an earlier agent left running, and cleans up what it left half made.
    pub async fn start(config: EmbeddedConfig) -> io::Result<Arc<EmbeddedRuntime>> {
        std::fs::create_dir_all(config.state_dir.join("pods"))?;
        std::fs::create_dir_all(&config.root_dir)?;
        let cgroups = Cgroups::detect()?;
        let runtime = Arc::new_cyclic(|this| EmbeddedRuntime {
            this: this.clone(),
            cgroups,
            shim_program: spawn::ShimProgram::open(&config.shim_exe),
            config,
            pods: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::Sender::new(EVENTS_MAX),
        });
        recovery::recover(&runtime).await?;
        Ok(runtime)
    }

    /// Stops and removes every pod; what a machine that gives up Coracle wants.
    pub async fn remove_everything(&self) -> CriResult<()> {
        let pods: Vec<_> = self.pods.read().values().cloned().collect();
        let mut result = Ok(());
        for pod in pods {
            result = result.and(teardown::remove_pod(&self.me(), &pod).await);
        }
        result
    }

    /// For what outlives the call.
    fn me(&self) -> Arc<EmbeddedRuntime> {
        self.this.upgrade().expect("whoever calls a method holds the Arc that `start` made")
    }

    fn pod_files(&self, id: &str) -> PodFiles {
        PodFiles { directory: self.config.state_dir.join("pods").join(id) }
    }

    fn pod(&self, id: &str) -> CriResult<Arc<Pod>> {
        let found = self.pods.read().get(id).cloned();
        found.ok_or_else(|| {
            CriError::NotFound(format!("an error occurred when try to find sandbox {id:?}: not found"))
        })
    }

    fn container(&self, id: &str) -> CriResult<Arc<Container>> {
        let found = self.containers.read().get(id).cloned();
        found.ok_or_else(|| {
            CriError::NotFound(format!("an error occurred when try to find container {id:?}: not found"))
        })
    }

    fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        self.containers.read().values().filter(|it| it.pod.id == pod).cloned().collect()
    }

    fn announce(&self, kind: ContainerEventKind, container_id: &str, pod: &Pod) {
        // Nobody listening is no error.
        let _ = self.events.send(ContainerEvent {
            kind,
            container_id: container_id.to_string(),
            pod_sandbox_id: pod.id.clone(),
            pod_uid: pod.record.lock().config.metadata.uid.clone(),
            created_at: now_nanoseconds(),
        });
    }

    fn container_exited(&self, container: &Container, exit: ExitRecord) {
        if container.advance(Live::exited(exit)) {
            self.announce(ContainerEventKind::Stopped, &container.id, &container.pod);
        }
    }

    fn container_started(&self, container: &Container, pid: i32, started_at: i64) {
        if container.advance(Live::running(pid, started_at)) {
            self.announce(ContainerEventKind::Started, &container.id, &container.pod);
        }
    }

    /// What to do with a shim's events. Holds both weakly: a dropped runtime is not kept by its shims.
    fn shim_events(self: &Arc<Self>, pod: &Arc<Pod>) -> impl Fn(ShimEvent) + Send + Sync + 'static {
        let (runtime, pod) = (Arc::downgrade(self), Arc::downgrade(pod));
        move |event| {
            let (Some(runtime), Some(pod)) = (runtime.upgrade(), pod.upgrade()) else { return };
            match event {
                ShimEvent::Started { container, pid, started_at } => {
                    if let Ok(container) = runtime.container(&container) {
                        runtime.container_started(&container, pid, started_at);
                    }
                }
                ShimEvent::Exited { container, exit } => {
                    if let Ok(container) = runtime.container(&container) {
                        runtime.container_exited(&container, exit);
                    }
                }
                ShimEvent::Gone => {
                    tokio::spawn(async move { teardown::shim_lost(&runtime, &pod).await });
                }
            }
        }
    }
}

/// Runs what waits for the disk or the kernel on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> CriResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(|cause| CriError::Internal(cause.to_string()))
}

/// 64 hexadecimal digits, as users of container tools expect.
fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}
