//! How a pod is run.

use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    definition: "io.k8s.api.node.v1.RuntimeClass",
    storage: "runtimeclasses",
    ..CLUSTER
};
