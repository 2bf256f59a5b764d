//! `application/vnd.kubernetes.protobuf`, both ways, driven by the schema table.
//!
//! Invariant: JSON to protobuf and back is the identity on values in normal form. Scalars that are no pointers in
//! Go are written even when zero, as Go does, and are dropped again when read.
//! Deliberately absent: generated messages; kinds without a definition, custom resources among them, have no
//! protobuf form, here as upstream.

mod decode;
mod encode;
mod node;
mod wire;

pub use wire::Writer;

use serde_json::Value;

use crate::json::DecodeError;
use crate::schema::{self, Definition};

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every message starts with.
const MAGIC: &[u8; 4] = b"k8s\0";

/// A message in its envelope, the kind taken from the envelope; the value has `apiVersion` and `kind`.
pub fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let envelope = decode::Envelope::read(body)?;
    let definition =
        schema::definition_of_kind(&envelope.api_version, &envelope.kind).ok_or_else(|| {
            DecodeError::Syntax(format!(
                "no kind {:?} is registered for version {:?}",
                envelope.kind, envelope.api_version
            ))
        })?;
    decode::object(&envelope, definition)
}

/// The same where the caller knows the definition, whatever version the envelope names.
pub fn decode_as(body: &[u8], definition: &'static Definition) -> Result<Value, DecodeError> {
    decode::object(&decode::Envelope::read(body)?, definition)
}

/// `apiVersion` and `kind` of the envelope.
pub fn type_meta(body: &[u8]) -> Result<(String, String), DecodeError> {
    let envelope = decode::Envelope::read(body)?;
    Ok((envelope.api_version, envelope.kind))
}

/// The message in its envelope; `apiVersion` and `kind` are taken from the value.
pub fn encode(value: &Value, definition: &'static Definition) -> Vec<u8> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    envelope(text("apiVersion"), text("kind"), |writer| {
        encode::object(writer, value, definition)
    })
}

/// The same from an object in normal form as JSON text without white space, which is not made a tree.
pub fn encode_text(
    api_version: &str,
    kind: &str,
    json: &str,
    definition: &'static Definition,
) -> Vec<u8> {
    envelope(api_version, kind, |writer| {
        encode::object(writer, node::Text(json), definition)
    })
}

/// A list in its envelope, made item by item. Its length stands before its items: so all are made before any is sent.
#[derive(Default)]
pub struct ListMessage {
    full: Vec<Vec<u8>>,
    filling: Writer,
    bytes: usize,
}

/// About as much is sent at a time.
const PIECE_BYTES: usize = 128 << 10;

impl ListMessage {
    /// Adds an object in normal form, as JSON text without white space.
    pub fn add(&mut self, json: &str, definition: &'static Definition) {
        if self.filling.len() >= PIECE_BYTES {
            let room = Writer::with_capacity(PIECE_BYTES + PIECE_BYTES / 8);
            self.keep(room);
        }
        self.filling.message(2, |writer| {
            encode::object(writer, node::Text(json), definition)
        });
    }

    fn keep(&mut self, next: Writer) {
        let full = std::mem::replace(&mut self.filling, next);
        self.bytes += full.len();
        self.full.push(full.into_bytes());
    }

    /// The whole message, in pieces. `kind` is the list's.
    pub fn finish(mut self, api_version: &str, kind: &str, metadata: &Value) -> Vec<Vec<u8>> {
        let definition = schema::definition("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")
            .expect("the table holds meta/v1");
        self.keep(Writer::default());
        let mut list = Writer::default();
        list.message(1, |writer| encode::object(writer, metadata, definition));
        let mut head = Writer::starting_with(MAGIC);
        head.message(1, |writer| type_meta_message(writer, api_version, kind));
        head.begin_message(2, list.len() + self.bytes);
        let mut tail = Writer::default();
        no_encoding(&mut tail);
        self.full.insert(0, [head.into_bytes(), list.into_bytes()].concat());
        self.full.push(tail.into_bytes());
        self.full
    }
}

/// A frame of a watch: four bytes of length, then the event. `object` is a message in its envelope.
pub fn encode_watch_event(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(1, event_type.as_bytes());
    writer.message(2, |writer| writer.bytes(1, object));
    let event = writer.into_bytes();
    let length = u32::try_from(event.len()).expect("an object is far below 4 GiB");
    [&length.to_be_bytes()[..], &event].concat()
}

/// The event of a frame (without its length): its type, and the object in its envelope.
pub fn decode_watch_event(event: &[u8]) -> Result<(String, Vec<u8>), DecodeError> {
    decode::watch_event(event)
}

/// `runtime.Unknown` around a message.
fn envelope(api_version: &str, kind: &str, raw: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::starting_with(MAGIC);
    writer.message(1, |writer| type_meta_message(writer, api_version, kind));
    writer.message(2, raw);
    no_encoding(&mut writer);
    writer.into_bytes()
}

fn type_meta_message(writer: &mut Writer, api_version: &str, kind: &str) {
    writer.bytes(1, api_version.as_bytes());
    writer.bytes(2, kind.as_bytes());
}

/// Content encoding and content type, which Go writes though they are empty.
fn no_encoding(writer: &mut Writer) {
    writer.bytes(3, b"");
    writer.bytes(4, b"");
}

#[cfg(test)]
mod tests;
