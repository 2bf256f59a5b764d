//! DaemonSets: at last one ready pod on every node that will have it, and none elsewhere.

use super::Invariant;
use super::rolling::{is_observed, uid};
use crate::world::World;

pub(super) struct Daemons;

impl Invariant for Daemons {
    fn unsettled(&self, world: &World, unsettled: &mut Vec<String>) {
        for ((namespace, name), set) in world.all("daemonsets") {
            let status = &set["status"];
            let wanted = status["desiredNumberScheduled"].as_i64().unwrap_or(0);
            let pods: Vec<_> = world.pods_of(&uid(set)).collect();
            let told = ["currentNumberScheduled", "numberReady", "numberAvailable", "updatedNumberScheduled"];
            let settled = is_observed(set)
                && told.iter().all(|field| status[field].as_i64().unwrap_or(0) == wanted)
                && status["numberMisscheduled"].as_i64().unwrap_or(0) == 0
                && pods.len() as i64 == wanted
                && pods.iter().all(|pod| pod.is_available());
            if !settled {
                unsettled.push(format!("DaemonSet {namespace}/{name} has {} pods, status {status}", pods.len()));
            }
        }
    }
}
