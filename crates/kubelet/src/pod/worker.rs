//! One task per pod: feeds the machine with events and carries out its effects.
//!
//! Invariant: the loop never waits for an effect. What takes time runs in a task of its own and comes back as an
//! event, so a hung image pull or hook never keeps a deletion or a probe result waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodStatus};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::effects::Acting;
use super::machine::{Effect, Event, Host, Observed, PodMachine, ProbeKind};
use super::spec;
use super::status_writer::StatusWriter;
use crate::agent::Agent;
use crate::volume::Mounted;

/// Events that may wait for one pod's worker; senders wait when it is full.
const INBOX_LIMIT: usize = 256;

/// What arrives at a worker besides changes of the pod itself.
#[derive(Debug)]
pub enum Message {
    Event(Event),
    /// The runtime says that this container ended; the worker looks up how.
    ContainerStopped { id: String },
    SandboxStopped { id: String },
    /// An object that the pod refers to has changed, or a token is due.
    Refresh,
    /// The stream of runtime events had a gap: look at everything again.
    LookAgain,
}

/// The pod as the API has it; `removed` once it is gone from there.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub pod: Arc<Pod>,
    pub removed: bool,
}

/// What the agent's own API tells about the pod.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub pod: Arc<Pod>,
    pub status: Arc<PodStatus>,
    pub sandbox_id: Option<String>,
    pub over: bool,
    /// Running containers by name.
    pub running: BTreeMap<String, String>,
}

#[derive(Clone)]
pub struct PodHandle {
    pub wanted: watch::Sender<Wanted>,
    pub inbox: mpsc::Sender<Message>,
    pub view: Arc<RwLock<View>>,
}

/// What the pod's tasks share.
pub struct PodContext {
    pub agent: Arc<Agent>,
    pub inbox: mpsc::Sender<Message>,
    pub mounted: Mutex<BTreeMap<String, Mounted>>,
    /// Stops every task of the pod.
    pub cancel: CancellationToken,
    refs: Mutex<ObjectReference>,
}

impl PodContext {
    pub async fn send(&self, event: Event) {
        // Only a worker that has ended closes its inbox, and then nobody is interested.
        let _ = self.inbox.send(Message::Event(event)).await;
    }

    /// An event about the pod, or about one of its containers.
    pub fn tell(&self, pod: &Pod, container: Option<&str>, type_: EventType, reason: &str, message: &str) {
        let mut about = self.refs.lock().clone();
        about.resource_version = pod.metadata.resource_version.clone();
        about.field_path = container.and_then(|name| spec::container(pod, name).map(|(role, _)| spec::field_path(role, name)));
        self.agent.recorder.event(&about, type_, reason, message);
    }
}

/// Starts the pod's worker. `on_end` is called when nothing is left of the pod on the node.
pub fn start(
    agent: Arc<Agent>,
    pod: Arc<Pod>,
    observed: Observed,
    rejection: Option<crate::admission::Rejection>,
    on_end: impl FnOnce() + Send + 'static,
) -> PodHandle {
    let (inbox, messages) = mpsc::channel(INBOX_LIMIT);
    let (wanted, changes) = watch::channel(Wanted { pod: pod.clone(), removed: false });
    let view = Arc::new(RwLock::new(View { pod: pod.clone(), ..View::default() }));
    let handle = PodHandle { wanted, inbox: inbox.clone(), view: view.clone() };
    let cancel = agent.cancel.child_token();
    let now = agent.clock.now();
    let host = Host { ips: agent.node_ips.clone(), longest_restart_wait: agent.longest_restart_wait };
    let machine = PodMachine::new(pod.clone(), host, observed, now);
    let context = Arc::new(PodContext {
        inbox,
        mounted: Mutex::new(BTreeMap::new()),
        cancel: cancel.clone(),
        refs: Mutex::new(client::object_ref(&*pod)),
        agent: agent.clone(),
    });
    let writer = StatusWriter::start(agent.rest.clone(), &pod, cancel.clone());
    let worker = Worker {
        acting: Acting::new(context.clone()),
        context,
        machine,
        writer,
        view,
        probes: HashMap::new(),
        start_cancel: None,
    };
    tokio::spawn(async move {
        worker.run(messages, changes, rejection).await;
        cancel.cancel();
        on_end();
    });
    handle
}

struct Worker {
    context: Arc<PodContext>,
    acting: Acting,
    machine: PodMachine,
    writer: StatusWriter,
    view: Arc<RwLock<View>>,
    probes: HashMap<(String, ProbeKind), CancellationToken>,
    start_cancel: Option<CancellationToken>,
}

