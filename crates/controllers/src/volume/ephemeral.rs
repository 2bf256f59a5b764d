//! Makes the claims of pods' generic ephemeral volumes; they belong to their pod and go with it.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, ErrorKind, EventRecorder, EventType, Informer, ObjectKey, error_kind};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::context::Context;
use crate::failure::{Failure, error_text, is_namespace_terminating};
use crate::owners;
use crate::pods;
use crate::runner::{Controller, Next, Queue};

pub(crate) struct EphemeralVolumes {
    context: Arc<Context>,
    recorder: EventRecorder,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
}

impl EphemeralVolumes {
    pub fn new(context: &Arc<Context>) -> Self {
        EphemeralVolumes {
            context: context.clone(),
            recorder: context.recorder("ephemeral_volume"),
            pods: context.informer(),
            claims: context.informer(),
        }
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
            if matches!(change, Change::Added(_)) && !wanted(change.object()).is_empty() {
                own.add(ObjectKey::of(&change.object().metadata));
            }
        });
        owners::watch_owned(&self.claims, ("Pod", ""), queue, |_| Vec::new());
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(pod) = self.pods.get(key).filter(|pod| !pods::is_terminating(pod)) else { return Ok(Next::Settled) };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        for claim in wanted(&pod) {
            let claim_key = ObjectKey::of(&claim.metadata);
            if let Some(held) = self.claims.get(&claim_key) {
                if owners::is_controlled_by(&held.metadata, uid) {
                    continue;
                }
                return Err(Failure::Other(format!(
                    "PVC \"{claim_key}\" was not created for pod \"{key}\" (pod is not owner)"
                )));
            }
            match self.context.create(&claim).await {
                Ok(_) => {}
                Err(error) if is_namespace_terminating(&error) || error_kind(&error) == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let text = format!("ephemeral volume controller failed to create PVC {}: {}", claim_key.name, error_text(&error));
                    self.recorder.event(&client::object_ref(&*pod), EventType::Warning, "FailedBinding", text);
                    return Err(error.into());
                }
            }
        }
        Ok(Next::Settled)
    }
}

/// Pure. The claims that the pod's ephemeral volumes need.
fn wanted(pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let claim = |volume: &k8s_openapi::api::core::v1::Volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        let mut claim = PersistentVolumeClaim { spec: Some(template.spec.clone()), ..PersistentVolumeClaim::default() };
        claim.metadata.name = super::claim_name(pod, volume);
        claim.metadata.namespace.clone_from(&pod.metadata.namespace);
        let metadata = template.metadata.clone().unwrap_or_default();
        claim.metadata.labels = metadata.labels;
        claim.metadata.annotations = metadata.annotations;
        claim.metadata.owner_references = Some(vec![owners::controller_reference(pod)]);
        Some(claim)
    };
    volumes.iter().filter_map(claim).collect()
}
