//! Which CSI drivers a node has.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::pod_spec::driver_name;
use crate::kinds::printing::{self, AGE, NAME, integer};
use crate::kinds::problems::IMMUTABLE;
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
        driver_name(&name, problems);
        checks::required(&node, problems);
        if node.len() > NODE_ID_MAX {
            problems.invalid(&node, &format!("must be {NODE_ID_MAX} characters or less"));
        }
        checks::non_negative(&driver.at("allocatable.count"), problems);
        if names.contains(&name.str()) {
            problems.duplicate(&name);
        }
        names.push(name.str());
        let keys = driver.at("topologyKeys");
        for (index, key) in keys.items().enumerate() {
            // The original names the driver, not the key.
            if key.is_empty() {
                problems.required(&driver, "");
            }
            if keys.array()[..index].contains(key.value) {
                problems.duplicate_str(&driver, key.str());
            }
            problems.invalid_each_str(&driver, key.str(), api::names::qualified_name(key.str()));
        }
    }
}

const NODE_ID_MAX: usize = 256;

/// A driver may come and go; while it is there it stays as it is.
fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let before = walk(old, "spec.drivers").as_array().map_or(&[][..], Vec::as_slice);
    for driver in root.at("spec.drivers").items() {
        let same = before.iter().find(|old| walk(old, "name") == driver.at("name").value);
        let Some(same) = same else { continue };
        if ["nodeID", "topologyKeys"].iter().any(|field| driver.at(field).value != walk(same, field)) {
            let drivers = root.at("spec.drivers");
            problems.invalid_struct(
                &drivers.with(driver.value),
                &["name", "nodeID", "topologyKeys", "allocatable"],
                IMMUTABLE,
            );
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = walk(object, "spec.drivers").as_array().map_or(0, Vec::len);
    vec![printing::name(object), json!(count), printing::age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_update};

    #[test]
    fn problems() {
        let node = |driver: Value| json!({"spec": {"drivers": [driver]}});
        check(&KIND, node(json!({"name": "d.io", "nodeID": "n", "topologyKeys": ["zone"]})), "");
        check(
            &KIND,
            node(json!({"name": "d.io", "nodeID": "", "topologyKeys": ["zone", "zone"], "allocatable": {"count": -1}})),
            "spec.drivers[0].nodeID: Required value\n\
             spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0\n\
             spec.drivers[0]: Duplicate value: \"zone\"",
        );
        check_update(
            &KIND,
            node(json!({"name": "d.io", "nodeID": "m", "allocatable": {"count": 1}})),
            node(json!({"name": "d.io", "nodeID": "n"})),
            "spec.drivers: Invalid value: {\"Name\":\"d.io\",\"NodeID\":\"m\",\"TopologyKeys\":null,\"Allocatable\":{\"count\":1}}: field is immutable",
        );
    }
}
