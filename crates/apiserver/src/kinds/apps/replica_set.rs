//! Keeps a number of equal pods.

use crate::kinds::lifecycle;
use crate::kinds::subresources::{STATUS, scale};
use crate::kinds::{Kind, NAMESPACED, ScalePaths};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    definition: "io.k8s.api.apps.v1.ReplicaSet",
    storage: "replicasets",
    subresources: &[
        scale(ScalePaths {
            spec_replicas: "spec.replicas",
            status_replicas: "status.replicas",
            selector: "spec.selector",
        }),
        STATUS,
    ],
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    ..NAMESPACED
};
