//! postStart and preStop: exec, HTTP, sleep (and TCP, which the original keeps for old objects).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use runtime::cri::RuntimeService;

use super::spec;
use crate::probe::{http, resolve_port};

/// As long as a hook without a bound of its own may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);

/// The error is the message of the waiting state or of the log, never of the event: it may hold secrets.
pub async fn run(
    runtime: &dyn RuntimeService,
    pod: &Pod,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    let whom = format!("for Container {:?} in Pod {:?} failed", container.name, format!("{}_{}", spec::name(pod), spec::namespace(pod)));
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        return match runtime.exec_sync(container_id, command, 0).await {
            Ok(done) if done.exit_code == 0 => Ok(()),
            Ok(done) => {
                let mut output = done.stdout;
                output.extend(done.stderr);
                let output = String::from_utf8_lossy(&output).into_owned();
                Err(format!(
                    "Exec lifecycle hook ([{shown}]) {whom} - error: command '{shown}' exited with {}: {output}, message: {output:?}",
                    done.exit_code
                ))
            }
            Err(error) => Err(format!("Exec lifecycle hook ([{shown}]) {whom} - error: {error}, message: \"\"")),
        };
    }
    if let Some(action) = &handler.http_get {
        let path = action.path.clone().unwrap_or_default();
        let port = match resolve_port(&action.port, container) {
            Ok(port) => port,
            Err(error) => return Err(format!("HTTP lifecycle hook ({path}) {whom} - error: {error}")),
        };
        let url = http::url_of(action, pod_ip, port);
        let answer = tokio::time::timeout(HTTP_TIMEOUT, http::get(&url, action, HTTP_TIMEOUT)).await;
        return match answer {
            Ok(Ok(answer)) if (200..400).contains(&answer.status) => Ok(()),
            Ok(Ok(answer)) => Err(format!("HTTP lifecycle hook ({path}) {whom} - error: status code {}, message: {:?}", answer.status, answer.body)),
            Ok(Err(error)) => Err(format!("HTTP lifecycle hook ({path}) {whom} - error: {error}, message: \"\"")),
            Err(_) => Err(format!("HTTP lifecycle hook ({path}) {whom} - error: timed out, message: \"\"")),
        };
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    // A handler without action, or the TCP one: the original does nothing but complain.
    Err(format!("invalid handler: {}", container.name))
}
