//! Asks for devices.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::{
    Object, default, default_number, default_text, each, inside, object as object_at, text as text_of,
};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceClaim",
    plural: "resourceclaims",
    singular: "resourceclaim",
    definition: "io.k8s.api.resource.v1.ResourceClaim",
    storage: "resourceclaims",
    answers_deletion_with_object: true,
    subresources: &[STATUS],
    defaults: |object| default_claim_spec(object_at(object, "spec")),
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    validate: |object, problems| validate_claim_spec(&Cursor::root(object).at("spec"), problems),
    validate_update: |new, old, problems| problems.immutable(&Cursor::root(new).at("spec"), walk(old, "spec")),
    columns: &[NAME, text("State", "A summary of the current state (allocated, pending, reserved, etc.)."), AGE],
    cells,
    ..NAMESPACED
};

/// Also for the claims of templates.
pub fn default_claim_spec(spec: Option<&mut Object>) {
    let Some(spec) = spec else { return };
    inside(spec, "devices", |devices| {
        each(devices, "requests", |request| {
            inside(request, "exactly", default_request);
            each(request, "firstAvailable", default_request);
        });
    });
}

fn default_request(request: &mut Object) {
    default_text(request, "allocationMode", "ExactCount");
    if text_of(request, "allocationMode") == "ExactCount" {
        default_number(request, "count", 1);
    }
    each(request, "tolerations", |toleration| default(toleration, "operator", "Equal"));
}

pub fn validate_claim_spec(spec: &Cursor, problems: &mut Problems) {
    let requests = spec.at("devices.requests");
    if requests.len() > 32 {
        problems.too_many(&requests, requests.len(), 32);
    }
    let mut names: Vec<&str> = Vec::new();
    for request in requests.items() {
        let name = request.at("name");
        if checks::required(&name, problems) {
            checks::label(&name, problems);
        }
        if names.contains(&name.str()) {
            problems.duplicate(&name);
        }
        names.push(name.str());
        let (exactly, first) = (request.at("exactly"), request.at("firstAvailable"));
        match (exactly.exists(), !first.is_empty()) {
            (false, false) => problems.required(&request, "exactly one of `exactly` or `firstAvailable` is required"),
            (true, true) => problems.invalid(
                &request,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            ),
            (true, false) => validate_request(&exactly, problems),
            (false, true) => {
                for sub in first.items() {
                    if checks::required(&sub.at("name"), problems) {
                        checks::label(&sub.at("name"), problems);
                    }
                    validate_request(&sub, problems);
                }
            }
        }
    }
}

fn validate_request(request: &Cursor, problems: &mut Problems) {
    let class = request.at("deviceClassName");
    if checks::required(&class, problems) {
        checks::subdomain(&class, problems);
    }
    let (mode, count) = (request.at("allocationMode"), request.at("count"));
    match mode.str() {
        "All" => {
            if count.int() != 0 {
                problems.invalid(&count, "must not be specified when allocationMode is 'All'");
            }
        }
        "ExactCount" => {
            if count.int() <= 0 {
                problems.invalid_plain(&count, count.int(), "must be greater than zero");
            }
        }
        _ => checks::one_of(&mode, &["All", "ExactCount"], problems),
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let deleting = !walk(object, "metadata.deletionTimestamp").is_null();
    let allocated = !walk(object, "status.allocation").is_null();
    let reserved = walk(object, "status.reservedFor").as_array().is_some_and(|list| !list.is_empty());
    let mut states = Vec::new();
    if deleting {
        states.push("deleted");
    }
    match (allocated, deleting) {
        (false, false) => states.push("pending"),
        (true, _) => states.push("allocated"),
        _ => {}
    }
    if allocated && reserved {
        states.push("reserved");
    }
    vec![printing::name(object), states.join(",").into(), printing::age(object, now)]
}
