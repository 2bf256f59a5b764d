//! What happened to an object.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    definition: "io.k8s.api.core.v1.Event",
    storage: "events",
    create_on_update: true,
    ..NAMESPACED
};
