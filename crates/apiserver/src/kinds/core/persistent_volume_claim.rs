//! Asks for a volume.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    definition: "io.k8s.api.core.v1.PersistentVolumeClaim",
    storage: "persistentvolumeclaims",
    subresources: &[STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..NAMESPACED
};
