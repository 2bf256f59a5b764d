//! Configuration for pods.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    definition: "io.k8s.api.core.v1.ConfigMap",
    storage: "configmaps",
    ..NAMESPACED
};
