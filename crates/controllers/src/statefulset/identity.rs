//! What makes a pod number N of its set: name, labels, host name and claims.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::history::POD_REVISION_LABEL;
use crate::owners::controller_reference;
use crate::pods;

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number in the pod's name, if the name is one of this set's.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let number = name.strip_prefix(set.metadata.name.as_deref()?)?.strip_prefix('-')?;
    let canonical = number.bytes().all(|byte| byte.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
    canonical.then(|| number.parse().ok()).flatten()
}

pub(super) fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_REVISION_LABEL)).map_or("", String::as_str)
}

pub(super) fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = pods::from_template(template, namespace, controller_reference(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(pod_name(set, ordinal));
    pod.metadata.labels.get_or_insert_default().insert(POD_REVISION_LABEL.into(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = pod.metadata.name.clone();
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    identify(set, &mut pod, ordinal);
    pod
}

/// The pod with its identity restored, or `None` when nothing was amiss.
pub(super) fn repaired(set: &StatefulSet, pod: &Pod, ordinal: i32) -> Option<Pod> {
    let mut repaired = pod.clone();
    identify(set, &mut repaired, ordinal);
    (repaired != *pod).then_some(repaired)
}

fn identify(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME_LABEL.into(), pod_name(set, ordinal));
    labels.insert(POD_INDEX_LABEL.into(), ordinal.to_string());
    let claims = claim_names(set, ordinal);
    if claims.is_empty() {
        return;
    }
    let volumes = pod.spec.get_or_insert_default().volumes.get_or_insert_default();
    let stand = claims.iter().all(|(template, claim)| {
        volumes.iter().any(|volume| {
            volume.name == *template && volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == *claim)
        })
    });
    if stand {
        return;
    }
    volumes.retain(|volume| !claims.iter().any(|(template, _)| volume.name == *template));
    volumes.extend(claims.into_iter().map(|(template, claim_name)| Volume {
        name: template,
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name, read_only: None }),
        ..Volume::default()
    }));
}

fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

/// Name of the template (and of the volume) with the name of the claim.
fn claim_names(set: &StatefulSet, ordinal: i32) -> Vec<(String, String)> {
    let name = |template: &PersistentVolumeClaim| template.metadata.name.clone().unwrap_or_default();
    templates(set).iter().map(|template| (name(template), format!("{}-{}", name(template), pod_name(set, ordinal)))).collect()
}

/// The claims of a pod of this set, as they are made.
pub(super) fn claims(set: &StatefulSet, pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let Some(ordinal) = ordinal(set, pod) else { return Vec::new() };
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let names = claim_names(set, ordinal).into_iter().map(|(_, name)| name);
    templates(set)
        .iter()
        .zip(names)
        .map(|(template, name)| {
            let mut claim = template.clone();
            claim.metadata.name = Some(name);
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            claim.metadata.labels.get_or_insert_default().extend(selector.clone());
            claim.status = None;
            claim
        })
        .collect()
}

/// Owned by a pod of that name which is not this one: the claim will be deleted as that pod was.
pub(super) fn is_stale(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let of_namesake = |owner: &OwnerReference| owner.kind == "Pod" && Some(&owner.name) == pod.metadata.name.as_ref();
    claim.metadata.owner_references.iter().flatten().any(|owner| of_namesake(owner) && Some(&owner.uid) != pod.metadata.uid.as_ref())
}

