//! From parser events to a JSON value.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::scalar;
use crate::json::{DEPTH_MAX, DecodeError};

/// What anchors and aliases may copy in all, in nodes and pieces of text.
const COPIED_MAX: usize = 200_000;
const PIECE: usize = 64;

pub(super) fn read(text: &str) -> Result<(Value, Vec<String>), DecodeError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        copied: 0,
        duplicates: Vec::new(),
    };
    let value = reader.document()?;
    let problems = if reader.duplicates.is_empty() {
        Vec::new()
    } else {
        vec![format!(
            "yaml: unmarshal errors:\n  {}",
            reader.duplicates.join("\n  ")
        )]
    };
    Ok((value, problems))
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Value>,
    copied: usize,
    duplicates: Vec<String>,
}

fn syntax(problem: &str) -> DecodeError {
    DecodeError::Syntax(format!("yaml: {problem}"))
}

fn scan_error(error: &ScanError) -> DecodeError {
    syntax(&format!("line {}: {}", error.marker().line(), error.info()))
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Value, DecodeError> {
        loop {
            match self.next()? {
                None | Some((Event::StreamEnd, _)) => return Ok(Value::Null),
                Some((Event::StreamStart | Event::DocumentStart(..), _)) => {}
                Some((event, span)) => {
                    let value = self.node(event, &span, 0)?;
                    // The rest of the document must be well formed too; further documents are the caller's.
                    while !matches!(
                        self.next()?,
                        None | Some((Event::DocumentEnd | Event::StreamEnd, _))
                    ) {}
                    return Ok(value);
                }
            }
        }
    }

    /// The next event that is no comment.
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, DecodeError> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                Some(Err(error)) => return Err(scan_error(&error)),
                Some(Ok((event, _))) if !event.is_node() && is_presentation(&event) => {}
                Some(Ok(found)) => return Ok(Some(found)),
            }
        }
    }

    fn expect(&mut self) -> Result<(Event<'a>, Span), DecodeError> {
        self.next()?
            .ok_or_else(|| syntax("unexpected end of document"))
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Value, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(syntax("exceeded max depth"));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, scalar_value(&text, style, tag.as_deref())?)
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.sequence(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping(depth)?),
            Event::Alias(id) => {
                let value = self.anchors.get(&id).ok_or_else(|| {
                    syntax(&format!(
                        "line {}: anchor contains itself",
                        span.start.line()
                    ))
                })?;
                let value = value.clone();
                self.count_copy(&value)?;
                return Ok(value);
            }
            other => {
                return Err(syntax(&format!(
                    "line {}: unexpected {other:?}",
                    span.start.line()
                )));
            }
        };
        if anchor > 0 {
            self.count_copy(&value)?;
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn count_copy(&mut self, value: &Value) -> Result<(), DecodeError> {
        self.copied += size(value);
        if self.copied > COPIED_MAX {
            Err(syntax("document contains excessive aliasing"))
        } else {
            Ok(())
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let mut elements = Vec::new();
        loop {
            match self.expect()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(elements)),
                (event, span) => elements.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let mut fields = Map::new();
        let mut merged = Map::new();
        loop {
            let (event, span) = self.expect()?;
            let is_merge = match &event {
                Event::MappingEnd => break,
                Event::Scalar(text, ScalarStyle::Plain, _, None) => text == "<<",
                _ => false,
            };
            let key = self.node(event, &span, depth + 1)?;
            let (event, value_span) = self.expect()?;
            let value = self.node(event, &value_span, depth + 1)?;
            if is_merge {
                merge(&mut merged, value)?;
                continue;
            }
            let name = key_name(key)?;
            if fields.contains_key(&name) && self.duplicates.len() < 100 {
                self.duplicates.push(format!(
                    "line {}: key {name:?} already set in map",
                    span.start.line()
                ));
            }
            fields.insert(name, value);
        }
        for (name, value) in merged {
            fields.entry(name).or_insert(value);
        }
        Ok(Value::Object(fields))
    }
}

fn is_presentation(event: &Event) -> bool {
    matches!(event, Event::Comment(..) | Event::Anchor(..))
}

/// Keys that are there already win over merged ones.
fn merge(into: &mut Map<String, Value>, value: Value) -> Result<(), DecodeError> {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                into.entry(name).or_insert(value);
            }
            Ok(())
        }
        Value::Array(maps) if maps.iter().all(Value::is_object) => {
            maps.into_iter().try_for_each(|map| merge(into, map))
        }
        _ => Err(syntax(
            "map merge requires map or sequence of maps as the value",
        )),
    }
}

fn key_name(key: Value) -> Result<String, DecodeError> {
    match key {
        Value::String(name) => Ok(name),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Null => Err(DecodeError::Syntax(
            "unsupported map key of type: nil".to_owned(),
        )),
        Value::Array(_) | Value::Object(_) => Err(syntax("invalid map key")),
    }
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, DecodeError> {
    let wanted = tag.and_then(Tag::core_suffix);
    match wanted {
        Some("str" | "binary") => Ok(Value::String(text.to_owned())),
        Some("int" | "float" | "bool" | "null") => {
            scalar::resolve(text).map_err(|problem| syntax(&problem))
        }
        _ if style == ScalarStyle::Plain && tag.is_none() => {
            scalar::resolve(text).map_err(|problem| syntax(&problem))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// Nodes in a value, long texts counted by their pieces.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(elements) => elements.iter().map(size).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| name.len() / PIECE + size(value))
            .sum(),
        Value::String(text) => text.len() / PIECE,
        _ => 0,
    }
}
