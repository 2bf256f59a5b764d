//! What a CSI driver can do.

use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    definition: "io.k8s.api.storage.v1.CSIDriver",
    storage: "csidrivers",
    ..CLUSTER
};
