//! What may change through a pod's `ephemeralcontainers` and `resize`.

use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::go_diff::go_diff;
use crate::kinds::pod_spec::annotations::{self, MIRROR};
use crate::kinds::problems::go_quoted;
use crate::kinds::resources::qos_class;
use crate::kinds::{Cursor, Problems};

/// They come and stay as they came.
pub fn validate_ephemeral(new: &Value, old: &Value, problems: &mut Problems) {
    let (root, old_root) = (Cursor::root(new), Cursor::root(old));
    annotations::validate_update(&root.at("metadata.annotations"), &old_root.at("metadata.annotations"), problems);
    if old_root.at("metadata.annotations").key(MIRROR).exists() {
        problems.list.clear();
        return problems.forbidden(&root.at(""), "static pods do not support ephemeral containers");
    }
    let containers = root.at("spec.ephemeralContainers");
    for before in walk(old, "spec.ephemeralContainers").as_array().into_iter().flatten() {
        let name = walk(before, "name").as_str().unwrap_or("");
        match containers.items().find(|own| own.at("name").str() == name) {
            None => problems.forbidden(
                &containers,
                &format!("existing ephemeral containers {} may not be removed\n", go_quoted(name)),
            ),
            Some(own) if own.value != before => {
                let differs = go_diff("io.k8s.api.core.v1.EphemeralContainer", before, own.value);
                problems.forbidden(
                    &containers,
                    &format!("existing ephemeral containers {} may not be changed\n{differs}", go_quoted(name)),
                );
            }
            Some(_) => {}
        }
    }
}

/// Only CPU and memory of what runs, and never into another class of service.
pub fn validate_resize(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let spec = root.at("spec");
    let whole = root.at("");
    let of_pod = |pod: &Value| {
        ["requests", "limits"].iter().any(|list| {
            walk(pod, "spec.resources").get(list).and_then(Value::as_object).is_some_and(|map| !map.is_empty())
        })
    };
    // Each of these the original says alone.
    let alone = if of_pod(new) || of_pod(old) {
        Some("pods with pod-level resources cannot be resized")
    } else if walk(old, "metadata.annotations").get(MIRROR).is_some() {
        Some("static pods cannot be resized")
    } else if walk(old, "spec.os.name").as_str() == Some("windows") {
        Some("windows pods cannot be resized")
    } else {
        None
    };
    if let Some(sentence) = alone {
        problems.list.clear();
        return problems.forbidden(&whole, sentence);
    }
    let class = |pod: &Value| walk(pod, "spec").as_object().map_or("", qos_class);
    if class(new) != class(old) {
        let shown = walk(new, "status.qosClass").as_str().unwrap_or("");
        problems.invalid_str(&spec, shown, "Pod QOS Class may not change as a result of resizing");
    }
    if !node_can_resize(old) {
        problems.forbidden(&spec, "Pod running on node without support for resize");
    }
    let pairs = |list: &'static str| {
        let before = walk(old, "spec").get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        (spec.at(list), before)
    };
    let (init, init_before) = pairs("initContainers");
    let (ordinary, before) = pairs("containers");
    if init.len() != init_before.len() || ordinary.len() != before.len() {
        return problems.forbidden(&spec, "only cpu and memory resources are mutable");
    }
    for (container, old) in init.items().zip(init_before).filter(|(_, old)| restarts(old)) {
        nothing_removed(&container, old, problems);
    }
    for (container, old) in ordinary.items().zip(before) {
        nothing_removed(&container, old, problems);
    }
    for (container, old) in ordinary.items().zip(before) {
        if !same_but_for_cpu_and_memory(container.value, old) {
            problems.forbidden(&spec, "only cpu and memory resources are mutable");
        }
    }
    for (container, old) in init.items().zip(init_before) {
        if restarts(old) && !same_but_for_cpu_and_memory(container.value, old) {
            problems.forbidden(&spec, "only cpu and memory resources for sidecar containers are mutable");
        } else if !restarts(old) && container.value != old {
            problems.forbidden(&spec, "resources for non-sidecar init containers are immutable");
        }
    }
}

fn restarts(container: &Value) -> bool {
    walk(container, "restartPolicy").as_str() == Some("Always")
}

