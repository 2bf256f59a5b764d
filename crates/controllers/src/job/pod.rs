//! A Job's pod: its index, its finalizer, how it ended.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::TRACKING_FINALIZER;
use crate::owners::controller_reference;
use crate::pods;

pub(super) const INDEX_KEY: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Of a name that is to be completed; the rest is random.
const GENERATED_NAME_MAX: usize = 58;
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING_FINALIZER)
}

/// Of which Job it was made, whoever owns it now.
pub(super) fn job_name(pod: &Pod) -> Option<&String> {
    pod.metadata.labels.as_ref()?.get("batch.kubernetes.io/job-name")
}

pub(super) fn index(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX_KEY)?.parse().ok().filter(|index| *index >= 0)
}

pub(super) fn number(pod: &Pod, annotation: &str) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(annotation));
    text.and_then(|text| text.parse().ok()).unwrap_or(0).max(0)
}

/// How often the pod's index had failed before it, counted or not.
pub(super) fn failures(pod: &Pod) -> i32 {
    number(pod, FAILURE_COUNT).saturating_add(number(pod, IGNORED_FAILURE_COUNT))
}

/// Whether the pod counts as failed: it has failed, or it is on its way out before it succeeded and the
/// Job does not insist on seeing it fail.
pub(super) fn is_failed(pod: &Pod, only_replaces_failed: bool) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pods::is_terminating(pod) && !only_replaces_failed,
    }
}

pub(super) fn is_succeeded(pod: &Pod) -> bool {
    pods::phase(pod) == "Succeeded"
}

/// When the last container ended, if all have; else when the pod stopped being ready; else when it was deleted; else
/// when it was made.
pub(super) fn finish_time(pod: &Pod, now: Timestamp) -> Timestamp {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ended: Option<Vec<Timestamp>> = statuses
        .into_iter()
        .flatten()
        .map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0))
        .collect();
    let unready = || {
        let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    };
    let deleted = || {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        Some(pod.metadata.deletion_timestamp.as_ref()?.0 - SignedDuration::from_secs(grace))
    };
    let made = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    ended.and_then(|ended| ended.into_iter().max()).or_else(unready).or_else(deleted).or_else(made).unwrap_or(now)
}

/// What the server completes to a name: the index stays whole, whatever must be cut.
fn generate_name(job: &str, index: i32) -> String {
    let suffix = format!("-{index}-");
    let room = GENERATED_NAME_MAX.saturating_sub(suffix.len());
    format!("{}{suffix}", &job[..job.len().min(room)])
}

/// A new pod of the Job; `index` for indexed Jobs, with the failures it had so far.
pub(super) fn new_pod(job: &Job, index: Option<i32>, failures: Option<(i32, i32)>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = pods::from_template(&template, namespace, controller_reference(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING_FINALIZER) {
        finalizers.push(TRACKING_FINALIZER.into());
    }
    let Some(index) = index else { return pod };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    pod.metadata.generate_name = Some(generate_name(name, index));
    pod.metadata.labels.get_or_insert_default().insert(INDEX_KEY.into(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX_KEY.into(), index.to_string());
    if let Some((counted, ignored)) = failures {
        annotations.insert(FAILURE_COUNT.into(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURE_COUNT.into(), ignored.to_string());
        }
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    for container in containers {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
            env.push(index_variable());
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX_KEY}']"), api_version: None };
    EnvVar {
        name: INDEX_VARIABLE.into(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    }
}
