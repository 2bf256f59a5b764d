//! Changeable attributes of a volume.

use jiff::Timestamp;
use serde_json::Value;

use super::storage_class::validate_parameters;
use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short_names: &["vac"],
    definition: "io.k8s.api.storage.v1.VolumeAttributesClass",
    storage: "volumeattributesclasses",
    answers_deletion_with_object: true,
    validate,
    validate_update: |new, old, problems| {
        let root = Cursor::root(new);
        for (field, sentence) in [
            ("driverName", "updates to driverName are forbidden."),
            ("parameters", "updates to parameters are forbidden."),
        ] {
            let at = root.at(field);
            if at.value != walk(old, field) {
                problems.forbidden(&at, sentence);
            }
        }
    },
    columns: &[NAME, text("DriverName", "io.k8s.api.storage.v1.VolumeAttributesClass#driverName"), AGE],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let driver = root.at("driverName");
    if driver.is_empty() {
        problems.required(&driver, "");
    } else {
        let lower = driver.str().to_lowercase();
        problems.invalid_each_str(&driver, &lower, api::names::qualified_name(&lower));
    }
    validate_parameters(&root.at("parameters"), problems);
    if root.at("parameters").is_empty() {
        problems.required(&root.at("parameters"), "must contain at least one key/value pair");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printing::name(object), printing::string_at(object, "driverName"), printing::age(object, now)]
}
