//! Rolls ReplicaSets one against the other.

use crate::kinds::lifecycle;
use crate::kinds::subresources::{STATUS, scale};
use crate::kinds::{Kind, NAMESPACED, ScalePaths};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    definition: "io.k8s.api.apps.v1.Deployment",
    storage: "deployments",
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
