//! A place inside an object: its value and how one got there, so that a problem can name its field.
//!
//! Invariant: reading never allocates; the path is written out only when there is something to complain about.

use std::fmt::Write;

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// A value and its path. What does not exist reads as null, so that chains need no `Option`.
#[derive(Clone, Copy)]
pub struct Cursor<'p, 'v> {
    pub value: &'v Value,
    path: Path<'p>,
}

#[derive(Clone, Copy)]
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    /// May hold several names joined by dots; the field path reads the same.
    Field(&'p str),
    Index(usize),
    Key(&'p str),
}

impl<'p, 'v> Cursor<'p, 'v> {
    pub fn root(value: &'v Value) -> Self {
        Cursor { value, path: Path { parent: None, step: Step::Root } }
    }

    /// A field, or a field of a field: `at("spec.template")`.
    pub fn at<'q>(&'q self, field: &'q str) -> Cursor<'q, 'v> {
        Cursor { value: walk(self.value, field), path: Path { parent: Some(&self.path), step: Step::Field(field) } }
    }

    /// An entry of a map, written `parent[key]`.
    pub fn key<'q>(&'q self, key: &'q str) -> Cursor<'q, 'v> {
        let value = self.value.get(key).unwrap_or(&NULL);
        Cursor { value, path: Path { parent: Some(&self.path), step: Step::Key(key) } }
    }

    pub fn index<'q>(&'q self, index: usize) -> Cursor<'q, 'v> {
        let value = self.value.get(index).unwrap_or(&NULL);
        Cursor { value, path: Path { parent: Some(&self.path), step: Step::Index(index) } }
    }

    /// The same value under another name, for what the original calls otherwise.
    pub fn sibling<'q>(&'q self, field: &'q str) -> Cursor<'q, 'v> {
        Cursor { value: self.value, path: Path { parent: self.path.parent, step: Step::Field(field) } }
    }

    /// The same path with another value, for a value that is derived from several fields.
    pub fn with<'w>(&self, value: &'w Value) -> Cursor<'p, 'w> {
        Cursor { value, path: self.path }
    }

    pub fn items<'q>(&'q self) -> impl Iterator<Item = Cursor<'q, 'v>> {
        let path = &self.path;
        self.array()
            .iter()
            .enumerate()
            .map(move |(index, value)| Cursor { value, path: Path { parent: Some(path), step: Step::Index(index) } })
    }

    /// Entries of a map, each at `parent[key]`.
    pub fn entries<'q>(&'q self) -> impl Iterator<Item = (&'v str, Cursor<'q, 'v>)>
    where
        'v: 'q,
    {
        let path = &self.path;
        self.object().into_iter().flatten().map(move |(key, value)| {
            (key.as_str(), Cursor { value, path: Path { parent: Some(path), step: Step::Key(key) } })
        })
    }

    pub fn exists(&self) -> bool {
        !self.value.is_null()
    }

    /// Missing, or the empty string, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }

    pub fn str(&self) -> &'v str {
        self.value.as_str().unwrap_or("")
    }

    pub fn int(&self) -> i64 {
        self.value.as_i64().unwrap_or(0)
    }

    pub fn opt_int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub fn bool(&self) -> bool {
        self.value.as_bool().unwrap_or(false)
    }

    pub fn array(&self) -> &'v [Value] {
        self.value.as_array().map_or(&[], Vec::as_slice)
    }

    pub fn object(&self) -> Option<&'v Map<String, Value>> {
        self.value.as_object()
    }

    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }
    }

    /// `spec.template.spec.containers[0].name`
    pub fn path(&self) -> String {
        let mut text = String::new();
        self.path.write(&mut text);
        text
    }
}

impl Path<'_> {
    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Index(index) => write!(out, "[{index}]").expect("writing to a String cannot fail"),
            Step::Key(key) => write!(out, "[{key}]").expect("writing to a String cannot fail"),
        }
    }
}

/// Follows names joined by dots; null when one is missing.
pub fn walk<'v>(value: &'v Value, path: &str) -> &'v Value {
    let mut at = value;
    for name in path.split('.') {
        match at.get(name) {
            Some(inner) => at = inner,
            None => return &NULL,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_read_like_the_originals() {
        let object = json!({"spec": {"containers": [{"env": {"a.b": "x"}}]}});
        let root = Cursor::root(&object);
        let containers = root.at("spec.containers");
        let first = containers.items().next().expect("one container");
        let env = first.at("env");
        assert_eq!(env.path(), "spec.containers[0].env");
        assert_eq!(env.key("a.b").path(), "spec.containers[0].env[a.b]");
        assert_eq!(env.key("a.b").str(), "x");
        assert_eq!(root.at("spec.nodeName").str(), "");
    }
}
