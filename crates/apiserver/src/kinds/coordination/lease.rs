//! A heartbeat or a lock.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    definition: "io.k8s.api.coordination.v1.Lease",
    storage: "leases",
    create_on_update: true,
    ..NAMESPACED
};
