//! The newer face of core events; one storage serves both.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    definition: "io.k8s.api.events.v1.Event",
    storage: "events",
    create_on_update: true,
    ..NAMESPACED
};
