//! A machine that runs pods.

use crate::kinds::lifecycle;
use crate::kinds::subresources::{STATUS, proxy};
use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    definition: "io.k8s.api.core.v1.Node",
    storage: "minions",
    subresources: &[proxy("NodeProxyOptions"), STATUS],
    create_on_update: true,
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..CLUSTER
};
