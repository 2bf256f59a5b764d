//! Go's zero values: which are omitted, and what is written where they are not.

use serde_json::{Map, Value};

use crate::schema::{Definition, Field, Type};

/// Whether Go's `omitempty` would drop this value of a field that is no pointer.
pub(crate) fn is_empty(value: &Value, kind: &Type) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value && matches!(kind, Type::Boolean),
        Value::Number(value) => {
            value.as_f64() == Some(0.0) && matches!(kind, Type::Int32 | Type::Int64 | Type::Double)
        }
        Value::String(value) => value.is_empty() && matches!(kind, Type::String | Type::Bytes),
        Value::Array(value) => value.is_empty() && matches!(kind, Type::List(_)),
        Value::Object(value) => value.is_empty() && matches!(kind, Type::Map(_)),
    }
}

/// What stands in JSON for a field that is always written and has no value.
pub(crate) fn written_when_empty(field: &Field) -> Value {
    if field.pointer {
        return Value::Null;
    }
    match field.kind {
        Type::Object(definition) if field.by_value => Value::Object(empty_object(definition)),
        Type::Quantity | Type::IntOrString if !field.by_value => Value::Null,
        Type::Object(_) | Type::Bytes => Value::Null,
        kind => empty_element(&kind),
    }
}

/// What Go makes of null among the elements of a list or the values of a map.
pub(crate) fn empty_element(kind: &Type) -> Value {
    match kind {
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Boolean => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::Quantity => "0".into(),
        Type::Object(definition) => Value::Object(empty_object(definition)),
        _ => Value::Null,
    }
}

/// A struct with nothing set.
pub(crate) fn empty_object(definition: &Definition) -> Map<String, Value> {
    let written = definition
        .fields
        .iter()
        .filter(|field| field.always_written);
    written
        .map(|field| (field.name.to_owned(), written_when_empty(field)))
        .collect()
}
