//! The ReplicaSets of one Deployment while a plan is made: what they want can be changed, what they have is
//! as observed.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::revision;
use super::rolling;

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub set: ReplicaSet,
    /// What the set wanted when it was observed.
    pub from: i32,
    pub changed: bool,
}

impl Member {
    pub fn of(set: &Arc<ReplicaSet>) -> Self {
        let set = (**set).clone();
        let from = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        Member { set, from, changed: false }
    }

    pub fn name(&self) -> &str {
        self.set.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn wanted(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
    }

    pub fn available(&self) -> i32 {
        self.set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    pub fn ready(&self) -> i32 {
        self.set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
    }

    pub fn actual(&self) -> i32 {
        self.set.status.as_ref().map_or(0, |status| status.replicas)
    }

    pub fn terminating(&self) -> Option<i32> {
        self.set.status.as_ref().and_then(|status| status.terminating_replicas)
    }

    /// When it was made, the name to tell apart those of one second.
    pub fn age(&self) -> (Option<jiff::Timestamp>, &str) {
        (self.set.metadata.creation_timestamp.as_ref().map(|time| time.0), self.name())
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.set.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Sets what the set wants, and notes the Deployment's size by which later scaling is told from rolling.
    pub fn scale(&mut self, deployment: &Deployment, replicas: i32) {
        if self.wanted() != replicas {
            self.set.spec.get_or_insert_default().replicas = Some(replicas);
            self.changed = true;
        }
        self.note_size(deployment);
    }

    pub fn note_size(&mut self, deployment: &Deployment) {
        let desired = rolling::replicas(deployment);
        self.annotate(revision::DESIRED_REPLICAS, desired.to_string());
        self.annotate(revision::MAX_REPLICAS, (desired + rolling::max_surge(deployment)).to_string());
    }

    pub fn annotate(&mut self, name: &str, value: String) {
        let annotations = self.set.metadata.annotations.get_or_insert_default();
        if annotations.get(name) != Some(&value) {
            annotations.insert(name.to_owned(), value);
            self.changed = true;
        }
    }
}

/// The set with the Deployment's template, if there is one, and all the others, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Members {
    pub new: Option<Member>,
    pub old: Vec<Member>,
}

impl Members {
    pub fn of(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Self {
        let mut members: Vec<Member> = sets.iter().map(Member::of).collect();
        members.sort_by(|a, b| a.age().cmp(&b.age()));
        // Of several with this template the oldest is the one.
        let new = members.iter().position(|member| revision::same_template(deployment, &member.set));
        let new = new.map(|at| members.remove(at));
        Members { new, old: members }
    }

    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.old.iter().chain(&self.new)
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.old.iter_mut().chain(&mut self.new)
    }

    pub fn wanted(&self) -> i32 {
        self.all().map(Member::wanted).sum()
    }
}
