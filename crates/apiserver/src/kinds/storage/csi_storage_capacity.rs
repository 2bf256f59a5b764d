//! How much a driver can still provision where.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    definition: "io.k8s.api.storage.v1.CSIStorageCapacity",
    storage: "csistoragecapacities",
    ..NAMESPACED
};
