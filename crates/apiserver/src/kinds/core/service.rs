//! A stable address for pods.

use crate::kinds::lifecycle;
use crate::kinds::subresources::{STATUS, proxy};
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    definition: "io.k8s.api.core.v1.Service",
    storage: "services/specs",
    subresources: &[proxy("ServiceProxyOptions"), STATUS],
    create_on_update: true,
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..NAMESPACED
};
