//! Whether this node takes a pod that was assigned to it; what the scheduler should have seen, seen again.
//!
//! Invariant: pure. Reasons and messages are the original's, since controllers and people read them.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, Pod, Taint, Toleration};

use crate::node::status::Pressure;
use crate::pod::spec::{self, QosClass};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

fn rejection(reason: impl Into<String>, message: impl Into<String>) -> Rejection {
    Rejection { reason: reason.into(), message: message.into() }
}

fn predicate(name: &str, description: &str) -> Rejection {
    rejection(name, format!("Predicate {name} failed: {description}"))
}

/// Namespaced sysctls that cannot harm others.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

pub struct NodeView<'a> {
    /// Labels, taints and allocatable resources; None before it is registered.
    pub node: Option<&'a Node>,
    pub name: &'a str,
    /// Pods on the node that take resources.
    pub others: &'a [Arc<Pod>],
    pub pressure: Pressure,
    pub allowed_unsafe_sysctls: &'a [String],
}

pub fn admit(pod: &Pod, view: &NodeView) -> Result<(), Rejection> {
    let spec = spec::spec(pod);
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(rejection("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    pressure(pod, &view.pressure)?;
    sysctls(pod, view.allowed_unsafe_sysctls)?;
    let Some(node) = view.node else { return Ok(()) };
    resources(pod, node, view.others)?;
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    if !matches_node(pod, labels, view.name) {
        return Err(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if ports_conflict(pod, view.others) {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let untolerated = taints
        .into_iter()
        .flatten()
        .find(|taint| taint.effect == "NoExecute" && !spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint)));
    if untolerated.is_some() {
        return Err(predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

/// A node in need takes only what is critical, and what has memory of its own when only memory is short.
fn pressure(pod: &Pod, pressure: &Pressure) -> Result<(), Rejection> {
    const CRITICAL_PRIORITY: i32 = 2_000_000_000;
    if spec::spec(pod).priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY) {
        return Ok(());
    }
    let best_effort = spec::qos_class(pod) == QosClass::BestEffort;
    let mut conditions = Vec::new();
    if pressure.memory {
        conditions.push("MemoryPressure");
    }
    if pressure.disk {
        conditions.push("DiskPressure");
    }
    if pressure.pids {
        conditions.push("PIDPressure");
    }
    if conditions.is_empty() || (conditions == ["MemoryPressure"] && !best_effort) {
        return Ok(());
    }
    Err(rejection("Evicted", format!("The node had condition: [{}]. ", conditions.join(" "))))
}

fn sysctls(pod: &Pod, allowed: &[String]) -> Result<(), Rejection> {
    let context = spec::spec(pod).security_context.as_ref();
    for sysctl in context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let listed = allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *pattern == name,
        });
        if !listed && !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Err(rejection("SysctlForbidden", format!("forbidden sysctl: \"{name}\" not allowlisted")));
        }
    }
    Ok(())
}

fn resources(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Result<(), Rejection> {
    let Some(allocatable) = node.status.as_ref().and_then(|status| status.allocatable.as_ref()) else { return Ok(()) };
    for resource in allocatable.keys() {
        let unit: fn(&Quantity) -> i64 = if resource == "cpu" { Quantity::milli_value } else { Quantity::value };
        let capacity = spec::quantity(Some(allocatable), resource).map_or(0, |quantity| unit(&quantity));
        let (requested, used) = if resource == "pods" {
            (1, i64::try_from(others.len()).unwrap_or(i64::MAX))
        } else {
            (spec::pod_request(pod, resource, unit), others.iter().map(|other| spec::pod_request(other, resource, unit)).sum())
        };
        if requested > 0 && requested.saturating_add(used) > capacity {
            return Err(rejection(
                format!("OutOf{resource}"),
                format!("Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"),
            ));
        }
    }
    Ok(())
}

fn matches_node(pod: &Pod, labels: &BTreeMap<String, String>, node_name: &str) -> bool {
    let spec = spec::spec(pod);
    if spec.node_selector.iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| selector_matches(selector, labels, node_name))
}

fn selector_matches(selector: &NodeSelector, labels: &BTreeMap<String, String>, node_name: &str) -> bool {
    let name = BTreeMap::from([("metadata.name".to_owned(), node_name.to_owned())]);
    selector.node_selector_terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        // A term without requirements selects nothing.
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|requirement| requirement_matches(requirement, labels))
            && fields.iter().all(|requirement| requirement_matches(requirement, &name))
    })
}

