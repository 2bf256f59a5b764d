//! Objects as tables and as bare metadata.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::RequestError;
use crate::http::query::Query;
use crate::kinds::{CLUSTER, Kind};

/// `includeObject` of a table request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    pub fn of(query: &Query) -> Result<Include, RequestError> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(RequestError::BadRequest(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// The columns by which objects that are of no registered kind (Scale, Status) are shown.
pub fn plain_kind() -> &'static Kind {
    static PLAIN: Kind = Kind { kind: "Object", ..CLUSTER };
    &PLAIN
}

/// `columns`: whether column definitions are told (the first event of a watch alone has them).
pub fn table(
    kind: &Kind,
    objects: impl IntoIterator<Item = Value>,
    metadata: Value,
    include: Include,
    columns: bool,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, object, include, now)).collect();
    let columns = if columns { definitions(kind) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

fn definitions(kind: &Kind) -> Value {
    kind.columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description(), "priority": column.priority,
            })
        })
        .collect()
}

fn row(kind: &Kind, object: Value, include: Include, now: Timestamp) -> Value {
    let mut row = json!({"cells": (kind.cells)(&object, now)});
    let conditions = (kind.row_conditions)(&object);
    if !conditions.is_null() {
        row["conditions"] = conditions;
    }
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(object),
        Include::Object => row["object"] = object,
    }
    row
}

/// PartialObjectMetadata.
pub fn partial(mut object: Value) -> Value {
    let metadata = object.get_mut("metadata").map_or_else(|| json!({}), Value::take);
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

pub fn partial_list(objects: impl IntoIterator<Item = Value>, metadata: Value) -> Value {
    let items: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let mut item = partial(object);
            // Items of a typed list name no type.
            if let Some(map) = item.as_object_mut() {
                map.remove("kind");
                map.remove("apiVersion");
            }
            item
        })
        .collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
}
