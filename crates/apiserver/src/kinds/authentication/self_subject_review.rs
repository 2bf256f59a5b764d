//! Tells a client who it is.

use crate::kinds::{CLUSTER, Kind, Verbs};

pub static KIND: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    definition: "io.k8s.api.authentication.v1.SelfSubjectReview",
    verbs: Verbs::Create,
    ..CLUSTER
};
