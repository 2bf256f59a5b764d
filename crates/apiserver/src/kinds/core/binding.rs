//! Ties a pod to a node; created, never stored.

use crate::kinds::{Kind, NAMESPACED, Verbs};

pub static KIND: Kind = Kind {
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    definition: "io.k8s.api.core.v1.Binding",
    verbs: Verbs::Create,
    ..NAMESPACED
};
