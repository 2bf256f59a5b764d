//! JSON as Go writes its structs: the fields in the order of their declaration.
//!
//! Invariant: generators print what the original's typed objects print. Deliberately absent: what came from a server
//! as it is, which has its keys sorted.

use api::schema::{Definition, Type, definition_of_kind};
use serde_json::Value;

use super::escape_html;
use crate::value::text;

/// Four spaces, as `-o json` has it.
pub fn pretty(object: &Value) -> String {
    let mut out = String::new();
    write(object, shape_of(object), Some(0), &mut out);
    escape_html(&out)
}

/// One line, as the annotation of the last applied configuration has it.
pub fn compact(object: &Value) -> String {
    let mut out = String::new();
    write(object, shape_of(object), None, &mut out);
    escape_html(&out)
}

fn shape_of(object: &Value) -> Shape {
    Shape { definition: definition_of_kind(text(object, "/apiVersion"), text(object, "/kind")), kind: None }
}

/// What is known of a value: its definition, or the type that leads to one.
#[derive(Clone, Copy)]
struct Shape {
    definition: Option<&'static Definition>,
    kind: Option<&'static Type>,
}

impl Shape {
    fn of(kind: Option<&'static Type>) -> Shape {
        Shape { definition: kind.filter(|kind| matches!(kind, Type::Object(_))).and_then(Type::definition), kind }
    }

    fn of_item(self) -> Shape {
        Shape::of(match self.kind {
            Some(Type::List(inner) | Type::Map(inner)) => Some(*inner),
            _ => None,
        })
    }

    fn of_field(self, name: &str) -> Shape {
        match self.definition {
            Some(definition) => Shape::of(definition.field(name).map(|field| &field.kind)),
            None => self.of_item(),
        }
    }

    /// `kind` and `apiVersion` come first, as they are embedded first.
    fn place(self, name: &str) -> (u32, u32) {
        match (name, self.definition) {
            ("kind", Some(_)) => (0, 0),
            ("apiVersion", Some(_)) => (0, 1),
            (_, Some(definition)) => (1, definition.field(name).map_or(u32::MAX, |field| field.tag)),
            (_, None) => (1, 0),
        }
    }
}

fn write(value: &Value, shape: Shape, level: Option<usize>, out: &mut String) {
    let inner = level.map(|level| level + 1);
    let line = |level: Option<usize>, out: &mut String| {
        if let Some(level) = level {
            out.push('\n');
            out.extend(std::iter::repeat_n("    ", level));
        }
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_by_key(|name| shape.place(name));
            out.push('{');
            for (index, name) in names.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                line(inner, out);
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push_str(if level.is_some() { ": " } else { ":" });
                write(&fields[name], shape.of_field(name), inner, out);
            }
            line(level, out);
            out.push('}');
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                line(inner, out);
                write(item, shape.of_item(), inner, out);
            }
            line(level, out);
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_stand_in_the_order_of_their_declaration() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "1", "a": "2"}, "metadata": {"labels": {"x": "y"}, "name": "m"}});
        assert_eq!(
            compact(&map),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"m","labels":{"x":"y"}},"data":{"a":"2","b":"1"}}"#
        );
        assert_eq!(pretty(&json!({"apiVersion": "v1", "kind": "Pod", "spec": {}})), "{\n    \"kind\": \"Pod\",\n    \"apiVersion\": \"v1\",\n    \"spec\": {}\n}");
    }
}
