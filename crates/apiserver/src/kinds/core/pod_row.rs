//! A pod's row in a table: what its containers' states sum up to.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::Column;
use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, human_duration, parse_time, text, wide};

pub const COLUMNS: &[Column] = &[
    NAME,
    text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    text("Status", "The aggregate status of the containers in this pod."),
    text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    wide("IP", "io.k8s.api.core.v1.PodStatus#podIP"),
    wide("Node", "io.k8s.api.core.v1.PodSpec#nodeName"),
    wide("Nominated Node", "io.k8s.api.core.v1.PodStatus#nominatedNodeName"),
    wide("Readiness Gates", "io.k8s.api.core.v1.PodSpec#readinessGates"),
];

pub fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, human_duration(now.as_second() - last.as_second()))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = walk(pod, "status.podIPs").get(0).and_then(|first| walk(first, "ip").as_str()).unwrap_or("");
    vec![
        printing::name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        printing::age(pod, now),
        if ip.is_empty() { "<none>".into() } else { ip.into() },
        printing::text_or(pod, "spec.nodeName", "<none>"),
        printing::text_or(pod, "status.nominatedNodeName", "<none>"),
        readiness_gates(pod).into(),
    ]
}

/// Pods that are done are marked, so that a client may hide them.
pub fn conditions(pod: &Value) -> Value {
    let (reason, message) = match walk(pod, "status.phase").as_str() {
        Some("Succeeded") => ("Succeeded", "The pod has completed successfully."),
        Some("Failed") => ("Failed", "The pod failed."),
        _ => return Value::Null,
    };
    json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}])
}

#[derive(Default)]
struct Summary {
    reason: String,
    ready: i64,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let phase = string(pod, "status.phase");
        let own_reason = string(pod, "status.reason");
        let gated = list(pod, "status.conditions").iter().any(|condition| {
            string(condition, "type") == "PodScheduled" && string(condition, "reason") == "SchedulingGated"
        });
        let reason = match (gated, own_reason) {
            (true, _) => "SchedulingGated",
            (false, "") => phase,
            (false, own) => own,
        };
        let mut summary = Summary { reason: reason.to_owned(), ..Summary::default() };
        summary.total = list(pod, "spec.containers").len()
            + list(pod, "spec.initContainers").iter().filter(|c| is_sidecar(c)).count();

