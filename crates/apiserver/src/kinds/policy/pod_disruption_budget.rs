//! How many pods may be evicted at once.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    definition: "io.k8s.api.policy.v1.PodDisruptionBudget",
    storage: "poddisruptionbudgets",
    subresources: &[STATUS],
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    ..NAMESPACED
};
