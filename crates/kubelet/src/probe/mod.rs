//! Probes: startup, liveness and readiness, each a task of its own that tells the pod when its verdict changes.
//!
//! Invariant: the verdict is a pure count of results (`Verdict::record`); a probe never blocks the pod, and one
//! that hangs is cut off by its own timeout.

pub mod grpc;
pub mod http;
pub mod tcp;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::cri::RuntimeService;
use tokio_util::sync::CancellationToken;

use crate::pod::machine::ProbeKind;

/// What one attempt found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Success with something to tell, e.g. a redirect to another host.
    Warning(String),
    Failure(String),
}

/// Counts results in a row against the thresholds.
#[derive(Clone, Debug)]
pub struct Verdict {
    current: Option<bool>,
    last: Option<bool>,
    in_a_row: i32,
}

impl Verdict {
    /// Readiness and startup begin as not yet; liveness begins as alive.
    pub fn new(initial: Option<bool>) -> Verdict {
        Verdict { current: initial, last: None, in_a_row: 0 }
    }

    /// The new verdict when it has changed.
    pub fn record(&mut self, success: bool, probe: &Probe) -> Option<bool> {
        if self.last == Some(success) {
            self.in_a_row = self.in_a_row.saturating_add(1);
        } else {
            self.last = Some(success);
            self.in_a_row = 1;
        }
        let threshold = if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        if self.in_a_row < threshold.max(1) || self.current == Some(success) {
            return None;
        }
        self.current = Some(success);
        Some(success)
    }
}

/// Where and how to probe.
#[derive(Clone)]
pub struct Target {
    pub runtime: Arc<dyn RuntimeService>,
    pub container_id: String,
    pub pod_ip: String,
    pub container: Container,
}

/// Called with the attempt's failure or warning text.
pub type Teller = Arc<dyn Fn(&str) + Send + Sync>;
/// Called with a changed verdict; waits while the pod's inbox is full.
pub type Notifier = Arc<dyn Fn(bool) -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

pub struct Probing {
    pub kind: ProbeKind,
    pub probe: Probe,
    pub target: Target,
    /// How long the container has run already, which counts towards the initial delay.
    pub running_for: Duration,
    /// Spreads probes of many pods after the agent's restart.
    pub jitter: Duration,
    pub tell: Teller,
    pub notify: Notifier,
}

impl Probing {
    pub async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            _ = cancel.cancelled() => {}
            _ = self.probe_forever() => {}
        }
    }

    async fn probe_forever(self) {
        let seconds = |value: Option<i32>, default: u64| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default);
        let delay = Duration::from_secs(seconds(self.probe.initial_delay_seconds, 0));
        tokio::time::sleep(delay.saturating_sub(self.running_for) + self.jitter).await;
        let period = Duration::from_secs(seconds(self.probe.period_seconds, 10).max(1));
        let timeout = Duration::from_secs(seconds(self.probe.timeout_seconds, 1).max(1));
        let mut verdict = Verdict::new((self.kind == ProbeKind::Liveness).then_some(true));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = attempt(&self.probe, &self.target, timeout).await;
            let success = match &outcome {
                Outcome::Success => true,
                Outcome::Warning(text) => {
                    (self.tell)(&format!("{} probe warning: {text}", self.kind.as_str()));
                    true
                }
                Outcome::Failure(text) => {
                    (self.tell)(&format!("{} probe failed: {text}", self.kind.as_str()));
                    false
                }
            };
            if let Some(changed) = verdict.record(success, &self.probe) {
                (self.notify)(changed).await;
                // Startup has succeeded, or the container is about to be replaced: another one is probed anew.
                if self.kind == ProbeKind::Startup || (self.kind == ProbeKind::Liveness && !changed) {
                    return;
                }
            }
        }
    }
}

pub async fn attempt(probe: &Probe, target: &Target, timeout: Duration) -> Outcome {
    if let Some(action) = &probe.exec {
        return exec(target, action.command.clone().unwrap_or_default(), timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let port = match resolve_port(&action.port, &target.container) {
            Ok(port) => port,
            Err(error) => return Outcome::Failure(error),
        };
        return http::probe(action, &target.pod_ip, port, timeout).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&target.pod_ip);
        return match resolve_port(&action.port, &target.container) {
            Ok(port) => tcp::probe(host, port, timeout).await,
            Err(error) => Outcome::Failure(error),
        };
    }
    if let Some(action) = &probe.grpc {
        return match u16::try_from(action.port) {
            Ok(port) => grpc::probe(&target.pod_ip, port, action.service.as_deref().unwrap_or_default(), timeout).await,
            Err(_) => Outcome::Failure(format!("invalid port number: {}", action.port)),
        };
    }
    Outcome::Failure(format!("missing probe handler for {}", target.container.name))
}

async fn exec(target: &Target, command: Vec<String>, timeout: Duration) -> Outcome {
    let text = command.join(" ");
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(1);
    let cut_off = || Outcome::Failure(format!("command timed out: {text:?} timed out after {seconds}s"));
    // The runtime ends the process at the timeout; a runtime that hangs is not waited for.
    let answer = tokio::time::timeout(timeout + Duration::from_secs(2), target.runtime.exec_sync(&target.container_id, command, seconds)).await;
    match answer {
        Err(_) => cut_off(),
        Ok(Err(error)) if error.to_string().contains("timed out") || error.to_string().contains("deadline") => cut_off(),
        Ok(Err(error)) => Outcome::Failure(error.to_string()),
        Ok(Ok(done)) if done.exit_code == 0 => Outcome::Success,
        Ok(Ok(done)) => {
            let mut output = done.stdout;
            output.extend(done.stderr);
            output.truncate(10 * 1024);
            Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
        }
    }
}

pub fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse::<i32>() {
            Ok(number) => number,
            Err(_) => container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port)
                .ok_or_else(|| format!("couldn't find port: \"{name}\""))?,
        },
    };
    u16::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(initial: Option<bool>, results: &str, expected: &str) {
        let probe: Probe = serde_json::from_value(json!({"successThreshold": 2, "failureThreshold": 3})).expect("a probe");
        let mut verdict = Verdict::new(initial);
        let seen: String = results
            .chars()
            .map(|result| match verdict.record(result == '+', &probe) {
                Some(true) => 'Y',
                Some(false) => 'N',
                None => '.',
            })
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn thresholds() {
        check(None, "+++", ".Y.");
        check(None, "+-+-++", ".....Y");
        check(None, "---", "..N");
        check(Some(true), "--+---", ".....N");
        check(Some(true), "+++---++", ".....N.Y");
    }

    #[test]
    fn ports() {
        let container: Container = serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).expect("a container");
        let named = |name: &str| IntOrString::String(name.to_owned());
        assert_eq!(resolve_port(&IntOrString::Int(80), &container), Ok(80));
        assert_eq!(resolve_port(&named("web"), &container), Ok(8080));
        assert_eq!(resolve_port(&named("81"), &container), Ok(81));
        assert_eq!(resolve_port(&named("no"), &container), Err("couldn't find port: \"no\"".to_owned()));
    }
}
