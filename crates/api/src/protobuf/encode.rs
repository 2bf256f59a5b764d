//! From objects in normal form to messages. What does not fit its type is left out: `json` has checked it before.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::node::{Members, Node};
use super::wire::Writer;
use crate::json::{MICRO_LAYOUT, SECOND_LAYOUT, parse_time};
use crate::schema::{Definition, Field, Type};

pub(super) fn object<'a, N: Node<'a>>(writer: &mut Writer, value: N, definition: &'static Definition) {
    fields::<N>(writer, &value.members().unwrap_or_else(N::Members::none), definition);
}

fn fields<'a, N: Node<'a>>(writer: &mut Writer, values: &N::Members, definition: &'static Definition) {
    for (tag, at) in definition.wire {
        match definition.fields.get(*at) {
            Some(field) => match values.get(field.name).filter(|value| !value.is_null()) {
                Some(value) => present(writer, *tag, field, value),
                None => absent::<N>(writer, *tag, field),
            },
            None => {
                let (_, inlined) = definition.inlined[at - definition.fields.len()];
                writer.message(*tag, |writer| fields::<N>(writer, values, inlined));
            }
        }
    }
}

fn present<'a, N: Node<'a>>(writer: &mut Writer, tag: u32, field: &Field, value: N) {
    match &field.kind {
        Type::List(elements) => {
            let Some(list) = value.items() else { return };
            if field.wrapped {
                writer.message(tag, |writer| repeated(writer, 1, elements, list));
            } else {
                repeated(writer, tag, elements, list);
            }
        }
        Type::Map(values) => entries(writer, tag, values, value),
        kind => element(writer, tag, kind, value),
    }
}

fn absent<'a, N: Node<'a>>(writer: &mut Writer, tag: u32, field: &Field) {
    match &field.kind {
        Type::Object(definition) if field.by_value => {
            writer.message(tag, |writer| fields::<N>(writer, &N::Members::none(), definition))
        }
        _ if field.pointer => {}
        Type::String => writer.bytes(tag, b""),
        Type::Boolean | Type::Int32 | Type::Int64 => writer.integer(tag, 0),
        Type::Double => writer.double(tag, 0.0),
        // A time by value, unset. JSON alone omits the creation time then.
        Type::Time | Type::MicroTime if field.always_written || field.name == "creationTimestamp" => {
            writer.bytes(tag, b"")
        }
        _ => {}
    }
}

fn repeated<'a, N: Node<'a>>(writer: &mut Writer, tag: u32, kind: &Type, list: impl Iterator<Item = N>) {
    for value in list {
        element(writer, tag, kind, value);
    }
}

/// Sorted by key, as the object's members are.
fn entries<'a, N: Node<'a>>(writer: &mut Writer, tag: u32, kind: &Type, map: N) {
    let Some(members) = map.members() else { return };
    members.each(|key, value| {
        writer.message(tag, |writer| {
            writer.bytes(1, key.as_bytes());
            match kind {
                Type::List(elements) => {
                    writer.message(2, |writer| repeated(writer, 1, elements, value.items().into_iter().flatten()))
                }
                _ => element(writer, 2, kind, value),
            }
        });
    });
}

/// A single value that is there.
fn element<'a, N: Node<'a>>(writer: &mut Writer, tag: u32, kind: &Type, value: N) {
    let text = || value.text().unwrap_or_default();
    match kind {
        Type::String => writer.bytes(tag, text().as_bytes()),
        Type::Boolean => writer.integer(tag, i64::from(value.boolean().unwrap_or_default())),
        Type::Int32 | Type::Int64 => writer.integer(tag, value.integer().unwrap_or_default()),
        Type::Double => writer.double(tag, value.float().unwrap_or_default()),
        Type::Bytes => writer.bytes(tag, &STANDARD.decode(text().as_bytes()).unwrap_or_default()),
        Type::Time => writer.message(tag, |writer| time(writer, &text(), SECOND_LAYOUT)),
        Type::MicroTime => writer.message(tag, |writer| time(writer, &text(), MICRO_LAYOUT)),
        Type::Quantity => writer.message(tag, |writer| writer.bytes(1, text().as_bytes())),
        Type::IntOrString => writer.message(tag, |writer| {
            writer.integer(1, i64::from(value.is_text()));
            writer.integer(2, value.integer().unwrap_or_default());
            writer.bytes(3, text().as_bytes());
        }),
        Type::RawExtension | Type::FieldsV1 | Type::Json => {
            writer.message(tag, |writer| writer.bytes(1, value.json().as_bytes()))
        }
        Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStringArray => {
            writer.message(tag, |writer| schema_or(writer, kind, value))
        }
        Type::Object(definition) => writer.message(tag, |writer| object(writer, value, definition)),
        Type::List(_) | Type::Map(_) => {} // Lists of lists do not exist in the API.
    }
}

fn time(writer: &mut Writer, text: &str, layout: &str) {
    if let Ok(Some(time)) = parse_time(text, layout) {
        let nanosecond = time.as_nanosecond().rem_euclid(1_000_000_000) as i64;
        writer.integer(1, time.as_nanosecond().div_euclid(1_000_000_000) as i64);
        writer.integer(2, if layout == MICRO_LAYOUT { nanosecond } else { 0 });
    }
}

fn schema_or<'a, N: Node<'a>>(writer: &mut Writer, kind: &Type, value: N) {
    let schema_tag = if matches!(kind, Type::SchemaOrBool) { 2 } else { 1 };
    if let Type::SchemaOrBool = kind {
        writer.integer(1, i64::from(value.boolean().unwrap_or(true)));
    }
    let props = Type::Object(crate::json::schema_props());
    if value.members().is_some() {
        element(writer, schema_tag, &props, value);
    } else if let Some(list) = value.items() {
        match kind {
            Type::SchemaOrArray => repeated(writer, 2, &props, list),
            _ => repeated(writer, 2, &Type::String, list),
        }
    }
}
