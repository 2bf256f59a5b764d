//! The pod's status, made from the machine's state alone; what others wrote into it (conditions of readiness
//! gates, nominations) is left out and so left alone.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

/// The scheme of container IDs in statuses: `coracle://<id>`.
pub const RUNTIME_NAME: &str = "coracle";

/// The conditions that the node agent owns, in the order in which they are shown.
pub const OWN_CONDITIONS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

impl PodMachine {
    pub(super) fn make_status(&self, now: Timestamp) -> PodStatus {
        if matches!(&self.lifecycle, Lifecycle::Ended { why: Ending::AlreadyOver, .. } | Lifecycle::Ending { why: Ending::AlreadyOver, .. })
        {
            return self.status.clone();
        }
        let phase = self.phase();
        let mut status = PodStatus {
            phase: Some(phase.to_owned()),
            qos_class: Some(spec::qos_class(&self.pod).as_str().to_owned()),
            start_time: Some(Time(whole_seconds(self.start_time))),
            observed_generation: self.pod.metadata.generation,
            ..PodStatus::default()
        };
        self.put_addresses(&mut status);
        if let Lifecycle::Ending { why: Ending::Failed { reason, message }, .. }
        | Lifecycle::Ended { why: Ending::Failed { reason, message }, .. } = &self.lifecycle
            && phase == "Failed"
        {
            status.reason = Some(reason.clone());
            status.message = Some(message.clone());
        }
        if !self.was_rejected() {
            status.init_container_statuses = self.container_statuses(&[Role::Init, Role::Sidecar]);
            status.container_statuses = self.container_statuses(&[Role::Main]);
            status.ephemeral_container_statuses = self.container_statuses(&[Role::Ephemeral]);
        }
        status.conditions = Some(self.conditions(phase, now));
        status
    }

    /// Rejected by node admission: nothing was ever made.
    fn was_rejected(&self) -> bool {
        matches!(&self.lifecycle, Lifecycle::Ended { why: Ending::Failed { .. }, .. })
            && self.sandbox.id.is_none()
            && self.containers.iter().all(|container| container.attempt.is_none())
    }

    fn put_addresses(&self, status: &mut PodStatus) {
        let host_ips = &self.host.ips;
        status.host_ip = host_ips.first().cloned();
        status.host_ips = (!host_ips.is_empty()).then(|| host_ips.iter().map(|ip| core::HostIP { ip: ip.clone() }).collect());
        if self.sandbox.id.is_none() {
            return;
        }
        let ips = if spec::host_network(&self.pod) { host_ips } else { &self.sandbox.ips };
        status.pod_ip = ips.first().cloned();
        status.pod_ips = (!ips.is_empty()).then(|| ips.iter().map(|ip| core::PodIP { ip: ip.clone() }).collect());
    }

