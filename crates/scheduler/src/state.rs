//! Everything that the scheduler knows, and what news from the API does to it.
//!
//! Invariant: handlers only record; they decide nothing and wait for nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Change, ObjectKey};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::hints::{self, News};
use crate::pod_info::PodInfo;
use crate::profile::Profile;
use crate::queue::Queue;

pub struct State {
    pub cluster: Cluster,
    pub queue: Queue,
    pub budgets: BTreeMap<ObjectKey, Arc<PodDisruptionBudget>>,
    pub profiles: Vec<Arc<Profile>>,
}

impl State {
    pub fn new(profiles: Vec<Arc<Profile>>) -> Self {
        State { cluster: Cluster::default(), queue: Queue::default(), budgets: BTreeMap::new(), profiles }
    }

    pub fn pod_changed(&mut self, change: &Change<Pod>, now: Instant) {
        if let Change::Updated { old, new } = change
            && is_settled(old, new)
            && self.cluster.is_confirmed(new.metadata.uid.as_deref().unwrap_or_default())
        {
            return;
        }
        let pod = change.object();
        let profile = self.profile_of(pod);
        let is_mine = profile.is_some();
        let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()));
        let profile = profile.unwrap_or_else(Profile::standard);
        let info = Arc::new(if has_node { PodInfo::placed(pod, profile) } else { PodInfo::with_profile(pod.clone(), profile) });
        let gone = matches!(change, Change::Deleted(_)) || info.finished;
        match info.node_name.clone() {
            Some(_) if gone => self.pod_left(&info, now),
            Some(node) => {
                self.queue.remove(&info.uid);
                let before = self.cluster.placed(&info.uid).map(|(before, _)| before.clone());
                self.cluster.place(info.clone(), &node, false);
                let Some(before) = before else {
                    return self.queue.tell(&News::PodCame(&info), &self.cluster, now);
                };
                if before.labels != info.labels {
                    self.queue.tell(&News::PodRelabelled { old: &before, new: &info }, &self.cluster, now);
                }
                if !before.seen {
                    // It was only assumed there; now others may rely on it.
                    self.queue.tell(&News::PodCame(&info), &self.cluster, now);
                }
                if before.requests != info.requests || before.terminating != info.terminating {
                    self.queue.tell(&News::PodLeft(&info), &self.cluster, now);
                }
            }
            None if gone || info.terminating => {
                self.queue.remove(&info.uid);
                self.pod_left(&info, now);
            }
            None if is_mine => {
                // A nomination made before a restart still holds.
                let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
                if let Some(node) = nominated.filter(|_| matches!(change, Change::Added(_))) {
                    self.cluster.nominate(info.clone(), node);
                }
                self.queue.add(info, now);
            }
            None => {}
        }
    }

    fn pod_left(&mut self, info: &PodInfo, now: Instant) {
        self.queue.remove(&info.uid);
        self.cluster.unnominate(&info.uid);
        if let Some(gone) = self.cluster.remove(&info.uid) {
            self.queue.tell(&News::PodLeft(&gone), &self.cluster, now);
        }
    }

    /// None: another scheduler sees to the pod.
    fn profile_of(&self, pod: &Pod) -> Option<Arc<Profile>> {
        let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).filter(|name| !name.is_empty());
        let name = name.unwrap_or("default-scheduler");
        self.profiles.iter().find(|profile| profile.scheduler_name == name).cloned()
    }

    pub fn node_changed(&mut self, change: &Change<Node>, now: Instant) {
        match change {
            Change::Added(node) => {
                self.cluster.set_node(node.clone());
                let name = node.metadata.name.as_deref().unwrap_or_default();
                if let Some(node) = self.cluster.node(name) {
                    self.queue.tell(&News::NodeCame(node), &self.cluster, now);
                }
            }
            Change::Updated { old, new } => {
                if !hints::is_touched(old, new) {
                    return; // A heartbeat.
                }
                let name = new.metadata.name.as_deref().unwrap_or_default();
                let before = self.cluster.node(name).cloned();
                self.cluster.set_node(new.clone());
                if let (Some(before), Some(after)) = (&before, self.cluster.node(name)) {
                    self.queue.tell(&News::NodeChanged { old: before, new: after }, &self.cluster, now);
                }
            }
            Change::Deleted(node) => {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let Some(gone) = self.cluster.node(name).cloned() else { return };
                self.cluster.remove_node(name);
                self.queue.tell(&News::NodeLeft(&gone), &self.cluster, now);
            }
        }
    }
}

/// Whether nothing changed that a decision about any pod could depend on.
fn is_settled(old: &Pod, new: &Pod) -> bool {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    let started = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    let allocated = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.into_iter().flatten().filter_map(|status| status.allocated_resources.clone()).collect::<Vec<_>>()
    };
    old.spec == new.spec
        && old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && phase(old) == phase(new)
        && started(old) == started(new)
        && allocated(old) == allocated(new)
}
