//! Decodes JSON as the original does: types checked, unknown and duplicate fields named, then what Go would write
//! again after reading it.
//!
//! Invariant: a decoded value is in normal form. Nulls and the zero values that Go omits are gone, fields that Go
//! always writes are there, times and quantities are canonical; decoding it again changes nothing.
//! Deliberately absent: defaults and validation, which belong to each kind.

mod decode;
mod scan;
mod time;
mod zero;

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use crate::schema::Definition;

pub(crate) use decode::{float, schema_props};
pub(crate) use time::{MICRO_LAYOUT, SECOND_LAYOUT, parse_time, print_time};
pub(crate) use zero::{empty_element, is_empty, written_when_empty};

/// Deeper nesting is refused; `serde_json` stops at the same depth.
pub const DEPTH_MAX: usize = 128;
/// No more problems than this are told, as in the original.
const PROBLEMS_MAX: usize = 100;

/// Fields that one body may make: a few bytes of text must not become a gigabyte of objects.
const FIELDS_MAX: usize = 2_000_000;

/// What is left of `FIELDS_MAX`.
pub(crate) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Budget(FIELDS_MAX)
    }
}

impl Budget {
    pub(crate) fn spend(&mut self) -> Result<(), DecodeError> {
        self.0 = self
            .0
            .checked_sub(1)
            .ok_or_else(|| DecodeError::Syntax("the object has too many fields".to_owned()))?;
        Ok(())
    }
}

#[derive(Debug)]
pub struct Decoded {
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.x"`, in the order of the text.
    pub strict_problems: Vec<String>,
}

/// Why a body could not be decoded; `Display` is the sentence of Go's decoder.
#[derive(Clone, Debug, PartialEq)]
pub enum DecodeError {
    /// Not JSON (or YAML, or protobuf).
    Syntax(String),
    /// JSON of the wrong type.
    Type {
        /// What stands there: `string`, `number 1.5`.
        found: String,
        /// `DeploymentSpec.spec.replicas`, or nothing at the top.
        field: Option<String>,
        /// What Go wanted: `int32`.
        wanted: String,
    },
    /// A quantity, time or base64 text that is malformed.
    Value(String),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Syntax(problem) | DecodeError::Value(problem) => out.write_str(problem),
            DecodeError::Type {
                found,
                field: Some(field),
                wanted,
            } => write!(
                out,
                "json: cannot unmarshal {found} into Go struct field {field} of type {wanted}"
            ),
            DecodeError::Type {
                found,
                field: None,
                wanted,
            } => write!(
                out,
                "json: cannot unmarshal {found} into Go value of type {wanted}"
            ),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Bytes as text. Go, too, replaces what is no UTF-8; to ask first whether something is takes a fraction of the time.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// Decodes a body by its definition. Whoever calls decides what strict problems mean.
pub fn decode(body: &[u8], definition: &'static Definition) -> Result<Decoded, DecodeError> {
    let text = text(body);
    let (value, strict_problems) = decode::decode(&text, definition)?;
    Ok(Decoded {
        value,
        strict_problems,
    })
}

/// Decodes JSON that has no schema, such as a patch or a custom resource; duplicate fields are named.
pub fn decode_untyped(body: &[u8]) -> Result<Decoded, DecodeError> {
    let text = text(body);
    let (value, strict_problems) = decode::decode_untyped(&text)?;
    Ok(Decoded {
        value,
        strict_problems,
    })
}

/// The same for a value that came from YAML or a patch; returns the unknown fields.
pub fn normalise(
    value: &mut Value,
    definition: &'static Definition,
) -> Result<Vec<String>, DecodeError> {
    let text = encode(value);
    let decoded = decode(&text, definition)?;
    *value = decoded.value;
    Ok(decoded.strict_problems)
}

/// `apiVersion` and `kind` of a body, without decoding the rest.
pub fn type_meta(body: &[u8]) -> Result<(String, String), DecodeError> {
    decode::type_meta(&text(body))
}

/// Compact JSON.
pub fn encode(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("values have string keys and finite numbers")
}

#[cfg(test)]
mod tests;
