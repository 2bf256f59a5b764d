//! Grants a ClusterRole everywhere.

use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    definition: "io.k8s.api.rbac.v1.ClusterRoleBinding",
    storage: "clusterrolebindings",
    ..CLUSTER
};
