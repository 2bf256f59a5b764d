//! Grants a role in one namespace.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    definition: "io.k8s.api.rbac.v1.RoleBinding",
    storage: "rolebindings",
    ..NAMESPACED
};
