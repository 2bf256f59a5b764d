//! Jobs by the clock.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "batch",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    definition: "io.k8s.api.batch.v1.CronJob",
    storage: "cronjobs",
    subresources: &[STATUS],
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    ..NAMESPACED
};
