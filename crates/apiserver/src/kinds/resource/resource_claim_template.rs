//! A claim for each pod.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    definition: "io.k8s.api.resource.v1.ResourceClaimTemplate",
    storage: "resourceclaimtemplates",
    ..NAMESPACED
};
