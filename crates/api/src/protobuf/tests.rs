//! Every kind, every field, there and back.

use super::*;
use crate::json;
use crate::schema::{Field, Type};
use serde_json::{Map, json};

/// A value with every field set to something that is not zero.
pub(crate) fn filled(definition: &'static Definition, depth: usize) -> Value {
    let mut out = Map::new();
    for field in definition.fields {
        if depth > 0 && field.tag == 0 && ["apiVersion", "kind"].contains(&field.name) {
            continue; // Items of lists have no envelope.
        }
        if let Some(value) = filled_value(field, &field.kind, depth) {
            out.insert(field.name.to_owned(), value);
        }
    }
    Value::Object(out)
}

fn filled_value(field: &Field, kind: &Type, depth: usize) -> Option<Value> {
    Some(match kind {
        Type::String => json!(format!("{} {depth}", field.name)),
        Type::Boolean => json!(true),
        Type::Int32 => json!(-7 - depth as i64),
        Type::Int64 => json!(1i64 << 40),
        Type::Double => json!(1.25),
        Type::Bytes => json!("AAEC/w=="),
        Type::Time => json!("2026-02-03T04:05:06Z"),
        Type::MicroTime => json!("2026-02-03T04:05:06.789012Z"),
        Type::Quantity => json!("1536Mi"),
        Type::IntOrString => {
            if depth.is_multiple_of(2) {
                json!("25%")
            } else {
                json!(8080)
            }
        }
        Type::RawExtension | Type::FieldsV1 | Type::Json => json!({"f:a": {}, "n": [1, 2.5, null]}),
        Type::SchemaOrArray if depth < 6 => json!([filled(json::schema_props(), depth + 3)]),
        Type::SchemaOrBool if depth < 6 => filled(json::schema_props(), depth + 3),
        Type::SchemaOrBool => json!(false),
        Type::SchemaOrStringArray => json!(["a", "b"]),
        Type::Object(inner)
            if depth < 12 && (depth < 4 || !inner.short_name().starts_with("JSONSchemaProps")) =>
        {
            filled(inner, depth + 1)
        }
        Type::List(inner) => json!([
            filled_value(field, inner, depth + 1)?,
            filled_value(field, inner, depth + 2)?
        ]),
        Type::Map(inner) => {
            json!({"a": filled_value(field, inner, depth + 1)?, "b": filled_value(field, inner, depth + 2)?})
        }
        Type::SchemaOrArray | Type::Object(_) => return None,
    })
}

#[track_caller]
fn check(mut value: Value, definition: &'static Definition) {
    let unknown = json::normalise(&mut value, definition).unwrap();
    assert_eq!(unknown, Vec::<String>::new(), "{}", definition.name);
    let message = encode(&value, definition);
    let back = decode_as(&message, definition).unwrap();
    assert_eq!(back, value, "{}", definition.name);
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let direct = encode_text(text("apiVersion"), text("kind"), &value.to_string(), definition);
    assert!(direct == message, "{}: text and tree give the same message", definition.name);
}

#[test]
fn every_kind_filled_and_empty() {
    let mut kinds = 0;
    for definition in crate::schema::definitions() {
        let Some((group, version, kind)) = definition.group_version_kinds.first() else {
            continue;
        };
        let api_version = if group.is_empty() {
            (*version).to_owned()
        } else {
            format!("{group}/{version}")
        };
        let mut value = filled(definition, 0);
        if definition.field("kind").is_some() {
            value["apiVersion"] = json!(api_version);
            value["kind"] = json!(kind);
        }
        if *kind != "WatchEvent" {
            check(value, definition);
            check(json!({}), definition);
            kinds += 1;
        }
    }
    assert!(kinds > 180, "{kinds}");
}

