//! A set of permissions for the whole cluster.

use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    definition: "io.k8s.api.rbac.v1.ClusterRole",
    storage: "clusterroles",
    ..CLUSTER
};