    fn phase(&self) -> &'static str {
        let alive = self.starting.is_some() || self.containers.iter().any(Container::is_alive);
        let mut main = self.containers.iter().filter(|container| container.role == Role::Main);
        if let Lifecycle::Ended { why, .. } = &self.lifecycle {
            let succeeded = !matches!(why, Ending::Failed { .. }) && main.all(|container| container.ended_well());
            return if succeeded { "Succeeded" } else { "Failed" };
        }
        if matches!(&self.lifecycle, Lifecycle::Ending { .. }) && !alive && self.initialized {
            // The outcome is known; taking down sandbox and volumes does not change it.
            let failed = matches!(&self.lifecycle, Lifecycle::Ending { why: Ending::Failed { .. }, .. });
            return if !failed && main.all(|container| container.ended_well()) { "Succeeded" } else { "Failed" };
        }
        if !self.initialized {
            return "Pending";
        }
        if main.any(|container| !container.is_alive() && container.exit.is_none()) { "Pending" } else { "Running" }
    }

    fn container_statuses(&self, roles: &[Role]) -> Option<Vec<core::ContainerStatus>> {
        let statuses: Vec<core::ContainerStatus> = self
            .containers
            .iter()
            .enumerate()
            .filter(|(_, container)| roles.contains(&container.role))
            .map(|(index, container)| self.container_status(index, container))
            .collect();
        (!statuses.is_empty()).then_some(statuses)
    }

    fn container_status(&self, index: usize, container: &Container) -> core::ContainerStatus {
        let definition = self.definition(index).unwrap_or_default();
        let has_init = self.containers.iter().any(|container| matches!(container.role, Role::Init | Role::Sidecar));
        let terminated = |exit: &Exit| core::ContainerState { terminated: Some(exit.to_status()), ..Default::default() };
        let last_state;
        let mut id = None;
        let mut alive = false;
        let state = match (&container.run, &container.exit, &container.waiting) {
            (Run::Running { id: running, since, .. } | Run::Stopping { id: running, since, .. }, exit, _) => {
                id = Some(running.clone());
                alive = true;
                last_state = exit.as_ref().map(terminated);
                let running = core::ContainerStateRunning { started_at: Some(Time(whole_seconds(*since))) };
                core::ContainerState { running: Some(running), ..Default::default() }
            }
            (Run::Idle, exit, Some((reason, message))) => {
                id = exit.as_ref().map(|exit| exit.id.clone());
                last_state = exit.as_ref().or(container.previous.as_ref()).map(terminated);
                waiting(reason, Some(message.as_str()))
            }
            (Run::Idle, Some(exit), None) => {
                id = Some(exit.id.clone());
                last_state = container.previous.as_ref().map(terminated);
                terminated(exit)
            }
            (Run::Idle, None, None) => {
                last_state = container.previous.as_ref().map(terminated);
                waiting(if has_init { "PodInitializing" } else { "ContainerCreating" }, None)
            }
        };
        let ready = match container.role {
            Role::Init => matches!((&container.run, &container.exit), (Run::Idle, Some(exit)) if exit.exit_code == 0),
            Role::Ephemeral => false,
            Role::Main | Role::Sidecar => container.ready,
        };
        core::ContainerStatus {
            name: container.name.clone(),
            state: Some(state),
            // Go writes it always; an empty object means: there was none.
            last_state: Some(last_state.unwrap_or_default()),
            ready,
            restart_count: i32::try_from(container.attempt.unwrap_or(0)).unwrap_or(i32::MAX),
            image: container.image.clone(),
            image_id: container.image_id.clone(),
            container_id: id.filter(|id| !id.is_empty()).map(|id| format!("{RUNTIME_NAME}://{id}")),
            started: Some(match container.role {
                Role::Ephemeral => false,
                _ => alive && container.started,
            }),
            allocated_resources: definition.resources.as_ref().filter(|_| alive).and_then(|resources| resources.requests.clone()),
            resources: container.applied.clone().filter(|_| alive).map(|mut resources| {
                resources.claims = None;
                resources
            }),
            volume_mounts: mount_statuses(&definition),
            ..Default::default()
        }
    }

    fn conditions(&self, phase: &str, now: Timestamp) -> Vec<core::PodCondition> {
        let completed = phase == "Succeeded";
        let verdict = |unready: Vec<String>, reason: &str, text: &str| -> Verdict {
            match (completed, phase, unready.is_empty()) {
                (true, ..) => Verdict::no("PodCompleted", ""),
                (_, "Failed", _) => Verdict::no("PodFailed", ""),
                (_, _, true) => Verdict::Yes,
                _ => Verdict::no(reason, &format!("containers with {text} status: [{}]", unready.join(" "))),
            }
        };

        let unready: Vec<String> = self
            .containers
            .iter()
            .filter(|container| matches!(container.role, Role::Main | Role::Sidecar) && !container.ready)
            .map(|container| container.name.clone())
            .collect();
        let containers_ready = verdict(unready, "ContainersNotReady", "unready");

        let incomplete: Vec<String> = self
            .containers
            .iter()
            .filter(|container| match container.role {
                Role::Init => !self.initialized && !container.ended_well(),
                Role::Sidecar => !self.initialized && !container.started,
                _ => false,
            })
            .map(|container| container.name.clone())
            .collect();
        let initialized = match (completed, incomplete.is_empty()) {
            // Done before it completed, whatever became of it after.
            (true, _) => Verdict::Yes.because("PodCompleted"),
            (false, true) => Verdict::Yes,
            (false, false) => {
                Verdict::no("ContainersNotInitialized", &format!("containers with incomplete status: [{}]", incomplete.join(" ")))
            }
        };

        let ready = match &containers_ready {
            Verdict::Yes => self.readiness_gates(),
            no => no.clone(),
        };
        let network = if self.sandbox.ready && !self.is_over() { Verdict::Yes } else { Verdict::no("", "") };
        let scheduled = Verdict::Yes;

        let verdicts = [network, initialized, ready, containers_ready, scheduled];
        let mut conditions: Vec<core::PodCondition> = OWN_CONDITIONS
            .iter()
            .zip(verdicts)
            .map(|(type_, verdict)| self.condition(type_, verdict, now))
            .collect();
        if let Lifecycle::Ending { why: Ending::Failed { reason, message }, .. }
        | Lifecycle::Ended { why: Ending::Failed { reason, message }, .. } = &self.lifecycle
            && reason == "Evicted"
        {
            let verdict = Verdict::Told { status: "True", reason: "TerminationByKubelet".to_owned(), message: message.clone() };
            conditions.push(self.condition("DisruptionTarget", verdict, now));
        }
        if self.containers.iter().any(|container| container.resizing) {
            conditions.push(self.condition("PodResizeInProgress", Verdict::Yes, now));
        }
        conditions
    }

    fn readiness_gates(&self) -> Verdict {
        let known: BTreeMap<&str, &str> = self
            .pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
            .collect();
        let problems: Vec<String> = spec::spec(&self.pod)
            .readiness_gates
            .iter()
            .flatten()
            .filter_map(|gate| match known.get(gate.condition_type.as_str()) {
                Some(&"True") => None,
                Some(status) => {
                    Some(format!("the status of pod readiness gate \"{}\" is not \"True\", but {status}", gate.condition_type))
                }
                None => Some(format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type)),
            })
            .collect();
        if problems.is_empty() { Verdict::Yes } else { Verdict::no("ReadinessGatesNotReady", &problems.join(", ")) }
    }

    fn condition(&self, type_: &str, verdict: Verdict, now: Timestamp) -> core::PodCondition {
        let (status, reason, message) = match verdict {
            Verdict::Yes => ("True", String::new(), String::new()),
            Verdict::Told { status, reason, message } => (status, reason, message),
        };
        let before = self.status.conditions.iter().flatten().find(|condition| condition.type_ == type_);
        let since = before.filter(|before| before.status == status).and_then(|before| before.last_transition_time.clone());
        core::PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: (!reason.is_empty()).then_some(reason),
            message: (!message.is_empty()).then_some(message),
            last_transition_time: since.or(Some(Time(whole_seconds(now)))),
            observed_generation: self.pod.metadata.generation,
            ..Default::default()
        }
    }
}

