//! How a pod ends: main containers first, sidecars after them in reverse order, then the sandbox, volumes and cgroup.

use super::*;

impl PodMachine {
    pub(super) fn reject(&mut self, reason: String, message: String, effects: &mut Vec<Effect>) {
        if matches!(self.lifecycle, Lifecycle::Syncing) && self.containers.iter().all(|container| !container.is_alive()) {
            effects.push(Effect::Record { warning: true, reason: rejection_event(&reason), message: message.clone(), container: None });
            let message = format!("Pod was rejected: {message}");
            self.lifecycle = Lifecycle::Ended { why: Ending::Failed { reason, message }, delete_sent: false };
        }
    }

    pub(super) fn begin_ending(&mut self, why: Ending, now: Timestamp, effects: &mut Vec<Effect>) {
        let grace_period_seconds = spec::grace_period_seconds(&self.pod);
        self.lifecycle = Lifecycle::Ending { why, deadline: now + SignedDuration::from_secs(grace_period_seconds) };
        if self.starting.is_some_and(|(_, step)| step != Step::PostStart) {
            effects.push(Effect::CancelStart);
        }
        if self.starting.is_some_and(|(_, step)| step == Step::PostStart) {
            self.starting = None; // The hook ends with its container.
        }
        for container in self.containers.iter().filter(|container| container.is_alive()) {
            let kinds = vec![ProbeKind::Startup, ProbeKind::Liveness];
            effects.push(Effect::StopProbes { container: container.name.clone(), kinds });
        }
    }

    pub(super) fn hasten(&mut self, until: Timestamp) {
        if let Lifecycle::Ending { deadline, .. } = &mut self.lifecycle {
            *deadline = (*deadline).min(until);
        }
    }

    pub(super) fn plan_ending(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let asked = self.deletion_asked();
        let Lifecycle::Ending { why, deadline } = &mut self.lifecycle else { return };
        if asked {
            if matches!(why, Ending::Completed) {
                *why = Ending::Deleted;
            }
            // A second deletion may ask for more haste, never for less.
            *deadline = (*deadline).min(now + SignedDuration::from_secs(spec::grace_period_seconds(&self.pod)));
        }
        let deadline = *deadline;
        self.stop_containers(deadline, now, effects);
        if self.starting.is_some() || self.containers.iter().any(Container::is_alive) {
            return;
        }
        if !self.sandbox_is_down(now, effects) || matches!(self.volumes, Progress::Busy) {
            return;
        }
        if self.tear_down.is_due(now) {
            self.tear_down = Progress::Busy;
            effects.push(Effect::TearDown);
        }
        if matches!(self.tear_down, Progress::Done)
            && let Lifecycle::Ending { why, .. } = &self.lifecycle
        {
            self.lifecycle = Lifecycle::Ended { why: why.clone(), delete_sent: false };
        }
    }

    fn stop_containers(&mut self, deadline: Timestamp, now: Timestamp, effects: &mut Vec<Effect>) {
        let left = deadline.duration_since(now).as_secs().max(0);
        let mut others_alive = self.starting.is_some();
        for index in 0..self.containers.len() {
            if self.containers[index].role != Role::Sidecar && self.containers[index].is_alive() {
                others_alive = true;
                self.stop_and_say(index, left.max(1), now, effects);
            }
        }
        for index in (0..self.containers.len()).rev() {
            if self.containers[index].role != Role::Sidecar || !self.containers[index].is_alive() {
                continue;
            }
            // Even when the main containers took all the time there is, a sidecar gets two seconds.
            if !others_alive || deadline <= now {
                self.stop_and_say(index, left.max(2), now, effects);
            }
            others_alive = true;
        }
    }

    fn stop_and_say(&mut self, index: usize, grace_period_seconds: i64, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.containers[index].retry_at.is_some_and(|moment| moment > now) {
            return;
        }
        if matches!(self.containers[index].run, Run::Running { .. }) {
            let message = format!("Stopping container {}", self.containers[index].name);
            effects.push(self.container_event(index, false, "Killing", message));
        }
        self.stop(index, grace_period_seconds, now, effects);
    }

    fn sandbox_is_down(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        if matches!(self.sandbox.start, Progress::Busy) {
            return false;
        }
        let Some(id) = self.sandbox.id.clone() else { return true };
        if self.sandbox.stop.is_due(now) {
            self.sandbox.stop = Progress::Busy;
            effects.push(Effect::StopSandbox { id });
        }
        matches!(self.sandbox.stop, Progress::Done)
    }

    pub(super) fn plan_ended(&mut self, effects: &mut Vec<Effect>) {
        let asked = self.deletion_asked();
        let Lifecycle::Ended { delete_sent, .. } = &mut self.lifecycle else { return };
        if self.removed {
            self.lifecycle = Lifecycle::Removed;
            effects.push(Effect::Remove);
        } else if asked && !*delete_sent {
            *delete_sent = true;
            effects.push(Effect::DeletePod);
        }
    }
}

/// Event reasons are static: those that admission gives.
fn rejection_event(reason: &str) -> &'static str {
    const KNOWN: [&str; 13] = [
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
        "OutOfephemeral-storage",
        "NodeAffinity",
        "NodePorts",
        "NodeName",
        "TaintToleration",
        "SysctlForbidden",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "NodeShutdown",
        "Evicted",
    ];
    KNOWN.into_iter().find(|known| *known == reason).unwrap_or("FailedAdmission")
}
