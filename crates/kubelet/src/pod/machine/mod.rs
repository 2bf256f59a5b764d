//! The life of one pod on its node, as a state machine without input or output.
//!
//! ```text
//!              Rejected ───────────────────────────────────────────┐
//!                 ▲ node admission said no                         │
//!                 │                                                ▼
//!   new pod ──► Syncing ──► Ending ──► (sandbox stopped, torn down) ──► Ended ──► Removed
//!                 │            ▲                                            ▲ object gone from the API:
//!                 │            │ deleted, completed, deadline, evicted      │ containers, logs, directories go
//!                 │            │
//!                 └─ volumes ─► sandbox ─► init containers and sidecars in order ─► main containers in order
//!
//!   one container:
//!                     ┌────────── back-off (10 s doubling to 5 min) ◄──────────┐
//!                     ▼                                                        │
//!   Idle ─► Image ─► Create ─► Running (postStart, probes) ─► Stopping ─► Idle with an exit
//!             │         │           └───── ends by itself ────────────────►┘
//!             └─────────┴─► Idle with a waiting reason (ErrImagePull, CreateContainerError, ...)
//! ```
//!
//! Invariants: `step` is a function of the state, the event and the time. Events only record facts; `plan` then
//! derives what is to be done from the facts alone, so a lost or doubled event never wedges a pod. Everything
//! that is under way is marked in the state, so nothing is started twice. At most one container of a pod is
//! between "pull the image" and "postStart done". A terminal phase is reported only once nothing runs any more.
//!
//! Deliberately absent: sockets, files, sleeping, the API, the container runtime: effects name them, the worker acts.

mod containers;
mod ending;
mod recovery;
pub mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus, Probe, ResourceRequirements};

use super::spec::{self, Role};
pub use recovery::{Observed, ObservedContainer, ObservedSandbox, ObservedState};

