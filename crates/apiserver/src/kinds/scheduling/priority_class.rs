//! A name for a priority.

use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    definition: "io.k8s.api.scheduling.v1.PriorityClass",
    storage: "priorityclasses",
    ..CLUSTER
};
