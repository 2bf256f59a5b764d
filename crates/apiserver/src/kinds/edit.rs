//! Small edits of JSON, for defaults. Nothing is allocated where the value is already there.

use serde_json::{Map, Value};

pub type Object = Map<String, Value>;

/// The object at a path of names joined by dots.
pub fn object<'v>(value: &'v mut Value, path: &str) -> Option<&'v mut Object> {
    let mut at = value;
    for name in path.split('.') {
        at = at.get_mut(name)?;
    }
    at.as_object_mut()
}

/// Calls `edit` for each object of the list `map[field]`.
pub fn each(map: &mut Object, field: &str, mut edit: impl FnMut(&mut Object)) {
    if let Some(Value::Array(list)) = map.get_mut(field) {
        list.iter_mut().filter_map(Value::as_object_mut).for_each(&mut edit);
    }
}

/// Calls `edit` for the object `map[field]`.
pub fn inside(map: &mut Object, field: &str, edit: impl FnOnce(&mut Object)) {
    if let Some(Value::Object(inner)) = map.get_mut(field) {
        edit(inner);
    }
}

/// The object `map[field]`, made when missing.
pub fn make<'m>(map: &'m mut Object, field: &str) -> &'m mut Object {
    if !matches!(map.get(field), Some(Value::Object(_))) {
        map.insert(field.to_owned(), Value::Object(Object::new()));
    }
    map.get_mut(field).and_then(Value::as_object_mut).expect("it was just made")
}

/// Sets a field that is missing or null.
pub fn default(map: &mut Object, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a text that is missing or empty.
pub fn default_text(map: &mut Object, field: &str, value: &str) {
    if text(map, field).is_empty() {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a number that is missing or zero.
pub fn default_number(map: &mut Object, field: &str, value: i64) {
    if map.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
        map.insert(field.to_owned(), value.into());
    }
}

pub fn text<'m>(map: &'m Object, field: &str) -> &'m str {
    map.get(field).and_then(Value::as_str).unwrap_or("")
}

/// Copies the entries that `to` lacks.
pub fn fill(to: &mut Object, from: &Object) {
    for (key, value) in from {
        if !to.contains_key(key) {
            to.insert(key.clone(), value.clone());
        }
    }
}
