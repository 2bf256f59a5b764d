//! Deployments and ReplicaSets: never too many, never too few, and at last just right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::recent::Recent;
use super::{Invariant, STALE_FOR};
use crate::answers::Answer;
use crate::pod_facts::{PodFacts, condition, controller, text};
use crate::world::{Change, World};

#[derive(Default)]
pub(super) struct Rolling {
    /// By uid: what all sets of a Deployment may want together.
    limits: BTreeMap<String, Recent>,
    /// By uid: how many pods must stay available. Known once a Deployment was complete, until somebody else than
    /// its controller takes pods away.
    floors: BTreeMap<String, i64>,
    /// By uid: what a set wants.
    wanted: BTreeMap<String, Recent>,
    /// By a set's uid: pods that were made for it of late, and whether it was told so.
    made: BTreeMap<String, Vec<Made>>,
}

struct Made {
    uid: String,
    at: Duration,
    answer: Answer,
}

impl Invariant for Rolling {
    fn after(&mut self, change: &Change, world: &World, broken: &mut Vec<String>) {
        match change.kind {
            "deployments" => self.deployment(change, world),
            "replicasets" => self.set(change, world, broken),
            "pods" => self.pod(change, world, broken),
            _ => {}
        }
    }

    fn unsettled(&self, world: &World, unsettled: &mut Vec<String>) {
        for ((namespace, name), deployment) in world.all("deployments") {
            let wanted = replicas(deployment);
            let status = &deployment["status"];
            let count = |field: &str| status[field].as_i64().unwrap_or(0);
            let done = is_observed(deployment)
                && ["replicas", "availableReplicas", "readyReplicas"].iter().all(|field| count(field) == wanted)
                && (deployment["spec"]["paused"] == true || count("updatedReplicas") == wanted);
            let pods: Vec<&Arc<PodFacts>> = sets_of(world, deployment).flat_map(|set| world.pods_of(&uid(set))).collect();
            if !done || pods.len() as i64 != wanted || !pods.iter().all(|pod| pod.is_available()) {
                unsettled.push(format!("Deployment {namespace}/{name} wants {wanted}, has {} pods, status {status}", pods.len()));
            }
        }
        for kind in ["replicasets", "controllers"] {
            for ((namespace, name), set) in world.all(kind) {
                let wanted = replicas(set);
                let pods = world.pods_of(&uid(set)).filter(|pod| !pod.is_finished()).count() as i64;
                let told = set["status"]["replicas"].as_i64().unwrap_or(0);
                let available = set["status"]["availableReplicas"].as_i64().unwrap_or(0);
                if pods != wanted || told != wanted || available != wanted || !is_observed(set) {
                    unsettled.push(format!("{kind} {namespace}/{name} wants {wanted}, has {pods} pods, status {}", set["status"]));
                }
            }
        }
    }
}

impl Rolling {
    fn deployment(&mut self, change: &Change, world: &World) {
        let uid = uid(change.latest());
        let Some(deployment) = &change.after else {
            self.limits.remove(&uid);
            self.floors.remove(&uid);
            return;
        };
        let wanted = replicas(deployment);
        let (surge, unavailable) = bounds(deployment);
        self.limits.entry(uid.clone()).or_default().set(world.now, wanted + surge);
        let complete = is_observed(deployment)
            && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| deployment["status"][field] == wanted);
        if !deployment["metadata"]["deletionTimestamp"].is_null() {
            self.floors.remove(&uid);
        } else if complete {
            // What the status says may be a moment old.
            if available(world, deployment) >= wanted {
                self.floors.insert(uid, wanted - unavailable);
            }
        } else if change.before.as_ref().is_some_and(|before| replicas(before) != wanted || before["spec"]["strategy"] != deployment["spec"]["strategy"]) {
            self.floors.remove(&uid);
        }
    }

    fn set(&mut self, change: &Change, world: &World, broken: &mut Vec<String>) {
        let set_uid = uid(change.latest());
        let Some(set) = &change.after else {
            self.wanted.remove(&set_uid);
            self.made.remove(&set_uid);
            return;
        };
        let wanted = replicas(set);
        self.wanted.entry(set_uid).or_default().set(world.now, wanted);
        let before = change.before.as_ref().map_or(0, |set| replicas(set));
        let Some(owner) = controller(set) else { return };
        let Some(deployment) = deployment_of(world, set, owner) else { return };
        if wanted <= before {
            return;
        }
        let Some(limit) = self.limits.get_mut(&text(&owner["uid"])) else { return };
        let limit = limit.max(world.now, STALE_FOR);
        let all: i64 = sets_of(world, deployment).map(|set| replicas(set)).sum();
        if all > limit {
            broken.push(format!("maxSurge: the sets of {}/{} want {all} pods, allowed are {limit}", change.namespace, owner["name"]));
        }
    }

    fn pod(&mut self, change: &Change, world: &World, broken: &mut Vec<String>) {
        let latest = change.latest();
        let Some(owner) = controller(latest).filter(|owner| owner["kind"] == "ReplicaSet") else { return };
        let owner_uid = text(&owner["uid"]);
        if change.before.is_none() {
            let active = self.known_pods(&owner_uid, world);
            self.remember(&owner_uid, change, world);
            if let Some(wanted) = self.wanted.get_mut(&owner_uid) {
                let wanted = wanted.max(world.now, STALE_FOR);
                if active > wanted {
                    broken.push(format!("replicas: {}/{} has {active} pods and wants {wanted}", change.namespace, owner["name"]));
                }
            }
        }
        let Some(set) = world.get("replicasets", &change.namespace, &text(&owner["name"])) else { return };
        let Some(of_set) = controller(set) else { return };
        let Some(deployment) = deployment_of(world, set, of_set) else { return };
        let deployment_uid = uid(deployment);
        if change.before.is_none() && deployment["spec"]["strategy"]["type"] == "Recreate" {
            let others = sets_of(world, deployment).filter(|other| uid(other) != owner_uid);
            let running = others.flat_map(|other| world.pods_of(&uid(other)).filter(|pod| !pod.is_finished())).count();
            if running > 0 {
                broken.push(format!("Recreate: {}/{} starts while {running} old pods are there", change.namespace, owner["name"]));
            }
        }
        let Some(floor) = self.floors.get(&deployment_uid).copied() else { return };
        if is_outside_force(change, world) {
            self.floors.remove(&deployment_uid);
            return;
        }
        let available = available(world, deployment);
        if available < floor {
            broken.push(format!(
                "maxUnavailable: {}/{} has {available} available pods, needed are {floor}",
                change.namespace, deployment["metadata"]["name"]
            ));
        }
    }
}

