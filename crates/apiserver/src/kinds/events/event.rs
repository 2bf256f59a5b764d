//! The newer face of core events; one storage serves both.

use serde_json::Value;

use crate::kinds::core::event;
use crate::kinds::cursor::walk;
use crate::kinds::{Conversion, Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    definition: "io.k8s.api.events.v1.Event",
    storage: "events",
    create_on_update: true,
    selectable_fields: &[
        "reason",
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reportingController",
        "type",
    ],
    field_value: |event, field| walk(event, field).as_str().unwrap_or("").to_owned(),
    columns: event::COLUMNS,
    cells: |event, now| (event::KIND.cells)(&to_storage(event.clone()), now),
    conversion: Some(Conversion { to_storage, from_storage, stored_field }),
    ..NAMESPACED
};

/// This version's names and the storage version's.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// `regarding.name` -> `involvedObject.name`
fn stored_field(field: &str) -> String {
    let (first, rest) = field.split_once('.').map_or((field, ""), |(first, rest)| (first, rest));
    let stored = NAMES.iter().find(|(own, _)| *own == first).map_or(first, |(_, stored)| *stored);
    if rest.is_empty() { stored.to_owned() } else { format!("{stored}.{rest}") }
}

fn to_storage(event: Value) -> Value {
    rename(event, "v1", |(own, stored)| (own, stored))
}

fn from_storage(event: Value) -> Value {
    rename(event, "events.k8s.io/v1", |(own, stored)| (stored, own))
}

fn rename(
    mut event: Value,
    version: &str,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Value {
    if let Some(map) = event.as_object_mut() {
        for pair in NAMES {
            let (from, to) = direction(*pair);
            if let Some(value) = map.remove(from) {
                map.insert(to.to_owned(), value);
            }
        }
        map.insert("apiVersion".into(), version.into());
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_ways() {
        let stored = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"kind": "Pod"}, "message": "m",
            "source": {"component": "c"}, "count": 2, "reportingComponent": "r", "reason": "R"});
        let own = from_storage(stored.clone());
        assert_eq!(
            own,
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"kind": "Pod"}, "note": "m",
                "deprecatedSource": {"component": "c"}, "deprecatedCount": 2, "reportingController": "r", "reason": "R"})
        );
        assert_eq!(to_storage(own), stored);
    }
}
