//! The required anti-affinity of pods that are placed: each distinct term once, with where the pods are that have it.
//!
//! Invariant: the counts are those of the placed pods on known nodes.

use std::collections::{BTreeMap, HashMap};

use crate::pod_info::{AffinityTerm, PodInfo};

#[derive(Default)]
pub struct Repelling {
    /// By the term's text.
    groups: HashMap<String, Group>,
}

pub struct Group {
    pub term: AffinityTerm,
    /// Pods with the term by the value of its topology label.
    pub places: HashMap<String, i64>,
    pods: i64,
}

impl Repelling {
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// `delta` is 1 when a pod came to a node with these labels, and -1 when it left.
    pub fn add(&mut self, pod: &PodInfo, labels: &BTreeMap<String, String>, delta: i64) {
        for term in &pod.required_anti_affinity {
            if !self.groups.contains_key(&term.text) {
                let group = Group { term: term.clone(), places: HashMap::new(), pods: 0 };
                self.groups.insert(term.text.clone(), group);
            }
            let Some(group) = self.groups.get_mut(&term.text) else { continue };
            group.pods += delta;
            if let Some(value) = labels.get(&term.topology_key) {
                let count = group.places.entry(value.clone()).or_insert(0);
                *count += delta;
                if *count == 0 {
                    group.places.remove(value);
                }
            }
            if group.pods == 0 {
                self.groups.remove(&term.text);
            }
        }
    }
}
