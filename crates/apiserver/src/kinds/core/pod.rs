//! Containers that share a network and volumes.
//!
//! The rules of its spec stand in `pod_spec`; what an update may change, in `pod_update`; its row, in `pod_row`.

use serde_json::{Value, json};

use super::{pod_parts, pod_row, pod_update};
use crate::kinds::cursor::walk;
use crate::kinds::edit::{Object, default_number, each, inside, make, object as object_at, text};
use crate::kinds::pod_spec::{self, defaults};
use crate::kinds::resources::qos_class;
use crate::kinds::subresources::{STATUS, connect, create, proxy, same};
use crate::kinds::{Cursor, Kind, NAMESPACED, Subresource, lifecycle};

pub static KIND: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    definition: "io.k8s.api.core.v1.Pod",
    storage: "pods",
    answers_deletion_with_object: true,
    subresources: &[
        connect("attach", "PodAttachOptions"),
        create("binding", ("", "v1", "Binding")),
        same("ephemeralcontainers"),
        create("eviction", ("policy", "v1", "Eviction")),
        connect("exec", "PodExecOptions"),
        Subresource { name: "log", speaks: None, verbs: &["get"], scale: None },
        connect("portforward", "PodPortForwardOptions"),
        proxy("PodProxyOptions"),
        same("resize"),
        STATUS,
    ],
    defaults: default_pod,
    prepare_create,
    prepare_update: |new, old| {
        lifecycle::keep_status(new, old);
        lifecycle::count_generation(new, old, &["spec"]);
    },
    prepare_status_update: |new, old| {
        lifecycle::only_status(new, old);
        lifecycle::keep_metadata(new, old, "ownerReferences");
        let class = walk(old, "status.qosClass");
        if let Some(status) = object_at(new, "status")
            && text(status, "qosClass").is_empty()
            && !class.is_null()
        {
            status.insert("qosClass".into(), class.clone());
        }
        keep_observed_generations(new, old);
    },
    validate: |pod, problems| {
        let root = Cursor::root(pod);
        pod_spec::validate_pod(&root, problems);
        // Nothing has run yet: it is new.
        if root.at("metadata.resourceVersion").is_empty() {
            pod_spec::validate_new_pod(&root, problems);
        }
    },
    validate_update: pod_update::validate_update,
    validate_status_update: pod_update::validate_status_update,
    validate_part_update: |part, new, old, problems| match part {
        "ephemeralcontainers" => pod_parts::validate_ephemeral(new, old, problems),
        "resize" => pod_parts::validate_resize(new, old, problems),
        _ => {}
    },
    warnings: |new, old| if old.is_none() { pod_spec::pod_warnings(new) } else { Vec::new() },
    selectable_fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ],
    field_value,
    columns: pod_row::COLUMNS,
    row_conditions: pod_row::conditions,
    cells: pod_row::cells,
    graceful_seconds: Some(graceful_seconds),
    ..NAMESPACED
};

fn default_pod(pod: &mut Value) {
    if let Some(spec) = object_at(pod, "spec") {
        defaults::default_pod_spec(spec);
        defaults::default_pod_only(spec);
    }
}

fn prepare_create(pod: &mut Value) {
    lifecycle::set_generation(pod, 1);
    merge_label_keys(pod);
    pod_spec::annotations::adopt_app_armor(pod);
    let mut status = json!({"phase": "Pending"});
    if let Some(spec) = pod.get("spec").and_then(Value::as_object) {
        status["qosClass"] = qos_class(spec).into();
        if spec.get("schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
    }
    pod["status"] = status;
}

/// Writers that know nothing of generations do not take away what others have noted.
fn keep_observed_generations(new: &mut Value, old: &Value) {
    let before = walk(old, "status");
    let mut noted: Vec<(&Value, &Value)> = walk(before, "conditions")
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| (walk(condition, "type"), walk(condition, "observedGeneration")))
        .collect();
    let Some(status) = object_at(new, "status") else { return };
    let generation = walk(before, "observedGeneration");
    if !generation.is_null() {
        default_number(status, "observedGeneration", generation.as_i64().unwrap_or(0));
    }
    each(status, "conditions", |condition| {
        let kind = condition.get("type").cloned().unwrap_or_default();
        let Some(at) = noted.iter().position(|(own, _)| **own == kind) else { return };
        if let Some(generation) = noted.remove(at).1.as_i64() {
            default_number(condition, "observedGeneration", generation);
        }
    });
}