        let (initializing, sidecars) = summary.add_init_containers(pod);
        let initialized = printing::condition(pod, "Initialized").is_some_and(|c| string(c, "status") == "True");
        if !initializing || initialized {
            (summary.restarts, summary.last_restart) = sidecars;
            summary.add_containers(pod);
        }
        if !walk(pod, "metadata.deletionTimestamp").is_null() {
            if own_reason == "NodeLost" {
                summary.reason = "Unknown".into();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                summary.reason = "Terminating".into();
            }
        }
        summary
    }

    /// Goes up to the first init container that is not done. Returns whether there is one, and restarts of sidecars.
    fn add_init_containers(&mut self, pod: &Value) -> (bool, (i64, Option<Timestamp>)) {
        let specs = list(pod, "spec.initContainers");
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        for (index, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
            let sidecar =
                specs.iter().find(|spec| string(spec, "name") == string(status, "name")).is_some_and(is_sidecar);
            self.add_restarts(status);
            if sidecar {
                sidecar_restarts += walk(status, "restartCount").as_i64().unwrap_or(0);
                sidecar_last = sidecar_last.max(finished_before(status));
            }
            let terminated = walk(status, "state.terminated");
            let waiting = string(status, "state.waiting.reason");
            if !terminated.is_null() && number(terminated, "exitCode") == 0 {
                continue;
            }
            if sidecar && walk(status, "started").as_bool() == Some(true) {
                self.ready += i64::from(walk(status, "ready").as_bool() == Some(true));
                continue;
            }
            self.reason = if !terminated.is_null() {
                format!("Init:{}", end_of(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            return (true, (sidecar_restarts, sidecar_last));
        }
        (false, (sidecar_restarts, sidecar_last))
    }

    fn add_containers(&mut self, pod: &Value) {
        let mut running = false;
        // From last to first, so that the first container has the say.
        for status in list(pod, "status.containerStatuses").iter().rev() {
            self.add_restarts(status);
            let (waiting, terminated) = (string(status, "state.waiting.reason"), walk(status, "state.terminated"));
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if !terminated.is_null() {
                self.reason = end_of(terminated);
            } else if walk(status, "ready").as_bool() == Some(true) && !walk(status, "state.running").is_null() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = printing::condition(pod, "Ready").is_some_and(|c| string(c, "status") == "True");
            self.reason = if ready { "Running" } else { "NotReady" }.into();
        }
    }

    fn add_restarts(&mut self, status: &Value) {
        self.restarts += walk(status, "restartCount").as_i64().unwrap_or(0);
        self.last_restart = self.last_restart.max(finished_before(status));
    }
}

/// Reason, signal or exit code of a container that has ended.
fn end_of(terminated: &Value) -> String {
    match (string(terminated, "reason"), number(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn finished_before(status: &Value) -> Option<Timestamp> {
    parse_time(walk(status, "lastState.terminated.finishedAt"))
}

fn is_sidecar(container: &Value) -> bool {
    string(container, "restartPolicy") == "Always"
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = gates
        .iter()
        .filter(|gate| {
            printing::condition(pod, string(gate, "conditionType")).is_some_and(|c| string(c, "status") == "True")
        })
        .count();
    format!("{met}/{}", gates.len())
}

fn string<'v>(value: &'v Value, path: &str) -> &'v str {
    walk(value, path).as_str().unwrap_or("")
}

fn number(value: &Value, path: &str) -> i64 {
    walk(value, path).as_i64().unwrap_or(0)
}

fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    walk(value, path).as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::core::pod::KIND;
    use crate::kinds::testing::check_row;
    use serde_json::json;

    #[track_caller]
    fn check(spec: Value, status: Value, expected: &str) {
        let mut pod = json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": status,
        });
        if let Some(true) = pod["status"]["deleting"].as_bool() {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:01Z".into();
        }
        check_row(&KIND, pod, "2026-01-01T00:01:00Z", &format!("p | {expected} | <none> | <none> | <none> | <none>"));
    }

    #[test]
    fn states() {
        let one = || json!({"containers": [{"name": "c"}]});
        let with = |state: Value, ready: bool, restarts: i64| json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": state, "ready": ready, "restartCount": restarts}]});
        check(one(), json!({"phase": "Pending"}), "0/1 | Pending | 0 | 60s");
        check(one(), with(json!({"running": {}}), true, 0), "1/1 | Running | 0 | 60s");
        check(
            one(),
            with(json!({"waiting": {"reason": "CrashLoopBackOff"}}), false, 3),
            "0/1 | CrashLoopBackOff | 3 | 60s",
        );
        check(one(), with(json!({"terminated": {"exitCode": 2}}), false, 0), "0/1 | ExitCode:2 | 0 | 60s");
        check(one(), with(json!({"terminated": {"signal": 9}}), false, 0), "0/1 | Signal:9 | 0 | 60s");
        check(one(), with(json!({"terminated": {"reason": "Completed"}}), false, 0), "0/1 | Completed | 0 | 60s");
        check(one(), json!({"phase": "Failed", "reason": "Evicted"}), "0/1 | Evicted | 0 | 60s");
        let mut deleting = with(json!({"running": {}}), true, 0);
        deleting["deleting"] = true.into();
        check(one(), deleting, "1/1 | Terminating | 0 | 60s");
        let mut restarted = with(json!({"running": {}}), true, 1);
        restarted["containerStatuses"][0]["lastState"] = json!({"terminated": {"finishedAt": "2026-01-01T00:00:55Z"}});
        check(one(), restarted, "1/1 | Running | 1 (5s ago) | 60s");
    }

    #[test]
    fn initialising() {
        let two = || json!({"containers": [{"name": "c"}], "initContainers": [{"name": "a"}, {"name": "b"}]});
        let with = |states: Value| json!({"phase": "Pending", "initContainerStatuses": states});
        let done = json!({"name": "a", "state": {"terminated": {"exitCode": 0}}});
        check(two(), with(json!([{"name": "a", "state": {"running": {}}}])), "0/1 | Init:0/2 | 0 | 60s");
        check(
            two(),
            with(json!([done, {"name": "b", "state": {"waiting": {"reason": "PodInitializing"}}}])),
            "0/1 | Init:1/2 | 0 | 60s",
        );
        check(
            two(),
            with(json!([done, {"name": "b", "state": {"waiting": {"reason": "ErrImagePull"}}}])),
            "0/1 | Init:ErrImagePull | 0 | 60s",
        );
        check(
            two(),
            with(json!([{"name": "a", "state": {"terminated": {"exitCode": 1}}}])),
            "0/1 | Init:ExitCode:1 | 0 | 60s",
        );
        check(
            two(),
            with(json!([{"name": "a", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}])),
            "0/1 | Init:Error | 0 | 60s",
        );
    }
}
