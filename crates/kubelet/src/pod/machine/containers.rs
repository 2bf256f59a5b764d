//! The containers of a pod that is to run: who starts next, who is replaced, who waits and for how long.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;

use super::*;

impl PodMachine {
    /// Takes over containers that the specification has gained (ephemeral ones are added to running pods).
    pub(super) fn adopt_specification(&mut self) {
        for (at, (role, container)) in spec::containers(&self.pod).into_iter().enumerate() {
            if self.index_of(&container.name).is_none() {
                self.containers.insert(at.min(self.containers.len()), Container::new(role, &container));
                if let Some((starting, _)) = &mut self.starting
                    && *starting >= at
                {
                    *starting += 1;
                }
            }
        }
    }

    pub(super) fn record_container(&mut self, event: Event, now: Timestamp, effects: &mut Vec<Effect>) {
        match event {
            Event::ImageReady { container, image_id } => {
                let Some(index) = self.starting_at(&container, Step::Image) else { return };
                self.containers[index].pull = None;
                let attempt = self.containers[index].next_attempt();
                self.starting = Some((index, Step::Create));
                effects.push(Effect::StartContainer { container, attempt, image_id });
            }
            Event::ImageFailed { container, reason, message } => {
                let Some(index) = self.starting_at(&container, Step::Image) else { return };
                self.starting = None;
                self.containers[index].image_failed(reason, message, now);
            }
            Event::ContainerStarted { container, id, image, image_id, started_at } => {
                let Some(index) = self.starting_at(&container, Step::Create) else { return };
                self.container_started(index, id, image, image_id, started_at, now, effects);
            }
            Event::StartFailed { container, id, reason, message } => {
                let Some(index) = self.starting_at(&container, Step::Create) else { return };
                self.starting = None;
                let container = &mut self.containers[index];
                container.retry_delay =
                    Some(container.retry_delay.map_or(RETRY_FIRST, |delay| (delay * 2).min(RETRY_LONGEST)));
                match id {
                    // It exists and counts as a run that failed.
                    Some(id) => {
                        container.attempt = Some(container.next_attempt());
                        let exit = Exit {
                            id,
                            exit_code: 128,
                            reason: "StartError".to_owned(),
                            message: message.clone(),
                            // What never ran has no start, which CRI and so the original write as zero.
                            started_at: Some(Timestamp::UNIX_EPOCH),
                            finished_at: Some(now),
                        };
                        container.run_ended(exit, effects);
                    }
                    None => container.retry_at = container.retry_delay.map(|delay| now + delay),
                }
                self.containers[index].waiting = Some((reason, message));
            }
            Event::StartCancelled { container } => {
                self.starting = self.starting.filter(|(index, _)| self.containers[*index].name != container);
            }
            Event::PostStartDone { container, id, failure } => self.post_start_done(&container, &id, failure, now, effects),
            Event::Exited { container, exit } => self.exited(&container, exit, effects),
            Event::StopFailed { container, id } => {
                let found = self.containers.iter_mut().find(|known| known.name == container);
                if let Some(known) = found.filter(|known| matches!(&known.run, Run::Stopping { id: stopping, .. } if *stopping == id)) {
                    known.retry_at = Some(now + RETRY_FIRST);
                }
            }
            Event::Resized { container, id, applied } => self.resized(&container, &id, applied, now),
            Event::Probed { container, id, kind, healthy } => self.probed(&container, &id, kind, healthy, now, effects),
            _ => {}
        }
    }

    fn starting_at(&self, name: &str, step: Step) -> Option<usize> {
        let (index, at) = self.starting?;
        (at == step && self.containers[index].name == name).then_some(index)
    }

