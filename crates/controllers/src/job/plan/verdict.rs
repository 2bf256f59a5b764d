//! Whether a Job has succeeded or failed, and the conditions that say so.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::View;
use super::counting::Counting;
use crate::job::indexes;
use crate::pods;

const COMPLETIONS_REACHED: &str = "CompletionsReached";

/// The end is decided; it is told when all pods are gone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Interim {
    pub success: bool,
    pub reason: String,
    pub message: String,
}

impl Interim {
    /// Enough pods succeeded, as opposed to a success policy that ends the Job early.
    pub fn is_by_count(&self) -> bool {
        self.success && self.reason == COMPLETIONS_REACHED
    }

    fn kind(&self) -> &'static str {
        if self.success { "SuccessCriteriaMet" } else { "FailureTarget" }
    }
}

pub(super) fn interim(view: &View<'_>, status: &JobStatus, counting: &Counting) -> Option<Interim> {
    let failure = |reason: &str, message: &str| {
        Some(Interim { success: false, reason: reason.to_owned(), message: message.to_owned() })
    };
    let success = |reason: &str, message: String| Some(Interim { success: true, reason: reason.to_owned(), message });
    for condition in status.conditions.iter().flatten().filter(|condition| condition.status == "True") {
        let success = match condition.type_.as_str() {
            "SuccessCriteriaMet" => true,
            "FailureTarget" => false,
            _ => continue,
        };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        return Some(Interim { success, reason: text(&condition.reason), message: text(&condition.message) });
    }
    if let Some(why) = &counting.fail_job {
        return failure("PodFailurePolicy", why);
    }
    let limit = view.spec.backoff_limit.unwrap_or(6);
    if counting.failed(view) > limit || restarts_exceed(view, limit) {
        return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if deadline_passed(view, status) {
        return failure("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if view.spec.backoff_limit_per_index.is_some() {
        let failed = counting.failed_indexes.len() as i32;
        if view.spec.max_failed_indexes.is_some_and(|max| failed > max) {
            return failure("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes");
        }
        if failed > 0 && failed + counting.completed.len() as i32 >= view.completions() {
            return failure("FailedIndexes", "Job has failed indexes");
        }
    }
    if let Some(at) = matching_success_rule(view, counting) {
        return success("SuccessPolicy", format!("Matched rules at index {at}"));
    }
    let succeeded = counting.succeeded(view);
    let complete = match view.spec.completions {
        Some(completions) => succeeded >= completions,
        None => succeeded > 0 && view.active.is_empty(),
    };
    // Pods too many are deleted, but not by a Job that is being deleted.
    if complete && (!view.is_deleting() || view.active.is_empty()) {
        return success(COMPLETIONS_REACHED, "Reached expected number of succeeded pods".to_owned());
    }
    None
}

fn matching_success_rule(view: &View<'_>, counting: &Counting) -> Option<usize> {
    let policy = view.spec.success_policy.as_ref().filter(|_| view.is_indexed())?;
    if counting.completed.is_empty() {
        return None;
    }
    policy.rules.iter().position(|rule| {
        let enough = |done: usize| rule.succeeded_count.is_some_and(|wanted| done as i32 >= wanted);
        let Some(text) = &rule.succeeded_indexes else { return enough(counting.completed.len()) };
        let wanted = indexes::parse(text, view.completions());
        let done = wanted.intersection(&counting.completed).count();
        !wanted.is_empty() && (done == wanted.len() || enough(done))
    })
}

/// With `restartPolicy: OnFailure` the failures are restarts.
fn restarts_exceed(view: &View<'_>, limit: i32) -> bool {
    let policy = view.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts: i32 = view.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending")).map(|pod| restarts(pod)).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let count = |list: &Option<Vec<ContainerStatus>>| list.iter().flatten().map(|status| status.restart_count).sum::<i32>();
    count(&status.init_container_statuses) + count(&status.container_statuses)
}

fn deadline_passed(view: &View<'_>, status: &JobStatus) -> bool {
    let (Some(limit), Some(start)) = (view.spec.active_deadline_seconds, &status.start_time) else { return false };
    !view.is_suspended() && view.now.as_second() - start.0.as_second() >= limit
}

pub(super) fn is_true(status: &JobStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}

pub(super) fn set_interim(status: &mut JobStatus, interim: &Interim, now: Timestamp) {
    set(status, interim.kind(), "True", &interim.reason, &interim.message, now);
}

/// Sets a condition; says whether it changed.
pub(super) fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let fresh = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(known) if known.status == value && known.reason == fresh.reason && known.message == fresh.message => return false,
        Some(known) => *known = fresh,
        None => conditions.push(fresh),
    }
    true
}
