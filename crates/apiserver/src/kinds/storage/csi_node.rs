//! Which CSI drivers a node has.

use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    definition: "io.k8s.api.storage.v1.CSINode",
    storage: "csinodes",
    ..CLUSTER
};
