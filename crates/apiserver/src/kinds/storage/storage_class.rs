//! How volumes are provisioned.

use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    definition: "io.k8s.api.storage.v1.StorageClass",
    storage: "storageclasses",
    ..CLUSTER
};