/// The claim with the owner that the retention policy asks for, or `None` when it has that already.
pub(super) fn owned_as_policy_says(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim, condemned: bool) -> Option<PersistentVolumeClaim> {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    let (by_set, by_pod) = match (when_deleted, when_scaled) {
        (_, true) if condemned => (false, true),
        (deleted, _) => (deleted, false),
    };
    let mut owners: Vec<OwnerReference> = claim.metadata.owner_references.clone().unwrap_or_default();
    let ours = [set.metadata.uid.clone(), pod.metadata.uid.clone()];
    let foreign_controller = owners.iter().any(|owner| owner.controller == Some(true) && !ours.contains(&Some(owner.uid.clone())));
    if foreign_controller {
        return None;
    }
    owners.retain(|owner| !ours.contains(&Some(owner.uid.clone())));
    if by_set {
        owners.push(controller_reference(set));
    }
    if by_pod {
        owners.push(controller_reference(pod));
    }
    let owners = (!owners.is_empty()).then_some(owners);
    if owners == claim.metadata.owner_references {
        return None;
    }
    let mut updated = claim.clone();
    updated.metadata.owner_references = owners;
    Some(updated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_read_from_names() {
        let mut set = StatefulSet::default();
        set.metadata.name = Some("db".into());
        let of = |name: &str| {
            let mut pod = Pod::default();
            pod.metadata.name = Some(name.into());
            ordinal(&set, &pod)
        };
        assert_eq!(of("db-0"), Some(0));
        assert_eq!(of("db-12"), Some(12));
        assert_eq!(of("db-012"), None);
        assert_eq!(of("db-x"), None);
        assert_eq!(of("other-1"), None);
        assert_eq!(of("db-"), None);
    }

    #[test]
    fn who_owns_a_claim() {
        /// Policies when deleted and when scaled; the claim's owners before and after, `set`, `pod` or another's uid.
        #[track_caller]
        fn check(when_deleted: &str, when_scaled: &str, condemned: bool, before: &str, expected: &str) {
            let mut set = StatefulSet::default();
            set.metadata.uid = Some("set".into());
            let policy = serde_json::from_value(serde_json::json!({"whenDeleted": when_deleted, "whenScaled": when_scaled})).unwrap();
            set.spec.get_or_insert_default().persistent_volume_claim_retention_policy = Some(policy);
            let mut pod = Pod::default();
            pod.metadata.uid = Some("pod".into());
            let mut claim = PersistentVolumeClaim::default();
            let owner = |word: &str| {
                let (uid, controller) = word.strip_suffix('!').map_or((word, None), |uid| (uid, Some(true)));
                OwnerReference { uid: uid.into(), controller, ..OwnerReference::default() }
            };
            let owners: Vec<OwnerReference> = before.split_whitespace().map(owner).collect();
            claim.metadata.owner_references = (!owners.is_empty()).then_some(owners);
            let updated = owned_as_policy_says(&set, &pod, &claim, condemned);
            let told = updated.map(|claim| {
                let owners = claim.metadata.owner_references.unwrap_or_default();
                owners.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(told.as_deref(), (expected != "as it is").then_some(expected));
        }
        //    deleted   scaled    condemned before     after
        check("Retain", "Retain", false, "", "as it is");
        check("Retain", "Retain", false, "set!", "");
        check("Retain", "Retain", true, "pod!", "");
        check("Delete", "Retain", false, "", "set");
        check("Delete", "Retain", true, "", "set");
        check("Delete", "Retain", true, "pod!", "set");
        check("Retain", "Delete", false, "", "as it is");
        check("Retain", "Delete", true, "", "pod");
        check("Retain", "Delete", false, "pod!", ""); // Scaled up again.
        check("Delete", "Delete", false, "", "set");
        check("Delete", "Delete", true, "set!", "pod");
        check("Delete", "Delete", false, "pod!", "set");
        check("Delete", "Retain", false, "other", "other set");
        check("Delete", "Retain", false, "other!", "as it is"); // Somebody else's.
    }

    #[test]
    fn a_claim_of_an_earlier_pod_is_waited_for() {
        #[track_caller]
        fn check(kind: &str, name: &str, uid: &str, pod_uid: Option<&str>, expected: bool) {
            let mut pod = Pod::default();
            pod.metadata.name = Some("db-0".into());
            pod.metadata.uid = pod_uid.map(Into::into);
            let mut claim = PersistentVolumeClaim::default();
            let owner = OwnerReference { kind: kind.into(), name: name.into(), uid: uid.into(), ..OwnerReference::default() };
            claim.metadata.owner_references = Some(vec![owner]);
            assert_eq!(is_stale(&claim, &pod), expected);
        }
        check("Pod", "db-0", "before", None, true);
        check("Pod", "db-0", "now", Some("now"), false);
        check("Pod", "db-1", "before", None, false);
        check("StatefulSet", "db-0", "before", None, false);
    }
}
