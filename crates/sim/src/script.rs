//! What a simulated node does about a pod: a function of the pod, of when it came, and of the time.
//!
//! ```text
//! came --starts--> running --ready--> ready ... flaps ... --ends--> finished, or waits to start again
//! ```

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::node::{NodeConfig, stamp};

/// On a pod: milliseconds from binding to Running, and from Running to Ready.
pub const STARTS_AFTER: &str = "sim.coracle/starts-after-ms";
pub const READY_AFTER: &str = "sim.coracle/ready-after-ms";
/// On a pod: milliseconds after Running at which its containers end, and with which code.
pub const ENDS_AFTER: &str = "sim.coracle/ends-after-ms";
pub const EXIT_CODE: &str = "sim.coracle/exit-code";
/// On a pod: of a hundred runs so many end with code 1 instead, chosen by uid.
pub const FAILS_PERCENT: &str = "sim.coracle/fails-percent";
/// On a pod that is restarted: after so many ends it stays up.
pub const CRASHES: &str = "sim.coracle/crashes";
/// On a pod: milliseconds of readiness after which it is not ready for a while, twice.
pub const FLAPS_AFTER: &str = "sim.coracle/flaps-after-ms";

const FLAP: Duration = Duration::from_millis(700);
const FLAPS: u32 = 2;
/// Between the end of a container and its next start.
const RESTART_AFTER: Duration = Duration::from_secs(2);

/// What the node does next about one pod.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Idle,
    Wait(Duration),
    Report { status: Value, again: Option<Duration> },
    Delete,
}

/// Where the containers are in their script, and how long they stay there.
enum State {
    Coming,
    Running { ready: bool, restarts: u32 },
    Crashed { restarts: u32, code: i32 },
    Ended { code: i32 },
}

pub(crate) fn decide(config: &NodeConfig, pod: &Pod, since: Timestamp, now: Timestamp) -> Step {
    let present = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let is_finished = present == "Succeeded" || present == "Failed";
    if let Some(deletion) = &pod.metadata.deletion_timestamp {
        // The deletion timestamp already includes the grace period; the containers end sooner if they may.
        let grace = Duration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0).unsigned_abs());
        let asked = deletion.0.saturating_sub(jiff::SignedDuration::try_from(grace).unwrap_or_default()).unwrap_or(now);
        return match left(asked, config.stops_after.min(grace), now) {
            Some(rest) => Step::Wait(rest.min(config.stops_after)),
            // How it ended is told before it goes.
            None if !is_finished => Step::Report { status: ended(pod, 143, now), again: Some(Duration::ZERO) },
            None => Step::Delete,
        };
    }
    if is_finished {
        return Step::Idle;
    }
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let restarts_before = reported_restarts(pod);
    // It ran here before the machine went down, and that start is not in the script that begins now.
    let is_second_boot = present == "Running" && pod.metadata.uid.is_some() && started_before(pod, since);
    if is_second_boot && policy(pod) == "Never" {
        return Step::Report { status: ended(pod, 137, now), again: None };
    }
    let (state, next) = state_after(config, pod, elapsed);
    let (phase, ready, restarts) = match state {
        State::Coming if is_second_boot => ("Running", false, restarts_before),
        State::Coming => return next.map_or(Step::Idle, Step::Wait),
        State::Ended { code } => return Step::Report { status: ended(pod, code, now), again: None },
        State::Running { ready, restarts } => ("Running", ready, restarts.max(restarts_before)),
        State::Crashed { restarts, code } => {
            let reported = present == "Running" && !reported_ready(pod) && restarts_before >= restarts;
            return match reported {
                true => next.map_or(Step::Idle, Step::Wait),
                false => Step::Report { status: crashed(pod, restarts.max(restarts_before), code, now), again: next },
            };
        }
    };
    if present == phase && reported_ready(pod) == ready && restarts_before == restarts {
        return next.map_or(Step::Idle, Step::Wait);
    }
    Step::Report { status: running(pod, ready, restarts, now), again: next }
}

