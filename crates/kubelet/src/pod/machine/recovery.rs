//! Taking up a pod whose containers outlived the agent: what the runtime holds goes before what the API remembers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ContainerStatus;

use super::*;

#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub sandbox: Option<ObservedSandbox>,
    pub containers: Vec<ObservedContainer>,
}

#[derive(Clone, Debug)]
pub struct ObservedSandbox {
    pub id: String,
    pub attempt: u32,
    pub ips: Vec<String>,
    pub ready: bool,
}

#[derive(Clone, Debug)]
pub struct ObservedContainer {
    pub name: String,
    pub id: String,
    pub attempt: u32,
    pub image: String,
    pub image_id: String,
    pub state: ObservedState,
}

#[derive(Clone, Debug)]
pub enum ObservedState {
    /// Made but never started: the agent was killed in between.
    Created,
    Running { since: Timestamp },
    Exited(Exit),
}

impl PodMachine {
    pub(super) fn recover(&mut self, observed: Observed, now: Timestamp) {
        if let Some(started) = self.status.start_time.as_ref() {
            self.start_time = started.0;
        }
        if let Some(sandbox) = observed.sandbox {
            self.sandbox.next_attempt = sandbox.attempt + 1;
            self.sandbox.id = Some(sandbox.id);
            self.sandbox.ips = sandbox.ips;
            self.sandbox.ready = sandbox.ready;
            self.sandbox.start = Progress::Done;
        }
        let mut found: BTreeMap<String, Vec<ObservedContainer>> = BTreeMap::new();
        for container in observed.containers {
            found.entry(container.name.clone()).or_default().push(container);
        }
        for index in 0..self.containers.len() {
            let mut runs = found.remove(&self.containers[index].name).unwrap_or_default();
            runs.sort_by_key(|run| std::cmp::Reverse(run.attempt));
            let remembered = self.remembered(index);
            if runs.is_empty() {
                self.containers[index].recall(remembered, now);
            } else {
                self.recover_runs(index, runs, remembered);
            }
        }
        // Of containers that the specification no longer knows, nothing is kept.
        let strays = found.into_values().flatten();
        self.pending.extend(strays.map(|container| Effect::RemoveContainer { id: container.id }));
        self.initialized = self
            .containers
            .iter()
            .any(|container| container.role == Role::Main && (container.is_alive() || container.exit.is_some()));
        self.recover_lifecycle(now);
    }

    /// A pod that was over stays over.
    fn recover_lifecycle(&mut self, now: Timestamp) {
        if !matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return;
        }
        let alive = self.containers.iter().any(Container::is_alive);
        self.lifecycle = if alive || self.sandbox.ready {
            Lifecycle::Ending { why: Ending::AlreadyOver, deadline: now }
        } else {
            Lifecycle::Ended { why: Ending::AlreadyOver, delete_sent: false }
        };
    }

    fn recover_runs(&mut self, index: usize, runs: Vec<ObservedContainer>, remembered: Option<ContainerStatus>) {
        let definition = self.definition(index);
        let container = &mut self.containers[index];
        for run in runs {
            match run.state {
                ObservedState::Created => self.pending.push(Effect::RemoveContainer { id: run.id }),
                ObservedState::Running { since } if container.attempt.is_none() => {
                    container.attempt = Some(run.attempt);
                    container.run = Run::Running { id: run.id.clone(), since, post_start_done: true };
                    container.image = run.image;
                    container.image_id = run.image_id;
                    container.defined_as = definition.as_ref().and_then(|definition| definition.image.clone()).unwrap_or_default();
                    let known = remembered.as_ref().and_then(|status| status.resources.clone());
                    container.applied =
                        known.or_else(|| definition.as_ref().map(|definition| definition.resources.clone().unwrap_or_default()));
                    container.recover_probes(&run.id, definition.as_ref(), remembered.as_ref(), &mut self.pending);
                }
                // Two runs of one container cannot be: the older one is ended.
                ObservedState::Running { .. } => self.pending.push(Effect::RemoveContainer { id: run.id }),
                ObservedState::Exited(exit) => {
                    if container.attempt.is_none() {
                        container.attempt = Some(run.attempt);
                        container.image = run.image;
                        container.image_id = run.image_id;
                    }
                    if container.exit.is_none() {
                        container.exit = Some(exit);
                    } else if container.previous.is_none() && !container.is_alive() {
                        container.previous = Some(exit);
                    } else {
                        self.pending.push(Effect::RemoveContainer { id: run.id });
                    }
                }
            }
        }
        // The wait between restarts is not forgotten by restarting the agent.
        if let (Some(exit), Some(attempt @ 1..)) = (&container.exit, container.attempt)
            && let Some(finished) = exit.finished_at
        {
            let doublings = (attempt - 1).min(5);
            let longest = self.host.longest_restart_wait;
            let delay = (BACKOFF_FIRST * 2_i32.pow(doublings)).min(longest);
            container.crash = Some(Backoff { delay, longest, updated: finished });
        }
    }

    fn remembered(&self, index: usize) -> Option<ContainerStatus> {
        let container = &self.containers[index];
        let statuses = match container.role {
            Role::Init | Role::Sidecar => &self.status.init_container_statuses,
            Role::Main => &self.status.container_statuses,
            Role::Ephemeral => &self.status.ephemeral_container_statuses,
        };
        statuses.iter().flatten().find(|status| status.name == container.name).cloned()
    }
}

