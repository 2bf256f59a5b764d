//! Devices that a driver offers.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    definition: "io.k8s.api.resource.v1.ResourceSlice",
    storage: "resourceslices",
    answers_deletion_with_object: true,
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update: |new, old| lifecycle::count_generation(new, old, &["spec"]),
    validate,
    validate_update: |new, old, problems| {
        let root = Cursor::root(new);
        for field in ["spec.driver", "spec.nodeName", "spec.pool.name"] {
            problems.immutable(&root.at(field), walk(old, field));
        }
    },
    selectable_fields: &["spec.driver", "spec.nodeName"],
    columns: &[
        NAME,
        text("Node", "io.k8s.api.resource.v1.ResourceSliceSpec#nodeName"),
        text("Driver", "io.k8s.api.resource.v1.ResourceSliceSpec#driver"),
        text("Pool", "io.k8s.api.resource.v1.ResourcePool#name"),
        AGE,
    ],
    cells,
    ..CLUSTER
};

const DEVICES_MAX: usize = 128;

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let driver = spec.at("driver");
    if checks::required(&driver, problems) {
        checks::subdomain(&driver, problems);
    }
    let pool = spec.at("pool.name");
    checks::required(&pool, problems);
    let set = [
        !spec.at("nodeName").is_empty(),
        spec.at("nodeSelector").exists(),
        spec.at("allNodes").bool(),
        spec.at("perDeviceNodeSelection").bool(),
    ];
    match set.iter().filter(|set| **set).count() {
        0 => problems.required(
            &spec,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        ),
        1 => {}
        _ => problems.invalid(
            &spec,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        ),
    }
    let devices = spec.at("devices");
    if devices.len() > DEVICES_MAX {
        problems.too_many(&devices, devices.len(), DEVICES_MAX);
    }
    let mut names: Vec<&str> = Vec::new();
    for device in devices.items() {
        let name = device.at("name");
        if checks::required(&name, problems) {
            checks::label(&name, problems);
        }
        if names.contains(&name.str()) {
            problems.duplicate(&name);
        }
        names.push(name.str());
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        printing::name(object),
        printing::string_at(object, "spec.nodeName"),
        printing::string_at(object, "spec.driver"),
        printing::string_at(object, "spec.pool.name"),
        printing::age(object, now),
    ]
}
