//! Runs pods until enough have succeeded.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    definition: "io.k8s.api.batch.v1.Job",
    storage: "jobs",
    subresources: &[STATUS],
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    ..NAMESPACED
};