    #[allow(clippy::too_many_arguments)] // The fields of one event.
    fn container_started(
        &mut self,
        index: usize,
        id: String,
        image: String,
        image_id: String,
        started_at: Timestamp,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let definition = self.definition(index);
        let has_post_start =
            definition.as_ref().and_then(|definition| definition.lifecycle.as_ref()).is_some_and(|hooks| hooks.post_start.is_some());
        let container = &mut self.containers[index];
        container.attempt = Some(container.next_attempt());
        container.waiting = None;
        container.retry_at = None;
        container.retry_delay = None;
        container.replaced = false;
        container.image = image;
        container.image_id = image_id;
        container.started = false;
        container.ready = false;
        container.resizing = false;
        container.applied = definition.as_ref().map(|definition| definition.resources.clone().unwrap_or_default());
        container.defined_as = definition.and_then(|definition| definition.image).unwrap_or_default();
        // The latest end becomes the last state; the one before it is no longer shown.
        if let Some(previous) = container.previous.take() {
            effects.push(Effect::RemoveContainer { id: previous.id });
        }
        let early = container.early_exit.take().filter(|exit| exit.id == id);
        container.run = Run::Running { id: id.clone(), since: started_at, post_start_done: !has_post_start };
        self.starting = None;
        if let Some(exit) = early {
            let name = self.containers[index].name.clone();
            return self.exited(&name, exit, effects);
        }
        if has_post_start {
            self.starting = Some((index, Step::PostStart));
            effects.push(Effect::PostStart { container: self.containers[index].name.clone(), id });
        } else {
            self.up(index, now, effects);
        }
    }

    /// It runs and its postStart is done: probes decide from here.
    fn up(&mut self, index: usize, _now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(definition) = self.definition(index) else { return };
        let container = &mut self.containers[index];
        let Run::Running { id, .. } = &container.run else { return };
        let id = id.clone();
        container.started = definition.startup_probe.is_none();
        container.ready = container.started && definition.readiness_probe.is_none();
        let wanted: &[ProbeKind] =
            if container.started { &[ProbeKind::Liveness, ProbeKind::Readiness] } else { &[ProbeKind::Startup] };
        let kinds: Vec<ProbeKind> = wanted.iter().copied().filter(|kind| kind.of(&definition).is_some()).collect();
        if !kinds.is_empty() {
            effects.push(Effect::StartProbes { container: definition.name, id, kinds });
        }
    }

    fn post_start_done(&mut self, name: &str, id: &str, failure: Option<String>, now: Timestamp, effects: &mut Vec<Effect>) {
        if let Some(index) = self.starting_at(name, Step::PostStart) {
            self.starting = None;
            let _ = index;
        }
        let Some(index) = self.index_of(name) else { return };
        match &mut self.containers[index].run {
            Run::Running { id: running, post_start_done, .. } if running == id => *post_start_done = true,
            _ => return, // It ended while its hook ran.
        }
        let Some(message) = failure else { return self.up(index, now, effects) };
        // The message may hold secrets of the hook: the event does not repeat it.
        effects.push(self.container_event(index, true, "FailedPostStartHook", "PostStartHook failed".to_owned()));
        self.containers[index].waiting_after_stop = Some(("PostStartHookError".to_owned(), message));
        effects.push(self.container_event(index, false, "Killing", "FailedPostStartHook".to_owned()));
        let grace_period_seconds = spec::grace_period_seconds(&self.pod);
        self.stop(index, grace_period_seconds, now, effects);
    }

    fn exited(&mut self, name: &str, exit: Exit, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(name) else { return };
        let starting = self.starting_at(name, Step::Create).is_some();
        let container = &mut self.containers[index];
        match &container.run {
            Run::Running { id, .. } | Run::Stopping { id, .. } if *id == exit.id => {}
            // Its start is not reported yet.
            _ if starting => {
                container.early_exit = Some(exit);
                return;
            }
            _ => return,
        }
        container.retry_at = None;
        container.run_ended(exit, effects);
        container.waiting = container.waiting_after_stop.take();
        let kinds = vec![ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];
        effects.push(Effect::StopProbes { container: name.to_owned(), kinds });
        if self.starting_at(name, Step::PostStart).is_some() {
            self.starting = None;
        }
    }