/// The state so long after the pod came, and when it changes by itself.
fn state_after(config: &NodeConfig, pod: &Pod, elapsed: Duration) -> (State, Option<Duration>) {
    let starts = annotated(pod, STARTS_AFTER).unwrap_or(config.starts_after);
    let Some(mut run) = elapsed.checked_sub(starts) else { return (State::Coming, Some(starts - elapsed)) };
    let mut restarts = 0;
    let mut ends = annotated(pod, ENDS_AFTER);
    if let Some(length) = ends {
        let crashes = number(pod, CRASHES).unwrap_or(u64::from(u32::MAX)) as u32;
        loop {
            let code = exit_code(pod, restarts);
            let again = policy(pod) == "Always" || policy(pod) == "OnFailure" && code != 0;
            if again && restarts >= crashes {
                ends = None; // It stays up from here on.
                break;
            }
            let Some(beyond) = run.checked_sub(length) else { break };
            if !again {
                return (State::Ended { code }, None);
            }
            restarts += 1;
            match beyond.checked_sub(RESTART_AFTER) {
                None => return (State::Crashed { restarts, code }, Some(RESTART_AFTER - beyond)),
                Some(rest) => run = rest,
            }
        }
    }
    let until_end = ends.map(|length| length - run);
    let ready_after = annotated(pod, READY_AFTER).unwrap_or(config.ready_after);
    let Some(steady) = run.checked_sub(ready_after) else {
        let next = ready_after - run;
        return (State::Running { ready: false, restarts }, Some(until_end.map_or(next, |end| end.min(next))));
    };
    let (ready, until_flip) = flapping(pod, steady);
    (State::Running { ready, restarts }, [until_end, until_flip].into_iter().flatten().min())
}

/// Whether it is ready so long after it first was, and until when.
fn flapping(pod: &Pod, steady: Duration) -> (bool, Option<Duration>) {
    let Some(every) = annotated(pod, FLAPS_AFTER).filter(|every| !every.is_zero()) else { return (true, None) };
    let mut at = steady;
    for _ in 0..FLAPS {
        let Some(beyond) = at.checked_sub(every) else { return (true, Some(every - at)) };
        match beyond.checked_sub(FLAP) {
            None => return (false, Some(FLAP - beyond)),
            Some(rest) => at = rest,
        }
    }
    (true, None)
}

fn policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

fn exit_code(pod: &Pod, run: u32) -> i32 {
    let percent = number(pod, FAILS_PERCENT).unwrap_or(0);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let dice = u64::from(api::hash::fnv32a(format!("{uid}/{run}").as_bytes())) % 100;
    if dice < percent { 1 } else { number(pod, EXIT_CODE).unwrap_or(0) as i32 }
}

fn number(pod: &Pod, name: &str) -> Option<u64> {
    pod.metadata.annotations.as_ref()?.get(name)?.parse().ok()
}

fn annotated(pod: &Pod, name: &str) -> Option<Duration> {
    number(pod, name).map(Duration::from_millis)
}

/// What remains of `duration` since `start`; None when it is over.
fn left(start: Timestamp, duration: Duration, now: Timestamp) -> Option<Duration> {
    let passed = Duration::try_from(now.duration_since(start)).unwrap_or_default();
    duration.checked_sub(passed).filter(|rest| !rest.is_zero())
}

fn reported_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}

fn reported_restarts(pod: &Pod) -> u32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().map(|status| status.restart_count.unsigned_abs()).max().unwrap_or(0)
}

/// Whether the status tells of a start from before the node knew of the pod.
fn started_before(pod: &Pod, since: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    started.is_some_and(|started| started.0.as_second() < since.as_second())
}

fn running(pod: &Pod, ready: bool, restarts: u32, now: Timestamp) -> Value {
    status(pod, "Running", ready, restarts, &json!({"running": {"startedAt": stamp(now)}}), now)
}

fn crashed(pod: &Pod, restarts: u32, code: i32, now: Timestamp) -> Value {
    let text = format!("back-off 2s restarting failed container, exit code {code}");
    let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": text}});
    status(pod, "Running", false, restarts, &state, now)
}

