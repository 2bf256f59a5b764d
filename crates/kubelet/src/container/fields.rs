//! The downward API: a pod's own fields and resources as text, for environment variables and files.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::pod::spec;

/// What is known of the pod besides its object.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    /// Stands in for limits that a container does not set.
    pub allocatable_cpu_millis: i64,
    pub allocatable_memory_bytes: i64,
}

pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec::spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `metadata.labels['app']` to (`metadata.labels`, `app`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
    lines.join("\n")
}

/// Go's `%q`.
fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", control as u32)),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

pub fn resource(container: &Container, selector: &ResourceFieldSelector, facts: &Facts) -> Result<String, String> {
    let resources = container.resources.as_ref();
    let Some((side, resource)) = selector.resource.split_once('.') else {
        return Err(format!("unsupported container resource : {}", selector.resource));
    };
    let value = match side {
        "limits" => spec::limit(resources, resource),
        "requests" => spec::request(resources, resource),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let is_limit = side == "limits";
    let divisor = selector.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let (amount, divisor) = if resource == "cpu" {
        let fallback = if is_limit { facts.allocatable_cpu_millis } else { 0 };
        (value.map_or(fallback, |value| value.milli_value()), divisor.map_or(1000, |divisor| divisor.milli_value()))
    } else {
        let fallback = if is_limit && resource == "memory" { facts.allocatable_memory_bytes } else { 0 };
        (value.map_or(fallback, |value| value.value()), divisor.map_or(1, |divisor| divisor.value()))
    };
    // "0" is how an absent divisor arrives from some clients.
    let divisor = match divisor {
        0 if resource == "cpu" => 1000,
        0 => 1,
        divisor => divisor,
    };
    Ok((amount.max(0) as u64).div_ceil(divisor.max(1) as u64).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "labels": {"a": "1", "b": "x\"y"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}]},
        }))
        .expect("a pod")
    }

    #[track_caller]
    fn check(path: &str, expected: Result<&str, &str>) {
        let facts = Facts { pod_ips: vec!["10.0.0.1".into(), "fd00::1".into()], ..Facts::default() };
        assert_eq!(field(&pod(), path, &facts), expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn fields() {
        check("metadata.name", Ok("web"));
        check("metadata.labels['a']", Ok("1"));
        check("metadata.labels['none']", Ok(""));
        check("metadata.labels", Ok("a=\"1\"\nb=\"x\\\"y\""));
        check("spec.nodeName", Ok("n1"));
        check("status.podIPs", Ok("10.0.0.1,fd00::1"));
        check("spec.bogus", Err("unsupported fieldPath: spec.bogus"));
    }

    #[track_caller]
    fn check_resource(resource_name: &str, divisor: &str, expected: &str) {
        let selector: ResourceFieldSelector =
            serde_json::from_value(json!({"resource": resource_name, "divisor": divisor})).expect("a selector");
        let facts = Facts { allocatable_cpu_millis: 2000, allocatable_memory_bytes: 4096, ..Facts::default() };
        let container = &spec::spec(&pod()).containers[0].clone();
        assert_eq!(resource(container, &selector, &facts).as_deref(), Ok(expected));
    }

    #[test]
    fn resources() {
        check_resource("limits.cpu", "1", "2");
        check_resource("limits.cpu", "1m", "1500");
        check_resource("limits.cpu", "0", "2");
        check_resource("requests.memory", "1Mi", "1024");
        check_resource("limits.ephemeral-storage", "1", "0");
    }
}
