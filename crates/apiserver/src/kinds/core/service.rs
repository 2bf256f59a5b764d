//! A stable address for pods.
//!
//! Invariant: cluster IPs and node ports are the allocator's; once given, a cluster IP stays as long as the type
//! wants one. The rules stand in `service_validation`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{service_validation, service_warnings};
use crate::kinds::cursor::walk;
use crate::kinds::edit::{Object, default, default_text, each, inside, object as object_at, text as text_of};
use crate::kinds::printing::{self, AGE, NAME, text, wide};
use crate::kinds::subresources::{STATUS, proxy};
use crate::kinds::{Kind, NAMESPACED, lifecycle};

pub static KIND: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    definition: "io.k8s.api.core.v1.Service",
    storage: "services/specs",
    answers_deletion_with_object: true,
    subresources: &[proxy("ServiceProxyOptions"), STATUS],
    create_on_update: true,
    name_problems: api::names::dns1035_label,
    defaults,
    prepare_create: |service| service["status"] = json!({"loadBalancer": {}}),
    prepare_update,
    prepare_status_update: lifecycle::only_status,
    validate: service_validation::validate,
    validate_update: service_validation::validate_update,
    warnings: service_warnings::of_service,
    selectable_fields: &["spec.clusterIP", "spec.type"],
    columns: &[
        NAME,
        text("Type", "io.k8s.api.core.v1.ServiceSpec#type"),
        text("Cluster-IP", "io.k8s.api.core.v1.ServiceSpec#clusterIP"),
        text("External-IP", "io.k8s.api.core.v1.ServiceSpec#externalIPs"),
        text("Port(s)", "io.k8s.api.core.v1.ServiceSpec#ports"),
        AGE,
        wide("Selector", "io.k8s.api.core.v1.ServiceSpec#selector"),
    ],
    cells,
    ..NAMESPACED
};

/// Three hours.
const AFFINITY_SECONDS: i64 = 10800;

fn defaults(service: &mut Value) {
    let Some(map) = service.as_object_mut() else { return };
    let mut load_balancer = false;
    inside(map, "spec", |spec| {
        default_text(spec, "sessionAffinity", "None");
        match text_of(spec, "sessionAffinity") {
            "None" => {
                spec.remove("sessionAffinityConfig");
            }
            "ClientIP" if walk_seconds(spec).is_none() => {
                spec.insert("sessionAffinityConfig".into(), json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}));
            }
            _ => {}
        }
        default_text(spec, "type", "ClusterIP");
        each(spec, "ports", default_port);
        let kind = text_of(spec, "type").to_owned();
        if externally_accessible(spec) {
            default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            default_text(spec, "internalTrafficPolicy", "Cluster");
        }
        load_balancer = kind == "LoadBalancer";
        if load_balancer {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
    });
    if load_balancer {
        inside(map, "status", |status| {
            inside(status, "loadBalancer", |balancer| {
                each(balancer, "ingress", |ingress| {
                    if !text_of(ingress, "ip").is_empty() {
                        default(ingress, "ipMode", "VIP");
                    }
                });
            });
        });
    }
}

fn walk_seconds(spec: &Object) -> Option<i64> {
    spec.get("sessionAffinityConfig")?.get("clientIP")?.get("timeoutSeconds")?.as_i64()
}

fn default_port(port: &mut Object) {
    default_text(port, "protocol", "TCP");
    let target = port.get("targetPort");
    let unset = match target {
        None | Some(Value::Null) => true,
        Some(Value::String(name)) => name.is_empty(),
        Some(number) => number.as_i64() == Some(0),
    };
    if unset && let Some(own) = port.get("port").cloned() {
        port.insert("targetPort".into(), own);
    }
}

fn externally_accessible(spec: &Object) -> bool {
    let external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    match text_of(spec, "type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => external_ips,
        _ => false,
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    lifecycle::keep_status(new, old);
    patch_allocated(new, old);
    drop_type_dependent_on_update(new, old);
}

/// What the server has given is kept when the update leaves it out, as `kubectl replace` does.
fn patch_allocated(new: &mut Value, old: &Value) {
    let old_spec = walk(old, "spec").clone();
    let Some(spec) = object_at(new, "spec") else { return };
    let needs_ip = |kind: &str| matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer");
    let needs_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let (kind, old_kind) =
        (text_of(spec, "type").to_owned(), walk(&old_spec, "type").as_str().unwrap_or("").to_owned());
    if needs_ip(&kind) && needs_ip(&old_kind) {
        if text_of(spec, "clusterIP").is_empty() && !spec.contains_key("clusterIPs") {
            copy(spec, &old_spec, "clusterIP");
        }
        let same_primary = spec.get("clusterIP") == old_spec.get("clusterIP");
        if !spec.contains_key("clusterIPs") && same_primary {
            copy(spec, &old_spec, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !spec.contains_key(field) {
                copy(spec, &old_spec, field);
            }
        }
    }
    if needs_ports(&kind) && needs_ports(&old_kind) {
        let taken: Vec<i64> = ports(spec).filter_map(|port| walk(port, "nodePort").as_i64()).collect();
        let old_ports = walk(&old_spec, "ports").as_array().cloned().unwrap_or_default();
        each(spec, "ports", |port| {
            let wanted = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
            if wanted != 0 {
                return;
            }
            let same = |old: &&Value| ["protocol", "port"].iter().all(|field| old.get(field) == port.get(*field));
            let given = old_ports.iter().find(same).and_then(|old| walk(old, "nodePort").as_i64()).unwrap_or(0);
            if given != 0 && !taken.contains(&given) {
                port.insert("nodePort".into(), given.into());
            }
        });
        let health = |spec: &Object| {
            text_of(spec, "externalTrafficPolicy") == "Local" && text_of(spec, "type") == "LoadBalancer"
        };
        if health(spec) && spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0) == 0 {
            copy(spec, &old_spec, "healthCheckNodePort");
        }
    }
}

fn copy(spec: &mut Object, old_spec: &Value, field: &str) {
    if let Some(value) = old_spec.get(field) {
        spec.insert(field.to_owned(), value.clone());
    }
}

fn ports(spec: &Object) -> impl Iterator<Item = &Value> {
    spec.get("ports").and_then(Value::as_array).into_iter().flatten()
}

/// A change of type takes with it what only the old type had, when the update did not touch it.
fn drop_type_dependent_on_update(new: &mut Value, old: &Value) {
    let old_spec = walk(old, "spec").clone();
    let Some(spec) = object_at(new, "spec") else { return };
    let old_kind = walk(&old_spec, "type").as_str().unwrap_or("").to_owned();
    let kind = text_of(spec, "type").to_owned();
    if kind == old_kind {
        return;
    }
    if kind == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(field) == old_spec.get(field) {
                spec.remove(field);
            }
        }
    }
    let node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if node_ports(&old_kind) && !node_ports(&kind) {
        let given: BTreeSet<i64> = walk(&old_spec, "ports")
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|port| walk(port, "nodePort").as_i64())
            .collect();
        each(spec, "ports", |port| {
            if port.get("nodePort").and_then(Value::as_i64).is_some_and(|number| given.contains(&number)) {
                port.remove("nodePort");
            }
        });
        if !externally_accessible(spec) && spec.get("externalTrafficPolicy") == old_spec.get("externalTrafficPolicy") {
            spec.remove("externalTrafficPolicy");
        }
    }
    if old_kind == "LoadBalancer" {
        for field in ["healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec.get(field) == old_spec.get(field) {
                spec.remove(field);
            }
        }
        new["status"] = json!({"loadBalancer": {}});
    }
}

