//! The constraints of a pod that has none: its Service's or owner's pods are spread over zones and nodes, softly.

use std::collections::{BTreeMap, HashMap};

use api::selector::LabelSelector;
use client::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::pod_info::{PodInfo, Selector, SpreadConstraint};

/// The original's system defaults.
const DEFAULTS: [(&str, i64); 2] = [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];

/// What Services, ReplicaSets, StatefulSets and ReplicationControllers select.
#[derive(Default)]
pub struct DefaultSelectors {
    /// By namespace and name.
    pub services: HashMap<String, HashMap<String, BTreeMap<String, String>>>,
    /// By kind and key.
    pub owners: HashMap<(&'static str, ObjectKey), meta::LabelSelector>,
}

impl DefaultSelectors {
    pub fn constraints(&self, pod: &PodInfo) -> Vec<SpreadConstraint> {
        let Some(selector) = self.selector(pod) else { return Vec::new() };
        let constraint = |(topology_key, max_skew, hard): (&str, i64, bool)| SpreadConstraint {
            max_skew,
            min_domains: 1,
            topology_key: topology_key.to_owned(),
            hard,
            selector: selector.clone(),
            honor_affinity: true,
            honor_taints: false,
        };
        match &pod.profile.default_constraints {
            None => DEFAULTS.into_iter().map(|(topology_key, max_skew)| constraint((topology_key, max_skew, false))).collect(),
            Some(given) => given.iter().map(|it| constraint((&it.topology_key, it.max_skew, it.hard))).collect(),
        }
    }

    /// What everything that selects the pod demands together; nothing, if nothing does.
    fn selector(&self, pod: &PodInfo) -> Option<Selector> {
        let mut all = meta::LabelSelector::default();
        let mut labels = BTreeMap::new();
        for wanted in self.services.get(&pod.key.namespace).into_iter().flat_map(HashMap::values) {
            if !wanted.is_empty() && wanted.iter().all(|(key, value)| pod.labels.get(key) == Some(value)) {
                labels.extend(wanted.clone());
            }
        }
        if let Some(owner) = pod.controller()
            && let Some(kind) = ["ReplicaSet", "StatefulSet", "ReplicationController"].into_iter().find(|kind| *kind == owner.kind)
            && let Some(selector) = self.owners.get(&(kind, ObjectKey::new(&pod.key.namespace, &owner.name)))
        {
            labels.extend(selector.match_labels.clone().unwrap_or_default());
            all.match_expressions = selector.match_expressions.clone();
        }
        if labels.is_empty() && all.match_expressions.as_ref().is_none_or(Vec::is_empty) {
            return None;
        }
        all.match_labels = Some(labels);
        LabelSelector::from_typed(&all).ok().map(Selector::new)
    }
}
