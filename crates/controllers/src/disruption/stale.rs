//! Takes back `DisruptionTarget` from pods that were to be disrupted and are not.
//!
//! Invariant: what the kubelet said of its own doing, and what stands on a pod that has ended, stays.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::context::{Context, seconds_between};
use crate::failure::{Failure, ignore_not_found};
use crate::pods;
use crate::runner::{Controller, Next, Queue};

const CONDITION: &str = "DisruptionTarget";
/// How long a deletion may be announced before it is under way.
const STALE_SECONDS: i64 = 120;

pub(crate) struct StaleDisruption {
    context: Arc<Context>,
    pods: Arc<Informer<Pod>>,
}

impl StaleDisruption {
    pub fn new(context: &Arc<Context>) -> Self {
        StaleDisruption { context: context.clone(), pods: context.informer() }
    }
}

#[async_trait]
impl Controller for StaleDisruption {
    fn name(&self) -> &'static str {
        "stale-disruption-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let queue = queue.clone();
        self.pods.subscribe(move |change: &Change<Pod>| {
            let pod = change.object();
            if announced(pod).is_some() {
                queue.add(ObjectKey::of(&pod.metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Settled) };
        let now = self.context.now();
        let Some(left) = seconds_left(&pod, now) else { return Ok(Next::Settled) };
        if left > 0 {
            return Ok(Next::after_seconds(Some(left)));
        }
        // Strategic: the reason and the message of the time go as well.
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{
                "type": CONDITION, "status": "False", "reason": null, "message": null,
                "lastTransitionTime": Time(now), "observedGeneration": pod.metadata.generation,
            }]},
        });
        ignore_not_found(self.context.patch_status::<Pod>(key, &Patch::Strategic(patch)).await)?;
        Ok(Next::Settled)
    }
}

/// Since when the pod is said to be about to go, although it is neither going nor gone.
fn announced(pod: &Pod) -> Option<Option<&Time>> {
    let condition = pods::condition(pod, CONDITION).filter(|condition| condition.status == "True")?;
    let by_kubelet = condition.reason.as_deref() == Some("TerminationByKubelet");
    let stays = !by_kubelet && !pods::is_terminating(pod) && !pods::is_finished(pod);
    stays.then_some(condition.last_transition_time.as_ref())
}

fn seconds_left(pod: &Pod, now: Timestamp) -> Option<i64> {
    let since = announced(pod)?;
    Some(since.map_or(0, |since| (STALE_SECONDS - seconds_between(since, now)).max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[track_caller]
    fn check(pod: &str, reason: &str, since: i64, expected: Option<i64>) {
        let mut pod = fixtures::pod(pod);
        for condition in pod.status.as_mut().unwrap().conditions.iter_mut().flatten().filter(|held| held.type_ == CONDITION) {
            condition.reason = Some(reason.into());
            condition.last_transition_time = Some(fixtures::ago(since));
        }
        assert_eq!(seconds_left(&pod, fixtures::now()), expected);
    }

    #[test]
    fn what_did_not_happen_is_taken_back() {
        //    pod                        reason                  since  seconds left
        check("a", "", 0, None);
        check("a:disrupted", "EvictionByEvictionAPI", 20, Some(100));
        check("a:disrupted", "EvictionByEvictionAPI", 120, Some(0));
        check("a:disrupted", "PreemptionByScheduler", 999, Some(0));
        check("a:disrupted", "TerminationByKubelet", 999, None);
        check("a:disrupted,deleting", "EvictionByEvictionAPI", 999, None);
        check("a:disrupted,failed", "EvictionByEvictionAPI", 999, None);
        check("a:disrupted,succeeded", "EvictionByEvictionAPI", 999, None);
    }
}