#[test]
fn known_bytes() {
    let definition = crate::schema::definition_of_kind("v1", "ConfigMap").unwrap();
    let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let body = encode(&value, definition);
    assert_eq!(&body[..21], b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap");
    // metadata: name, then the strings and numbers that Go writes though they are empty.
    assert_eq!(&body[23..], b"\x0a\x11\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0\x12\x06\x0a\x01k\x12\x01v\x1a\0\x22\0".as_slice());
    assert_eq!(decode(&body).unwrap(), value);
}

#[test]
fn pointers_keep_their_zeros() {
    let definition = crate::schema::definition_of_kind("apps/v1", "Deployment").unwrap();
    let value = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {"replicas": 0, "selector": {}, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}}, "status": {}});
    assert_eq!(decode(&encode(&value, definition)).unwrap(), value);
}

#[test]
fn lists_and_watch_events() {
    let pod = crate::schema::definition_of_kind("v1", "Pod").unwrap();
    let list = crate::schema::definition_of_kind("v1", "PodList").unwrap();
    let mut item = json!({"metadata": {"name": "a"}});
    json::normalise(&mut item, pod).unwrap();
    let whole = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": [item, item]});
    let mut assembled = ListMessage::default();
    assembled.add(&item.to_string(), pod);
    assembled.add(&item.to_string(), pod);
    let assembled = assembled.finish("v1", "PodList", &whole["metadata"]).concat();
    assert_eq!(assembled, encode(&whole, list));
    let frame = encode_watch_event("ADDED", &encode(&item, pod));
    assert_eq!(
        frame.len() - 4,
        u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize
    );
    let (event_type, object) = decode_watch_event(&frame[4..]).unwrap();
    assert_eq!(
        (event_type.as_str(), decode_as(&object, pod).unwrap()),
        ("ADDED", item)
    );
}

#[test]
fn text_that_needs_care() {
    let map = crate::schema::definition_of_kind("v1", "ConfigMap").unwrap();
    let long = "x".repeat(20_000);
    let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "immutable": true, "metadata": {"name": "a"},
        "data": {"": "", "a": "\"}]\\", "b": "é\u{0}\n,:", "c\"\\": "{", "d": "\\", "long": long}});
    check(value, map);
    let pod = crate::schema::definition_of_kind("v1", "Pod").unwrap();
    let text = json!({"metadata": {"name": "a\n\u{e9}", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}).to_string();
    for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        encode_text("v1", "Pod", &text[..end], pod); // Any answer but a panic.
        encode_text("v1", "Pod", &text[end..], pod);
        encode_text("v1", "Pod", &text.replace(&text[..end], "{\"metadata\":["), pod);
    }
}

#[test]
fn long_lists_come_in_pieces() {
    let map = crate::schema::definition_of_kind("v1", "ConfigMap").unwrap();
    let mut list = ListMessage::default();
    let mut items = Vec::new();
    for index in 0..300 {
        let item = json!({"metadata": {"name": format!("m-{index}")}, "data": {"a": "x".repeat(1000)}});
        list.add(&item.to_string(), map);
        items.push(item);
    }
    let whole = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": items});
    let pieces = list.finish("v1", "ConfigMapList", &whole["metadata"]);
    assert!(pieces.len() > 4 && pieces.iter().all(|piece| piece.len() < 200_000));
    let definition = crate::schema::definition_of_kind("v1", "ConfigMapList").unwrap();
    assert!(pieces.concat() == encode(&whole, definition));
}

#[test]
fn hostile_input() {
    let pod = crate::schema::definition_of_kind("v1", "Pod").unwrap();
    assert!(
        decode(b"{}")
            .unwrap_err()
            .to_string()
            .starts_with("provided data does not appear to be a protobuf message")
    );
    let mut value = filled(pod, 0);
    json::normalise(&mut value, pod).unwrap();
    let body = encode(&value, pod);
    for length in (0..body.len().min(3000)).step_by(11) {
        let _ = decode_as(&body[..length], pod); // Any answer but a panic.
        let mut broken = body.clone();
        broken[length] ^= 0xff;
        let _ = decode_as(&broken, pod);
    }
}