impl Container {
    fn recover_probes(
        &mut self,
        id: &str,
        definition: Option<&k8s_openapi::api::core::v1::Container>,
        remembered: Option<&ContainerStatus>,
        pending: &mut Vec<Effect>,
    ) {
        let same = remembered.filter(|status| status.container_id.as_deref().is_some_and(|known| known.ends_with(id)));
        let Some(definition) = definition else { return };
        self.started = same.and_then(|status| status.started).unwrap_or(false) || definition.startup_probe.is_none();
        let was_ready = same.is_some_and(|status| status.ready);
        self.ready = self.started && (was_ready || definition.readiness_probe.is_none());
        let wanted: &[ProbeKind] =
            if self.started { &[ProbeKind::Liveness, ProbeKind::Readiness] } else { &[ProbeKind::Startup] };
        let kinds: Vec<ProbeKind> = wanted.iter().copied().filter(|kind| kind.of(definition).is_some()).collect();
        if !kinds.is_empty() {
            pending.push(Effect::StartProbes { container: self.name.clone(), id: id.to_owned(), kinds });
        }
    }

    /// The runtime knows nothing of it; the API may remember that it ran.
    fn recall(&mut self, remembered: Option<ContainerStatus>, now: Timestamp) {
        let Some(status) = remembered else { return };
        let exit_of = |state: Option<k8s_openapi::api::core::v1::ContainerState>| {
            state.and_then(|state| state.terminated).map(|terminated| Exit {
                id: terminated.container_id.unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned(),
                exit_code: terminated.exit_code,
                reason: terminated.reason.unwrap_or_default(),
                message: terminated.message.unwrap_or_default(),
                started_at: terminated.started_at.map(|time| time.0),
                finished_at: terminated.finished_at.map(|time| time.0),
            })
        };
        let ran = status.state.as_ref().is_some_and(|state| state.running.is_some());
        let exit = exit_of(status.state).or_else(|| exit_of(status.last_state.clone()));
        self.exit = if ran {
            self.previous = exit;
            Some(Exit {
                id: status.container_id.clone().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned(),
                exit_code: 137,
                reason: "ContainerStatusUnknown".to_owned(),
                message: "The container could not be located when the pod was deleted.  The container used to be Running".to_owned(),
                started_at: None,
                finished_at: Some(now),
            })
        } else {
            exit
        };
        if self.exit.is_some() {
            self.attempt = u32::try_from(status.restart_count).ok();
            self.image_id = status.image_id;
        }
    }
}