impl Rolling {
    fn remember(&mut self, owner_uid: &str, change: &Change, world: &World) {
        let Some(answer) = change.answer.clone() else { return };
        let made = self.made.entry(owner_uid.to_owned()).or_default();
        made.retain(|made| world.now.saturating_sub(made.at) <= STALE_FOR);
        made.push(Made { uid: uid(change.latest()), at: world.now, answer });
    }

    /// Active pods, less those that their set may not have heard of yet: the answer to their creation is lost, and the
    /// watch may be late. It asks again for those, as the original does.
    fn known_pods(&self, owner_uid: &str, world: &World) -> i64 {
        let made = self.made.get(owner_uid).map_or(&[][..], Vec::as_slice);
        let is_unheard = |pod: &PodFacts| {
            let of_late = |made: &&Made| world.now.saturating_sub(made.at) <= STALE_FOR;
            made.iter().filter(of_late).any(|made| made.uid == pod.uid && made.answer.is_lost())
        };
        world.pods_of(owner_uid).filter(|pod| pod.is_active() && !is_unheard(pod)).count() as i64
    }
}

/// Whether a pod was lost otherwise than by its controller's deletion.
fn is_outside_force(change: &Change, world: &World) -> bool {
    let Some(before) = &change.before else { return false };
    let was = PodFacts::of(before);
    if !was.is_available() {
        return false;
    }
    let disrupted = condition(change.latest(), "DisruptionTarget") == Some("True");
    let terminating = world.get("namespaces", "", &change.namespace).is_none_or(|it| !it["metadata"]["deletionTimestamp"].is_null());
    match &change.after {
        None => disrupted || terminating || !was.deleting,
        Some(after) => {
            let is = PodFacts::of(after);
            disrupted || terminating || is.is_finished() || (!is.ready && !is.deleting)
        }
    }
}

fn available(world: &World, deployment: &Value) -> i64 {
    sets_of(world, deployment).flat_map(|set| world.pods_of(&uid(set))).filter(|pod| pod.is_available()).count() as i64
}

fn sets_of<'a>(world: &'a World, deployment: &Value) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
    let owner = uid(deployment);
    world.all("replicasets").map(|(_, set)| set).filter(move |set| controller(set).is_some_and(|it| it["uid"] == *owner))
}

fn deployment_of<'a>(world: &'a World, set: &Value, owner: &Value) -> Option<&'a Arc<Value>> {
    let namespace = text(&set["metadata"]["namespace"]);
    let deployment = world.get("deployments", &namespace, &text(&owner["name"]))?;
    (deployment["metadata"]["uid"] == owner["uid"]).then_some(deployment)
}

/// maxSurge and maxUnavailable in pods.
fn bounds(deployment: &Value) -> (i64, i64) {
    let wanted = replicas(deployment);
    let strategy = &deployment["spec"]["strategy"];
    if strategy["type"] == "Recreate" {
        return (0, wanted);
    }
    let of_total = |value: &Value, up: bool| match value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok()) {
        Some(percent) if up => (wanted * percent + 99) / 100,
        Some(percent) => wanted * percent / 100,
        None => value.as_i64().unwrap_or(0),
    };
    let rolling = &strategy["rollingUpdate"];
    match (of_total(&rolling["maxSurge"], true), of_total(&rolling["maxUnavailable"], false)) {
        (0, 0) => (0, 1),
        bounds => bounds,
    }
}

pub(super) fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

pub(super) fn uid(object: &Value) -> String {
    text(&object["metadata"]["uid"])
}

pub(super) fn is_observed(object: &Value) -> bool {
    object["status"]["observedGeneration"].as_i64().unwrap_or(0) == object["metadata"]["generation"].as_i64().unwrap_or(0)
}
