//! What differs between two objects, printed like the original's `cmp.Diff`.
//!
//! Invariant: for people alone: the original changes the print at will, so that nobody can parse it. Identical fields
//! are counted, not shown. Deliberately absent: the original's internal types, whose fields stand in another order.

use api::schema::{Definition, Type};
use serde_json::Value;

use super::problems::go_quoted;

/// ```text
///   core.PodSpec{
///   	... // 3 identical fields
/// - 	HostNetwork: false,
/// + 	HostNetwork: true,
///   }
/// ```
pub fn go_diff(definition: &str, old: &Value, new: &Value) -> String {
    let Some(definition) = api::schema::definition(definition) else { return String::new() };
    let mut out = String::new();
    line(&mut out, ' ', 0, &format!("{}{{", go_type(definition)));
    fields(&mut out, 1, definition, old, new);
    line(&mut out, ' ', 0, "}");
    out
}

fn line(out: &mut String, sign: char, depth: usize, text: &str) {
    out.push(sign);
    out.push(' ');
    out.extend(std::iter::repeat_n('\t', depth));
    out.push_str(text);
    out.push('\n');
}

fn identical(out: &mut String, depth: usize, count: &mut usize, what: &str) {
    if *count > 0 {
        let plural = if *count == 1 { "" } else { "s" };
        line(out, ' ', depth, &format!("... // {count} identical {what}{plural}"));
        *count = 0;
    }
}

fn fields(out: &mut String, depth: usize, definition: &Definition, old: &Value, new: &Value) {
    let mut same = 0;
    for field in definition.fields {
        let (before, after) = (old.get(field.name).unwrap_or(&Value::Null), new.get(field.name).unwrap_or(&Value::Null));
        if before == after {
            same += 1;
            continue;
        }
        identical(out, depth, &mut same, "field");
        let label = format!("{}: ", go_name(field.name));
        one(out, depth, &label, &field.kind, before, after);
    }
    identical(out, depth, &mut same, "field");
}

fn one(out: &mut String, depth: usize, label: &str, kind: &Type, old: &Value, new: &Value) {
    match (kind, old, new) {
        (Type::Object(definition), Value::Object(_), Value::Object(_)) => {
            line(out, ' ', depth, &format!("{label}{}{{", go_type(definition)));
            fields(out, depth + 1, definition, old, new);
            line(out, ' ', depth, "},");
        }
        (Type::List(Type::Object(definition)), Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            line(out, ' ', depth, &format!("{label}[]{}{{", go_type(definition)));
            let mut same = 0;
            for (before, after) in before.iter().zip(after) {
                if before == after {
                    same += 1;
                    continue;
                }
                identical(out, depth + 1, &mut same, "element");
                line(out, ' ', depth + 1, "{");
                fields(out, depth + 2, definition, before, after);
                line(out, ' ', depth + 1, "},");
            }
            identical(out, depth + 1, &mut same, "element");
            line(out, ' ', depth, "},");
        }
        _ => {
            for (sign, value) in [('-', old), ('+', new)] {
                line(out, sign, depth, &format!("{label}{},", literal(kind, value)));
            }
        }
    }
}

fn literal(kind: &Type, value: &Value) -> String {
    match (value, kind) {
        (Value::Null, _) => "nil".to_owned(),
        (Value::String(text), _) => go_quoted(text),
        (Value::Array(list), Type::List(inner)) => joined(list.iter().map(|value| literal(inner, value))),
        (Value::Object(map), Type::Map(inner)) => {
            joined(map.iter().map(|(key, value)| format!("{}: {}", go_quoted(key), literal(inner, value))))
        }
        (Value::Object(map), Type::Object(definition)) => joined(
            definition
                .fields
                .iter()
                .filter_map(|field| Some((field, map.get(field.name)?)))
                .map(|(field, value)| format!("{}: {}", go_name(field.name), literal(&field.kind, value))),
        ),
        (other, _) => other.to_string(),
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    format!("{{{}}}", parts.collect::<Vec<_>>().join(", "))
}

fn go_type(definition: &Definition) -> String {
    let package = if definition.name.starts_with("io.k8s.apimachinery") { "v1" } else { "core" };
    format!("{package}.{}", definition.short_name())
}

/// `dnsPolicy` is `DNSPolicy` in Go.
fn go_name(name: &str) -> String {
    const INITIALISMS: &[&str] =
        &["api", "csi", "dns", "fc", "fs", "grpc", "http", "ip", "iscsi", "nfs", "rbd", "tcp", "tty", "uid"];
    let head = name.find(|c: char| c.is_ascii_uppercase()).unwrap_or(name.len());
    let (first, rest) = name.split_at(head);
    if INITIALISMS.contains(&first) {
        return format!("{}{rest}", first.to_ascii_uppercase());
    }
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |letter| letter.to_ascii_uppercase().to_string() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_shown_in_its_place() {
        let old = json!({"containers": [{"name": "a"}, {"name": "b", "command": ["x"]}], "dnsPolicy": "Default"});
        let new = json!({"containers": [{"name": "a"}, {"name": "b", "command": ["y"]}], "dnsPolicy": "None", "hostname": "h"});
        let text = go_diff("io.k8s.api.core.v1.PodSpec", &old, &new);
        let shown: Vec<&str> = text.lines().filter(|line| !line.contains("identical")).collect();
        assert_eq!(
            shown,
            [
                "  core.PodSpec{",
                "  \tContainers: []core.Container{",
                "  \t\t{",
                "- \t\t\tCommand: {\"x\"},",
                "+ \t\t\tCommand: {\"y\"},",
                "  \t\t},",
                "  \t},",
                "- \tDNSPolicy: \"Default\",",
                "+ \tDNSPolicy: \"None\",",
                "- \tHostname: nil,",
                "+ \tHostname: \"h\",",
                "  }",
            ]
        );
        assert!(text.contains("  \t\t... // 1 identical element\n"), "{text}");
    }
}
