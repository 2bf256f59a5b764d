//! A range of service addresses.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle, problems};

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
    validate_update,
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
        return problems.invalid(&cidrs.with(walk(object, "spec")), "may only hold up to 2 values");
    }
    let mut families = Vec::new();
    for cidr in cidrs.items() {
        checks::cidr(&cidr, problems);
        families.extend(cidr.str().parse::<ipnet::IpNet>().ok().map(|range| range.addr().is_ipv4()));
    }
    if families.len() == 2 && families[0] == families[1] {
        problems.invalid(
            &cidrs,
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
}

/// A range of the other family may be added; nothing else changes.
fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let cidrs = root.at("spec.cidrs");
    let Some(before) = walk(old, "spec.cidrs").as_array() else { return };
    if cidrs.len() != before.len() && (before.len(), cidrs.len()) != (1, 2) {
        return problems.invalid(&cidrs, problems::IMMUTABLE);
    }
    for (cidr, before) in cidrs.items().zip(before) {
        problems.immutable(&cidr, before);
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printing::name(object), printing::joined(walk(object, "spec.cidrs"), ",").into(), printing::age(object, now)]
}