    fn probed(&mut self, name: &str, id: &str, kind: ProbeKind, healthy: bool, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(name) else { return };
        let Run::Running { id: running, .. } = &self.containers[index].run else {
            // While it stops, only its readiness is still of interest.
            if kind == ProbeKind::Readiness {
                self.containers[index].ready = healthy;
            }
            return;
        };
        if running != id {
            return;
        }
        let Some(definition) = self.definition(index) else { return };
        match (kind, healthy) {
            (ProbeKind::Readiness, healthy) => self.containers[index].ready = healthy,
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup, true) => {
                let container = &mut self.containers[index];
                container.started = true;
                container.ready = definition.readiness_probe.is_none();
                effects.push(Effect::StopProbes { container: name.to_owned(), kinds: vec![ProbeKind::Startup] });
                let kinds: Vec<ProbeKind> = [ProbeKind::Liveness, ProbeKind::Readiness]
                    .into_iter()
                    .filter(|kind| kind.of(&definition).is_some())
                    .collect();
                if !kinds.is_empty() {
                    effects.push(Effect::StartProbes { container: name.to_owned(), id: id.to_owned(), kinds });
                }
            }
            (ProbeKind::Liveness | ProbeKind::Startup, false) => {
                if self.is_ending() {
                    return;
                }
                let word = if kind == ProbeKind::Liveness { "liveness" } else { "startup" };
                let mut message = format!("Container {name} failed {word} probe");
                if self.restarts_after(index, 137) {
                    message.push_str(", will be restarted");
                }
                effects.push(self.container_event(index, false, "Killing", message));
                let own = kind.of(&definition).and_then(|probe| probe.termination_grace_period_seconds);
                let grace_period_seconds = own.unwrap_or_else(|| spec::grace_period_seconds(&self.pod));
                self.stop(index, grace_period_seconds, now, effects);
            }
        }
    }

    /// Begins the end of a running container, or hastens it.
    pub(super) fn stop(&mut self, index: usize, grace_period_seconds: i64, now: Timestamp, effects: &mut Vec<Effect>) {
        let wanted = now + SignedDuration::from_secs(grace_period_seconds);
        let container = &mut self.containers[index];
        let (id, since) = match &container.run {
            Run::Running { id, since, .. } => (id.clone(), *since),
            Run::Stopping { id, since, until } if wanted + SignedDuration::from_secs(1) < *until => (id.clone(), *since),
            _ => return,
        };
        container.run = Run::Stopping { id: id.clone(), since, until: wanted };
        let name = container.name.clone();
        effects.push(Effect::StopProbes { container: name.clone(), kinds: vec![ProbeKind::Startup, ProbeKind::Liveness] });
        effects.push(Effect::StopContainer { container: name, id, grace_period_seconds });
    }

    /// A stop that the runtime failed to carry out is asked for again; its time is over by now.
    pub(super) fn stop_again(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        for container in &mut self.containers {
            let Run::Stopping { id, .. } = &container.run else { continue };
            if container.retry_at.is_some_and(|moment| moment <= now) {
                container.retry_at = None;
                effects.push(Effect::StopContainer { container: container.name.clone(), id: id.clone(), grace_period_seconds: 1 });
            }
        }
    }

    pub(super) fn plan_containers(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.replace_changed(now, effects);
        self.resize_changed(now, effects);
        for index in 0..self.containers.len() {
            self.show_pull_backoff(index, now, effects);
        }
        if !self.initialized && !self.plan_initialization(now, effects) {
            self.plan_role(Role::Ephemeral, now, effects);
            return;
        }
        self.initialized = true;
        self.plan_role(Role::Sidecar, now, effects);
        self.plan_role(Role::Main, now, effects);
        self.plan_role(Role::Ephemeral, now, effects);
    }

    /// True when every init container has succeeded and every sidecar has started.
    fn plan_initialization(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        for index in 0..self.containers.len() {
            let container = &self.containers[index];
            match container.role {
                Role::Init => {
                    if matches!((&container.run, &container.exit), (Run::Idle, Some(exit)) if exit.exit_code == 0) {
                        continue;
                    }
                    if !container.is_alive() {
                        self.start_if_due(index, now, effects);
                    }
                    // Sidecars that were started before it are kept alive meanwhile.
                    for earlier in 0..index {
                        if self.containers[earlier].role == Role::Sidecar && !self.containers[earlier].is_alive() {
                            self.start_if_due(earlier, now, effects);
                        }
                    }
                    return false;
                }
                Role::Sidecar if !(container.is_alive() && container.started) => {
                    if !container.is_alive() {
                        self.start_if_due(index, now, effects);
                    }
                    return false;
                }
                _ => {}
            }
        }
        true
    }

    fn plan_role(&mut self, role: Role, now: Timestamp, effects: &mut Vec<Effect>) {
        for index in 0..self.containers.len() {
            let container = &self.containers[index];
            if container.role != role || container.is_alive() {
                continue;
            }
            let wanted = match &container.exit {
                None => true,
                Some(exit) => role != Role::Ephemeral && (container.replaced || self.restarts_after(index, exit.exit_code)),
            };
            if wanted {
                self.start_if_due(index, now, effects);
            }
        }
    }

    /// Starts it unless another start is under way or it has to wait, which is then shown and announced.
    fn start_if_due(&mut self, index: usize, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.starting.is_some_and(|(starting, _)| starting == index) {
            return;
        }
        let container = &mut self.containers[index];
        if container.retry_at.is_some_and(|moment| moment > now) || container.pull.as_ref().is_some_and(|pull| pull.until > now) {
            return;
        }
        if let Some(until) = container.restart_at()
            && until > now
        {
            let delay = container.crash.as_ref().map_or(BACKOFF_FIRST, |crash| crash.delay);
            let exit_id = container.exit.as_ref().map(|exit| exit.id.clone());
            if container.announced != exit_id {
                container.announced = exit_id;
                let full_name = spec::full_name(&self.pod);
                let name = &container.name;
                let message = format!("back-off {} restarting failed container={name} pod={full_name}", go_duration(delay));
                container.waiting = Some(("CrashLoopBackOff".to_owned(), message));
                let message = format!("Back-off restarting failed container {name} in pod {full_name}");
                effects.push(self.container_event(index, true, "BackOff", message));
            }
            return;
        }
        if self.starting.is_some() {
            return;
        }
        if let Some(exit) = &container.exit {
            let longest = self.host.longest_restart_wait;
            container.crash = Some(Backoff::next(container.crash.take(), longest, exit.finished_at.unwrap_or(now), now));
        }
        container.retry_at = None;
        self.starting = Some((index, Step::Image));
        effects.push(Effect::EnsureImage { container: container.name.clone() });
    }

    /// A failed pull shows as such for a moment, then as waiting for the next try.
    fn show_pull_backoff(&mut self, index: usize, now: Timestamp, effects: &mut Vec<Effect>) {
        let image = self.definition(index).and_then(|definition| definition.image).unwrap_or_default();
        let container = &mut self.containers[index];
        let Some(pull) = &mut container.pull else { return };
        if pull.shown_until.is_none_or(|moment| moment > now) {
            return;
        }
        pull.shown_until = None;
        let back_off = format!("Back-off pulling image \"{image}\"");
        container.waiting = Some(("ImagePullBackOff".to_owned(), format!("{back_off}: ErrImagePull: {}", pull.error)));
        effects.push(self.container_event(index, false, "BackOff", back_off));
        effects.push(self.container_event(index, true, "Failed", "Error: ImagePullBackOff".to_owned()));
    }

    /// The image of a running container may be changed in its specification: it is replaced.
    fn replace_changed(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        for index in 0..self.containers.len() {
            let Some(definition) = self.definition(index) else { continue };
            let container = &mut self.containers[index];
            let image = definition.image.unwrap_or_default();
            if container.defined_as.is_empty() || container.defined_as == image || !matches!(container.run, Run::Running { .. }) {
                continue;
            }
            if matches!(container.role, Role::Init | Role::Ephemeral) {
                continue;
            }
            container.replaced = true;
            let message = format!("Container {} definition changed, will be restarted", container.name);
            effects.push(self.container_event(index, false, "Killing", message));
            let grace_period_seconds = spec::grace_period_seconds(&self.pod);
            self.stop(index, grace_period_seconds, now, effects);
        }
    }

    /// Resources may change while it runs: in place, or by a restart where its policy says so.
    fn resize_changed(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        for index in 0..self.containers.len() {
            let Some(definition) = self.definition(index) else { continue };
            let container = &self.containers[index];
            let Run::Running { id, .. } = &container.run else { continue };
            let id = id.clone();
            let wanted = definition.resources.clone().unwrap_or_default();
            let Some(applied) = &container.applied else { continue };
            let changed: Vec<&str> = ["cpu", "memory"].into_iter().filter(|resource| differs(applied, &wanted, resource)).collect();
            if changed.is_empty() || container.resizing || container.retry_at.is_some_and(|moment| moment > now) {
                continue;
            }
            let policies = definition.resize_policy.iter().flatten();
            let restart = policies.clone().any(|policy| changed.contains(&policy.resource_name.as_str()) && policy.restart_policy == "RestartContainer");
            if restart {
                self.containers[index].replaced = true;
                let message = format!("Container {} resize requires restart", definition.name);
                effects.push(self.container_event(index, false, "Killing", message));
                let grace_period_seconds = spec::grace_period_seconds(&self.pod);
                self.stop(index, grace_period_seconds, now, effects);
            } else {
                self.containers[index].resizing = true;
                effects.push(Effect::ResizeContainer { container: definition.name, id });
            }
        }
    }

    fn resized(&mut self, name: &str, id: &str, applied: Option<core::ResourceRequirements>, now: Timestamp) {
        let Some(index) = self.index_of(name) else { return };
        let container = &mut self.containers[index];
        if !matches!(&container.run, Run::Running { id: running, .. } if running == id) {
            return;
        }
        container.resizing = false;
        match applied {
            Some(applied) => container.applied = Some(applied),
            None => container.retry_at = Some(now + RETRY_LONGEST),
        }
    }

    pub(super) fn restarts_after(&self, index: usize, exit_code: i32) -> bool {
        let container = &self.containers[index];
        let definition = self.definition(index);
        let rules = definition.as_ref().and_then(|definition| definition.restart_policy_rules.as_ref());
        if rules.into_iter().flatten().any(|rule| rule_restarts(rule, exit_code)) {
            return true;
        }
        let own = definition.as_ref().and_then(|definition| definition.restart_policy.as_deref());
        match (container.role, own.unwrap_or_else(|| spec::restart_policy(&self.pod))) {
            (Role::Ephemeral, _) => false,
            (Role::Init, policy) => policy != "Never" && exit_code != 0,
            (_, "Never") => false,
            (_, "OnFailure") => exit_code != 0,
            _ => true,
        }
    }

    /// Whether all that the pod was to do is done, well or badly.
    pub(super) fn is_completed(&self) -> bool {
        if self.starting.is_some() {
            return false;
        }
        let over = |index: usize, container: &Container| match (&container.run, &container.exit) {
            (Run::Idle, Some(exit)) => !container.replaced && !self.restarts_after(index, exit.exit_code),
            _ => false,
        };
        let failed_init = !self.initialized
            && self.containers.iter().enumerate().any(|(index, container)| {
                container.role == Role::Init
                    && over(index, container)
                    && container.exit.as_ref().is_some_and(|exit| exit.exit_code != 0)
            });
        let mut main = self.containers.iter().enumerate().filter(|(_, container)| container.role == Role::Main).peekable();
        failed_init || (main.peek().is_some() && main.all(|(index, container)| over(index, container)))
    }

    pub(super) fn forget_retries(&mut self, now: Timestamp) {
        if let Progress::Failed { retry_at, .. } = &mut self.volumes {
            *retry_at = now;
        }
        for container in &mut self.containers {
            if container.retry_at.is_some() {
                container.retry_at = Some(now);
            }
        }
    }

    pub(super) fn definition(&self, index: usize) -> Option<core::Container> {
        spec::container(&self.pod, &self.containers[index].name).map(|(_, definition)| definition)
    }

    pub(super) fn container_event(&self, index: usize, warning: bool, reason: &'static str, message: String) -> Effect {
        Effect::Record { warning, reason, message, container: Some(self.containers[index].name.clone()) }
    }
}

