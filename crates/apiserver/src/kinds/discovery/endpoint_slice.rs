//! Some of the addresses behind a Service.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    definition: "io.k8s.api.discovery.v1.EndpointSlice",
    storage: "endpointslices",
    ..NAMESPACED
};
