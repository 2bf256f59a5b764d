//! The OpenAPI v2 document in gnostic's protobuf form, the only one that kubectl asks for.
//!
//! Invariant: says what the JSON document says, as far as a Kubernetes document uses the format. Source: the
//! message definitions of gnostic's `openapi.v2`. Deliberately absent: the parts of OpenAPI that Kubernetes has no
//! use for (forms, headers, OAuth, examples).

use api::protobuf::Writer;
use serde_json::{Map, Value};

/// A whole `openapi.v2.Document`; `document` is all but paths and definitions.
pub fn encode(
    document: &Value,
    paths: impl Iterator<Item = (String, Value)>,
    definitions: impl Iterator<Item = (String, Value)>,
) -> Vec<u8> {
    let mut out = Writer::default();
    text(&mut out, 1, &document["swagger"]);
    out.message(2, |out| {
        text(out, 1, &document["info"]["title"]);
        text(out, 2, &document["info"]["version"]);
    });
    out.message(8, |out| {
        for (path, item) in paths {
            named(out, 2, &path, |out| path_item(out, &item));
        }
    });
    out.message(9, |out| {
        for (name, definition) in definitions {
            named(out, 1, &name, |out| schema(out, &definition));
        }
    });
    for requirement in items(&document["security"]) {
        out.message(12, |out| security_requirement(out, requirement));
    }
    out.message(13, |out| {
        for (name, definition) in entries(&document["securityDefinitions"]) {
            named(out, 1, name, |out| out.message(2, |out| api_key(out, definition)));
        }
    });
    out.into_bytes()
}

