//! Kinds of batch.

pub mod cron_job;
pub mod job;
mod job_indexes;
mod job_status;
mod job_validation;
mod schedule;

use serde_json::Value;

use crate::kinds::cursor::walk;

/// A warning about an indexed Job, or the template of one.
fn too_many_indexes(spec: &Value, at: &str) -> Option<String> {
    const COMPLETIONS: i64 = 100_000;
    const PARALLELISM: i64 = 10_000;
    let number = |field: &str| walk(spec, field).as_i64().unwrap_or(0);
    let indexed = walk(spec, "completionMode").as_str() == Some("Indexed");
    (indexed && number("completions") > COMPLETIONS && number("parallelism") > PARALLELISM).then(|| {
        format!(
            "{at}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        )
    })
}
