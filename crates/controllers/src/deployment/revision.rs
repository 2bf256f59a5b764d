//! Revisions: which set belongs to which template, and the annotations that `kubectl rollout` reads.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::members::{Member, Members};
use super::rolling;
use crate::owners;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const DEPRECATED_ROLLBACK: &str = "deprecated.deployment.rollback.to";
pub(super) const HASH_LABEL: &str = "pod-template-hash";

const HISTORY_CHARS_MAX: usize = 2000;

/// Annotations that a set does not take over from its Deployment.
const OWN_ANNOTATIONS: [&str; 6] =
    [REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, LAST_APPLIED, DEPRECATED_ROLLBACK];

/// Whether the set has the Deployment's template, the hash label aside.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let (Some(wanted), Some(template)) =
        (deployment.spec.as_ref().map(|spec| &spec.template), set.spec.as_ref().and_then(|spec| spec.template.as_ref()))
    else {
        return false;
    };
    wanted.spec == template.spec && without_hash(wanted) == without_hash(template)
}

fn without_hash(template: &PodTemplateSpec) -> ObjectMeta {
    let mut metadata = template.metadata.clone().unwrap_or_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH_LABEL);
    }
    metadata.labels = metadata.labels.filter(|labels| !labels.is_empty());
    metadata.annotations = metadata.annotations.filter(|annotations| !annotations.is_empty());
    metadata.creation_timestamp = None;
    metadata
}

fn revision_of(member: &Member) -> i64 {
    member.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn next_revision(members: &Members) -> i64 {
    members.old.iter().map(revision_of).max().unwrap_or(0) + 1
}

/// Brings the new set's annotations and `minReadySeconds` up to date and yields its revision.
pub(super) fn sync_new(deployment: &Deployment, members: &mut Members) -> Option<String> {
    let next = next_revision(members);
    let new = members.new.as_mut()?;
    for (name, value) in copied_annotations(deployment) {
        new.annotate(&name, value);
    }
    let current = new.annotation(REVISION).map(str::to_owned);
    if revision_of(new) < next {
        new.annotate(REVISION, next.to_string());
        if let Some(current) = current {
            let history = new.annotation(REVISION_HISTORY).unwrap_or_default().to_owned();
            new.annotate(REVISION_HISTORY, extend_history(&history, &current));
        }
    }
    let min_ready_seconds = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    if let Some(spec) = &mut new.set.spec
        && spec.min_ready_seconds.unwrap_or(0) != min_ready_seconds.unwrap_or(0)
    {
        spec.min_ready_seconds = min_ready_seconds;
        new.changed = true;
    }
    new.annotation(REVISION).map(str::to_owned)
}

/// Appends a revision; the oldest give way when it gets too long.
fn extend_history(history: &str, revision: &str) -> String {
    let mut revisions: Vec<&str> = history.split(',').filter(|text| !text.is_empty()).collect();
    revisions.push(revision);
    while revisions.len() > 1 && revisions.iter().map(|text| text.len() + 1).sum::<usize>() > HISTORY_CHARS_MAX {
        revisions.remove(0);
    }
    revisions.join(",")
}

fn copied_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    annotations
}

/// The set for the current template, wanting as many pods as there is room for.
pub(super) fn new_set(deployment: &Deployment, members: &Members) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let template = serde_json::to_value(&spec.template).expect("typed objects are representable as JSON");
    let hash = api::hash::pod_template_hash(&template, collisions);

    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());

    let mut annotations = copied_annotations(deployment);
    let desired = rolling::replicas(deployment);
    annotations.insert(REVISION.into(), next_revision(members).to_string());
    annotations.insert(DESIRED_REPLICAS.into(), desired.to_string());
    annotations.insert(MAX_REPLICAS.into(), (desired + rolling::max_surge(deployment)).to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(rolling::new_set_size(deployment, members.wanted(), 0)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Old sets beyond the history limit that have nothing left, lowest revision first.
pub(super) fn beyond_history(deployment: &Deployment, members: &Members) -> Vec<ReplicaSet> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
    let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return Vec::new() };
    let mut old: Vec<&Member> =
        members.old.iter().filter(|member| member.set.metadata.deletion_timestamp.is_none()).collect();
    old.sort_by(|a, b| revision_of(a).cmp(&revision_of(b)).then_with(|| a.age().cmp(&b.age())));
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let is_idle = |member: &&Member| {
        let observed = member.set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        member.actual() == 0 && member.wanted() == 0 && member.set.metadata.generation.unwrap_or(0) <= observed
    };
    old.into_iter().take(surplus).filter(is_idle).map(|member| member.set.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_forgets_its_oldest() {
        assert_eq!(extend_history("", "1"), "1");
        assert_eq!(extend_history("1,3", "5"), "1,3,5");
        let long = vec!["1000"; 399].join(",");
        let extended = extend_history(&long, "9999");
        assert!(extended.len() <= HISTORY_CHARS_MAX && extended.ends_with(",9999"));
    }
}
