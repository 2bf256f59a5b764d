//! A snapshot of a controller's state.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    definition: "io.k8s.api.apps.v1.ControllerRevision",
    storage: "controllerrevisions",
    ..NAMESPACED
};
