//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::members::{Member, Members};
use super::rolling;
use crate::context::seconds_between;
use crate::runner::Next;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub(super) const CREATE_ERROR: &str = "ReplicaSetCreateError";
const PAUSED: &str = "DeploymentPaused";

/// Seconds, when progress is watched at all.
pub(super) fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

pub(super) fn counts(deployment: &Deployment, members: &Members, now: Timestamp) -> DeploymentStatus {
    let sum = |count: fn(&Member) -> i32| members.all().map(count).sum::<i32>();
    let available = sum(Member::available);
    let terminating: Option<i32> = members.all().map(Member::terminating).sum();
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(Member::actual)),
        updated_replicas: nonzero(members.new.as_ref().map_or(0, Member::actual)),
        ready_replicas: nonzero(sum(Member::ready)),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((members.wanted() - available).max(0)),
        terminating_replicas: terminating,
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = available >= rolling::replicas(deployment) - rolling::max_unavailable(deployment);
    let condition = if enough {
        new_condition(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
    } else {
        let text = "Deployment does not have minimum availability.";
        new_condition(AVAILABLE, "False", "MinimumReplicasUnavailable", text, now)
    };
    set_condition(&mut status, condition);
    status
}

/// Judges progress after the members were moved on; only outside of pausing and scaling.
pub(super) fn judge(deployment: &Deployment, members: &Members, status: &mut DeploymentStatus, now: Timestamp) {
    let current = find(deployment.status.as_ref(), PROGRESSING).cloned();
    let Some(deadline) = deadline(deployment) else {
        remove_condition(status, PROGRESSING);
        return promote_failure(members, status);
    };
    let rolled_out = current.as_ref().is_some_and(|condition| condition.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if !(rolled_out && status.replicas == status.updated_replicas) {
        let who = match &members.new {
            Some(new) => format!("ReplicaSet \"{}\"", new.name()),
            None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
        };
        if is_complete(deployment, status) {
            let text = format!("{who} has successfully progressed.");
            set_condition(status, new_condition(PROGRESSING, "True", NEW_SET_AVAILABLE, &text, now));
        } else if has_progressed(deployment, status) {
            let text = format!("{who} is progressing.");
            let mut condition = new_condition(PROGRESSING, "True", "ReplicaSetUpdated", &text, now);
            if let Some(current) = current.filter(|current| current.status == "True") {
                condition.last_transition_time = current.last_transition_time;
            }
            // The same reason again moves `lastUpdateTime`: that is what the deadline counts from.
            remove_condition(status, PROGRESSING);
            set_condition(status, condition);
        } else if has_timed_out(find(Some(status), PROGRESSING), deadline, now) {
            let text = format!("{who} has timed out progressing.");
            set_condition(status, new_condition(PROGRESSING, "False", TIMED_OUT, &text, now));
        }
    }
    promote_failure(members, status);
}

/// A failure of the new set, or else of any, shows on the Deployment.
fn promote_failure(members: &Members, status: &mut DeploymentStatus) {
    let failure_of = |member: &Member| {
        let conditions = member.set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE).cloned()
    };
    let failure = members.new.as_ref().and_then(failure_of).or_else(|| members.all().find_map(failure_of));
    match failure {
        None => remove_condition(status, REPLICA_FAILURE),
        Some(failure) => set_condition(
            status,
            DeploymentCondition {
                type_: failure.type_,
                status: failure.status,
                reason: failure.reason,
                message: failure.message,
                last_update_time: failure.last_transition_time.clone(),
                last_transition_time: failure.last_transition_time,
            },
        ),
    }
}

/// When to look again whether the deadline has passed.
pub(super) fn next_check(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Next {
    let (Some(deadline), Some(current)) = (deadline(deployment), find(Some(status), PROGRESSING)) else {
        return Next::Settled;
    };
    let reason = current.reason.as_deref();
    if is_complete(deployment, status) || matches!(reason, Some(TIMED_OUT | NEW_SET_AVAILABLE | PAUSED)) {
        return Next::Settled;
    }
    let since = current.last_update_time.as_ref().map_or(0, |time| seconds_between(time, now));
    Next::after_seconds(Some((i64::from(deadline) - since).max(0) + 1))
}

pub(super) fn set_paused(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    let current = find(deployment.status.as_ref(), PROGRESSING).and_then(|condition| condition.reason.as_deref());
    if deadline(deployment).is_none() || current == Some(TIMED_OUT) {
        return;
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    if paused && current != Some(PAUSED) {
        set_condition(status, new_condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused", now));
    } else if !paused && current == Some(PAUSED) {
        let condition = new_condition(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed", now);
        set_condition(status, condition);
    }
}

pub(super) fn set_created(deployment: &Deployment, status: &mut DeploymentStatus, name: &str, now: Timestamp) {
    if deadline(deployment).is_some() {
        let text = format!("Created new replica set \"{name}\"");
        set_condition(status, new_condition(PROGRESSING, "True", "NewReplicaSetCreated", &text, now));
    }
}

/// Progress is judged for the first time although the set exists already.
pub(super) fn set_found(deployment: &Deployment, status: &mut DeploymentStatus, name: &str, now: Timestamp) {
    if deadline(deployment).is_some() && find(Some(status), PROGRESSING).is_none() {
        let text = format!("Found new replica set \"{name}\"");
        set_condition(status, new_condition(PROGRESSING, "True", "FoundNewReplicaSet", &text, now));
    }
}

/// Yields what is to be told.
pub(super) fn set_create_failed(status: &mut DeploymentStatus, deployment: &Deployment, name: &str, error: &str, now: Timestamp) -> String {
    let text = format!("Failed to create new replica set \"{name}\": {error}");
    if deadline(deployment).is_some() {
        set_condition(status, new_condition(PROGRESSING, "False", CREATE_ERROR, &text, now));
    }
    text
}

pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = rolling::replicas(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let count = |value: Option<i32>| value.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(status.updated_replicas) > count(old.updated_replicas)
        || outdated(status) < outdated(&old)
        || count(status.ready_replicas) > count(old.ready_replicas)
        || count(status.available_replicas) > count(old.available_replicas)
}

fn has_timed_out(current: Option<&DeploymentCondition>, deadline: i32, now: Timestamp) -> bool {
    let Some(current) = current else { return false };
    match current.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => {
            let since = current.last_update_time.as_ref().map_or(0, |time| seconds_between(time, now));
            since > i64::from(deadline)
        }
    }
}

fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn find<'a>(status: Option<&'a DeploymentStatus>, kind: &str) -> Option<&'a DeploymentCondition> {
    status?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn new_condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The same status and reason again change nothing.
fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(current) = find(Some(status), &condition.type_) {
        if current.status == condition.status && current.reason == condition.reason {
            return;
        }
        if current.status == condition.status {
            condition.last_transition_time.clone_from(&current.last_transition_time);
        }
    }
    remove_condition(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}
