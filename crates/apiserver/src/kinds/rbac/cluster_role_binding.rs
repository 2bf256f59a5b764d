//! Grants a ClusterRole everywhere.

use super::role_binding::{self, GROUP};
use crate::kinds::printing::{AGE, NAME, text, wide};
use crate::kinds::{CLUSTER, Kind, checks};

pub static KIND: Kind = Kind {
    group: GROUP,
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    definition: "io.k8s.api.rbac.v1.ClusterRoleBinding",
    storage: "clusterrolebindings",
    create_on_update: true,
    name_problems: checks::path_segment_name,
    defaults: role_binding::default_binding,
    validate: |object, problems| role_binding::validate_binding(object, false, problems),
    validate_update: role_binding::keep_role,
    columns: &[
        NAME,
        text("Role", "io.k8s.api.rbac.v1.ClusterRoleBinding#roleRef"),
        AGE,
        wide("Users", "Users in the clusterRoleBinding"),
        wide("Groups", "Groups in the clusterRoleBinding"),
        wide("ServiceAccounts", "ServiceAccounts in the clusterRoleBinding"),
    ],
    cells: role_binding::cells,
    ..CLUSTER
};
