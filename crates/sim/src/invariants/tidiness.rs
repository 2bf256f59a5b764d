//! Nothing is left over: no object whose owner is gone, nothing in a namespace that is no more.

use std::collections::BTreeSet;

use super::Invariant;
use super::rolling::uid;
use crate::world::{Change, World};

pub(super) struct Tidiness;

impl Invariant for Tidiness {
    fn after(&mut self, change: &Change, world: &World, broken: &mut Vec<String>) {
        if change.kind == "namespaces" && change.after.is_none() {
            let left: Vec<&String> = world.keys_in(&change.name).collect();
            if !left.is_empty() {
                broken.push(format!("namespace {} is gone, and there is still {left:?}", change.name));
            }
        }
    }

    fn unsettled(&self, world: &World, unsettled: &mut Vec<String>) {
        let kinds = [
            "configmaps", "controllers", "cronjobs", "daemonsets", "deployments", "endpointslices", "jobs", "minions",
            "persistentvolumeclaims", "pods", "replicasets", "services/specs", "statefulsets",
        ];
        let alive: BTreeSet<String> = kinds.iter().flat_map(|kind| world.all(kind)).map(|(_, object)| uid(object)).collect();
        for kind in kinds {
            for ((namespace, name), object) in world.all(kind) {
                let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
                let known = |owner: &&serde_json::Value| KNOWN_OWNERS.contains(&owner["kind"].as_str().unwrap_or_default());
                if let Some(owner) = owners.filter(known).find(|owner| owner["uid"].as_str().is_none_or(|uid| !alive.contains(uid))) {
                    unsettled.push(format!("orphan: {kind} {namespace}/{name} of {}", owner["name"]));
                }
                if !object["metadata"]["deletionTimestamp"].is_null() {
                    unsettled.push(format!("{kind} {namespace}/{name} is being deleted, finalizers {}", object["metadata"]["finalizers"]));
                }
            }
        }
        for ((_, name), namespace) in world.all("namespaces") {
            if !namespace["metadata"]["deletionTimestamp"].is_null() {
                unsettled.push(format!("namespace {name} is being deleted: {}", namespace["status"]));
            }
        }
    }
}

/// Kinds that the world keeps.
const KNOWN_OWNERS: [&str; 9] = [
    "CronJob", "DaemonSet", "Deployment", "Job", "Node", "Pod", "ReplicaSet", "ReplicationController", "StatefulSet",
];
