//! From values in normal form to messages. What does not fit its type is left out: `json` has checked it before.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::wire::Writer;
use crate::json::{MICRO_LAYOUT, SECOND_LAYOUT, parse_time};
use crate::schema::{Definition, Field, Type};

static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

pub(super) fn object(writer: &mut Writer, value: &Value, definition: &'static Definition) {
    fields(writer, value.as_object().unwrap_or(&NOTHING), definition);
}

fn fields(writer: &mut Writer, values: &Map<String, Value>, definition: &'static Definition) {
    for (tag, at) in definition.wire {
        match definition.fields.get(*at) {
            Some(field) => field_value(
                writer,
                *tag,
                field,
                values.get(field.name).unwrap_or(&Value::Null),
            ),
            None => {
                let (_, inlined) = definition.inlined[at - definition.fields.len()];
                writer.message(*tag, |writer| fields(writer, values, inlined));
            }
        }
    }
}

fn field_value(writer: &mut Writer, tag: u32, field: &Field, value: &Value) {
    match (&field.kind, value) {
        (Type::List(elements), Value::Array(list)) if field.wrapped => {
            writer.message(tag, |writer| repeated(writer, 1, elements, list))
        }
        (Type::List(elements), Value::Array(list)) => repeated(writer, tag, elements, list),
        (Type::Map(values), Value::Object(map)) => entries(writer, tag, values, map),
        (Type::Object(definition), Value::Null) if field.by_value => {
            writer.message(tag, |writer| fields(writer, &NOTHING, definition))
        }
        (_, Value::Null) if field.pointer => {}
        (Type::String, Value::Null) => writer.bytes(tag, b""),
        (Type::Boolean | Type::Int32 | Type::Int64, Value::Null) => writer.integer(tag, 0),
        (Type::Double, Value::Null) => writer.double(tag, 0.0),
        // A time by value, unset. JSON alone omits the creation time then.
        (Type::Time | Type::MicroTime, Value::Null)
            if field.always_written || field.name == "creationTimestamp" =>
        {
            writer.bytes(tag, b"")
        }
        (_, Value::Null) => {}
        (kind, value) => element(writer, tag, kind, value),
    }
}

fn repeated(writer: &mut Writer, tag: u32, kind: &Type, list: &[Value]) {
    for value in list {
        element(writer, tag, kind, value);
    }
}

/// Sorted by key, as the value's map is.
fn entries(writer: &mut Writer, tag: u32, kind: &Type, map: &Map<String, Value>) {
    for (key, value) in map {
        writer.message(tag, |writer| {
            writer.bytes(1, key.as_bytes());
            match (kind, value) {
                (Type::List(elements), _) => {
                    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    writer.message(2, |writer| repeated(writer, 1, elements, list));
                }
                _ => element(writer, 2, kind, value),
            }
        });
    }
}

/// A single value that is there.
fn element(writer: &mut Writer, tag: u32, kind: &Type, value: &Value) {
    match kind {
        Type::String => writer.bytes(tag, value.as_str().unwrap_or_default().as_bytes()),
        Type::Boolean => writer.integer(tag, i64::from(value.as_bool().unwrap_or_default())),
        Type::Int32 | Type::Int64 => writer.integer(tag, value.as_i64().unwrap_or_default()),
        Type::Double => writer.double(tag, value.as_f64().unwrap_or_default()),
        Type::Bytes => writer.bytes(
            tag,
            &STANDARD
                .decode(value.as_str().unwrap_or_default())
                .unwrap_or_default(),
        ),
        Type::Time => writer.message(tag, |writer| time(writer, value, SECOND_LAYOUT)),
        Type::MicroTime => writer.message(tag, |writer| time(writer, value, MICRO_LAYOUT)),
        Type::Quantity => writer.message(tag, |writer| {
            writer.bytes(1, value.as_str().unwrap_or_default().as_bytes())
        }),
        Type::IntOrString => writer.message(tag, |writer| {
            writer.integer(1, i64::from(value.is_string()));
            writer.integer(2, value.as_i64().unwrap_or_default());
            writer.bytes(3, value.as_str().unwrap_or_default().as_bytes());
        }),
        Type::RawExtension | Type::FieldsV1 | Type::Json => {
            writer.message(tag, |writer| writer.bytes(1, value.to_string().as_bytes()))
        }
        Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStringArray => {
            writer.message(tag, |writer| schema_or(writer, kind, value))
        }
        Type::Object(definition) => writer.message(tag, |writer| object(writer, value, definition)),
        Type::List(_) | Type::Map(_) => {} // Lists of lists do not exist in the API.
    }
}

fn time(writer: &mut Writer, value: &Value, layout: &str) {
    if let Some(Ok(Some(time))) = value.as_str().map(|text| parse_time(text, layout)) {
        let nanosecond = time.as_nanosecond().rem_euclid(1_000_000_000) as i64;
        writer.integer(1, time.as_nanosecond().div_euclid(1_000_000_000) as i64);
        writer.integer(
            2,
            if layout == MICRO_LAYOUT {
                nanosecond
            } else {
                0
            },
        );
    }
}

fn schema_or(writer: &mut Writer, kind: &Type, value: &Value) {
    let schema_tag = if matches!(kind, Type::SchemaOrBool) {
        2
    } else {
        1
    };
    if let Type::SchemaOrBool = kind {
        writer.integer(1, i64::from(value.as_bool().unwrap_or(true)));
    }
    let props = Type::Object(crate::json::schema_props());
    match value {
        Value::Object(_) => element(writer, schema_tag, &props, value),
        Value::Array(list) if matches!(kind, Type::SchemaOrArray) => {
            repeated(writer, 2, &props, list)
        }
        Value::Array(list) => repeated(writer, 2, &Type::String, list),
        _ => {}
    }
}
