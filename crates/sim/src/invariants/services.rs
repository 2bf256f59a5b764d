//! Services: at last their slices name just the ready pods.

use std::collections::BTreeSet;

use super::Invariant;
use crate::pod_facts::string_map;
use crate::world::World;

pub(super) struct Services;

impl Invariant for Services {
    fn unsettled(&self, world: &World, unsettled: &mut Vec<String>) {
        for ((namespace, name), service) in world.all("services/specs") {
            let selector = string_map(&service["spec"]["selector"]);
            if selector.is_empty() {
                continue;
            }
            let selected = |labels: &std::collections::BTreeMap<String, String>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
            let pods = world.pods().filter(|pod| pod.namespace == *namespace && pod.is_available() && selected(&pod.labels));
            let ready: BTreeSet<String> = pods.map(|pod| pod.ip.clone()).filter(|ip| !ip.is_empty()).collect();
            let slices = world.all("endpointslices").filter(|((within, _), slice)| {
                within == namespace && slice["metadata"]["labels"]["kubernetes.io/service-name"] == **name
            });
            let endpoints = slices.flat_map(|(_, slice)| slice["endpoints"].as_array().into_iter().flatten());
            let told: BTreeSet<String> = endpoints
                .filter(|endpoint| endpoint["conditions"]["ready"] == true)
                .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
                .filter_map(|address| address.as_str().map(str::to_owned))
                .collect();
            if told != ready {
                unsettled.push(format!("Service {namespace}/{name}: its slices say {told:?}, ready are {ready:?}"));
            }
        }
    }
}
