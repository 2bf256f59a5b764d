//! What controllers ask of a pod, and how they make and delete pods.

use std::sync::Arc;

use client::{DeleteOptions, EventRecorder, EventType, ObjectKey};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::context::{Context, seconds_between};
use crate::failure::{error_text, is_namespace_terminating};

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither finished nor on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Ready for at least `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod) && seconds_until_available(pod, min_ready_seconds, now).is_none()
}

/// How long a ready pod still has to stay ready; `None` when it is available or not ready at all.
pub(crate) fn seconds_until_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<i64> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    if min_ready_seconds <= 0 {
        return None;
    }
    let Some(since) = &ready.last_transition_time else { return Some(i64::from(min_ready_seconds)) };
    let left = i64::from(min_ready_seconds) - seconds_between(since, now);
    (left > 0).then_some(left)
}

/// A pod as the template says, owned by `owner`. The server completes a generated name.
pub(crate) fn from_template(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Pod {
    let metadata = template.metadata.as_ref();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name)),
            namespace: Some(namespace.to_owned()),
            labels: metadata.and_then(|metadata| metadata.labels.clone()),
            annotations: metadata.and_then(|metadata| metadata.annotations.clone()),
            finalizers: metadata.and_then(|metadata| metadata.finalizers.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// What came of a batch of creations.
#[derive(Debug, Default)]
pub(crate) struct Created {
    pub count: usize,
    pub error: Option<kube::Error>,
    /// The namespace is on its way out: no more pods will be made in it.
    pub ended: bool,
}

/// Creates in batches of 1, 2, 4, ... all of one batch at once, and stops after the first batch with a
/// failure: a template that is refused costs a few requests, not hundreds.
pub(crate) async fn create_slow_start(
    context: &Context,
    recorder: &EventRecorder,
    owner: &ObjectReference,
    pods: Vec<Pod>,
) -> Created {
    let mut created = Created::default();
    let mut waiting = pods.into_iter().peekable();
    let mut batch_size = 1;
    while waiting.peek().is_some() {
        let batch: Vec<Pod> = waiting.by_ref().take(batch_size).collect();
        for outcome in join_all(batch.iter().map(|pod| create(context, recorder, owner, pod))).await {
            match outcome {
                Ok(_) => created.count += 1,
                Err(error) if is_namespace_terminating(&error) => created.ended = true,
                Err(error) => created.error = created.error.or(Some(error)),
            }
        }
        if created.error.is_some() || created.ended {
            return created;
        }
        batch_size *= 2;
    }
    created
}

pub(crate) async fn create(
    context: &Context,
    recorder: &EventRecorder,
    owner: &ObjectReference,
    pod: &Pod,
) -> Result<Pod, kube::Error> {
    match context.create(pod).await {
        Ok(pod) => {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            recorder.event(owner, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
            Ok(pod)
        }
        Err(error) => {
            if !is_namespace_terminating(&error) {
                let text = format!("Error creating: {}", error_text(&error));
                recorder.event(owner, EventType::Warning, "FailedCreate", text);
            }
            Err(error)
        }
    }
}

/// Deletes all at once; yields the first failure.
pub(crate) async fn delete_all(
    context: &Context,
    recorder: &EventRecorder,
    owner: &ObjectReference,
    pods: &[Arc<Pod>],
) -> Result<(), kube::Error> {
    let outcomes = join_all(pods.iter().map(|pod| delete(context, recorder, owner, pod))).await;
    outcomes.into_iter().collect()
}

pub(crate) async fn delete(
    context: &Context,
    recorder: &EventRecorder,
    owner: &ObjectReference,
    pod: &Pod,
) -> Result<(), kube::Error> {
    let key = ObjectKey::of(&pod.metadata);
    let options = DeleteOptions::uid(pod.metadata.uid.clone().unwrap_or_default());
    match context.delete::<Pod>(&key, &options).await {
        Ok(()) => {
            recorder.event(owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {}", key.name));
            Ok(())
        }
        Err(error) => {
            let text = format!("Error deleting: {}", error_text(&error));
            recorder.event(owner, EventType::Warning, "FailedDelete", text);
            Err(error)
        }
    }
}
