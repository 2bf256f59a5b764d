//! Revisions of a pod template as ControllerRevisions, for StatefulSets and DaemonSets.
//!
//! Invariant: equal templates have one revision. Going back to an old template makes its revision the
//! newest instead of making another. The data is the patch that `kubectl rollout undo` applies.

use std::sync::Arc;

use api::hash::{fnv32a, safe_encode_string};
use client::{DeleteOptions, ErrorKind, ObjectKey, error_kind};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::context::{Context, Object};
use crate::failure::Failure;
use crate::owners;

pub(crate) const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// On pods: which revision they were made from.
pub(crate) const POD_REVISION_LABEL: &str = "controller-revision-hash";

pub(crate) fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn hash(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).map_or("", String::as_str)
}

/// The patch that restores `template`.
fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("typed objects are representable as JSON");
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Finds, moves up or makes the revision of `template`. `collisions` counts names found taken; it is raised
/// here and belongs into the owner's status.
pub(crate) async fn sync<O: Object>(
    context: &Context,
    owner: &O,
    template: &PodTemplateSpec,
    revisions: &mut Vec<Arc<ControllerRevision>>,
    collisions: &mut i32,
) -> Result<Arc<ControllerRevision>, Failure> {
    revisions.sort_by(|a, b| (a.revision, name(a)).cmp(&(b.revision, name(b))));
    let data = data_of(template);
    let newest = revisions.last().map_or(0, |revision| revision.revision);
    let equal = revisions.iter().rposition(|revision| revision.data.as_ref().is_some_and(|held| held.0 == data));
    if let Some(at) = equal {
        if at + 1 == revisions.len() {
            return Ok(revisions[at].clone());
        }
        let mut moved = (*revisions[at]).clone();
        moved.revision = newest + 1;
        let moved = Arc::new(context.update(&moved).await?);
        revisions.remove(at);
        revisions.push(moved.clone());
        return Ok(moved);
    }
    loop {
        let wanted = new_revision(owner, template, &data, newest + 1, *collisions);
        match context.create(&wanted).await {
            Ok(created) => {
                let created = Arc::new(created);
                revisions.push(created.clone());
                return Ok(created);
            }
            Err(error) if error_kind(&error) == ErrorKind::AlreadyExists => {
                let taken: ControllerRevision = context.rest.get(&ObjectKey::of(&wanted.metadata)).await?;
                let ours = owners::is_controlled_by(&taken.metadata, owner.meta().uid.as_deref().unwrap_or_default());
                if ours && taken.data.as_ref().is_some_and(|held| held.0 == data) {
                    return Ok(Arc::new(taken));
                }
                *collisions += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn new_revision<O: Object>(owner: &O, template: &PodTemplateSpec, data: &Value, number: i64, collisions: i32) -> ControllerRevision {
    let mut bytes = data.to_string().into_bytes();
    if collisions > 0 {
        bytes.extend_from_slice(collisions.to_string().as_bytes());
    }
    let hash = safe_encode_string(&fnv32a(&bytes).to_string());
    let mut labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let mut annotations = owner.meta().annotations.clone().unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.meta().name.as_deref().unwrap_or_default())),
            namespace: owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![owners::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data.clone())),
        revision: number,
    }
}

/// Deletes the oldest revisions that nothing lives from, beyond `limit`.
pub(crate) async fn truncate(
    context: &Context,
    revisions: &[Arc<ControllerRevision>],
    is_live: impl Fn(&ControllerRevision) -> bool,
    limit: i32,
) -> Result<(), Failure> {
    let idle: Vec<&Arc<ControllerRevision>> = revisions.iter().filter(|revision| !is_live(revision)).collect();
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for revision in idle.into_iter().take(surplus) {
        let options = DeleteOptions::uid(revision.metadata.uid.clone().unwrap_or_default());
        context.delete::<ControllerRevision>(&ObjectKey::of(&revision.metadata), &options).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;

    #[test]
    fn a_revision_holds_its_template() {
        let template = PodTemplateSpec {
            spec: Some(PodSpec { hostname: Some("x".into()), ..PodSpec::default() }),
            ..PodTemplateSpec::default()
        };
        let owner = k8s_openapi::api::apps::v1::StatefulSet::default();
        let data = data_of(&template);
        assert_eq!(data["spec"]["template"]["$patch"], "replace");
        let revision = new_revision(&owner, &template, &data, 1, 0);
        assert_eq!(template_of(&revision), Some(template.clone()));
        assert_ne!(name(&revision), name(&new_revision(&owner, &template, &data, 1, 1)));
    }
}
