//! Devices that a driver offers.

use crate::kinds::lifecycle;
use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    definition: "io.k8s.api.resource.v1.ResourceSlice",
    storage: "resourceslices",
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update: |new, old| lifecycle::count_generation(new, old, &["spec"]),
    ..CLUSTER
};
