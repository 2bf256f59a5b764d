//! Limits what a namespace may hold.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    definition: "io.k8s.api.core.v1.ResourceQuota",
    storage: "resourcequotas",
    subresources: &[STATUS],
    create_on_update: true,
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..NAMESPACED
};