impl Container {
    fn new(role: Role, definition: &core::Container) -> Container {
        Container {
            name: definition.name.clone(),
            role,
            run: Run::Idle,
            waiting: None,
            exit: None,
            previous: None,
            attempt: None,
            crash: None,
            announced: None,
            pull: None,
            retry_at: None,
            retry_delay: None,
            started: false,
            ready: false,
            image: definition.image.clone().unwrap_or_default(),
            image_id: String::new(),
            waiting_after_stop: None,
            defined_as: String::new(),
            early_exit: None,
            replaced: false,
            applied: None,
            resizing: false,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.run, Run::Idle)
    }

    pub(super) fn next_attempt(&self) -> u32 {
        self.attempt.map_or(0, |attempt| attempt + 1)
    }

    pub(super) fn run_ended(&mut self, exit: Exit, effects: &mut Vec<Effect>) {
        self.run = Run::Idle;
        self.started = false;
        self.ready = false;
        if let Some(older) = self.previous.take() {
            effects.push(Effect::RemoveContainer { id: older.id });
        }
        self.previous = self.exit.replace(exit);
    }

    /// The sandbox is new: everything is run again.
    pub(super) fn start_over(&mut self) {
        self.waiting = None;
        self.crash = None;
        if self.role == Role::Init {
            // Kept as the last state, but it has to succeed once more.
            self.previous = self.exit.take().or(self.previous.take());
        }
    }

