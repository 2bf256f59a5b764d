//! Jobs: each pod is counted once and none is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Invariant;
use super::rolling::uid;
use crate::pod_facts::{condition, controller, text};
use crate::world::{Change, World};

#[derive(Default)]
pub(super) struct Jobs {
    ended: BTreeMap<String, Ended>,
}

/// How a Job's pods ended, by their uids.
#[derive(Default)]
struct Ended {
    succeeded: BTreeSet<String>,
    failed: BTreeSet<String>,
    /// Deleted before they ended; they may count as failed.
    deleted: BTreeSet<String>,
    /// Completion indexes with a success.
    indexes: BTreeSet<String>,
}

impl Invariant for Jobs {
    fn after(&mut self, change: &Change, _: &World, broken: &mut Vec<String>) {
        match change.kind {
            "pods" => self.pod(change),
            "jobs" => self.job(change, broken),
            _ => {}
        }
    }

    fn at_rest(&self, world: &World, broken: &mut Vec<String>) {
        for ((namespace, name), job) in world.all("jobs") {
            let uncounted = &job["status"]["uncountedTerminatedPods"];
            if ["succeeded", "failed"].iter().any(|field| uncounted[field].as_array().is_some_and(|uids| !uids.is_empty())) {
                broken.push(format!("Job {namespace}/{name} leaves uncounted pods: {uncounted}"));
            }
        }
        for pod in world.all("pods").map(|(_, pod)| pod) {
            let finalizers = pod["metadata"]["finalizers"].as_array();
            let tracked = finalizers.is_some_and(|all| all.iter().any(|it| it == "batch.kubernetes.io/job-tracking"));
            let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            if tracked && ended {
                broken.push(format!("pod {} ended and was never counted", pod["metadata"]["name"]));
            }
        }
    }

    fn unsettled(&self, world: &World, unsettled: &mut Vec<String>) {
        for ((namespace, name), job) in world.all("jobs") {
            let suspended = job["spec"]["suspend"] == true;
            let ended = is_ended(job);
            if !ended && !suspended {
                unsettled.push(format!("Job {namespace}/{name}: {}", job["status"]));
            }
            let active = world.pods_of(&uid(job)).filter(|pod| !pod.is_finished()).count();
            if active > 0 && (ended || suspended) {
                unsettled.push(format!("Job {namespace}/{name} has {active} pods still"));
            }
        }
    }
}

impl Jobs {
    fn pod(&mut self, change: &Change) {
        let pod = change.latest();
        let Some(owner) = controller(pod).filter(|owner| owner["kind"] == "Job") else { return };
        let ended = self.ended.entry(text(&owner["uid"])).or_default();
        let pod_uid = uid(pod);
        match pod["status"]["phase"].as_str() {
            Some("Succeeded") => {
                ended.succeeded.insert(pod_uid);
                ended.indexes.extend(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().map(str::to_owned));
            }
            Some("Failed") => drop(ended.failed.insert(pod_uid)),
            _ if !pod["metadata"]["deletionTimestamp"].is_null() || change.after.is_none() => drop(ended.deleted.insert(pod_uid)),
            _ => {}
        }
    }

    fn job(&mut self, change: &Change, broken: &mut Vec<String>) {
        let Some(job) = &change.after else { return };
        let ended = self.ended.entry(uid(job)).or_default();
        let status = &job["status"];
        let count = |field: &str| status[field].as_i64().unwrap_or(0);
        let uncounted = |field: &str| status["uncountedTerminatedPods"][field].as_array().map_or(0, Vec::len) as i64;
        let indexed = job["spec"]["completionMode"] == "Indexed";
        let successes = if indexed { ended.indexes.len() } else { ended.succeeded.len() } as i64;
        let told = count("succeeded") + if indexed { 0 } else { uncounted("succeeded") };
        if told > successes {
            broken.push(format!("Job {}/{} tells of {told} successes, there were {successes}", change.namespace, change.name));
        }
        let failures = ended.failed.union(&ended.deleted).count() as i64;
        let told = count("failed") + uncounted("failed");
        if told > failures {
            broken.push(format!("Job {}/{} tells of {told} failures, there were {failures}", change.namespace, change.name));
        }
        let complete = condition(job, "Complete") == Some("True");
        let wanted = job["spec"]["completions"].as_i64();
        if let Some(wanted) = wanted
            && complete
            && job["spec"]["successPolicy"].is_null()
            && count("succeeded") != wanted.min(successes)
        {
            broken.push(format!("Job {}/{} is complete with {} of {wanted}", change.namespace, change.name, count("succeeded")));
        }
        if complete && count("failed") < ended.failed.len() as i64 - ended.deleted.len() as i64 && !indexed {
            let (told, real) = (count("failed"), ended.failed.len());
            broken.push(format!("Job {}/{} is complete with {told} failures told of {real}", change.namespace, change.name));
        }
    }
}

fn is_ended(job: &Value) -> bool {
    ["Complete", "Failed"].iter().any(|kind| condition(job, kind) == Some("True"))
}