/// `matchLabelKeys` and `mismatchLabelKeys` become part of their selectors, with the pod's own values, so that the
/// scheduler needs to know nothing of them.
fn merge_label_keys(pod: &mut Value) {
    let labels = walk(pod, "metadata.labels").clone();
    let Some(spec) = object_at(pod, "spec") else { return };
    each(spec, "topologySpreadConstraints", |constraint| merge_into_selector(constraint, &labels));
    inside(spec, "affinity", |affinity| {
        for field in ["podAffinity", "podAntiAffinity"] {
            inside(affinity, field, |own| {
                each(own, "requiredDuringSchedulingIgnoredDuringExecution", |term| merge_into_selector(term, &labels));
                each(own, "preferredDuringSchedulingIgnoredDuringExecution", |weighted| {
                    inside(weighted, "podAffinityTerm", |term| merge_into_selector(term, &labels));
                });
            });
        }
    });
}

fn merge_into_selector(term: &mut Object, labels: &Value) {
    let mut requirements = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                requirements.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if requirements.is_empty() || !term.contains_key("labelSelector") {
        return;
    }
    let expressions = make(term, "labelSelector").entry("matchExpressions").or_insert_with(|| json!([]));
    if let Some(list) = expressions.as_array_mut() {
        list.extend(requirements);
    }
}

/// Deletes wait as the pod asks, but not for pods that no node has taken or that have ended.
fn graceful_seconds(pod: &Value) -> i64 {
    let phase = walk(pod, "status.phase").as_str().unwrap_or("");
    let unassigned = walk(pod, "spec.nodeName").as_str().unwrap_or("").is_empty();
    if unassigned || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    walk(pod, "spec.terminationGracePeriodSeconds").as_i64().unwrap_or(30)
}

fn field_value(pod: &Value, field: &str) -> String {
    match field {
        "spec.hostNetwork" => walk(pod, field).as_bool().unwrap_or(false).to_string(),
        "status.podIP" => walk(pod, "status.podIPs")
            .get(0)
            .map_or(walk(pod, "status.podIP"), |first| walk(first, "ip"))
            .as_str()
            .unwrap_or("")
            .to_owned(),
        "status.podIPs" => {
            let all = walk(pod, "status.podIPs").as_array().into_iter().flatten();
            all.filter_map(|entry| walk(entry, "ip").as_str()).collect::<Vec<_>>().join(",")
        }
        _ => walk(pod, field).as_str().unwrap_or("").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pod_is_pending() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{}]}, "status": {"phase": "Running"}});
        prepare_create(&mut pod);
        assert_eq!(pod["metadata"]["generation"], 1);
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    }

    #[test]
    fn label_keys_are_merged() {
        let mut pod = json!({"metadata": {"labels": {"hash": "1"}}, "spec": {"containers": [{}], "topologySpreadConstraints": [
            {"labelSelector": {"matchLabels": {"app": "x"}}, "matchLabelKeys": ["hash", "gone"]}]}});
        prepare_create(&mut pod);
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "hash", "operator": "In", "values": ["1"]}]})
        );
    }

    #[test]
    fn deletes_wait_only_for_what_runs() {
        #[track_caller]
        fn check(node: &str, phase: &str, expected: i64) {
            let pod =
                json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 5}, "status": {"phase": phase}});
            assert_eq!(graceful_seconds(&pod), expected);
        }
        check("n", "Running", 5);
        check("n", "Pending", 5);
        check("", "Pending", 0);
        check("n", "Failed", 0);
    }
}
