//! What is wrong with an object, worded as the original words it.

use std::fmt::{self, Write};

use serde_json::Value;

use super::Cursor;

/// Collects problems in the order in which the original reports them.
#[derive(Default, Debug)]
pub struct Problems {
    pub list: Vec<Problem>,
}

/// A `StatusCause`: reason `FieldValue...`, the field's path, and the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: ProblemReason,
    /// `spec.template.spec.containers[0].name`
    pub field: String,
    /// `Invalid value: "a_b": a lowercase RFC 1123 label must consist of ...`
    pub detail: String,
}

/// The `reason` of a `StatusCause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemReason {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
}

impl ProblemReason {
    /// As it stands in `details.causes[].reason`.
    pub const fn cause(self) -> &'static str {
        match self {
            ProblemReason::NotFound => "FieldValueNotFound",
            ProblemReason::Required => "FieldValueRequired",
            ProblemReason::Duplicate => "FieldValueDuplicate",
            ProblemReason::Invalid => "FieldValueInvalid",
            ProblemReason::NotSupported => "FieldValueNotSupported",
            ProblemReason::Forbidden => "FieldValueForbidden",
            ProblemReason::TooLong => "FieldValueTooLong",
            ProblemReason::TooMany => "FieldValueTooMany",
            ProblemReason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            ProblemReason::NotFound => "Not found",
            ProblemReason::Required => "Required value",
            ProblemReason::Duplicate => "Duplicate value",
            ProblemReason::Invalid | ProblemReason::TypeInvalid => "Invalid value",
            ProblemReason::NotSupported => "Unsupported value",
            ProblemReason::Forbidden => "Forbidden",
            ProblemReason::TooLong => "Too long",
            ProblemReason::TooMany => "Too many",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.field, self.detail)
    }
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn required(&mut self, at: &Cursor, detail: &str) {
        self.add(ProblemReason::Required, at, None, detail);
    }

    pub fn forbidden(&mut self, at: &Cursor, detail: &str) {
        self.add(ProblemReason::Forbidden, at, None, detail);
    }

    /// Complains about the cursor's own value.
    pub fn invalid(&mut self, at: &Cursor, detail: &str) {
        self.add(ProblemReason::Invalid, at, Some(&printed(at.value)), detail);
    }

    /// Complains about an object that the original does not print.
    pub fn invalid_omitted(&mut self, at: &Cursor, detail: &str) {
        self.add(ProblemReason::Invalid, at, None, detail);
    }

    /// The same for a map or an object, where the cursor's value may be missing (Go sees `{}` or null).
    pub fn invalid_object(&mut self, at: &Cursor, detail: &str) {
        let value = if at.exists() { printed(at.value) } else { "null".to_owned() };
        self.add(ProblemReason::Invalid, at, Some(&value), detail);
    }

    /// The same for a text, where the cursor's value may be missing (Go sees `""`).
    pub fn invalid_str(&mut self, at: &Cursor, value: &str, detail: &str) {
        self.add(ProblemReason::Invalid, at, Some(&go_quoted(value)), detail);
    }

    /// The same for a number or a boolean.
    pub fn invalid_plain(&mut self, at: &Cursor, value: impl fmt::Display, detail: &str) {
        self.add(ProblemReason::Invalid, at, Some(&value.to_string()), detail);
    }

    /// One problem for each sentence, as the checks of `api::names` return them.
    pub fn invalid_each(&mut self, at: &Cursor, sentences: Vec<String>) {
        for sentence in sentences {
            self.invalid_str(at, at.str(), &sentence);
        }
    }

    /// The same about another text than the cursor's, such as the key of a map.
    pub fn invalid_each_str(&mut self, at: &Cursor, value: &str, sentences: Vec<String>) {
        for sentence in sentences {
            self.invalid_str(at, value, &sentence);
        }
    }

    /// About an object that the original prints as it holds it: fields as Go calls them, in Go's order, all of them.
    pub fn invalid_struct(&mut self, at: &Cursor, fields: &[&str], detail: &str) {
        self.add(ProblemReason::Invalid, at, Some(&go_struct(at.value, fields)), detail);
    }

    pub fn not_supported_struct(&mut self, at: &Cursor, fields: &[&str], supported: &[&str]) {
        self.not_supported_plain(at, &go_struct(at.value, fields), supported);
    }

    pub fn duplicate(&mut self, at: &Cursor) {
        self.add(ProblemReason::Duplicate, at, Some(&printed(at.value)), "");
    }

    pub fn duplicate_str(&mut self, at: &Cursor, value: &str) {
        self.add(ProblemReason::Duplicate, at, Some(&go_quoted(value)), "");
    }

    /// The one duplicate that comes with a sentence.
    pub fn duplicate_taint(&mut self, at: &Cursor) {
        let mut taint = at.value.clone();
        if taint.get("value").is_none() {
            taint["value"] = "".into();
        }
        let value = go_struct(&taint, &["key", "value", "effect", "timeAdded"]);
        self.add(ProblemReason::Duplicate, at, Some(&value), "taints must be unique by key and effect pair");
    }

    /// About a value that the original prints in its own way.
    pub fn duplicate_plain(&mut self, at: &Cursor, value: &str) {
        self.add(ProblemReason::Duplicate, at, Some(value), "");
    }

    /// With a hint where to look.
    pub fn not_found_among(&mut self, at: &Cursor, value: &str, detail: &str) {
        self.add(ProblemReason::NotFound, at, Some(&go_quoted(value)), detail);
    }

    pub fn not_found(&mut self, at: &Cursor) {
        self.add(ProblemReason::NotFound, at, Some(&printed(at.value)), "");
    }

    pub fn not_found_str(&mut self, at: &Cursor, value: &str) {
        self.add(ProblemReason::NotFound, at, Some(&go_quoted(value)), "");
    }

    /// Lists the supported values in the given order; the original sorts most of its lists, not all.
    pub fn not_supported(&mut self, at: &Cursor, supported: &[&str]) {
        self.not_supported_str(at, at.str(), supported);
    }

    pub fn not_supported_str(&mut self, at: &Cursor, value: &str, supported: &[&str]) {
        self.not_supported_plain(at, &go_quoted(value), supported);
    }

    /// The same about a value that is no text.
    pub fn not_supported_plain(&mut self, at: &Cursor, value: &str, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|value| go_quoted(value)).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        self.add(ProblemReason::NotSupported, at, Some(value), &detail);
    }

    pub fn too_long(&mut self, at: &Cursor, max_bytes: usize) {
        self.add(ProblemReason::TooLong, at, None, &format!("may not be more than {max_bytes} bytes"));
    }

    pub fn too_many(&mut self, at: &Cursor, actual: usize, max_items: usize) {
        self.add(
            ProblemReason::TooMany,
            at,
            Some(&actual.to_string()),
            &format!("must have at most {max_items} items"),
        );
    }

    /// For a field that must keep its value.
    pub fn immutable(&mut self, new: &Cursor, old: &Value) {
        if new.value != old {
            self.invalid(new, IMMUTABLE);
        }
    }

    fn add(&mut self, reason: ProblemReason, at: &Cursor, value: Option<&str>, detail: &str) {
        let mut text = reason.words().to_owned();
        for part in [value.unwrap_or(""), detail] {
            if !part.is_empty() {
                text.push_str(": ");
                text.push_str(part);
            }
        }
        self.list.push(Problem { reason, field: at.path(), detail: text });
    }
}

