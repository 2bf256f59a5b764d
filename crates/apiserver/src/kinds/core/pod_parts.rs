//! What may change through a pod's `ephemeralcontainers` and `resize`.

use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::problems::go_quoted;
use crate::kinds::resources::qos_class;
use crate::kinds::{Cursor, Problems, checks};

/// They come and stay as they came.
pub fn validate_ephemeral(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let containers = root.at("spec.ephemeralContainers");
    for before in walk(old, "spec.ephemeralContainers").as_array().into_iter().flatten() {
        let name = walk(before, "name").as_str().unwrap_or("");
        match containers.items().find(|own| own.at("name").str() == name) {
            None => problems.forbidden(
                &containers,
                &format!("existing ephemeral containers {} may not be removed\n", go_quoted(name)),
            ),
            Some(own) if own.value != before => problems.forbidden(
                &containers,
                &format!("existing ephemeral containers {} may not be changed\n", go_quoted(name)),
            ),
            Some(_) => {}
        }
    }
}

/// Only CPU and memory, and never into another class of service.
pub fn validate_resize(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let spec = root.at("spec");
    let class = |pod: &Value| walk(pod, "spec").as_object().map_or("", qos_class);
    if class(new) != class(old) {
        let at = root.at("status.qosClass");
        problems.invalid_str(&at, class(new), "Pod QOS Class may not change as a result of resizing");
    }
    if walk(old, "metadata.annotations").get("kubernetes.io/config.mirror").is_some() {
        problems.forbidden(&root, "static pods cannot be resized");
    }
    if walk(old, "spec.os.name").as_str() == Some("windows") {
        problems.forbidden(&root, "windows pods cannot be resized");
    }
    for list in ["containers", "initContainers"] {
        let before = walk(old, "spec").get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for (container, old) in spec.at(list).items().zip(before) {
            validate_container(&container, old, problems);
        }
    }
}

fn validate_container(container: &Cursor, old: &Value, problems: &mut Problems) {
    let resources = container.at("resources");
    if resources.value == walk(old, "resources") {
        return;
    }
    for field in ["limits", "requests"] {
        let amounts = resources.at(field);
        let before = walk(walk(old, "resources"), field);
        for (name, amount) in before.as_object().into_iter().flatten() {
            let own = amounts.key(name);
            if !own.exists() {
                problems.forbidden(&amounts, &format!("resource {field} cannot be removed"));
            } else if !matches!(name.as_str(), "cpu" | "memory")
                && checks::quantity(own.value) != checks::quantity(amount)
            {
                problems.forbidden(&own, "only cpu and memory resources are mutable");
            }
        }
        for (name, own) in amounts.entries() {
            if before.get(name).is_none() && !matches!(name, "cpu" | "memory") {
                problems.forbidden(&own, "only cpu and memory resources are mutable");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(resources: Value, expected: &str) {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let mut problems = Problems::default();
        validate_resize(
            &pod(resources),
            &pod(json!({"requests": {"cpu": "1", "example.com/gpu": "1"}})),
            &mut problems,
        );
        let lines: Vec<String> = problems.list.iter().map(ToString::to_string).collect();
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn resizing() {
        check(json!({"requests": {"cpu": "2", "example.com/gpu": "1"}}), "");
        check(
            json!({"requests": {"cpu": "1", "example.com/gpu": "2"}}),
            "spec.containers[0].resources.requests[example.com/gpu]: Forbidden: only cpu and memory resources are mutable",
        );
        check(
            json!({"requests": {"example.com/gpu": "1"}}),
            "status.qosClass: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing\n\
             spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
        );
    }

    #[test]
    fn ephemeral_containers_only_come() {
        let pod = |names: &[&str]| {
            let list: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"spec": {"ephemeralContainers": list}})
        };
        let mut problems = Problems::default();
        validate_ephemeral(&pod(&["a", "b"]), &pod(&["a"]), &mut problems);
        assert!(problems.is_empty());
        validate_ephemeral(&pod(&["b"]), &pod(&["a"]), &mut problems);
        assert_eq!(
            problems.list[0].to_string(),
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"a\" may not be removed\n"
        );
    }
}
