//! Whether a Job is over.

use k8s_openapi::api::batch::v1::{Job, JobCondition};

/// The condition that says how the Job ended.
pub(crate) fn condition(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")
}
