//! Makes the claims of generic ephemeral volumes: one per volume, owned by the pod, so that it goes with it.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, object_ref};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};

use super::ephemeral_claim_name;
use crate::context::Context;
use crate::failure::{Failure, error_text, is_namespace_terminating};
use crate::owners::{controller_reference, is_controlled_by};
use crate::pods;
use crate::runner::{Controller, Next, Queue};

pub(crate) struct EphemeralVolumes {
    context: Arc<Context>,
    recorder: EventRecorder,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
}

/// Pure. The claim to make; `Err` when somebody else's has its name.
fn decide(pod: &Pod, volume: &Volume, held: Option<&PersistentVolumeClaim>) -> Result<Option<PersistentVolumeClaim>, String> {
    let Some(template) = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref()) else { return Ok(None) };
    if let Some(held) = held {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        return if is_controlled_by(&held.metadata, uid) {
            Ok(None)
        } else {
            let (claim, pod) = (ObjectKey::of(&held.metadata), ObjectKey::of(&pod.metadata));
            Err(format!("PVC {claim} was not created for pod {pod} (pod is not owner)"))
        };
    }
    let mut claim = PersistentVolumeClaim { spec: Some(template.spec.clone()), ..PersistentVolumeClaim::default() };
    let metadata = template.metadata.as_ref();
    claim.metadata.name = Some(ephemeral_claim_name(pod, &volume.name));
    claim.metadata.namespace = pod.metadata.namespace.clone();
    claim.metadata.labels = metadata.and_then(|metadata| metadata.labels.clone());
    claim.metadata.annotations = metadata.and_then(|metadata| metadata.annotations.clone());
    claim.metadata.owner_references = Some(vec![controller_reference(pod)]);
    Ok(Some(claim))
}

fn ephemeral_volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

impl EphemeralVolumes {
    pub fn new(context: &Arc<Context>) -> Self {
        let recorder = context.recorder("ephemeral_volume");
        EphemeralVolumes { context: context.clone(), recorder, pods: context.informer(), claims: context.informer() }
    }

    fn claim_key(pod: &Pod, volume: &Volume) -> ObjectKey {
        ObjectKey::new(pod.metadata.namespace.clone().unwrap_or_default(), ephemeral_claim_name(pod, &volume.name))
    }
}

#[async_trait]
impl Controller for EphemeralVolumes {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.pods.subscribe(move |change: &Change<Pod>| {
            let pod = change.object();
            if matches!(change, Change::Added(_)) && !pods::is_terminating(pod) && ephemeral_volumes(pod).next().is_some() {
                own.add(ObjectKey::of(&pod.metadata));
            }
        });
        // A claim that went may have been the one in the way.
        let (pods, queue) = (self.pods.clone(), queue.clone());
        super::index_by_claim(&pods);
        self.claims.subscribe(move |change: &Change<PersistentVolumeClaim>| {
            if let Change::Deleted(claim) = change {
                for pod in pods.indexed(super::PODS_BY_CLAIM, &ObjectKey::of(&claim.metadata).to_string()) {
                    queue.add(ObjectKey::of(&pod.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Settled) };
        if !pods::is_active(&pod) {
            return Ok(Next::Settled);
        }
        for volume in ephemeral_volumes(&pod) {
            let held = self.claims.get(&Self::claim_key(&pod, volume));
            let tell = |why: String| {
                let text = format!("ephemeral volume {}: {why}", volume.name);
                self.recorder.event(&object_ref(&*pod), EventType::Warning, "FailedBinding", text);
            };
            match decide(&pod, volume, held.as_deref()) {
                Ok(None) => {}
                Err(why) => {
                    tell(why.clone());
                    return Err(Failure::Other(why));
                }
                Ok(Some(claim)) => match self.context.create(&claim).await {
                    Ok(_) => {}
                    Err(error) if is_namespace_terminating(&error) => return Ok(Next::Settled),
                    Err(error) => {
                        tell(format!("create PVC {}: {}", ObjectKey::of(&claim.metadata), error_text(&error)));
                        return Err(error.into());
                    }
                },
            }
        }
        Ok(Next::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[track_caller]
    fn check(held: Option<&str>, expected: &str) {
        let volume = serde_json::json!({"name": "tmp", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}});
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod = fixtures::pod("p");
        let held = held.map(|owner| {
            let mut claim = decide(&pod, &volume, None).unwrap().unwrap();
            claim.metadata.owner_references.as_mut().unwrap()[0].uid = owner.into();
            claim
        });
        let told = match decide(&pod, &volume, held.as_ref()) {
            Ok(None) => "nothing".to_owned(),
            Ok(Some(claim)) => format!("create {} {:?}", ObjectKey::of(&claim.metadata), claim.metadata.labels.unwrap()),
            Err(why) => why,
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn claims_of_ephemeral_volumes() {
        check(None, "create ns/p-tmp {\"a\": \"b\"}");
        check(Some("uid-p"), "nothing");
        check(Some("other"), "PVC ns/p-tmp was not created for pod ns/p (pod is not owner)");
    }
}
