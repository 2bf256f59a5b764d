//! Pods with names and volumes of their own.

use crate::kinds::lifecycle;
use crate::kinds::subresources::{STATUS, scale};
use crate::kinds::{Kind, NAMESPACED, ScalePaths};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    definition: "io.k8s.api.apps.v1.StatefulSet",
    storage: "statefulsets",
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