fn ended(pod: &Pod, code: i32, now: Timestamp) -> Value {
    let reason = if code == 0 { "Completed" } else { "Error" };
    let state = json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": stamp(now), "finishedAt": stamp(now)}});
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    status(pod, phase, false, reported_restarts(pod), &state, now)
}

fn status(pod: &Pod, phase: &str, ready: bool, restarts: u32, state: &Value, now: Timestamp) -> Value {
    let flag = if ready { "True" } else { "False" };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let reported = pod.status.iter().flat_map(|status| status.conditions.iter().flatten()).collect::<Vec<_>>();
    let condition = |kind: &str, status: &str| {
        let same = reported.iter().find(|it| it.type_ == kind && it.status == status);
        let since = same.and_then(|it| it.last_transition_time.as_ref()).map_or(now, |time| time.0);
        json!({"type": kind, "status": status, "lastTransitionTime": stamp(since)})
    };
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(now, |time| time.0);
    json!({
        "phase": phase,
        "startTime": stamp(started),
        "hostIP": "10.0.0.1",
        "podIP": pod_ip(&uid),
        "podIPs": [{"ip": pod_ip(&uid)}],
        "conditions": [
            condition("Initialized", "True"), condition("Ready", flag), condition("ContainersReady", flag),
            condition("PodScheduled", "True"),
        ],
        "containerStatuses": containers.map(|container| json!({
            "name": container.name, "image": container.image, "imageID": "", "ready": ready, "restartCount": restarts,
            "started": ready, "state": state,
        })).collect::<Vec<_>>(),
    })
}

/// Distinct enough, and the same for the same pod.
fn pod_ip(uid: &str) -> String {
    let hash = api::hash::fnv32a(uid.as_bytes()).to_be_bytes();
    format!("10.{}.{}.{}", hash[0], hash[1], hash[2].max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pod: Value, after_ms: i64, expected: &str) {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let now = start + jiff::SignedDuration::from_millis(after_ms);
        let found = match decide(&NodeConfig::named("n"), &pod, start, now) {
            Step::Idle => "idle".to_string(),
            Step::Wait(duration) => format!("wait {}", duration.as_millis()),
            Step::Delete => "delete".to_string(),
            Step::Report { status, again } => format!(
                "{} ready={} again={}",
                status["phase"].as_str().unwrap_or_default(),
                status["conditions"][1]["status"].as_str().unwrap_or_default(),
                again.map_or(0, |it| it.as_millis()),
            ),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_pod_runs_by_its_script() {
        let pod = || json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c"}]}});
        let with = |annotations: Value| {
            let mut pod = pod();
            pod["metadata"]["annotations"] = annotations;
            pod
        };
        check(pod(), 0, "wait 300");
        check(pod(), 300, "Running ready=False again=200");
        check(pod(), 500, "Running ready=True again=0");
        check(with(json!({STARTS_AFTER: "0", READY_AFTER: "0"})), 0, "Running ready=True again=0");
        let ending = |policy: &str, annotations: Value| {
            let mut pod = with(annotations);
            pod["spec"]["restartPolicy"] = json!(policy);
            pod
        };
        check(ending("Never", json!({ENDS_AFTER: "100"})), 400, "Succeeded ready=False again=0");
        check(ending("Never", json!({ENDS_AFTER: "100", EXIT_CODE: "3"})), 400, "Failed ready=False again=0");
        check(ending("OnFailure", json!({ENDS_AFTER: "100", EXIT_CODE: "3"})), 400, "Running ready=False again=2000");
        check(ending("Always", json!({ENDS_AFTER: "100", CRASHES: "1"})), 400, "Running ready=False again=2000");
        check(ending("Always", json!({ENDS_AFTER: "100", CRASHES: "1"})), 2600, "Running ready=True again=0");
        check(with(json!({FLAPS_AFTER: "1000"})), 1400, "Running ready=True again=100");
        check(with(json!({FLAPS_AFTER: "1000"})), 1500, "Running ready=False again=700");
        let mut deleted = pod();
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
        deleted["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        check(deleted.clone(), 100, "wait 400");
        check(deleted.clone(), 500, "Failed ready=False again=0");
        deleted["status"] = json!({"phase": "Failed"});
        check(deleted, 500, "delete");
    }
}
