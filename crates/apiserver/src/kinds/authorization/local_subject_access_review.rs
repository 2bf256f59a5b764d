//! Tells whether somebody may do something in a namespace.

use crate::kinds::{Kind, NAMESPACED, Verbs};

pub static KIND: Kind = Kind {
    group: "authorization.k8s.io",
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    definition: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    verbs: Verbs::Create,
    ..NAMESPACED
};
