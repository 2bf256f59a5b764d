//! The forerunner of ReplicaSet.

use crate::kinds::lifecycle;
use crate::kinds::subresources::{STATUS, scale};
use crate::kinds::{Kind, NAMESPACED, ScalePaths};

pub static KIND: Kind = Kind {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    definition: "io.k8s.api.core.v1.ReplicationController",
    storage: "controllers",
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
