//! Configuration that is not for everybody.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::config_map::base64_len;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default_text, make};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems};

/// Of all values together.
const MAX_BYTES: usize = 1024 * 1024;

pub static KIND: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    definition: "io.k8s.api.core.v1.Secret",
    storage: "secrets",
    defaults,
    validate,
    validate_update,
    selectable_fields: &["type"],
    columns: &[
        NAME,
        text("Type", "io.k8s.api.core.v1.Secret#type"),
        text("Data", "io.k8s.api.core.v1.Secret#data"),
        AGE,
    ],
    cells,
    ..NAMESPACED
};

/// `stringData` is write-only: it goes into `data`.
fn defaults(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    default_text(map, "type", "Opaque");
    if let Some(Value::Object(texts)) = map.remove("stringData") {
        let data = make(map, "data");
        for (key, value) in texts {
            let encoded =
                base64::Engine::encode(&base64::engine::general_purpose::STANDARD, value.as_str().unwrap_or(""));
            data.insert(key, encoded.into());
        }
    }
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let data = root.at("data");
    let mut bytes = 0;
    for (key, value) in data.entries() {
        problems.invalid_each_str(&value, key, api::names::config_map_key(key));
        bytes += base64_len(value.str());
    }
    if bytes > MAX_BYTES {
        problems.too_long(&data, MAX_BYTES);
    }
    match root.at("type").str() {
        "kubernetes.io/service-account-token" => {
            let annotations = root.at("metadata.annotations");
            let name = annotations.key("kubernetes.io/service-account.name");
            if name.is_empty() {
                problems.required(&name, "");
            }
        }
        "kubernetes.io/dockercfg" => json_value(&data.key(".dockercfg"), problems),
        "kubernetes.io/dockerconfigjson" => json_value(&data.key(".dockerconfigjson"), problems),
        "kubernetes.io/basic-auth" => {
            let (user, password) = (data.key("username"), data.key("password"));
            if !user.exists() && !password.exists() {
                problems.required(&user, "");
                problems.required(&password, "");
            }
        }
        "kubernetes.io/ssh-auth" => {
            let key = data.key("ssh-privatekey");
            if key.is_empty() {
                problems.required(&key, "");
            }
        }
        "kubernetes.io/tls" => {
            for field in ["tls.crt", "tls.key"] {
                let value = data.key(field);
                if !value.exists() {
                    problems.required(&value, "");
                }
            }
        }
        _ => {}
    }
}

fn json_value(at: &Cursor, problems: &mut Problems) {
    if !at.exists() {
        problems.required(at, "");
        return;
    }
    let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, at.str()).unwrap_or_default();
    if let Err(why) = serde_json::from_slice::<serde_json::Map<String, Value>>(&decoded) {
        problems.invalid_str(at, "<secret contents redacted>", &json_problem(&why));
    }
}

/// As Go's decoder says it where it can be told.
fn json_problem(why: &serde_json::Error) -> String {
    match why.classify() {
        serde_json::error::Category::Eof => "unexpected end of JSON input".into(),
        _ => why.to_string(),
    }
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    problems.immutable(&root.at("type"), walk(old, "type"));
    if walk(old, "immutable").as_bool() != Some(true) {
        return;
    }
    if !root.at("immutable").bool() {
        problems.forbidden(&root.at("immutable"), "field is immutable when `immutable` is set");
    }
    if root.at("data").value != walk(old, "data") {
        problems.forbidden(&root.at("data"), "field is immutable when `immutable` is set");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = walk(object, "data").as_object().map_or(0, serde_json::Map::len);
    vec![printing::name(object), printing::string_at(object, "type"), json!(count), printing::age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_defaults, check_update};

    #[test]
    fn string_data_is_folded_in() {
        check_defaults(
            &KIND,
            json!({"stringData": {"a": "new"}, "data": {"a": "b2xk", "b": "eA=="}}),
            json!({"type": "Opaque", "data": {"a": "bmV3", "b": "eA=="}}),
        );
    }

    #[test]
    fn types_want_their_keys() {
        check(&KIND, json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), "data[tls.key]: Required value");
        check(
            &KIND,
            json!({"type": "kubernetes.io/service-account-token"}),
            "metadata.annotations[kubernetes.io/service-account.name]: Required value",
        );
        check(
            &KIND,
            json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": ""}}),
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input",
        );
    }

    #[test]
    fn the_type_stays() {
        check_update(
            &KIND,
            json!({"type": "a/b"}),
            json!({"type": "Opaque"}),
            "type: Invalid value: \"a/b\": field is immutable",
        );
    }
}
