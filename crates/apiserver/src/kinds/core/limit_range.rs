//! Bounds and defaults for the resources of one namespace.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    definition: "io.k8s.api.core.v1.LimitRange",
    storage: "limitranges",
    create_on_update: true,
    ..NAMESPACED
};
