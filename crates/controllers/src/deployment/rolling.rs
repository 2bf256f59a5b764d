//! How many pods each set of a rolling update may want. Arithmetic only.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::members::{Member, Members};
use super::plan::is_recreate;
use super::revision;
use crate::proportion::{Round, of_total};

pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { fence_posts(deployment).0 }
}

pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let wanted = replicas(deployment);
    if is_recreate(deployment) || wanted == 0 {
        return 0;
    }
    fence_posts(deployment).1.min(wanted)
}

/// Surge rounds up and unavailability down; when both come out as zero, one pod may be unavailable, or the
/// update could never begin.
fn fence_posts(deployment: &Deployment) -> (i32, i32) {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let wanted = replicas(deployment);
    match (of_total(surge, wanted, Round::Up), of_total(unavailable, wanted, Round::Down)) {
        (0, 0) => (0, 1),
        posts => posts,
    }
}

/// How many the new set may want now, given what all sets want.
pub(super) fn new_set_size(deployment: &Deployment, wanted_by_all: i32, new_wants: i32) -> i32 {
    let wanted = replicas(deployment);
    if is_recreate(deployment) {
        return wanted;
    }
    let room = wanted + max_surge(deployment) - wanted_by_all;
    if room <= 0 { new_wants } else { new_wants + room.min(wanted - new_wants) }
}

/// Grows the new set as far as surge allows; says whether anything changed.
pub(super) fn grow_new(deployment: &Deployment, members: &mut Members) -> bool {
    let total = members.wanted();
    let Some(new) = &mut members.new else { return false };
    let before = new.wanted();
    let wanted = replicas(deployment);
    let size = if before >= wanted { wanted } else { new_set_size(deployment, total, before) };
    if size == before {
        return false;
    }
    new.scale(deployment, size);
    true
}

/// Shrinks old sets as far as availability allows, unhealthy pods first; says whether anything changed.
pub(super) fn shrink_old(deployment: &Deployment, members: &mut Members) -> bool {
    if members.old.iter().all(|member| member.wanted() == 0) {
        return false;
    }
    let minimum = replicas(deployment) - max_unavailable(deployment);
    let new_unavailable = members.new.as_ref().map_or(0, |new| new.wanted() - new.available());
    let spare = members.wanted() - minimum - new_unavailable;
    if spare <= 0 {
        return false;
    }
    // A set that was just told to shrink still reports pods that it is about to delete.
    let available: i32 = members.all().map(|member| member.available().min(member.wanted())).sum();
    let unhealthy = take(deployment, &mut members.old, spare, |member| member.wanted() - member.available());
    let healthy = take(deployment, &mut members.old, available - minimum, Member::wanted);
    unhealthy + healthy > 0
}

/// Takes at most `budget` from the sets in order, and from each at most what `limit` says.
fn take(deployment: &Deployment, old: &mut [Member], budget: i32, limit: impl Fn(&Member) -> i32) -> i32 {
    let mut taken = 0;
    for member in old {
        let from_this = limit(member).min(member.wanted()).min(budget - taken);
        if from_this > 0 {
            member.scale(deployment, member.wanted() - from_this);
            taken += from_this;
        }
    }
    taken
}

/// Follows a change of the Deployment's size. One active set simply takes it; a finished rollout drops its
/// old sets; in the middle of a rollout each set gets its share.
pub(super) fn follow_size(deployment: &Deployment, members: &mut Members) {
    let wanted = replicas(deployment);
    if let Some(only) = active_or_latest(members) {
        if only.wanted() != wanted {
            only.scale(deployment, wanted);
        }
        return;
    }
    if is_saturated(deployment, members) {
        for member in members.old.iter_mut().filter(|member| member.wanted() > 0) {
            member.scale(deployment, 0);
        }
        return;
    }
    if !is_recreate(deployment) {
        share_out(deployment, members);
    }
}

/// The one active set, or the newest when none is active. `None` when several are active.
fn active_or_latest(members: &mut Members) -> Option<&mut Member> {
    match members.all().filter(|member| member.wanted() > 0).count() {
        0 if members.new.is_some() => members.new.as_mut(),
        0 => members.old.last_mut(),
        1 => members.all_mut().find(|member| member.wanted() > 0),
        _ => None,
    }
}

fn is_saturated(deployment: &Deployment, members: &Members) -> bool {
    let wanted = replicas(deployment);
    members.new.as_ref().is_some_and(|new| {
        let noted = new.annotation(revision::DESIRED_REPLICAS).and_then(|text| text.parse::<i32>().ok());
        new.wanted() == wanted && noted == Some(wanted) && new.available() == wanted
    })
}

fn share_out(deployment: &Deployment, members: &mut Members) {
    let wanted = replicas(deployment);
    let allowed = if wanted > 0 { wanted + max_surge(deployment) } else { 0 };
    let to_add = allowed - members.wanted();
    let status_replicas = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let mut active: Vec<&mut Member> = members.all_mut().filter(|member| member.wanted() > 0).collect();
    // The biggest first; of equals the newest gains first and the oldest loses first.
    active.sort_by(|a, b| {
        let by_age = a.age().cmp(&b.age());
        b.wanted().cmp(&a.wanted()).then(if to_add > 0 { by_age.reverse() } else { by_age })
    });
    let mut added = 0;
    let sizes: Vec<i32> = active
        .iter()
        .map(|member| {
            let part = share(deployment, member, to_add - added, status_replicas);
            added += part;
            member.wanted() + part
        })
        .collect();
    for (at, (member, size)) in active.into_iter().zip(sizes).enumerate() {
        let rest = if at == 0 { to_add - added } else { 0 };
        member.scale(deployment, (size + rest).max(0));
    }
}

/// This set's part of what is left to add (or, negative, to take), in proportion to its size.
fn share(deployment: &Deployment, member: &Member, left: i32, status_replicas: i32) -> i32 {
    if left == 0 || member.wanted() == 0 {
        return 0;
    }
    let size = f64::from(member.wanted());
    let fraction = if replicas(deployment) == 0 {
        -member.wanted()
    } else {
        let noted = member.annotation(revision::MAX_REPLICAS).and_then(|text| text.parse::<i32>().ok());
        let before = noted.filter(|noted| *noted != 0).unwrap_or(status_replicas);
        if before == 0 {
            return 0;
        }
        let after = replicas(deployment) + max_surge(deployment);
        (size * f64::from(after) / f64::from(before)).round() as i32 - member.wanted()
    };
    if left > 0 { fraction.min(left) } else { fraction.max(left) }
}
