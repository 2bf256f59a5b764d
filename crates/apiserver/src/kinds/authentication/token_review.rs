//! Tells whose a token is.

use crate::kinds::{CLUSTER, Kind, Verbs};

pub static KIND: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    definition: "io.k8s.api.authentication.v1.TokenReview",
    verbs: Verbs::Create,
    ..CLUSTER
};
