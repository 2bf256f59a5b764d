//! One address in use.

use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    definition: "io.k8s.api.networking.v1.IPAddress",
    storage: "ipaddresses",
    ..CLUSTER
};
