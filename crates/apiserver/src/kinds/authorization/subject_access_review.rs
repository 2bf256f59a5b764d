//! Tells whether somebody may do something.

use crate::kinds::{CLUSTER, Kind, Verbs};

pub static KIND: Kind = Kind {
    group: "authorization.k8s.io",
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    definition: "io.k8s.api.authorization.v1.SubjectAccessReview",
    verbs: Verbs::Create,
    ..CLUSTER
};
