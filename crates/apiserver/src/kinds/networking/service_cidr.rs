//! A range of service addresses.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    definition: "io.k8s.api.networking.v1.ServiceCIDR",
    storage: "servicecidrs",
    subresources: &[STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    validate,
    validate_update: |new, old, problems| {
        problems.immutable(&Cursor::root(new).at("spec.cidrs"), walk(old, "spec.cidrs"));
    },
    columns: &[NAME, text("CIDRs", "io.k8s.api.networking.v1.ServiceCIDRSpec#cidrs"), AGE],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let cidrs = root.at("spec.cidrs");
    if cidrs.is_empty() {
        return problems.required(&cidrs, "at least one CIDR required");
    }
    if cidrs.len() > 2 {
        return problems.invalid(&cidrs, "may only hold up to 2 values");
    }
    for cidr in cidrs.items() {
        checks::cidr(&cidr, problems);
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printing::name(object), printing::joined(walk(object, "spec.cidrs"), ",").into(), printing::age(object, now)]
}
