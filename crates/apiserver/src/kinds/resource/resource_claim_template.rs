//! A claim for each pod.

use super::resource_claim::{default_claim_spec, validate_claim_spec};
use crate::kinds::cursor::walk;
use crate::kinds::edit::object as object_at;
use crate::kinds::{Cursor, Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    definition: "io.k8s.api.resource.v1.ResourceClaimTemplate",
    storage: "resourceclaimtemplates",
    answers_deletion_with_object: true,
    defaults: |object| default_claim_spec(object_at(object, "spec.spec")),
    validate: |object, problems| validate_claim_spec(&Cursor::root(object).at("spec.spec"), problems),
    validate_update: |new, old, problems| problems.immutable(&Cursor::root(new).at("spec"), walk(old, "spec")),
    ..NAMESPACED
};