pub const IMMUTABLE: &str = "field is immutable";

/// A value as the original puts it into a message: texts quoted, scalars plain, the rest as JSON.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => go_quoted(text),
        Value::Null => "\"null\"".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        // Go's encoder writes these three escaped, for HTML.
        other => other.to_string().replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e"),
    }
}

/// `{"Type":"x","RollingUpdate":null}`
fn go_struct(value: &Value, fields: &[&str]) -> String {
    let mut out = String::from("{");
    for (index, field) in fields.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let (first, rest) = field.split_at(1);
        let inner = match value.get(field) {
            None | Some(Value::Null) => "null".to_owned(),
            Some(inner) => printed(inner),
        };
        write!(out, "{comma}\"{}{rest}\":{inner}", first.to_uppercase()).expect("writing to a String cannot fail");
    }
    out.push('}');
    out
}

/// Go's `%q`.
pub fn go_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                write!(out, "\\x{:02x}", c as u32).expect("writing to a String cannot fail");
            }
            c if c.is_control() => write!(out, "\\u{:04x}", c as u32).expect("writing to a String cannot fail"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn worded_as_the_original() {
        let object = json!({"a": "x\"y", "n": 5, "m": {"app": "x"}, "e": []});
        let root = Cursor::root(&object);
        let mut problems = Problems::default();
        problems.invalid(&root.at("a"), "is bad");
        problems.invalid(&root.at("n"), "must be less");
        problems.invalid(&root.at("m"), "`selector` does not match template `labels`");
        problems.invalid(&root.at("gone"), "why");
        problems.required(&root.at("gone"), "");
        problems.not_supported(&root.at("a"), &["A", "B"]);
        problems.duplicate(&root.at("a"));
        problems.forbidden(&root.at("n"), "no");
        problems.too_long(&root.at("a"), 63);
        let lines: Vec<String> = problems.list.iter().map(Problem::to_string).collect();
        assert_eq!(
            lines,
            [
                r#"a: Invalid value: "x\"y": is bad"#,
                "n: Invalid value: 5: must be less",
                r#"m: Invalid value: {"app":"x"}: `selector` does not match template `labels`"#,
                r#"gone: Invalid value: "null": why"#,
                "gone: Required value",
                r#"a: Unsupported value: "x\"y": supported values: "A", "B""#,
                r#"a: Duplicate value: "x\"y""#,
                "n: Forbidden: no",
                "a: Too long: may not be more than 63 bytes",
            ]
        );
    }
}
