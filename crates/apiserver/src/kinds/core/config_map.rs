//! Configuration for pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems};

/// Of all keys and values together.
const MAX_BYTES: usize = 1024 * 1024;

pub static KIND: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    definition: "io.k8s.api.core.v1.ConfigMap",
    storage: "configmaps",
    validate,
    validate_update,
    columns: &[NAME, text("Data", "io.k8s.api.core.v1.ConfigMap#data"), AGE],
    cells,
    ..NAMESPACED
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let (data, binary) = (root.at("data"), root.at("binaryData"));
    let mut bytes = 0;
    for (key, value) in data.entries() {
        problems.invalid_each_str(&value, key, api::names::config_map_key(key));
        if binary.key(key).exists() {
            problems.invalid_str(&value, key, &format!("duplicate of key present in {}", binary.path()));
        }
        bytes += value.len();
    }
    for (key, value) in binary.entries() {
        problems.invalid_each_str(&value, key, api::names::config_map_key(key));
        bytes += base64_len(value.str());
    }
    if bytes > MAX_BYTES {
        problems.too_long(&root, MAX_BYTES);
    }
}

/// Bytes that a base64 text stands for.
pub fn base64_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count().min(2);
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    if walk(old, "immutable").as_bool() != Some(true) {
        return;
    }
    let root = Cursor::root(new);
    if !root.at("immutable").bool() {
        problems.forbidden(&root.at("immutable"), "field is immutable when `immutable` is set");
    }
    for field in ["data", "binaryData"] {
        if root.at(field).value != walk(old, field) {
            problems.forbidden(&root.at(field), "field is immutable when `immutable` is set");
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |field| walk(object, field).as_object().map_or(0, serde_json::Map::len);
    vec![printing::name(object), json!(count("data") + count("binaryData")), printing::age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_update};

    #[test]
    fn keys_and_size() {
        check(&KIND, json!({"data": {"a.conf": "x"}}), "");
        check(
            &KIND,
            json!({"data": {"a/b": "x"}}),
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        );
        check(
            &KIND,
            json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}}),
            "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
        );
        check(
            &KIND,
            json!({"data": {"a": "x".repeat(MAX_BYTES + 1)}}),
            ": Too long: may not be more than 1048576 bytes",
        );
    }

    #[test]
    fn immutable_stays() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        check_update(&KIND, old.clone(), old.clone(), "");
        check_update(
            &KIND,
            json!({"immutable": true, "data": {"a": "c"}}),
            old.clone(),
            "data: Forbidden: field is immutable when `immutable` is set",
        );
        check_update(
            &KIND,
            json!({"data": {"a": "b"}}),
            old,
            "immutable: Forbidden: field is immutable when `immutable` is set",
        );
    }
}
