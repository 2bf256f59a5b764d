//! Reading fields of dynamic objects without ceremony. A field that is missing or of another type reads as empty.

use serde_json::{Map, Value, json};

pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub fn int(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

pub fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn map<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a str, &'a Value)> + 'a {
    let found = object.pointer(pointer).and_then(Value::as_object);
    found.into_iter().flat_map(|map| map.iter().map(|(key, value)| (key.as_str(), value)))
}

/// `a=1,b=2`, or `none` when there are none.
pub fn pairs(object: &Value, pointer: &str, none: &str) -> String {
    let all: Vec<String> = map(object, pointer).map(|(key, value)| format!("{key}={}", plain(value))).collect();
    if all.is_empty() { none.to_owned() } else { all.join(",") }
}

/// A scalar without quotes; anything else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Like `value[a][b][c] = new`, with the objects on the way made where they are missing.
pub fn set(object: &mut Value, path: &[&str], new: Value) {
    let mut at = object;
    for part in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = at.as_object_mut().expect("made an object just above").entry((*part).to_owned()).or_insert(Value::Null);
    }
    *at = new;
}

/// The object at `path`, made where it is missing.
pub fn object_at<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut at = object;
    for part in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = at.as_object_mut().expect("made an object just above").entry((*part).to_owned()).or_insert(Value::Null);
    }
    if !at.is_object() {
        *at = json!({});
    }
    at.as_object_mut().expect("made an object just above")
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// `name` at the top, as kubeconfig entries, containers and conditions have it.
pub fn name_of(object: &Value) -> &str {
    text(object, "/name")
}
