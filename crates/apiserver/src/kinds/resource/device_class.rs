//! A class of devices.

use crate::kinds::lifecycle;
use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "DeviceClass",
    plural: "deviceclasses",
    singular: "deviceclass",
    definition: "io.k8s.api.resource.v1.DeviceClass",
    storage: "deviceclasses",
    answers_deletion_with_object: true,
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update: |new, old| lifecycle::count_generation(new, old, &["spec"]),
    ..CLUSTER
};
