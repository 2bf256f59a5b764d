//! What a Deployment does next. Pure: the same observation always yields the same steps.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::members::{Member, Members};
use super::{progress, revision, rolling};
use crate::runner::Next;

pub(super) struct Observed<'a> {
    pub deployment: &'a Deployment,
    pub sets: &'a [Arc<ReplicaSet>],
    /// Whether a set still has pods that are not finished, terminating ones included.
    pub runs_pods: &'a dyn Fn(&ReplicaSet) -> bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Create(ReplicaSet),
    Update { set: ReplicaSet, from: i32 },
    Delete(ReplicaSet),
    /// The Deployment's own revision annotation.
    Revision(String),
}

#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub status: DeploymentStatus,
    pub next: Next,
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

pub(super) fn decide(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let deployment = observed.deployment;
    let mut members = Members::of(deployment, observed.sets);
    if deployment.metadata.deletion_timestamp.is_some() {
        let status = progress::counts(deployment, &members, now);
        return Plan { steps: Vec::new(), status, next: Next::Settled };
    }
    let mut created = None;
    let revision = revision::sync_new(deployment, &mut members);
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let rolls = !paused && !size_has_changed(deployment, &members);
    if !rolls {
        rolling::follow_size(deployment, &mut members);
    } else if members.new.is_none() && may_create(observed, &mut members) {
        created = Some(revision::new_set(deployment, &members));
    } else if is_recreate(deployment) {
        recreate(observed, &mut members);
    } else if !rolling::grow_new(deployment, &mut members) {
        rolling::shrink_old(deployment, &mut members);
    }

    let complete = deployment.status.as_ref().is_some_and(|status| progress::is_complete(deployment, status));
    let removed = if paused || complete { revision::beyond_history(deployment, &members) } else { Vec::new() };
    let status = status(deployment, &members, created.as_ref(), rolls, now);
    let next = progress::next_check(deployment, &status, now);
    Plan { steps: steps(deployment, members, created, revision, removed), status, next }
}

/// The Deployment was scaled since its active sets were last sized.
fn size_has_changed(deployment: &Deployment, members: &Members) -> bool {
    let wanted = rolling::replicas(deployment);
    members.all().filter(|member| member.wanted() > 0).any(|member| {
        let noted = member.annotation(revision::DESIRED_REPLICAS).and_then(|text| text.parse::<i32>().ok());
        noted.is_some_and(|noted| noted != wanted)
    })
}

/// Recreate makes the new set only when nothing old wants or runs pods any more.
fn may_create(observed: &Observed<'_>, members: &mut Members) -> bool {
    if !is_recreate(observed.deployment) {
        return true;
    }
    let shrunk = shrink_all_old(observed.deployment, members);
    !shrunk && !old_pods_run(observed, members)
}

fn recreate(observed: &Observed<'_>, members: &mut Members) {
    if shrink_all_old(observed.deployment, members) || old_pods_run(observed, members) {
        return;
    }
    if let Some(new) = &mut members.new {
        new.scale(observed.deployment, rolling::replicas(observed.deployment));
    }
}

fn shrink_all_old(deployment: &Deployment, members: &mut Members) -> bool {
    let mut shrunk = false;
    for member in members.old.iter_mut().filter(|member| member.wanted() > 0) {
        member.scale(deployment, 0);
        shrunk = true;
    }
    shrunk
}

fn old_pods_run(observed: &Observed<'_>, members: &Members) -> bool {
    members.old.iter().any(|member| member.actual() > 0 || (observed.runs_pods)(&member.set))
}

fn status(deployment: &Deployment, members: &Members, created: Option<&ReplicaSet>, rolls: bool, now: Timestamp) -> DeploymentStatus {
    let mut status = progress::counts(deployment, members, now);
    progress::set_paused(deployment, &mut status, now);
    if let Some(created) = created {
        progress::set_created(deployment, &mut status, created.metadata.name.as_deref().unwrap_or_default(), now);
        return status;
    }
    if let Some(new) = &members.new {
        progress::set_found(deployment, &mut status, new.name(), now);
    }
    if rolls {
        progress::judge(deployment, members, &mut status, now);
    }
    status
}

fn steps(deployment: &Deployment, members: Members, created: Option<ReplicaSet>, revision: Option<String>, removed: Vec<ReplicaSet>) -> Vec<Step> {
    let own_revision = deployment.metadata.annotations.as_ref().and_then(|all| all.get(revision::REVISION));
    let revision = match &created {
        Some(set) => set.metadata.annotations.as_ref().and_then(|all| all.get(revision::REVISION)).cloned(),
        None => revision,
    };
    let mut steps = Vec::new();
    // New before old: what takes over is asked for before what it replaces goes.
    steps.extend(created.map(Step::Create));
    let changed = members.new.into_iter().chain(members.old).filter(|member| member.changed);
    steps.extend(changed.map(|Member { set, from, .. }| Step::Update { set, from }));
    if let Some(revision) = revision.filter(|revision| Some(revision) != own_revision) {
        steps.push(Step::Revision(revision));
    }
    steps.extend(removed.into_iter().map(Step::Delete));
    steps
}

#[cfg(test)]
mod tests;
