//! What messages are made from: a tree, or JSON text as it is stored, which is then never made a tree.
//!
//! Invariant: both give the same message for the same object. The text is the server's own and has been parsed
//! before; of text that is no JSON some message is made, without panic and without reading beyond it.

use std::borrow::Cow;

use serde_json::{Map, Value};

pub(super) trait Node<'a>: Copy {
    type Members: Members<'a, Self>;
    type Items: Iterator<Item = Self>;

    fn is_null(self) -> bool;
    fn is_text(self) -> bool;
    fn boolean(self) -> Option<bool>;
    fn integer(self) -> Option<i64>;
    fn float(self) -> Option<f64>;
    fn text(self) -> Option<Cow<'a, str>>;
    fn items(self) -> Option<Self::Items>;
    fn members(self) -> Option<Self::Members>;
    /// As JSON without white space.
    fn json(self) -> Cow<'a, str>;
}

/// An object's members.
pub(super) trait Members<'a, N> {
    fn none() -> Self;
    fn get(&self, name: &str) -> Option<N>;
    fn each(&self, each: impl FnMut(Cow<'a, str>, N));
}

impl<'a> Node<'a> for &'a Value {
    type Members = Option<&'a Map<String, Value>>;
    type Items = std::slice::Iter<'a, Value>;

    fn is_null(self) -> bool {
        Value::is_null(self)
    }

    fn is_text(self) -> bool {
        self.is_string()
    }

    fn boolean(self) -> Option<bool> {
        self.as_bool()
    }

    fn integer(self) -> Option<i64> {
        self.as_i64()
    }

    fn float(self) -> Option<f64> {
        self.as_f64()
    }

    fn text(self) -> Option<Cow<'a, str>> {
        self.as_str().map(Cow::Borrowed)
    }

    fn items(self) -> Option<Self::Items> {
        self.as_array().map(|list| list.iter())
    }

    fn members(self) -> Option<Self::Members> {
        self.as_object().map(Some)
    }

    fn json(self) -> Cow<'a, str> {
        self.to_string().into()
    }
}

impl<'a> Members<'a, &'a Value> for Option<&'a Map<String, Value>> {
    fn none() -> Self {
        None
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.and_then(|map| map.get(name))
    }

    fn each(&self, mut each: impl FnMut(Cow<'a, str>, &'a Value)) {
        self.iter().flat_map(|map| map.iter()).for_each(|(name, value)| each(name.into(), value));
    }
}

/// One JSON value as text, without white space.
#[derive(Clone, Copy)]
pub(super) struct Text<'a>(pub &'a str);

impl<'a> Node<'a> for Text<'a> {
    type Members = TextMembers<'a>;
    type Items = std::vec::IntoIter<Text<'a>>;

    fn is_null(self) -> bool {
        self.0.as_bytes().first() == Some(&b'n')
    }

    fn is_text(self) -> bool {
        self.0.as_bytes().first() == Some(&b'"')
    }

    fn boolean(self) -> Option<bool> {
        self.0.parse().ok()
    }

    fn integer(self) -> Option<i64> {
        self.0.parse().ok()
    }

    fn float(self) -> Option<f64> {
        self.0.parse().ok()
    }

    fn text(self) -> Option<Cow<'a, str>> {
        let inner = self.inside(b'"', b'"')?;
        if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
            return Some(inner.into());
        }
        serde_json::from_str::<String>(self.0).ok().map(Cow::Owned)
    }

    fn items(self) -> Option<Self::Items> {
        let mut rest = self.inside(b'[', b']')?;
        let mut items = Vec::new();
        while !rest.is_empty() {
            let (item, after) = rest.split_at(value_end(rest));
            items.push(Text(item));
            rest = after.get(1..).unwrap_or(""); // A comma.
        }
        Some(items.into_iter())
    }

    fn members(self) -> Option<Self::Members> {
        let mut rest = self.inside(b'{', b'}')?;
        let mut members = Vec::with_capacity(8);
        while !rest.is_empty() {
            let (name, after) = rest.split_at(value_end(rest));
            let Some(after) = after.get(1..) else { break }; // A colon.
            let (value, after) = after.split_at(value_end(after));
            members.push((name, Text(value)));
            rest = after.get(1..).unwrap_or("");
        }
        Some(TextMembers(members))
    }

    fn json(self) -> Cow<'a, str> {
        self.0.into()
    }
}

impl<'a> Text<'a> {
    fn inside(self, open: u8, close: u8) -> Option<&'a str> {
        let bytes = self.0.as_bytes();
        let whole = bytes.len() >= 2 && bytes[0] == open && bytes[bytes.len() - 1] == close;
        if whole { self.0.get(1..bytes.len() - 1) } else { None }
    }
}

/// Names with their quotes.
pub(super) struct TextMembers<'a>(Vec<(&'a str, Text<'a>)>);

impl<'a> Members<'a, Text<'a>> for TextMembers<'a> {
    fn none() -> Self {
        TextMembers(Vec::new())
    }

    fn get(&self, name: &str) -> Option<Text<'a>> {
        // No field of the API has a name that JSON escapes.
        let name = name.as_bytes();
        let is_it = |quoted: &[u8]| quoted.len() == name.len() + 2 && quoted.get(1) == name.first() && &quoted[1..=name.len()] == name;
        self.0.iter().find(|(quoted, _)| is_it(quoted.as_bytes())).map(|(_, value)| *value)
    }

    fn each(&self, mut each: impl FnMut(Cow<'a, str>, Text<'a>)) {
        for (name, value) in &self.0 {
            each(Text(name).text().unwrap_or_default(), *value);
        }
    }
}

/// Where the value ends with which the text starts.
fn value_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'"') => string_end(bytes, 0),
        Some(b'{' | b'[') => {
            let (mut at, mut depth) = (0, 0usize);
            // Text in strings is passed over whole, so that its brackets do not count.
            while let Some(byte) = bytes.get(at) {
                match byte {
                    b'"' => {
                        at = string_end(bytes, at);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return at + 1;
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
            bytes.len()
        }
        _ => bytes.iter().position(|byte| matches!(byte, b',' | b'}' | b']' | b':')).unwrap_or(bytes.len()),
    }
}

/// Just after the quote that closes the string whose opening quote is at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        at += 1; // What is escaped.
    }
    bytes.len()
}
