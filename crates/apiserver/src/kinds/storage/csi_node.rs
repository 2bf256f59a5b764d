//! Which CSI drivers a node has.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, integer};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    definition: "io.k8s.api.storage.v1.CSINode",
    storage: "csinodes",
    answers_deletion_with_object: true,
    validate,
    validate_update,
    columns: &[NAME, integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node"), AGE],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let mut names: Vec<&str> = Vec::new();
    for driver in root.at("spec.drivers").items() {
        let (name, node) = (driver.at("name"), driver.at("nodeID"));
        if checks::required(&name, problems) {
            problems.invalid_each(&name, api::names::dns1123_subdomain(&name.str().to_lowercase()));
        }
        checks::required(&node, problems);
        if node.len() > 192 {
            problems.invalid(&node, "must be 192 characters or less");
        }
        checks::non_negative(&driver.at("allocatable.count"), problems);
        let keys = driver.at("topologyKeys");
        for key in keys.items() {
            checks::required(&key, problems);
            problems.invalid_each(&key, api::names::qualified_name(key.str()));
        }
        if names.contains(&name.str()) {
            problems.duplicate(&name);
        }
        names.push(name.str());
    }
}

/// A driver may come and go; while it is there it stays as it is.
fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let before = walk(old, "spec.drivers").as_array().map_or(&[][..], Vec::as_slice);
    for driver in root.at("spec.drivers").items() {
        let same = before.iter().find(|old| walk(old, "name") == driver.at("name").value);
        for field in ["nodeID", "topologyKeys"] {
            if let Some(same) = same {
                problems.immutable(&driver.at(field), walk(same, field));
            }
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = walk(object, "spec.drivers").as_array().map_or(0, Vec::len);
    vec![printing::name(object), json!(count), printing::age(object, now)]
}
