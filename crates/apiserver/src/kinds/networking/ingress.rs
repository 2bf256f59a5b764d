//! HTTP routes to Services.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    definition: "io.k8s.api.networking.v1.Ingress",
    storage: "ingress",
    subresources: &[STATUS],
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    ..NAMESPACED
};
