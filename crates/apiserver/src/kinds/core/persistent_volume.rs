//! A piece of storage.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    definition: "io.k8s.api.core.v1.PersistentVolume",
    storage: "persistentvolumes",
    subresources: &[STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..CLUSTER
};