    /// When the back-off after its latest exit is over.
    pub(super) fn restart_at(&self) -> Option<Timestamp> {
        let (Some(exit), Some(crash), Run::Idle) = (&self.exit, &self.crash, &self.run) else { return None };
        let finished = exit.finished_at?;
        (finished.duration_since(crash.updated) <= crash.longest * 2).then(|| finished + crash.delay)
    }

    fn image_failed(&mut self, reason: String, message: String, now: Timestamp) {
        if matches!(reason.as_str(), "ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError") {
            self.waiting = Some((reason, message));
            self.retry_at = Some(now + RETRY_LONGEST);
            return;
        }
        let delay = match &self.pull {
            Some(pull) if now.duration_since(pull.until) <= PULL_FORGOTTEN => (pull.delay * 2).min(PULL_LONGEST),
            _ => BACKOFF_FIRST,
        };
        self.waiting = Some((reason, message.clone()));
        self.pull = Some(PullFailure { error: message, delay, until: now + delay, shown_until: Some(now + PULL_ERROR_SHOWN) });
    }
}

impl Backoff {
    fn next(previous: Option<Backoff>, longest: SignedDuration, exited: Timestamp, now: Timestamp) -> Backoff {
        let delay = match previous {
            Some(previous) if exited.duration_since(previous.updated) <= longest * 2 => previous.delay * 2,
            _ => BACKOFF_FIRST,
        };
        Backoff { delay: delay.min(longest), longest, updated: now }
    }
}

fn differs(applied: &core::ResourceRequirements, wanted: &core::ResourceRequirements, resource: &str) -> bool {
    let of = |resources: &core::ResourceRequirements| (spec::request(Some(resources), resource), spec::limit(Some(resources), resource));
    of(applied) != of(wanted)
}

fn rule_restarts(rule: &core::ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.iter().flatten().any(|value| *value == exit_code);
    rule.action == "Restart"
        && match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
}

/// As Go prints a duration of whole seconds: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}
