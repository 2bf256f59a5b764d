//! The three patches that clients send: JSON patch, JSON merge patch, strategic merge patch.
//!
//! Invariant: a patch that fails changes nothing. Deliberately absent: checking the result against the schema,
//! which `json::normalise` does for all of them.

mod json_patch;
mod strategic;

use std::fmt;

use serde_json::Value;

pub use json_patch::{OPERATIONS_MAX, json_patch};
pub use strategic::strategic_merge_patch;

/// Why a patch could not be applied; `Display` is the original's sentence.
#[derive(Clone, Debug, PartialEq)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    Malformed(String),
    /// The patch does not fit the object: 422.
    DoesNotApply(String),
}

impl fmt::Display for PatchError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (PatchError::Malformed(problem) | PatchError::DoesNotApply(problem)) = self;
        out.write_str(problem)
    }
}

impl std::error::Error for PatchError {}

/// RFC 7386: objects are merged, null removes, everything else replaces.
pub fn merge_patch(doc: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else {
        return patch.clone();
    };
    let mut merged = match doc {
        Value::Object(fields) => fields.clone(),
        _ => serde_json::Map::new(),
    };
    for (name, change) in changes {
        if change.is_null() {
            merged.remove(name);
        } else {
            let before = merged.get(name).unwrap_or(&Value::Null);
            let after = merge_patch(before, change);
            merged.insert(name.clone(), after);
        }
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests;
