//! How much a driver can still provision where.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, NAME, text};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    definition: "io.k8s.api.storage.v1.CSIStorageCapacity",
    storage: "csistoragecapacities",
    validate,
    validate_update: |new, old, problems| {
        let root = Cursor::root(new);
        for field in ["nodeTopology", "storageClassName"] {
            problems.immutable(&root.at(field), walk(old, field));
        }
    },
    columns: &[
        NAME,
        text("StorageClassName", "io.k8s.api.storage.v1.CSIStorageCapacity#storageClassName"),
        text("Capacity", "io.k8s.api.storage.v1.CSIStorageCapacity#capacity"),
    ],
    cells,
    ..NAMESPACED
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    checks::label_selector(&root.at("nodeTopology"), problems);
    problems
        .invalid_each(&root.at("storageClassName"), api::names::dns1123_subdomain(root.at("storageClassName").str()));
    checks::non_negative_quantity(&root.at("capacity"), problems);
}

fn cells(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![
        printing::name(object),
        printing::string_at(object, "storageClassName"),
        printing::text_or(object, "capacity", "<unset>"),
    ]
}
