//! A stored pod template.

use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    definition: "io.k8s.api.core.v1.PodTemplate",
    storage: "podtemplates",
    create_on_update: true,
    ..NAMESPACED
};