fn requirement_matches(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => matches!((number(value), number(values.first())), (Some(is), Some(than)) if is > than),
        "Lt" => matches!((number(value), number(values.first())), (Some(is), Some(than)) if is < than),
        _ => false,
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => key.is_empty() || key == taint.key,
        _ => key == taint.key && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    }
}

fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    spec::containers(pod)
        .into_iter()
        .flat_map(|(_, container)| container.ports.unwrap_or_default())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            Some((port.host_ip.unwrap_or_default(), port.protocol.unwrap_or_else(|| "TCP".to_owned()), host_port))
        })
        .collect()
}

fn ports_conflict(pod: &Pod, others: &[Arc<Pod>]) -> bool {
    let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
    let taken: Vec<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    host_ports(pod).iter().any(|(ip, protocol, port)| {
        taken.iter().any(|(other_ip, other_protocol, other_port)| {
            port == other_port && protocol == other_protocol && (ip == other_ip || any(ip) || any(other_ip))
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([]);
        }
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).expect("a pod")
    }

    #[track_caller]
    fn check(spec: Value, expected: &str) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}},
            "spec": {"taints": [{"key": "dead", "effect": "NoExecute"}, {"key": "full", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}},
        }))
        .expect("a node");
        let other = pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}], "resources": {"requests": {"cpu": "1500m"}}}]}));
        let mut spec = spec;
        if spec["tolerations"].is_null() {
            spec["tolerations"] = json!([{"key": "dead", "operator": "Exists"}]);
        }
        let view = NodeView { node: Some(&node), name: "n1", others: &[Arc::new(other)], pressure: Pressure::default(), allowed_unsafe_sysctls: &["net.core.*".to_owned()] };
        let answer = admit(&pod(spec), &view).map_or_else(|rejection| format!("{}: {}", rejection.reason, rejection.message), |()| "ok".to_owned());
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_node_in_need_takes_only_some() {
        let view = |memory, disk| NodeView {
            node: None,
            name: "n1",
            others: &[],
            pressure: Pressure { memory, disk, pids: false },
            allowed_unsafe_sysctls: &[],
        };
        let best_effort = pod(json!({}));
        let burstable = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        let critical = pod(json!({"priority": 2_000_001_000}));
        let message = admit(&best_effort, &view(true, false)).map_err(|rejection| rejection.message);
        assert_eq!(message, Err("The node had condition: [MemoryPressure]. ".to_owned()));
        assert!(admit(&burstable, &view(true, false)).is_ok());
        assert!(admit(&burstable, &view(false, true)).is_err());
        assert!(admit(&critical, &view(true, true)).is_ok());
    }

    #[test]
    fn admission() {
        let affinity = |requirement: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}})
        };
        let mismatch = "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        check(json!({}), "ok");
        check(json!({"nodeSelector": {"disk": "ssd"}}), "ok");
        check(json!({"nodeSelector": {"disk": "hdd"}}), mismatch);
        check(affinity(json!({"key": "cores", "operator": "Gt", "values": ["4"]})), "ok");
        check(affinity(json!({"key": "cores", "operator": "Lt", "values": ["4"]})), mismatch);
        check(
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}),
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000",
        );
        check(
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 8, "hostPort": 80}]}]}),
            "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        );
        check(json!({"containers": [{"name": "c", "ports": [{"containerPort": 8, "hostPort": 80, "protocol": "UDP"}]}]}), "ok");
        check(json!({"tolerations": []}), "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate");
        check(
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
            "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        );
        check(json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}), "ok");
        check(json!({"os": {"name": "windows"}}), "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS");
    }
}
