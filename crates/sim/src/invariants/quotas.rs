//! Quotas: never more than the hard limit counted, and at rest counted exactly.

use api::quantity::Quantity;

use jiff::{SignedDuration, Timestamp};

use super::{Invariant, SKEW_MAX};
use crate::BEGINNING;
use crate::pod_facts::PodFacts;
use crate::world::{Change, World};

pub(super) struct Quotas;

/// By the clock of whoever counts.
fn is_overdue(pod: &PodFacts, world: &World) -> bool {
    let now = BEGINNING.parse::<Timestamp>().expect("a valid time") + SignedDuration::try_from(world.now + SKEW_MAX).expect("a run takes hours");
    pod.overdue_at.is_some_and(|at| at <= now)
}

impl Invariant for Quotas {
    fn after(&mut self, change: &Change, world: &World, broken: &mut Vec<String>) {
        if change.kind != "pods" || change.before.is_some() || change.after.is_none() {
            return;
        }
        for ((namespace, name), quota) in world.all("resourcequotas") {
            // What a quota that has not been counted yet allows is nobody's fault.
            let Some(hard) = quota["status"]["hard"]["pods"].as_str().and_then(|text| text.parse::<i64>().ok()) else { continue };
            let pods = world.pods().filter(|pod| pod.namespace == *namespace && !pod.is_finished() && !is_overdue(pod, world)).count() as i64;
            if *namespace == change.namespace && pods > hard {
                broken.push(format!("quota {namespace}/{name} allows {hard} pods, there are {pods}"));
            }
        }
    }

    fn unsettled(&self, world: &World, unsettled: &mut Vec<String>) {
        for ((namespace, name), quota) in world.all("resourcequotas") {
            let pods: Vec<&PodFacts> =
                world.pods().map(|pod| &**pod).filter(|pod| pod.namespace == *namespace && !pod.is_finished()).collect();
            let objects = |kind: &str| world.all(kind).filter(|((within, _), _)| within == namespace).count() as i64;
            let expected = |resource: &str| {
                Some(match resource {
                    "pods" => Quantity::from_value(pods.len() as i64),
                    "requests.cpu" | "cpu" => Quantity::from_milli(pods.iter().map(|pod| pod.milli_cpu).sum()),
                    "configmaps" => Quantity::from_value(objects("configmaps")),
                    "services" => Quantity::from_value(objects("services/specs")),
                    "count/replicasets.apps" => Quantity::from_value(objects("replicasets")),
                    "persistentvolumeclaims" => Quantity::from_value(objects("persistentvolumeclaims")),
                    _ => return None,
                })
            };
            for (resource, _) in quota["spec"]["hard"].as_object().into_iter().flatten() {
                let Some(expected) = expected(resource) else { continue };
                let used = quota["status"]["used"][resource].as_str().and_then(|text| Quantity::parse(text).ok());
                if used.as_ref() != Some(&expected) {
                    unsettled.push(format!("quota {namespace}/{name} counts {used:?} {resource}, there are {expected:?}"));
                }
            }
        }
    }
}
