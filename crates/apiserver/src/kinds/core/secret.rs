//! Configuration that is not for everybody.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    definition: "io.k8s.api.core.v1.Secret",
    storage: "secrets",
    ..NAMESPACED
};