/// Container restarts: the first at once, then after 10 s, doubling up to the node's longest wait; forgotten after
/// twice that.
const BACKOFF_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// Pulls that fail are tried again by the same rule, at the latest after so long.
const PULL_LONGEST: SignedDuration = SignedDuration::from_secs(300);
const PULL_FORGOTTEN: SignedDuration = SignedDuration::from_secs(600);
/// How long a failed pull shows as `ErrImagePull` before it shows as `ImagePullBackOff`.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(2);
/// Retries of volumes, sandboxes and configuration errors, doubling from the first to the longest.
const RETRY_FIRST: SignedDuration = SignedDuration::from_secs(1);
const RETRY_LONGEST: SignedDuration = SignedDuration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    pub fn of(self, container: &k8s_openapi::api::core::v1::Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// How one run of a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    pub id: String,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub enum Event {
    PodChanged(Arc<Pod>),
    /// The object is gone from the API.
    PodRemoved,
    /// A ConfigMap, Secret or claim that the pod refers to has come or changed: what failed may work now.
    ObjectsChanged,
    Rejected { reason: String, message: String },
    Evicted { reason: String, message: String },
    VolumesSetUp(Result<(), String>),
    SandboxStarted(Result<(String, Vec<String>), String>),
    /// The sandbox ended though nobody asked.
    SandboxLost { id: String },
    SandboxStopped(Result<(), String>),
    ImageReady { container: String, image_id: String },
    ImageFailed { container: String, reason: String, message: String },
    ContainerStarted { container: String, id: String, image: String, image_id: String, started_at: Timestamp },
    /// `id` when the container exists although it did not start.
    StartFailed { container: String, id: Option<String>, reason: String, message: String },
    /// What was under way when the pod began to end was given up.
    StartCancelled { container: String },
    PostStartDone { container: String, id: String, failure: Option<String> },
    Exited { container: String, exit: Exit },
    StopFailed { container: String, id: String },
    /// None when it failed; it is tried again later.
    Resized { container: String, id: String, applied: Option<ResourceRequirements> },
    Probed { container: String, id: String, kind: ProbeKind, healthy: bool },
    TornDown(Result<(), String>),
    /// A moment that `next_wake` asked for has come.
    Tick,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Directories, cgroup and volumes.
    SetUpVolumes,
    StartSandbox { attempt: u32 },
    EnsureImage { container: String },
    StartContainer { container: String, attempt: u32, image_id: String },
    /// Give up the pull that is under way.
    CancelStart,
    PostStart { container: String, id: String },
    /// preStop, the stop signal, then by force. A second one for the same container shortens the first.
    StopContainer { container: String, id: String, grace_period_seconds: i64 },
    /// Apply the specification's resources to the running container.
    ResizeContainer { container: String, id: String },
    RemoveContainer { id: String },
    StartProbes { container: String, id: String, kinds: Vec<ProbeKind> },
    StopProbes { container: String, kinds: Vec<ProbeKind> },
    StopSandbox { id: String },
    /// Volumes and cgroup, once nothing runs.
    TearDown,
    WriteStatus(Box<PodStatus>),
    /// The object, with grace period 0, after the status is written.
    DeletePod,
    /// Everything that is left on the node; the worker ends after it.
    Remove,
    Record { warning: bool, reason: &'static str, message: String, container: Option<String> },
}

#[derive(Clone, Debug)]
enum Lifecycle {
    Syncing,
    Ending { why: Ending, deadline: Timestamp },
    Ended { why: Ending, delete_sent: bool },
    Removed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    Deleted,
    Completed,
    /// Ended by the node itself: deadline, eviction, admission.
    Failed { reason: String, message: String },
    /// It was over before this process started: the status in the API stands.
    AlreadyOver,
}

/// A thing that is to be brought about once and may fail.
#[derive(Clone, Debug)]
enum Progress {
    Absent,
    Busy,
    Done,
    Failed { retry_at: Timestamp, delay: SignedDuration },
}

impl Progress {
    fn is_due(&self, now: Timestamp) -> bool {
        match self {
            Progress::Absent => true,
            Progress::Failed { retry_at, .. } => *retry_at <= now,
            Progress::Busy | Progress::Done => false,
        }
    }

    fn failed(&self, previous_delay: Option<SignedDuration>, now: Timestamp) -> Progress {
        let delay = previous_delay.map_or(RETRY_FIRST, |delay| (delay * 2).min(RETRY_LONGEST));
        Progress::Failed { retry_at: now + delay, delay }
    }

    fn retry_at(&self) -> Option<Timestamp> {
        match self {
            Progress::Failed { retry_at, .. } => Some(*retry_at),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Sandbox {
    /// Of the latest sandbox, running or not.
    id: Option<String>,
    ips: Vec<String>,
    ready: bool,
    next_attempt: u32,
    start: Progress,
    stop: Progress,
    last_delay: Option<SignedDuration>,
}

/// One run of a container.
#[derive(Clone, Debug)]
enum Run {
    Idle,
    Running { id: String, since: Timestamp, post_start_done: bool },
    Stopping { id: String, since: Timestamp, until: Timestamp },
}

#[derive(Clone, Debug)]
struct Backoff {
    delay: SignedDuration,
    longest: SignedDuration,
    updated: Timestamp,
}

#[derive(Clone, Debug)]
struct Container {
    name: String,
    role: Role,
    run: Run,
    /// What is shown instead of the exit while nothing runs.
    waiting: Option<(String, String)>,
    /// The latest run's end, when it is over; while one runs, the end of the one before.
    exit: Option<Exit>,
    /// The end before `exit`, while nothing runs.
    previous: Option<Exit>,
    /// The number of the latest run that the runtime knows; None before the first.
    attempt: Option<u32>,
    crash: Option<Backoff>,
    /// The exit whose back-off was announced.
    announced: Option<String>,
    pull: Option<PullFailure>,
    retry_at: Option<Timestamp>,
    retry_delay: Option<SignedDuration>,
    started: bool,
    ready: bool,
    image: String,
    image_id: String,
    /// Shown as waiting reason once the stop under way is over.
    waiting_after_stop: Option<(String, String)>,
    /// The image it was started with: changing it replaces the container.
    defined_as: String,
    /// An exit that was reported before the start was.
    early_exit: Option<Exit>,
    replaced: bool,
    /// The resources that the running container has; None before it was ever started.
    applied: Option<ResourceRequirements>,
    resizing: bool,
}

#[derive(Clone, Debug)]
struct PullFailure {
    error: String,
    delay: SignedDuration,
    until: Timestamp,
    shown_until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Image,
    Create,
    PostStart,
}

/// What a pod has from its node.
#[derive(Clone, Debug)]
pub struct Host {
    pub ips: Vec<String>,
    /// `maxContainerRestartPeriod`: the longest wait before a container that keeps ending is started again.
    pub longest_restart_wait: SignedDuration,
}

pub struct PodMachine {
    pod: Arc<Pod>,
    host: Host,
    removed: bool,
    lifecycle: Lifecycle,
    volumes: Progress,
    volumes_delay: Option<SignedDuration>,
    tear_down: Progress,
    sandbox: Sandbox,
    containers: Vec<Container>,
    /// The container between "pull the image" and "postStart done".
    starting: Option<(usize, Step)>,
    initialized: bool,
    start_time: Timestamp,
    status: PodStatus,
    /// What recovery found to be done; given out with the first step.
    pending: Vec<Effect>,
}

impl PodMachine {
    /// `observed`: what the runtime already holds of this pod, after a restart of the agent.
    pub fn new(pod: Arc<Pod>, host: Host, observed: Observed, now: Timestamp) -> PodMachine {
        let mut machine = PodMachine {
            start_time: now,
            host,
            removed: false,
            lifecycle: Lifecycle::Syncing,
            volumes: Progress::Absent,
            volumes_delay: None,
            tear_down: Progress::Absent,
            sandbox: Sandbox {
                id: None,
                ips: Vec::new(),
                ready: false,
                next_attempt: 0,
                start: Progress::Absent,
                stop: Progress::Absent,
                last_delay: None,
            },
            containers: Vec::new(),
            starting: None,
            initialized: false,
            status: pod.status.clone().unwrap_or_default(),
            pod,
            pending: Vec::new(),
        };
        machine.adopt_specification();
        machine.recover(observed, now);
        machine
    }

    /// Records the event, then plans. Effects are in the order in which they are to be begun.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.pending);
        self.record(event, now, &mut effects);
        self.plan(now, &mut effects);
        let status = self.make_status(now);
        // `Removed` has nobody left to tell.
        if status != self.status && !matches!(self.lifecycle, Lifecycle::Removed) {
            self.status = status.clone();
            // Before a deletion, after everything else.
            let at = effects.iter().position(|effect| *effect == Effect::DeletePod).unwrap_or(effects.len());
            effects.insert(at, Effect::WriteStatus(Box::new(status)));
        }
        effects
    }

    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    pub fn status(&self) -> &PodStatus {
        &self.status
    }

    pub fn sandbox_id(&self) -> Option<&str> {
        self.sandbox.id.as_deref()
    }

    pub fn ips(&self) -> &[String] {
        &self.sandbox.ips
    }

    pub fn is_ending(&self) -> bool {
        !matches!(self.lifecycle, Lifecycle::Syncing)
    }

    /// Whether the pod takes nothing of the node's resources any more.
    pub fn is_over(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Ended { .. } | Lifecycle::Removed)
    }

    /// The running container of this name.
    pub fn running_container(&self, name: &str) -> Option<&str> {
        self.container(name).and_then(|container| match &container.run {
            Run::Running { id, .. } | Run::Stopping { id, .. } => Some(id.as_str()),
            Run::Idle => None,
        })
    }

    /// The next moment at which the world would look different although nothing happened.
    pub fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        let mut moments: Vec<Timestamp> = Vec::new();
        match &self.lifecycle {
            Lifecycle::Syncing => {
                moments.extend(self.active_deadline());
                moments.extend(self.volumes.retry_at());
                moments.extend(self.sandbox.start.retry_at());
                moments.extend(self.sandbox.stop.retry_at());
                for container in &self.containers {
                    moments.extend(container.retry_at);
                    moments.extend(container.restart_at());
                    moments.extend(container.pull.iter().flat_map(|pull| [Some(pull.until), pull.shown_until]).flatten());
                }
            }
            Lifecycle::Ending { deadline, .. } => {
                moments.push(*deadline);
                moments.extend(self.sandbox.stop.retry_at());
                moments.extend(self.tear_down.retry_at());
                moments.extend(self.containers.iter().filter_map(|container| container.retry_at));
            }
            Lifecycle::Ended { .. } | Lifecycle::Removed => {}
        }
        // What is past has been seen; it waits for something else than time.
        moments.into_iter().filter(|moment| *moment > now).min()
    }

    fn record(&mut self, event: Event, now: Timestamp, effects: &mut Vec<Effect>) {
        match event {
            Event::PodChanged(pod) => {
                self.pod = pod;
                self.adopt_specification();
            }
            Event::PodRemoved => self.removed = true,
            Event::ObjectsChanged => self.forget_retries(now),
            Event::Rejected { reason, message } => self.reject(reason, message, effects),
            Event::Evicted { reason, message } => {
                if matches!(self.lifecycle, Lifecycle::Syncing) {
                    effects.push(warning("Evicted", message.clone()));
                    self.begin_ending(Ending::Failed { reason, message }, now, effects);
                    // The node cannot wait.
                    self.hasten(now + SignedDuration::from_secs(1));
                }
            }
            Event::VolumesSetUp(Ok(())) => {
                self.volumes = Progress::Done;
                self.volumes_delay = None;
            }
            Event::VolumesSetUp(Err(message)) => {
                // What failed and why was announced volume by volume.
                let _ = message;
                self.volumes = self.volumes.failed(self.volumes_delay, now);
                self.volumes_delay = self.volumes.delay();
            }
            Event::SandboxStarted(result) => self.sandbox_started(result, now, effects),
            Event::SandboxLost { id } => {
                if self.sandbox.id.as_deref() == Some(&id) {
                    self.sandbox.ready = false;
                }
            }
            Event::SandboxStopped(Ok(())) => {
                self.sandbox.stop = Progress::Done;
                self.sandbox.ready = false;
            }
            Event::SandboxStopped(Err(_)) => self.sandbox.stop = self.sandbox.stop.failed(None, now),
            Event::TornDown(Ok(())) => self.tear_down = Progress::Done,
            Event::TornDown(Err(_)) => self.tear_down = self.tear_down.failed(None, now),
            Event::Tick => {}
            event => self.record_container(event, now, effects),
        }
    }

    fn sandbox_started(&mut self, result: Result<(String, Vec<String>), String>, now: Timestamp, effects: &mut Vec<Effect>) {
        match result {
            Ok((id, ips)) => {
                self.sandbox.id = Some(id);
                self.sandbox.ips = ips;
                self.sandbox.ready = true;
                self.sandbox.start = Progress::Done;
                self.sandbox.stop = Progress::Absent;
                self.sandbox.last_delay = None;
            }
            Err(message) => {
                effects.push(warning("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}")));
                self.sandbox.start = self.sandbox.start.failed(self.sandbox.last_delay, now);
                self.sandbox.last_delay = self.sandbox.start.delay();
            }
        }
    }

    fn plan(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.stop_again(now, effects);
        if matches!(self.lifecycle, Lifecycle::Syncing) {
            self.plan_syncing(now, effects);
        }
        if matches!(self.lifecycle, Lifecycle::Ending { .. }) {
            self.plan_ending(now, effects);
        }
        self.plan_ended(effects);
    }

    fn plan_syncing(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.deletion_asked() {
            return self.begin_ending(Ending::Deleted, now, effects);
        }
        if self.active_deadline().is_some_and(|deadline| deadline <= now) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            effects.push(warning("DeadlineExceeded", message.clone()));
            return self.begin_ending(Ending::Failed { reason: "DeadlineExceeded".to_owned(), message }, now, effects);
        }
        if self.is_completed() {
            return self.begin_ending(Ending::Completed, now, effects);
        }
        if self.volumes.is_due(now) {
            self.volumes = Progress::Busy;
            effects.push(Effect::SetUpVolumes);
        }
        if !matches!(self.volumes, Progress::Done) || !self.plan_sandbox(now, effects) {
            return;
        }
        self.plan_containers(now, effects);
    }

    /// True once containers may be started in it.
    fn plan_sandbox(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        if self.sandbox.ready {
            return true;
        }
        if let (Progress::Done, Some(id)) = (&self.sandbox.start, self.sandbox.id.clone()) {
            // It ended under us: what runs in it has lost its network.
            if matches!(self.sandbox.stop, Progress::Absent) {
                effects.push(normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.".to_owned()));
            }
            if self.sandbox.stop.is_due(now) {
                self.sandbox.stop = Progress::Busy;
                effects.push(Effect::StopSandbox { id });
            }
            let stopped = matches!(self.sandbox.stop, Progress::Done);
            if stopped && self.starting.is_none() && self.containers.iter().all(|container| !container.is_alive()) {
                self.sandbox.start = Progress::Absent;
                self.initialized = false;
                self.containers.iter_mut().for_each(Container::start_over);
            }
        }
        if self.sandbox.start.is_due(now) {
            let attempt = self.sandbox.next_attempt;
            self.sandbox.next_attempt += 1;
            self.sandbox.start = Progress::Busy;
            effects.push(Effect::StartSandbox { attempt });
        }
        false
    }

    fn deletion_asked(&self) -> bool {
        self.removed || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn active_deadline(&self) -> Option<Timestamp> {
        let seconds = spec::spec(&self.pod).active_deadline_seconds?;
        Some(self.start_time + SignedDuration::from_secs(seconds))
    }

    fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.containers.iter().position(|container| container.name == name)
    }
}

impl Progress {
    fn delay(&self) -> Option<SignedDuration> {
        match self {
            Progress::Failed { delay, .. } => Some(*delay),
            _ => None,
        }
    }
}

fn warning(reason: &'static str, message: String) -> Effect {
    Effect::Record { warning: true, reason, message, container: None }
}

fn normal(reason: &'static str, message: String) -> Effect {
    Effect::Record { warning: false, reason, message, container: None }
}
