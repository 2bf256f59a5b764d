//! Brings news to the pods' workers: their objects from the API, their containers' ends from the runtime.
//!
//! Invariant: at most one worker per pod UID. A pod that is new is admitted against the pods that are there, one
//! after the other, so that two can never take the same resources.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use client::{Change, Informer, Scope};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use runtime::cri::{ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::admission::{NodeView, admit};
use crate::agent::Agent;
use crate::container::config::POD_UID_LABEL;
use crate::node::NodeAgent;
use crate::pod::effects::{exit_of, moment};
use crate::pod::machine::{Event, Observed, ObservedContainer, ObservedSandbox, ObservedState};
use crate::pod::spec;
use crate::pod::worker::{self, Message, PodHandle, View, Wanted};

/// Changes of pods that may wait to be dispatched: the informer's handlers never wait, so it is the node's
/// capacity of pods many times over. Beyond it the newest state is picked up by the next change of that pod.
const CHANGES_LIMIT: usize = 16 * 1024;

pub struct Dispatch {
    agent: Arc<Agent>,
    node: Arc<NodeAgent>,
    allowed_unsafe_sysctls: Vec<String>,
    pods: Arc<Mutex<HashMap<String, PodHandle>>>,
}

impl Dispatch {
    pub fn new(agent: Arc<Agent>, node: Arc<NodeAgent>, allowed_unsafe_sysctls: Vec<String>) -> Arc<Dispatch> {
        Arc::new(Dispatch { agent, node, allowed_unsafe_sysctls, pods: Arc::default() })
    }

    pub async fn send(&self, uid: &str, event: Event) {
        let handle = self.pods.lock().get(uid).cloned();
        if let Some(handle) = handle {
            // A pod that has ended meanwhile needs no event.
            let _ = handle.inbox.send(Message::Event(event)).await;
        }
    }

    /// Every pod on the node as it is now.
    pub fn views(&self) -> Vec<View> {
        self.pods.lock().values().map(|handle| handle.view.read().clone()).collect()
    }

    pub fn find(&self, namespace: &str, name: &str) -> Option<View> {
        // Of namesakes, one that ends and its successor, the one that is not over.
        let mut views: Vec<View> = self.views();
        views.retain(|view| spec::namespace(&view.pod) == namespace && spec::name(&view.pod) == name);
        views.into_iter().min_by_key(|view| view.over)
    }

    pub async fn run(self: &Arc<Self>, client: &kube::Client) {
        // Before the first look, so that nothing falls between.
        let events = self.agent.runtime.events();
        let observed = self.look().await;
        let scope = Scope { field_selector: Some(format!("spec.nodeName={}", self.agent.node_name)), ..Scope::default() };
        let informer = Informer::<Pod>::start(client, scope, self.agent.cancel.clone());
        let (sender, changes) = mpsc::channel(CHANGES_LIMIT);
        informer.subscribe(move |change: &Change<Pod>| {
            let removed = matches!(change, Change::Deleted(_));
            if sender.try_send(Wanted { pod: change.object().clone(), removed }).is_err() {
                tracing::error!("more changes of pods are waiting than can be kept");
            }
        });
        let changes = self.clone().take_changes(changes, observed, informer.clone());
        tokio::join!(changes, self.take_runtime_events(events));
    }

    async fn take_changes(self: Arc<Self>, mut changes: mpsc::Receiver<Wanted>, mut observed: HashMap<String, Observed>, informer: Arc<Informer<Pod>>) {
        let mut swept = false;
        loop {
            // Until the first list is in, pods that are missing may only be late.
            let wanted = tokio::select! {
                wanted = changes.recv() => wanted,
                _ = informer.synced(), if !swept => {
                    swept = true;
                    while let Ok(wanted) = changes.try_recv() {
                        self.take(wanted, &mut observed);
                    }
                    observed.clear();
                    let (dispatch, informer) = (self.clone(), informer.clone());
                    tokio::spawn(async move { dispatch.sweep(&informer).await });
                    continue;
                }
            };
            let Some(wanted) = wanted else { return };
            self.take(wanted, &mut observed);
        }
    }

    fn take(&self, wanted: Wanted, observed: &mut HashMap<String, Observed>) {
        let uid = spec::uid(&wanted.pod).to_owned();
        let known = self.pods.lock().get(&uid).cloned();
        match known {
            Some(handle) => {
                handle.wanted.send_replace(wanted);
            }
            None if wanted.removed => {}
            None => self.begin(wanted.pod, observed.remove(&uid).unwrap_or_default()),
        }
    }

    fn begin(&self, pod: Arc<Pod>, observed: Observed) {
        let uid = spec::uid(&pod).to_owned();
        let found_running = observed.sandbox.is_some();
        let over = matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
        let rejection = if found_running || over || pod.metadata.deletion_timestamp.is_some() { None } else { self.admit(&pod).err() };
        let (pods, ended) = (self.pods.clone(), uid.clone());
        let handle = worker::start(self.agent.clone(), pod, observed, rejection, move || {
            pods.lock().remove(&ended);
        });
        self.pods.lock().insert(uid, handle);
    }

