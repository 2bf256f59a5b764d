//! What is allowed in a pod spec and still not wise.

use serde_json::Value;

use crate::kinds::checks;
use crate::kinds::cursor::walk;

/// Warnings about a template that is new or changed.
pub fn template_warnings(new: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let template = walk(new, path);
    if old.is_some_and(|old| walk(old, path) == template) {
        return Vec::new();
    }
    warnings(walk(template, "spec"), &format!("{path}.spec"))
}

const DEPRECATED_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

/// Sentences for `Warning` headers.
pub fn warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (label, sentence) in DEPRECATED_LABELS {
        if walk(spec, "nodeSelector").get(label).is_some() {
            out.push(format!("{path}.nodeSelector[{label}]: {sentence}"));
        }
    }
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        if volume.get("gitRepo").is_some() {
            out.push(format!("{path}.volumes[{index}].gitRepo: deprecated in v1.11"));
        }
    }
    if walk(spec, "terminationGracePeriodSeconds").as_i64().is_some_and(|seconds| seconds < 0) {
        out.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for field in ["initContainers", "containers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            container_warnings(container, &format!("{path}.{field}[{index}]"), &mut out);
        }
    }
    out
}

fn container_warnings(container: &Value, path: &str, out: &mut Vec<String>) {
    for field in ["limits", "requests"] {
        let amount = &container["resources"][field]["memory"];
        // A thousandth of a byte is most often a thousandth of a core in the wrong line.
        if checks::quantity(amount).is_some_and(|amount| amount.milli_value() % 1000 != 0) {
            let text = amount.as_str().unwrap_or("");
            out.push(format!(
                "{path}.resources.{field}[memory]: fractional byte value \"{text}\" is invalid, must be an integer"
            ));
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for (index, var) in list(container, "env").iter().enumerate() {
        let name = walk(var, "name").as_str().unwrap_or("");
        // A value that builds on the one before hides nothing.
        let builds_on = walk(var, "value").as_str().is_some_and(|value| value.contains(&format!("$({name})")));
        if names.contains(&name) && !builds_on {
            out.push(format!(
                "{path}.env[{index}]: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
        names.push(name);
    }
    let mut ports: Vec<(i64, &str, usize)> = Vec::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let number = walk(port, "containerPort").as_i64().unwrap_or(0);
        let protocol = walk(port, "protocol").as_str().unwrap_or("TCP");
        let host = |port: &Value| (walk(port, "hostPort").clone(), walk(port, "hostIP").clone());
        let same = ports.iter().find(|(own, own_protocol, first)| {
            *own == number && *own_protocol == protocol && host(port) == host(&list(container, "ports")[*first])
        });
        if let Some((_, _, first)) = same {
            out.push(format!("{path}.ports[{index}]: duplicate port definition with {path}.ports[{first}]"));
        }
        ports.push((number, protocol, index));
    }
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    walk(value, field).as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn worth_a_word() {
        let spec = json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{
            "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "A", "value": "$(A)3"}],
            "resources": {"requests": {"memory": "100m"}},
            "ports": [{"containerPort": 80}, {"containerPort": 80}],
        }]});
        assert_eq!(
            warnings(&spec, "spec"),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ]
        );
    }
}
