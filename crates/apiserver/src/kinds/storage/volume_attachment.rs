//! A volume attached to a node.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    definition: "io.k8s.api.storage.v1.VolumeAttachment",
    storage: "volumeattachments",
    subresources: &[STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..CLUSTER
};
