//! Kinds of batch.

pub mod cron_job;
pub mod job;
mod job_indexes;
mod job_status;
mod job_validation;
mod schedule;