fn path_item(out: &mut Writer, item: &Value) {
    const METHODS: &[(&str, u32)] =
        &[("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];
    for (method, tag) in METHODS {
        if item[method].is_object() {
            out.message(*tag, |out| operation(out, &item[method]));
        }
    }
    for each in items(&item["parameters"]) {
        out.message(9, |out| out.message(1, |out| parameter(out, each)));
    }
    extensions(out, 10, item);
}

fn operation(out: &mut Writer, operation: &Value) {
    texts(out, 1, &operation["tags"]);
    text(out, 2, &operation["summary"]);
    text(out, 3, &operation["description"]);
    text(out, 5, &operation["operationId"]);
    texts(out, 6, &operation["produces"]);
    texts(out, 7, &operation["consumes"]);
    for each in items(&operation["parameters"]) {
        out.message(8, |out| out.message(1, |out| parameter(out, each)));
    }
    out.message(9, |out| {
        for (code, response) in entries(&operation["responses"]) {
            named(out, 1, code, |out| out.message(1, |out| answer(out, response)));
        }
    });
    texts(out, 10, &operation["schemes"]);
    flag(out, 11, &operation["deprecated"]);
    extensions(out, 13, operation);
}

/// A body, or something in the path or the query.
fn parameter(out: &mut Writer, parameter: &Value) {
    match parameter["in"].as_str() {
        Some("body") => out.message(1, |out| {
            text(out, 1, &parameter["description"]);
            text(out, 2, &parameter["name"]);
            text(out, 3, &parameter["in"]);
            flag(out, 4, &parameter["required"]);
            out.message(5, |out| schema(out, &parameter["schema"]));
        }),
        Some("path") => out.message(2, |out| {
            out.message(4, |out| {
                named_parameter(out, parameter);
                text(out, 5, &parameter["type"]);
                text(out, 6, &parameter["format"]);
                flag(out, 19, &parameter["uniqueItems"]);
            });
        }),
        _ => out.message(2, |out| {
            out.message(3, |out| {
                named_parameter(out, parameter);
                text(out, 6, &parameter["type"]);
                text(out, 7, &parameter["format"]);
                flag(out, 20, &parameter["uniqueItems"]);
            });
        }),
    }
}

fn named_parameter(out: &mut Writer, parameter: &Value) {
    flag(out, 1, &parameter["required"]);
    text(out, 2, &parameter["in"]);
    text(out, 3, &parameter["description"]);
    text(out, 4, &parameter["name"]);
}

fn answer(out: &mut Writer, response: &Value) {
    text(out, 1, &response["description"]);
    if response["schema"].is_object() {
        out.message(2, |out| out.message(1, |out| schema(out, &response["schema"])));
    }
}

fn schema(out: &mut Writer, schema: &Value) {
    text(out, 1, &schema["$ref"]);
    text(out, 2, &schema["format"]);
    text(out, 4, &schema["description"]);
    if let Some(default) = schema.get("default") {
        out.message(5, |out| any(out, default));
    }
    texts(out, 19, &schema["required"]);
    for each in items(&schema["enum"]) {
        out.message(20, |out| any(out, each));
    }
    match &schema["additionalProperties"] {
        Value::Bool(allowed) => out.message(21, |out| out.integer(2, i64::from(*allowed))),
        Value::Object(_) => {
            out.message(21, |out| out.message(1, |out| self::schema(out, &schema["additionalProperties"])));
        }
        _ => {}
    }
    if schema["type"].is_string() {
        out.message(22, |out| text(out, 1, &schema["type"]));
    }
    if schema["items"].is_object() {
        out.message(23, |out| out.message(1, |out| self::schema(out, &schema["items"])));
    }
    for each in items(&schema["allOf"]) {
        out.message(24, |out| self::schema(out, each));
    }
    if schema["properties"].is_object() {
        out.message(25, |out| {
            for (name, property) in entries(&schema["properties"]) {
                named(out, 1, name, |out| self::schema(out, property));
            }
        });
    }
    extensions(out, 31, schema);
}

fn security_requirement(out: &mut Writer, requirement: &Value) {
    for (name, scopes) in entries(requirement) {
        named(out, 1, name, |out| texts(out, 1, scopes));
    }
}

fn api_key(out: &mut Writer, definition: &Value) {
    text(out, 1, &definition["type"]);
    text(out, 2, &definition["name"]);
    text(out, 3, &definition["in"]);
    text(out, 4, &definition["description"]);
}

fn extensions(out: &mut Writer, tag: u32, of: &Value) {
    for (name, value) in entries(of).filter(|(name, _)| name.starts_with("x-")) {
        named(out, tag, name, |out| any(out, value));
    }
}

/// A free value travels as YAML, of which JSON is a part.
fn any(out: &mut Writer, value: &Value) {
    out.bytes(2, format!("{value}\n").as_bytes());
}

/// `{name = 1, value = 2}`
fn named(out: &mut Writer, tag: u32, name: &str, value: impl FnOnce(&mut Writer)) {
    out.message(tag, |out| {
        out.bytes(1, name.as_bytes());
        out.message(2, value);
    });
}

fn text(out: &mut Writer, tag: u32, value: &Value) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        out.bytes(tag, text.as_bytes());
    }
}

fn texts(out: &mut Writer, tag: u32, value: &Value) {
    for text in items(value).filter_map(Value::as_str) {
        out.bytes(tag, text.as_bytes());
    }
}

fn flag(out: &mut Writer, tag: u32, value: &Value) {
    if value.as_bool() == Some(true) {
        out.integer(tag, 1);
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_small_document_is_encoded_field_by_field() {
        let document = json!({"swagger": "2.0", "definitions": {"A": {"type": "object", "x-b": [1]}}});
        let mut expected = vec![0x0a, 3, b'2', b'.', b'0']; // swagger
        expected.extend([0x12, 0, 0x42, 0]); // info, paths
        expected.extend([0x4a, 34, 0x0a, 32, 0x0a, 1, b'A', 0x12, 27]); // definitions, one named A
        expected.extend([0xb2, 0x01, 8, 0x0a, 6]); // its type
        expected.extend(b"object");
        expected.extend([0xfa, 0x01, 13, 0x0a, 3]); // its extension, as YAML
        expected.extend(b"x-b");
        expected.extend([0x12, 6, 0x12, 4]);
        expected.extend(b"[1]\n");
        expected.extend([0x6a, 0]); // securityDefinitions
        let members = |name: &str| document[name].as_object().cloned().unwrap_or_default().into_iter();
        assert_eq!(encode(&document, members("paths"), members("definitions")), expected);
    }
}