impl Worker {
    async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut changes: watch::Receiver<Wanted>,
        rejection: Option<crate::admission::Rejection>,
    ) {
        let first = match rejection {
            Some(rejection) => Event::Rejected { reason: rejection.reason, message: rejection.message },
            None => Event::Tick,
        };
        let mut ended = self.step(first).await;
        changes.mark_changed(); // What changed between creation and now.
        while !ended {
            let sleep = self.sleep_time();
            tokio::select! {
                _ = self.context.agent.cancel.cancelled() => return,
                message = messages.recv() => match message {
                    Some(message) => ended = self.take(message).await,
                    None => return,
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = changes.borrow_and_update().clone();
                    ended = self.pod_changed(wanted).await;
                }
                _ = tokio::time::sleep(sleep) => ended = self.step(Event::Tick).await,
            }
        }
    }

    async fn pod_changed(&mut self, wanted: Wanted) -> bool {
        let before = self.machine.pod().clone();
        if !Arc::ptr_eq(&before, &wanted.pod) {
            let told = self.view.read().status.clone();
            self.writer.seen(&wanted.pod, told);
            let metadata_changed = before.metadata.labels != wanted.pod.metadata.labels
                || before.metadata.annotations != wanted.pod.metadata.annotations;
            if self.step(Event::PodChanged(wanted.pod)).await {
                return true;
            }
            if metadata_changed {
                self.acting.refresh_volumes(self.machine.pod(), self.machine.ips());
            }
        }
        wanted.removed && self.step(Event::PodRemoved).await
    }

    async fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Event(event) => self.step(event).await,
            Message::ContainerStopped { id } => {
                self.acting.look_up_exit(id);
                false
            }
            Message::SandboxStopped { id } => self.step(Event::SandboxLost { id }).await,
            Message::Refresh => {
                self.acting.refresh_volumes(self.machine.pod(), self.machine.ips());
                self.step(Event::ObjectsChanged).await
            }
            Message::LookAgain => {
                let running: Vec<String> = self.view.read().running.values().cloned().collect();
                running.into_iter().for_each(|id| self.acting.look_up_exit(id));
                false
            }
        }
    }

    /// True once nothing is left to do for this pod.
    async fn step(&mut self, event: Event) -> bool {
        tracing::trace!(pod = %spec::full_name(self.machine.pod()), ?event, "event");
        let effects = self.machine.step(event, self.context.agent.clock.now());
        let mut ended = false;
        for effect in effects {
            tracing::debug!(pod = %spec::full_name(self.machine.pod()), ?effect, "effect");
            ended |= matches!(effect, Effect::Remove);
            self.act(effect);
        }
        self.publish();
        if ended {
            self.acting.remove(self.machine.pod().clone()).await;
        }
        ended
    }

    fn act(&mut self, effect: Effect) {
        let pod = self.machine.pod().clone();
        match effect {
            Effect::WriteStatus(status) => self.writer.write(*status),
            Effect::DeletePod => self.writer.delete(),
            Effect::Record { warning, reason, message, container } => {
                let type_ = if warning { EventType::Warning } else { EventType::Normal };
                self.context.tell(&pod, container.as_deref(), type_, reason, &message);
            }
            Effect::CancelStart => {
                if let Some(cancel) = self.start_cancel.take() {
                    cancel.cancel();
                }
            }
            Effect::EnsureImage { container } => {
                let cancel = self.context.cancel.child_token();
                self.start_cancel = Some(cancel.clone());
                self.acting.ensure_image(pod, container, cancel);
            }
            Effect::StartContainer { container, attempt, image_id } => {
                self.acting.start_container(pod, container, attempt, image_id, self.machine.sandbox_id(), self.machine.ips());
            }
            Effect::StartProbes { container, id, kinds } => {
                for kind in kinds {
                    let cancel = self.context.cancel.child_token();
                    self.acting.start_probe(&pod, &container, &id, kind, self.machine.ips(), cancel.clone());
                    if let Some(old) = self.probes.insert((container.clone(), kind), cancel) {
                        old.cancel();
                    }
                }
            }
            Effect::StopProbes { container, kinds } => {
                for kind in kinds {
                    if let Some(cancel) = self.probes.remove(&(container.clone(), kind)) {
                        cancel.cancel();
                    }
                }
            }
            Effect::SetUpVolumes => self.acting.set_up_volumes(pod, self.machine.ips()),
            Effect::StartSandbox { attempt } => self.acting.start_sandbox(pod, attempt),
            Effect::PostStart { container, id } => self.acting.post_start(pod, container, id, self.machine.ips()),
            Effect::StopContainer { container, id, grace_period_seconds } => {
                self.acting.stop_container(pod, container, id, grace_period_seconds, self.machine.ips());
            }
            Effect::ResizeContainer { container, id } => self.acting.resize(pod, container, id),
            Effect::RemoveContainer { id } => self.acting.remove_container(pod, id),
            Effect::StopSandbox { id } => self.acting.stop_sandbox(id),
            Effect::TearDown => self.acting.tear_down(pod),
            Effect::Remove => {} // After everything else of this step; see `step`.
        }
    }

    fn publish(&self) {
        let mut view = self.view.write();
        view.pod = self.machine.pod().clone();
        view.status = Arc::new(self.machine.status().clone());
        view.sandbox_id = self.machine.sandbox_id().map(str::to_owned);
        view.over = self.machine.is_over();
        view.running = spec::containers(self.machine.pod())
            .into_iter()
            .filter_map(|(_, container)| {
                let id = self.machine.running_container(&container.name)?.to_owned();
                Some((container.name, id))
            })
            .collect();
    }

    fn sleep_time(&self) -> Duration {
        const LONG: Duration = Duration::from_secs(365 * 24 * 3600);
        let now: Timestamp = self.context.agent.clock.now();
        let machine = self.machine.next_wake(now);
        let wait = machine.and_then(|moment| Duration::try_from(moment.duration_since(now)).ok());
        wait.unwrap_or(LONG)
    }
}
