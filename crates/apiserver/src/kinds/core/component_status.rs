//! Health of control-plane components, for old clients.

use crate::kinds::{CLUSTER, Kind, Verbs};

pub static KIND: Kind = Kind {
    kind: "ComponentStatus",
    plural: "componentstatuses",
    singular: "componentstatus",
    short_names: &["cs"],
    definition: "io.k8s.api.core.v1.ComponentStatus",
    verbs: Verbs::Read,
    ..CLUSTER
};
