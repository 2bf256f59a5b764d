//! Tells whether the caller may do something.

use crate::kinds::{CLUSTER, Kind, Verbs};

pub static KIND: Kind = Kind {
    group: "authorization.k8s.io",
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    definition: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    verbs: Verbs::Create,
    ..CLUSTER
};
