//! A runtime for tests: containers are entries in a map, and run until the test ends them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;
use runtime::cri::*;
use tokio::sync::broadcast;

pub struct FakeRuntime {
    containers: Mutex<BTreeMap<String, ContainerStatus>>,
    events: broadcast::Sender<ContainerEvent>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        FakeRuntime { containers: Mutex::default(), events: broadcast::Sender::new(64) }
    }
}

fn cannot<T>() -> CriResult<T> {
    Err(CriError::Unimplemented("the fake runtime cannot do this".to_owned()))
}

#[async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self) -> CriResult<VersionResponse> {
        Ok(VersionResponse::default())
    }
    async fn status(&self) -> CriResult<Option<String>> {
        Ok(None)
    }
    async fn run_pod_sandbox(&self, _: PodSandboxConfig) -> CriResult<String> {
        cannot()
    }
    async fn stop_pod_sandbox(&self, _: &str) -> CriResult<()> {
        Ok(())
    }
    async fn remove_pod_sandbox(&self, _: &str) -> CriResult<()> {
        Ok(())
    }
    async fn pod_sandbox_status(&self, _: &str) -> CriResult<PodSandboxStatus> {
        cannot()
    }
    async fn list_pod_sandboxes(&self) -> CriResult<Vec<PodSandboxStatus>> {
        Ok(Vec::new())
    }
    async fn create_container(&self, _: &str, _: ContainerConfig) -> CriResult<String> {
        cannot()
    }
    async fn start_container(&self, _: &str) -> CriResult<()> {
        cannot()
    }
    async fn stop_container(&self, _: &str, _: i64) -> CriResult<()> {
        Ok(())
    }
    async fn remove_container(&self, _: &str) -> CriResult<()> {
        Ok(())
    }
    async fn container_status(&self, id: &str) -> CriResult<ContainerStatus> {
        self.containers.lock().get(id).cloned().ok_or_else(|| CriError::NotFound(format!("container {id:?} not found")))
    }
    async fn list_containers(&self) -> CriResult<Vec<ContainerStatus>> {
        Ok(self.containers.lock().values().cloned().collect())
    }
    async fn update_container_resources(&self, _: &str, _: LinuxContainerResources) -> CriResult<()> {
        cannot()
    }
    async fn reopen_container_log(&self, _: &str) -> CriResult<()> {
        Ok(())
    }
    async fn exec_sync(&self, _: &str, _: Vec<String>, _: i64) -> CriResult<ExecSyncResponse> {
        cannot()
    }
    async fn exec(&self, _: &str, _: Vec<String>, _: StreamOptions) -> CriResult<ProcessStreams> {
        cannot()
    }
    async fn attach(&self, _: &str, _: StreamOptions) -> CriResult<ProcessStreams> {
        cannot()
    }
    async fn port_forward(&self, _: &str, _: u16) -> CriResult<Box<dyn Duplex>> {
        cannot()
    }
    async fn container_stats(&self, _: &str) -> CriResult<ContainerStats> {
        cannot()
    }
    async fn list_container_stats(&self) -> CriResult<Vec<ContainerStats>> {
        Ok(Vec::new())
    }
    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}