/// A node that knows of resizing reports what its containers have. Where nothing runs, nobody can tell.
fn node_can_resize(pod: &Value) -> bool {
    let mut statuses = walk(pod, "status.containerStatuses").as_array().into_iter().flatten();
    statuses.find(|status| !walk(status, "state.running").is_null()).is_none_or(|running| !walk(running, "resources").is_null())
}

fn nothing_removed(container: &Cursor, old: &Value, problems: &mut Problems) {
    for field in ["requests", "limits"] {
        let amounts = container.at("resources");
        let amounts = amounts.at(field);
        let before = walk(old, "resources").get(field).and_then(Value::as_object);
        if before.into_iter().flatten().any(|(name, _)| !amounts.key(name).exists()) {
            problems.forbidden(&amounts, &format!("resource {field} cannot be removed"));
        }
    }
}

fn same_but_for_cpu_and_memory(new: &Value, old: &Value) -> bool {
    let rest = |container: &Value| {
        let mut rest = container.clone();
        for list in ["requests", "limits"] {
            let amounts = rest.get_mut("resources").and_then(|resources| resources.get_mut(list));
            if let Some(amounts) = amounts.and_then(Value::as_object_mut) {
                amounts.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
            }
            if let Some(resources) = rest.get_mut("resources").and_then(Value::as_object_mut)
                && resources.get(list).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
            {
                resources.remove(list);
            }
        }
        if let Some(rest) = rest.as_object_mut() {
            rest.remove("resizePolicy");
        }
        rest
    };
    rest(new) == rest(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check_pods(new: Value, old: Value, expected: &str) {
        let mut problems = Problems::default();
        validate_resize(&new, &old, &mut problems);
        let lines: Vec<String> = problems.list.iter().map(ToString::to_string).collect();
        assert_eq!(lines.join("\n"), expected);
    }

    #[track_caller]
    fn check(resources: Value, expected: &str) {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "c", "resources": resources}]}, "status": {"qosClass": "Burstable"}});
        check_pods(pod(resources), pod(json!({"requests": {"cpu": "1", "example.com/gpu": "1"}})), expected);
    }

    #[test]
    fn resizing() {
        check(json!({"requests": {"cpu": "2", "example.com/gpu": "1"}}), "");
        check(json!({"requests": {"cpu": "2", "memory": "1Gi", "example.com/gpu": "1"}, "limits": {"memory": "1Gi"}}), "");
        check(
            json!({"requests": {"cpu": "1", "example.com/gpu": "2"}}),
            "spec: Forbidden: only cpu and memory resources are mutable",
        );
        check(
            json!({"requests": {"example.com/gpu": "1"}}),
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing\n\
             spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
        );
    }

    #[test]
    fn not_every_pod_can_be_resized() {
        let with = |field: &str, value: Value| {
            let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}, "status": {}});
            *pod.pointer_mut(field).expect("a place") = value;
            pod
        };
        let plain = with("/status", json!({}));
        check_pods(plain.clone(), plain, "");
        for (field, value, sentence) in [
            ("/metadata", json!({"annotations": {MIRROR: "x"}}), "static pods cannot be resized"),
            ("/spec", json!({"os": {"name": "windows"}, "containers": []}), "windows pods cannot be resized"),
            (
                "/spec",
                json!({"resources": {"limits": {"cpu": "1"}}, "containers": []}),
                "pods with pod-level resources cannot be resized",
            ),
        ] {
            check_pods(with(field, value.clone()), with(field, value), &format!(": Forbidden: {sentence}"));
        }
        let running = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
        check_pods(
            with("/status", running.clone()),
            with("/status", running),
            "spec: Forbidden: Pod running on node without support for resize",
        );
        let init = |policy: Value, resources: Value| {
            with("/spec", json!({"containers": [], "initContainers": [{"name": "i", "restartPolicy": policy, "resources": resources}]}))
        };
        let (one, two) = (json!({"requests": {"cpu": "1"}}), json!({"requests": {"cpu": "2"}}));
        check_pods(init(json!("Always"), two.clone()), init(json!("Always"), one.clone()), "");
        check_pods(
            init(Value::Null, two),
            init(Value::Null, one),
            "spec: Forbidden: resources for non-sidecar init containers are immutable",
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