    fn admit(&self, pod: &Pod) -> Result<(), crate::admission::Rejection> {
        let others: Vec<Arc<Pod>> = self
            .pods
            .lock()
            .values()
            .filter_map(|handle| {
                let view = handle.view.read();
                (!view.over).then(|| view.pod.clone())
            })
            .collect();
        let node = self.node.current.read().clone();
        let view = NodeView {
            node: node.as_deref(),
            name: &self.agent.node_name,
            others: &others,
            pressure: self.node.pressure.read().clone(),
            allowed_unsafe_sysctls: &self.allowed_unsafe_sysctls,
        };
        admit(pod, &view)
    }

    /// What pods left here that were deleted while the agent was not running. What is found is listed before the
    /// pods that are known, so that one that comes meanwhile is never taken for a leftover.
    async fn sweep(&self, informer: &Informer<Pod>) {
        let mut orphans = crate::gc::uids(&*self.agent.runtime, &self.agent.data_dir).await;
        let mut cgroups = self.agent.cgroups.pod_uids();
        let logs: Vec<PathBuf> =
            std::fs::read_dir(&self.agent.log_dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let mut known: BTreeSet<String> = informer.list().iter().map(|pod| spec::uid(pod).to_owned()).collect();
        known.extend(self.pods.lock().keys().cloned());
        orphans.retain(|uid| !known.contains(uid));
        cgroups.retain(|(uid, _)| !known.contains(uid));
        for uid in orphans {
            tracing::info!(uid, "cleaning up after a pod that is gone");
            if let Err(error) = crate::gc::remove_pod_from_runtime(&*self.agent.runtime, &uid).await {
                tracing::warn!(uid, %error, "removing a pod that is gone");
                continue;
            }
            let directory = self.agent.pod_directory(&uid);
            let removed = crate::volume::unmount_below(&directory).map(|()| std::fs::remove_dir_all(&directory));
            if let Err(error) = removed {
                tracing::warn!(uid, %error, "removing the directory of a pod that is gone");
            }
        }
        for (_, directory) in cgroups {
            let _ = crate::cgroup::remove_tree(&directory);
        }
        for directory in logs {
            let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let uid = name.rsplit('_').next().unwrap_or_default();
            if name.matches('_').count() == 2 && !known.contains(uid) {
                let _ = std::fs::remove_dir_all(directory);
            }
        }
    }

    async fn take_runtime_events(&self, mut events: tokio::sync::broadcast::Receiver<ContainerEvent>) {
        loop {
            match events.recv().await {
                Ok(event) => self.take_runtime_event(event).await,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "runtime events were missed: looking at every container");
                    let handles: Vec<PodHandle> = self.pods.lock().values().cloned().collect();
                    for handle in handles {
                        let _ = handle.inbox.send(Message::LookAgain).await;
                    }
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn take_runtime_event(&self, event: ContainerEvent) {
        if event.kind != ContainerEventKind::Stopped {
            return;
        }
        let Some(handle) = self.pods.lock().get(&event.pod_uid).cloned() else { return };
        let message = if event.container_id == event.pod_sandbox_id || event.container_id.is_empty() {
            Message::SandboxStopped { id: event.pod_sandbox_id }
        } else {
            Message::ContainerStopped { id: event.container_id }
        };
        // A worker never blocks on its effects, so this waits for moments at most.
        let _ = handle.inbox.send(message).await;
    }

    /// What the runtime holds, by pod.
    async fn look(&self) -> HashMap<String, Observed> {
        let mut observed: HashMap<String, Observed> = HashMap::new();
        for sandbox in self.agent.runtime.list_pod_sandboxes().await.unwrap_or_default() {
            let entry = observed.entry(sandbox.metadata.uid.clone()).or_default();
            if entry.sandbox.as_ref().is_none_or(|known| known.attempt < sandbox.metadata.attempt) {
                entry.sandbox = Some(observed_sandbox(sandbox));
            }
        }
        for container in self.agent.runtime.list_containers().await.unwrap_or_default() {
            let Some(uid) = container.labels.get(POD_UID_LABEL).cloned() else { continue };
            let directory = self.agent.pod_directory(&uid);
            let container = observed_container(container, &directory, &self.agent.log_dir);
            observed.entry(uid).or_default().containers.push(container);
        }
        observed
    }
}

fn observed_sandbox(status: PodSandboxStatus) -> ObservedSandbox {
    ObservedSandbox {
        id: status.id,
        attempt: status.metadata.attempt,
        ips: status.ips,
        ready: status.state == PodSandboxState::Ready,
    }
}

fn observed_container(status: ContainerStatus, directory: &std::path::Path, logs: &std::path::Path) -> ObservedContainer {
    let state = match status.state {
        ContainerState::Created => ObservedState::Created,
        ContainerState::Running => ObservedState::Running { since: moment(status.started_at).unwrap_or(jiff::Timestamp::UNIX_EPOCH) },
        ContainerState::Exited | ContainerState::Unknown => ObservedState::Exited(exit_of(&status, directory, logs)),
    };
    ObservedContainer {
        name: status.metadata.name,
        id: status.id,
        attempt: status.metadata.attempt,
        image: status.image,
        image_id: status.image_ref,
        state,
    }
}
