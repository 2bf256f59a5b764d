//! StatefulSets: every ordinal once, and in the end all of them, of the newest revision.

use super::Invariant;
use super::rolling::{is_observed, replicas, uid};
use crate::world::World;

pub(super) struct Stateful;

impl Invariant for Stateful {
    fn unsettled(&self, world: &World, unsettled: &mut Vec<String>) {
        for ((namespace, name), set) in world.all("statefulsets") {
            let (wanted, status) = (replicas(set), &set["status"]);
            let start = set["spec"]["ordinals"]["start"].as_i64().unwrap_or(0);
            let mut names: Vec<String> = world.pods_of(&uid(set)).map(|pod| pod.name.clone()).collect();
            names.sort();
            let mut expected: Vec<String> = (start..start + wanted).map(|ordinal| format!("{name}-{ordinal}")).collect();
            expected.sort();
            let all_ready = world.pods_of(&uid(set)).all(|pod| pod.is_available());
            let told = ["replicas", "readyReplicas", "availableReplicas"].iter().all(|field| status[field].as_i64().unwrap_or(0) == wanted);
            let updated = set["spec"]["updateStrategy"]["type"] == "OnDelete" || status["currentRevision"] == status["updateRevision"];
            if names != expected || !all_ready || !told || !updated || !is_observed(set) {
                unsettled.push(format!("StatefulSet {namespace}/{name} wants {wanted}, has {names:?}, status {status}"));
            }
        }
    }
}
