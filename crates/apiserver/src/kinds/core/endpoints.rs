//! The addresses behind a Service, for clients older than endpoint slices.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    definition: "io.k8s.api.core.v1.Endpoints",
    storage: "services/endpoints",
    create_on_update: true,
    ..NAMESPACED
};
