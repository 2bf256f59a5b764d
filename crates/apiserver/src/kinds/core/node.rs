//! A machine that runs pods.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::inside;
use crate::kinds::pod_spec::tolerations::validate_taints;
use crate::kinds::printing::{self, AGE, NAME, text, wide};
use crate::kinds::subresources::{STATUS, proxy};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    definition: "io.k8s.api.core.v1.Node",
    storage: "minions",
    subresources: &[proxy("NodeProxyOptions"), STATUS],
    defaults,
    // A node registers itself with its status, so that a create takes it.
    prepare_update: lifecycle::keep_status,
    validate,
    validate_update,
    warnings: |node, _| match walk(node, "spec.externalID").as_str() {
        None | Some("") => Vec::new(),
        Some(_) => vec!["spec.externalID: this field is deprecated, and is unused by Kubernetes".into()],
    },
    selectable_fields: &["spec.unschedulable"],
    field_value: |node, _| walk(node, "spec.unschedulable").as_bool().unwrap_or(false).to_string(),
    columns: &[
        NAME,
        text("Status", "The status of the node"),
        text("Roles", "The roles of the node"),
        AGE,
        text("Version", "io.k8s.api.core.v1.NodeSystemInfo#kubeletVersion"),
        wide("Internal-IP", "io.k8s.api.core.v1.NodeStatus#addresses"),
        wide("External-IP", "io.k8s.api.core.v1.NodeStatus#addresses"),
        wide("OS-Image", "io.k8s.api.core.v1.NodeSystemInfo#osImage"),
        wide("Kernel-Version", "io.k8s.api.core.v1.NodeSystemInfo#kernelVersion"),
        wide("Container-Runtime", "io.k8s.api.core.v1.NodeSystemInfo#containerRuntimeVersion"),
    ],
    cells,
    ..CLUSTER
};

fn defaults(node: &mut Value) {
    let Some(map) = node.as_object_mut() else { return };
    inside(map, "status", |status| {
        if let Some(capacity) = status.get("capacity").filter(|_| !status.contains_key("allocatable")).cloned() {
            status.insert("allocatable".into(), capacity);
        }
    });
}

fn validate(node: &Value, problems: &mut Problems) {
    let root = Cursor::root(node);
    let spec = root.at("spec");
    // So the original calls the place.
    validate_taints(&root.at("metadata.taints").with(spec.at("taints").value), problems);
    let (cidr, cidrs) = (spec.at("podCIDR"), spec.at("podCIDRs"));
    for cidr in cidrs.items() {
        checks::cidr(&cidr, problems);
    }
    if cidrs.len() > 2 {
        problems.invalid(&cidrs, "may specify no more than one CIDR for each IP family");
    }
    if !cidr.is_empty() && !cidrs.is_empty() && cidrs.array()[0].as_str() != Some(cidr.str()) {
        problems.invalid(&cidrs, "may not have different values for `podCIDR` and `podCIDRs[0]`");
    }
    let status = root.at("status");
    for list in ["capacity", "allocatable"] {
        for (_, amount) in status.at(list).entries() {
            checks::non_negative_quantity(&amount, problems);
        }
    }
    let addresses = status.at("addresses");
    let mut seen = BTreeSet::new();
    for address in addresses.items() {
        if !seen.insert((address.at("type").str(), address.at("address").str())) {
            problems.duplicate(&address);
        }
    }
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let spec = root.at("spec");
    for (field, sentence) in [
        ("podCIDRs", "node updates may not change podCIDR except from \"\" to valid"),
        ("providerID", "node updates may not change providerID except from \"\" to valid"),
    ] {
        let before = walk(old, "spec").get(field).unwrap_or(&Value::Null);
        let was_set = !matches!(before, Value::Null) && before.as_str() != Some("");
        if was_set && spec.at(field).value != before {
            problems.forbidden(&spec.at(field), sentence);
        }
    }
}

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = vec![match printing::condition(node, "Ready").map(|ready| walk(ready, "status").as_str()) {
        Some(Some("True")) => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if walk(node, "spec.unschedulable").as_bool() == Some(true) {
        status.push("SchedulingDisabled");
    }
    let roles = roles(node);
    let address = |kind: &str| {
        let all = walk(node, "status.addresses").as_array().into_iter().flatten();
        let mut own = all.filter(|address| walk(address, "type").as_str() == Some(kind));
        own.next().map_or("<none>".into(), |address| printing::string_at(address, "address"))
    };
    vec![
        printing::name(node),
        status.join(",").into(),
        if roles.is_empty() { "<none>".into() } else { roles.into_iter().collect::<Vec<_>>().join(",").into() },
        printing::age(node, now),
        printing::string_at(node, "status.nodeInfo.kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        printing::text_or(node, "status.nodeInfo.osImage", "<unknown>"),
        printing::text_or(node, "status.nodeInfo.kernelVersion", "<unknown>"),
        printing::text_or(node, "status.nodeInfo.containerRuntimeVersion", "<unknown>"),
    ]
}

/// From labels `node-role.kubernetes.io/<role>` and `kubernetes.io/role=<role>`.
fn roles(node: &Value) -> BTreeSet<&str> {
    let labels = walk(node, "metadata.labels").as_object();
    labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_row, check_update};
    use serde_json::json;

    #[test]
    fn taints_and_ranges() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        check(
            &KIND,
            json!({"spec": {"taints": [taint, taint]}}),
            "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
        );
        check_update(
            &KIND,
            json!({"spec": {"podCIDRs": ["10.0.1.0/24"], "providerID": "b"}}),
            json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "a"}}),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid\n\
             spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
        );
    }

    #[test]
    fn rows() {
        let node = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "master"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1.35.0", "osImage": "Debian"},
                "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}]},
        });
        check_row(
            &KIND,
            node,
            "2026-01-01T00:00:00Z",
            "n | Ready,SchedulingDisabled | control-plane,master | <unknown> | v1.35.0 | 10.0.0.1 | <none> | Debian | <unknown> | <unknown>",
        );
        check_row(
            &KIND,
            json!({"metadata": {"name": "n"}}),
            "2026-01-01T00:00:00Z",
            "n | Unknown | <none> | <unknown> |  | <none> | <none> | <unknown> | <unknown> | <unknown>",
        );
    }
}
