//! Pods, nodes and clusters for tests, from JSON and from short texts.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::cycle::Cycle;
use crate::filters::Rejection;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub fn pod_from(mut value: Value) -> Pod {
    let defaults = json!({"name": "pod", "namespace": "default"});
    for (key, default) in defaults.as_object().unwrap() {
        if value["metadata"][key].is_null() {
            value["metadata"][key] = default.clone();
        }
    }
    if value["metadata"]["uid"].is_null() {
        value["metadata"]["uid"] = value["metadata"]["name"].clone();
    }
    if value["spec"]["containers"].is_null() {
        value["spec"]["containers"] = json!([{"name": "c"}]);
    }
    serde_json::from_value(value).unwrap()
}

pub fn pod(value: Value) -> PodInfo {
    PodInfo::new(Arc::new(pod_from(value)))
}

pub fn node(value: Value) -> NodeInfo {
    NodeInfo::new(Arc::new(serde_json::from_value::<Node>(value).unwrap()))
}

pub fn cluster_of(nodes: &[Value]) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.namespaces.insert("default".into(), Default::default());
    for node in nodes {
        cluster.set_node(Arc::new(serde_json::from_value(node.clone()).unwrap()));
    }
    cluster
}

pub fn place(cluster: &mut Cluster, value: Value, node: &str) {
    cluster.place(Arc::new(pod(value)), node, false);
}

/// A claim, a volume or a class, by its `kind`.
pub fn add_storage(cluster: &mut Cluster, value: Value) {
    let name = value["metadata"]["name"].as_str().unwrap().to_owned();
    let storage = &mut cluster.storage;
    match value["kind"].as_str().unwrap() {
        "PersistentVolumeClaim" => {
            let namespace = value["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
            let claim = serde_json::from_value(value).unwrap();
            storage.claims.insert(client::ObjectKey::new(namespace, name), Arc::new(claim));
        }
        "PersistentVolume" => drop(storage.volumes.insert(name, Arc::new(serde_json::from_value(value).unwrap()))),
        "StorageClass" => drop(storage.classes.insert(name, Arc::new(serde_json::from_value(value).unwrap()))),
        kind => panic!("{kind}"),
    }
}

pub fn add_csi_node(cluster: &mut Cluster, value: Value) {
    cluster.storage.set_csi_node(&serde_json::from_value(value).unwrap());
}

pub fn add_attachment(cluster: &mut Cluster, value: Value) {
    let name = value["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.storage.attachments.insert(name, Arc::new(serde_json::from_value(value).unwrap()));
}

/// Nodes as `name[key=value,...]`, pods as `node:count`, all with the label `key=value`.
pub fn cluster(nodes: &str, pods: &str, label: &str) -> Cluster {
    let nodes: Vec<Value> = nodes
        .split_whitespace()
        .map(|text| {
            let (name, labels) = text.trim_end_matches(']').split_once('[').unwrap_or((text, ""));
            let mut object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
            for (key, value) in labels.split(',').filter_map(|pair| pair.split_once('=')) {
                object["metadata"]["labels"][key] = json!(value);
            }
            object["status"] = json!({"allocatable": {"cpu": "64", "memory": "64Gi", "pods": "110"}});
            object
        })
        .collect();
    let mut cluster = cluster_of(&nodes);
    for (node, count) in pods.split_whitespace().filter_map(|text| text.split_once(':')) {
        for number in 0..count.parse().unwrap() {
            let (key, value) = label.split_once('=').unwrap();
            let name = format!("{node}-{number}");
            place(&mut cluster, json!({"metadata": {"name": name, "labels": {key: value}}}), node);
        }
    }
    cluster
}

/// The names of the nodes that take the pod.
pub fn fits(cluster: &Cluster, pod: &PodInfo) -> String {
    let Ok(cycle) = Cycle::new(pod, cluster) else { return String::new() };
    let names: Vec<&str> = cluster.nodes().iter().filter(|node| cycle.check(node).is_ok()).map(|node| node.name.as_str()).collect();
    names.join(" ")
}

pub fn outcome(checked: Result<(), Rejection>) -> String {
    match checked {
        Ok(()) => String::new(),
        Err(rejection) => rejection.reasons.join(", ") + if rejection.resolvable { " (resolvable)" } else { "" },
    }
}