#[derive(Clone, Debug)]
enum Verdict {
    Yes,
    Told { status: &'static str, reason: String, message: String },
}

impl Verdict {
    fn no(reason: &str, message: &str) -> Verdict {
        Verdict::Told { status: "False", reason: reason.to_owned(), message: message.to_owned() }
    }

    fn because(self, reason: &str) -> Verdict {
        match self {
            Verdict::Yes => Verdict::Told { status: "True", reason: reason.to_owned(), message: String::new() },
            told => told,
        }
    }
}

impl Container {
    fn ended_well(&self) -> bool {
        !self.is_alive() && self.exit.as_ref().is_some_and(|exit| exit.exit_code == 0)
    }
}

impl Exit {
    fn to_status(&self) -> core::ContainerStateTerminated {
        core::ContainerStateTerminated {
            container_id: (!self.id.is_empty()).then(|| format!("{RUNTIME_NAME}://{}", self.id)),
            exit_code: self.exit_code,
            reason: (!self.reason.is_empty()).then(|| self.reason.clone()),
            message: (!self.message.is_empty()).then(|| self.message.clone()),
            started_at: self.started_at.map(|time| Time(whole_seconds(time))),
            finished_at: self.finished_at.map(|time| Time(whole_seconds(time))),
            signal: None,
        }
    }
}

fn waiting(reason: &str, message: Option<&str>) -> core::ContainerState {
    let message = message.filter(|message| !message.is_empty()).map(str::to_owned);
    core::ContainerState {
        waiting: Some(core::ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    }
}

fn mount_statuses(definition: &core::Container) -> Option<Vec<core::VolumeMountStatus>> {
    let mounts = definition.volume_mounts.as_ref()?;
    let statuses = mounts.iter().map(|mount| {
        let read_only = mount.read_only.unwrap_or(false);
        core::VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| match mount.recursive_read_only.as_deref() {
                Some("Enabled" | "IfPossible") => "Enabled".to_owned(),
                _ => "Disabled".to_owned(),
            }),
            ..Default::default()
        }
    });
    Some(statuses.collect())
}

/// metav1.Time knows no fractions.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
