//! A room for names.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Kind, Subresource, Verbs};

pub static KIND: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    definition: "io.k8s.api.core.v1.Namespace",
    storage: "namespaces",
    verbs: Verbs::WithoutDeleteCollection,
    subresources: &[Subresource { name: "finalize", speaks: None, verbs: &["update"], scale: None }, STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..CLUSTER
};
