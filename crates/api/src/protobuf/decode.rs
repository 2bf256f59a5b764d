//! From messages to values in normal form. Fields that the schema does not know are passed over, as in Go.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::MAGIC;
use super::wire::{Reader, Wire, malformed};
use crate::json::{
    self, Budget, DEPTH_MAX, DecodeError, MICRO_LAYOUT, SECOND_LAYOUT, empty_element, is_empty,
    print_time, written_when_empty,
};
use crate::quantity;
use crate::schema::{Definition, Type};

type Decoded<T> = Result<T, DecodeError>;

/// `runtime.Unknown`.
pub(super) struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub fn read(body: &'a [u8]) -> Decoded<Self> {
        let message = body.strip_prefix(MAGIC).ok_or_else(|| {
            DecodeError::Syntax("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".to_owned())
        })?;
        let mut envelope = Envelope {
            api_version: String::new(),
            kind: String::new(),
            raw: &[],
        };
        let mut reader = Reader::new(message);
        while let Some((tag, wire)) = reader.field()? {
            match (tag, wire) {
                (1, Wire::Bytes(type_meta)) => {
                    let mut reader = Reader::new(type_meta);
                    while let Some((tag, wire)) = reader.field()? {
                        match (tag, wire) {
                            (1, Wire::Bytes(text)) => envelope.api_version = string(text),
                            (2, Wire::Bytes(text)) => envelope.kind = string(text),
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

pub(super) fn object(envelope: &Envelope, definition: &'static Definition) -> Decoded<Value> {
    let mut decoder = Decoder {
        budget: Budget::default(),
    };
    let mut fields = decoder.message(envelope.raw, definition, 0)?;
    for (name, text) in [
        ("apiVersion", &envelope.api_version),
        ("kind", &envelope.kind),
    ] {
        if !text.is_empty() && definition.field(name).is_some() {
            fields.insert(name.to_owned(), Value::String(text.clone()));
        }
    }
    Ok(Value::Object(fields))
}

pub(super) fn watch_event(event: &[u8]) -> Decoded<(String, Vec<u8>)> {
    let (mut event_type, mut object) = (String::new(), Vec::new());
    let mut reader = Reader::new(event);
    while let Some((tag, wire)) = reader.field()? {
        match (tag, wire) {
            (1, Wire::Bytes(text)) => event_type = string(text),
            (2, Wire::Bytes(extension)) => object = first_bytes(extension)?.to_vec(),
            _ => {}
        }
    }
    Ok((event_type, object))
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The content of field 1, which is all that many wrappers have.
fn first_bytes(message: &[u8]) -> Decoded<&[u8]> {
    let mut found: &[u8] = &[];
    let mut reader = Reader::new(message);
    while let Some((tag, wire)) = reader.field()? {
        if let (1, Wire::Bytes(bytes)) = (tag, wire) {
            found = bytes;
        }
    }
    Ok(found)
}

struct Decoder {
    budget: Budget,
}

impl Decoder {
    fn message(
        &mut self,
        message: &[u8],
        definition: &'static Definition,
        depth: usize,
    ) -> Decoded<Map<String, Value>> {
        let mut out = Map::new();
        self.fields(message, definition, depth, &mut out)?;
        for field in definition
            .fields
            .iter()
            .filter(|field| field.always_written)
        {
            if !out.contains_key(field.name) {
                self.budget.spend()?;
                out.insert(field.name.to_owned(), written_when_empty(field));
            }
        }
        Ok(out)
    }

    /// The fields of a message, those of inlined messages among them.
    fn fields(
        &mut self,
        message: &[u8],
        definition: &'static Definition,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Decoded<()> {
        if depth > DEPTH_MAX {
            return Err(malformed("exceeded max depth"));
        }
        let mut reader = Reader::new(message);
        while let Some((tag, wire)) = reader.field()? {
            let Ok(at) = definition.wire.binary_search_by_key(&tag, |(tag, _)| *tag) else {
                continue;
            };
            let index = definition.wire[at].1;
            let Some(field) = definition.fields.get(index) else {
                if let Wire::Bytes(inner) = wire {
                    let (_, inlined) = definition.inlined[index - definition.fields.len()];
                    self.fields(inner, inlined, depth + 1, out)?;
                }
                continue;
            };
            self.budget.spend()?;
            match (&field.kind, wire) {
                (Type::List(elements), Wire::Bytes(message)) if field.wrapped => {
                    let list = self.items(message, elements, depth + 1)?;
                    if !list.is_empty() {
                        out.insert(field.name.to_owned(), Value::Array(list));
                    }
                }
                (Type::List(elements), wire) => {
                    let slot = out
                        .entry(field.name)
                        .or_insert_with(|| Value::Array(Vec::new()));
                    let Value::Array(list) = slot else { continue };
                    match (elements, wire) {
                        (Type::Int32 | Type::Int64, Wire::Bytes(packed)) => {
                            let mut reader = Reader::new(packed);
                            while !reader.is_at_end() {
                                list.push((reader.varint()? as i64).into());
                            }
                        }
                        (_, wire) => list.push(
                            self.value(elements, wire, depth + 1)?
                                .unwrap_or_else(|| empty_element(elements)),
                        ),
                    }
                }
                (Type::Map(values), Wire::Bytes(entry)) => {
                    let (key, value) = self.entry(entry, values, depth + 1)?;
                    let slot = out
                        .entry(field.name)
                        .or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(map) = slot {
                        map.insert(key, value);
                    }
                }
                (kind, wire) => match self.value(kind, wire, depth + 1)? {
                    Some(value) if field.pointer || !is_empty(&value, kind) => {
                        drop(out.insert(field.name.to_owned(), value))
                    }
                    _ => drop(out.remove(field.name)),
                },
            }
        }
        Ok(())
    }

    /// A wrapper message `{repeated items = 1}`.
    fn items(&mut self, message: &[u8], elements: &Type, depth: usize) -> Decoded<Vec<Value>> {
        let mut list = Vec::new();
        let mut reader = Reader::new(message);
        while let Some((tag, wire)) = reader.field()? {
            if tag == 1 {
                self.budget.spend()?;
                list.push(
                    self.value(elements, wire, depth)?
                        .unwrap_or_else(|| empty_element(elements)),
                );
            }
        }
        Ok(list)
    }

    fn entry(&mut self, entry: &[u8], values: &Type, depth: usize) -> Decoded<(String, Value)> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(entry);
        while let Some((tag, wire)) = reader.field()? {
            match (tag, wire, values) {
                (1, Wire::Bytes(text), _) => key = string(text),
                (2, Wire::Bytes(message), Type::List(elements)) => {
                    value = Some(Value::Array(self.items(message, elements, depth)?))
                }
                (2, wire, _) => value = self.value(values, wire, depth)?,
                _ => {}
            }
        }
        Ok((key, value.unwrap_or_else(|| empty_element(values))))
    }

    /// One value; none for an unset time, and the like.
    fn value(&mut self, kind: &Type, wire: Wire, depth: usize) -> Decoded<Option<Value>> {
        let value = match (kind, wire) {
            (Type::String, Wire::Bytes(text)) => Value::String(string(text)),
            (Type::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
            (Type::Boolean, Wire::Varint(number)) => Value::Bool(number != 0),
            (Type::Int32, Wire::Varint(number)) => (number as i32).into(),
            (Type::Int64, Wire::Varint(number)) => (number as i64).into(),
            (Type::Double, Wire::Fixed64(bits)) => {
                let number = f64::from_bits(bits);
                json::float(number).map(Value::Number).ok_or_else(|| {
                    DecodeError::Syntax(format!("json: unsupported value: {number}"))
                })?
            }
            (Type::Time, Wire::Bytes(message)) => return time(message, SECOND_LAYOUT),
            (Type::MicroTime, Wire::Bytes(message)) => return time(message, MICRO_LAYOUT),
            (Type::Quantity, Wire::Bytes(message)) => {
                let text = string(first_bytes(message)?);
                let canonical = if text.is_empty() {
                    Ok("0".into())
                } else {
                    quantity::canonical(&text)
                };
                Value::String(
                    canonical
                        .map_err(|error| DecodeError::Value(error.to_string()))?
                        .into_owned(),
                )
            }
            (Type::IntOrString, Wire::Bytes(message)) => int_or_string(message)?,
            (Type::RawExtension | Type::FieldsV1 | Type::Json, Wire::Bytes(message)) => {
                return raw_json(first_bytes(message)?);
            }
            (
                Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStringArray,
                Wire::Bytes(message),
            ) => return self.schema_or(kind, message, depth),
            (Type::Object(definition), Wire::Bytes(message)) => {
                Value::Object(self.message(message, definition, depth)?)
            }
            (_, Wire::Varint(_) | Wire::Fixed64(_) | Wire::Fixed32 | Wire::Bytes(_)) => {
                return Err(malformed("wrong wireType"));
            }
        };
        Ok(Some(value))
    }

    fn schema_or(&mut self, kind: &Type, message: &[u8], depth: usize) -> Decoded<Option<Value>> {
        let props = json::schema_props();
        let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
        let mut reader = Reader::new(message);
        while let Some((tag, wire)) = reader.field()? {
            self.budget.spend()?;
            match (kind, tag, wire) {
                (Type::SchemaOrBool, 1, Wire::Varint(number)) => allows = number != 0,
                (Type::SchemaOrBool, 2, Wire::Bytes(message)) | (_, 1, Wire::Bytes(message)) => {
                    schema = Some(Value::Object(self.message(message, props, depth + 1)?))
                }
                (Type::SchemaOrStringArray, 2, Wire::Bytes(text)) => {
                    list.push(Value::String(string(text)))
                }
                (Type::SchemaOrArray, 2, Wire::Bytes(message)) => {
                    list.push(Value::Object(self.message(message, props, depth + 1)?))
                }
                _ => {}
            }
        }
        Ok(match (schema, kind) {
            (Some(schema), _) => Some(schema),
            (None, Type::SchemaOrBool) => Some(Value::Bool(allows)),
            (None, _) if list.is_empty() => None,
            (None, _) => Some(Value::Array(list)),
        })
    }
}

fn time(message: &[u8], layout: &str) -> Decoded<Option<Value>> {
    if message.is_empty() {
        return Ok(None);
    }
    let (mut second, mut nanosecond) = (0, 0);
    let mut reader = Reader::new(message);
    while let Some((tag, wire)) = reader.field()? {
        match (tag, wire) {
            (1, Wire::Varint(number)) => second = number as i64,
            (2, Wire::Varint(number)) => nanosecond = number as i32,
            _ => {}
        }
    }
    let time = Timestamp::new(second, nanosecond)
        .map_err(|error| DecodeError::Value(error.to_string()))?;
    Ok(Some(Value::String(print_time(time, layout))))
}

fn int_or_string(message: &[u8]) -> Decoded<Value> {
    let (mut is_string, mut number, mut text) = (false, 0, String::new());
    let mut reader = Reader::new(message);
    while let Some((tag, wire)) = reader.field()? {
        match (tag, wire) {
            (1, Wire::Varint(kind)) => is_string = kind == 1,
            (2, Wire::Varint(value)) => number = value as i32,
            (3, Wire::Bytes(value)) => text = string(value),
            _ => {}
        }
    }
    Ok(if is_string {
        Value::String(text)
    } else {
        Value::Number(Number::from(number))
    })
}

fn raw_json(raw: &[u8]) -> Decoded<Option<Value>> {
    if raw.is_empty() {
        return Ok(None);
    }
    json::decode_untyped(raw).map(|decoded| Some(decoded.value).filter(|value| !value.is_null()))
}
