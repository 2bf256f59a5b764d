//! Probes and lifecycle hooks.

use super::Context;
use crate::kinds::{Cursor, Problems, checks};

const MORE_THAN_ONE: &str = "may not specify more than 1 handler type";

pub fn validate_lifecycle_and_probes(container: &Cursor, context: &Context, problems: &mut Problems) {
    let lifecycle = container.at("lifecycle");
    for hook in ["postStart", "preStop"] {
        let at = lifecycle.at(hook);
        if at.exists() {
            validate_handler(&at, &["exec", "httpGet", "tcpSocket", "sleep"], context, problems);
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.at(field);
        if !probe.exists() {
            continue;
        }
        validate_probe(&probe, context, problems);
        let grace = probe.at("terminationGracePeriodSeconds");
        if field == "readinessProbe" {
            if grace.exists() {
                problems.invalid(&grace, "must not be set for readinessProbes");
            }
        } else {
            let threshold = probe.at("successThreshold");
            if threshold.int() != 1 {
                problems.invalid_plain(&threshold, threshold.int(), "must be 1");
            }
        }
    }
}

fn validate_probe(probe: &Cursor, context: &Context, problems: &mut Problems) {
    validate_handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], context, problems);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        checks::non_negative(&probe.at(field), problems);
    }
    let grace = probe.at("terminationGracePeriodSeconds");
    if grace.exists() && grace.int() <= 0 {
        problems.invalid_plain(&grace, grace.int(), checks::NOT_POSITIVE);
    }
}

fn validate_handler(handler: &Cursor, kinds: &[&str], context: &Context, problems: &mut Problems) {
    let mut found = false;
    for kind in kinds {
        let at = handler.at(kind);
        if !at.exists() {
            continue;
        }
        if found {
            problems.forbidden(&at, MORE_THAN_ONE);
            continue;
        }
        found = true;
        match *kind {
            "exec" => {
                if at.at("command").is_empty() {
                    problems.required(&at.at("command"), "");
                }
            }
            "httpGet" => validate_http_get(&at, problems),
            "tcpSocket" | "grpc" => checks::port_number_or_name(&at.at("port"), problems),
            _ => validate_sleep(&at, context, problems),
        }
    }
    if !found {
        problems.required(handler, "must specify a handler type");
    }
}

fn validate_http_get(action: &Cursor, problems: &mut Problems) {
    if action.at("path").is_empty() {
        problems.required(&action.at("path"), "");
    }
    checks::port_number_or_name(&action.at("port"), problems);
    checks::one_of(&action.at("scheme"), &["HTTP", "HTTPS"], problems);
    let headers = action.at("httpHeaders");
    for header in headers.items() {
        let name = header.at("name").str();
        problems.invalid_each_str(&headers, name, api::names::http_header_name(name));
    }
}

fn validate_sleep(sleep: &Cursor, context: &Context, problems: &mut Problems) {
    let Some(grace) = context.grace_seconds else { return };
    let seconds = sleep.at("seconds").int();
    if seconds < 0 || seconds > grace {
        let sentence = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        problems.invalid_plain(sleep, seconds, &sentence);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::{Value, json};

    fn probe(probe: Value) -> Value {
        json!({"containers": [{"name": "c", "image": "nginx", "livenessProbe": probe}]})
    }

    #[test]
    fn probes() {
        check(probe(json!({"httpGet": {"port": 80}})), "");
        check(probe(json!({})), "spec.containers[0].livenessProbe: Required value: must specify a handler type");
        check(
            probe(json!({"httpGet": {"port": 80}, "exec": {"command": ["x"]}})),
            "spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
        );
        check(
            probe(json!({"tcpSocket": {"port": 0}, "successThreshold": 2})),
            "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive\n\
             spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        );
    }
}
