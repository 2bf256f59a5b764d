//! Any object: its fields, named in words.

use serde_json::Value;

use super::labels_and_annotations;
use crate::value::{name, namespace, plain, text};

pub fn generic(object: &Value) -> String {
    let mut out = format!("Name:\t{}\nNamespace:\t{}\n", name(object), namespace(object)) + &labels_and_annotations(object);
    out += &format!("API Version:\t{}\nKind:\t{}\n", text(object, "/apiVersion"), text(object, "/kind"));
    let mut rest = object.clone();
    if let Some(fields) = rest.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            for known in ["name", "namespace", "labels", "annotations", "managedFields"] {
                metadata.remove(known);
            }
        }
    }
    fields(&rest, 0, &mut out);
    out
}

fn fields(value: &Value, level: usize, out: &mut String) {
    let indent = "  ".repeat(level);
    for (name, value) in value.as_object().into_iter().flatten() {
        let title = words(name);
        match value {
            Value::Object(inner) if inner.is_empty() => *out += &format!("{indent}{title}:\n"),
            Value::Object(_) => {
                *out += &format!("{indent}{title}:\n");
                fields(value, level + 1, out);
            }
            Value::Array(items) => {
                *out += &format!("{indent}{title}:\n");
                for item in items {
                    match item {
                        Value::Object(_) => fields(item, level + 1, out),
                        other => *out += &format!("{indent}  {}\n", plain(other)),
                    }
                }
            }
            other => *out += &format!("{indent}{title}:\t{}\n", plain(other)),
        }
    }
}

/// `creationTimestamp` as `Creation Timestamp`
fn words(name: &str) -> String {
    let mut out = String::new();
    let mut last_lower = false;
    for (index, c) in name.chars().enumerate() {
        if index == 0 {
            out.extend(c.to_uppercase());
        } else {
            if c.is_uppercase() && last_lower {
                out.push(' ');
            }
            out.push(c);
        }
        last_lower = c.is_lowercase() || c.is_ascii_digit();
    }
    match out.as_str() {
        "Uid" => "UID".to_owned(),
        _ => out,
    }
}
