//! A set of permissions in one namespace.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "Role",
    plural: "roles",
    singular: "role",
    definition: "io.k8s.api.rbac.v1.Role",
    storage: "roles",
    ..NAMESPACED
};