fn cells(service: &Value, now: Timestamp) -> Vec<Value> {
    let cluster_ip = walk(service, "spec.clusterIPs").get(0).and_then(Value::as_str);
    vec![
        printing::name(service),
        printing::string_at(service, "spec.type"),
        cluster_ip.unwrap_or("<none>").into(),
        external_ip(service).into(),
        port_list(service).into(),
        printing::age(service, now),
        printing::labels(walk(service, "spec.selector")).into(),
    ]
}

fn external_ip(service: &Value) -> String {
    let own = printing::joined(walk(service, "spec.externalIPs"), ",");
    match walk(service, "spec.type").as_str() {
        Some("ClusterIP" | "NodePort") if own.is_empty() => "<none>".into(),
        Some("ClusterIP" | "NodePort") => own,
        Some("LoadBalancer") => {
            let mut all = load_balancer_addresses(service);
            if !own.is_empty() {
                all.push(own);
            }
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        Some("ExternalName") => walk(service, "spec.externalName").as_str().unwrap_or("").into(),
        _ => "<unknown>".into(),
    }
}

/// Sorted, each once.
pub fn load_balancer_addresses(object: &Value) -> Vec<String> {
    let ingress = walk(object, "status.loadBalancer.ingress").as_array().into_iter().flatten();
    let addresses: BTreeSet<String> = ingress
        .filter_map(|entry| {
            let text = |field: &str| walk(entry, field).as_str().filter(|text| !text.is_empty());
            text("ip").or_else(|| text("hostname")).map(str::to_owned)
        })
        .collect();
    addresses.into_iter().collect()
}

fn port_list(service: &Value) -> String {
    let list: Vec<String> = walk(service, "spec.ports")
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let number = |field: &str| walk(port, field).as_i64().unwrap_or(0);
            let protocol = walk(port, "protocol").as_str().unwrap_or("");
            match number("nodePort") {
                0 => format!("{}/{protocol}", number("port")),
                node_port => format!("{}:{node_port}/{protocol}", number("port")),
            }
        })
        .collect();
    if list.is_empty() { "<none>".into() } else { list.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaults, check_row};

    #[test]
    fn defaults_follow_the_type() {
        check_defaults(
            &KIND,
            json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]}}),
            json!({"spec": {
                "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"},
                    {"port": 81, "targetPort": "http", "protocol": "TCP"}],
            }}),
        );
        check_defaults(
            &KIND,
            json!({"spec": {"type": "NodePort", "sessionAffinity": "ClientIP"}}),
            json!({"spec": {
                "type": "NodePort", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                "externalTrafficPolicy": "Cluster",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
            }}),
        );
    }

    #[test]
    fn what_was_given_is_kept() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}, "status": {"loadBalancer": {}}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}});
        prepare_update(&mut new, &old);
        assert_eq!(
            new["spec"],
            json!({"type": "NodePort", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}, {"port": 81, "protocol": "TCP"}]})
        );
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        new["spec"]["externalTrafficPolicy"] = "Cluster".into();
        let mut before = old.clone();
        before["spec"]["externalTrafficPolicy"] = "Cluster".into();
        prepare_update(&mut new, &before);
        assert_eq!(new["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        assert!(new["spec"].get("externalTrafficPolicy").is_none());
    }

    #[test]
    fn rows() {
        check_row(
            &KIND,
            json!({"metadata": {"name": "web"}, "spec": {"type": "NodePort", "clusterIPs": ["10.0.0.9"],
                "selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}]}}),
            "2026-01-01T00:00:00Z",
            "web | NodePort | 10.0.0.9 | <none> | 80:30001/TCP | <unknown> | app=web",
        );
        check_row(
            &KIND,
            json!({"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer"}}),
            "2026-01-01T00:00:00Z",
            "web | LoadBalancer | <none> | <pending> | <none> | <unknown> | <none>",
        );
    }
}
