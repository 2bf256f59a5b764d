//! Tells what the caller may do in a namespace.

use crate::kinds::{CLUSTER, Kind, Verbs};

pub static KIND: Kind = Kind {
    group: "authorization.k8s.io",
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    definition: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    verbs: Verbs::Create,
    ..CLUSTER
};
