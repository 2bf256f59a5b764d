//! Which controller serves an Ingress.

use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    definition: "io.k8s.api.networking.v1.IngressClass",
    storage: "ingressclasses",
    ..CLUSTER
};
