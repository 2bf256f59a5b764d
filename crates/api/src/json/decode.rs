//! One pass from text to a value in normal form, guided by the schema.
//!
//! As in Go, the first wrong type is remembered and reading goes on; malformed quantities and times end it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::scan::{Scanned, Scanner};
use super::{
    Budget, DecodeError, MICRO_LAYOUT, PROBLEMS_MAX, SECOND_LAYOUT, empty_element, is_empty,
    parse_time, print_time, written_when_empty,
};
use crate::quantity;
use crate::schema::{Definition, Field, Type};

struct Decoder<'a> {
    scanner: Scanner<'a>,
    first_type_error: Option<DecodeError>,
    problems: Vec<String>,
    seen_problems: HashSet<String>,
    budget: Budget,
    /// Off inside of values that Go decodes apart, where nothing strict is told.
    strict: bool,
}

/// Where in the document we are: a chain on the stack, so that good input costs no allocation.
#[derive(Clone, Copy)]
enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'static str),
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

/// The place that a value is decoded for: the struct and field it belongs to, and the path to it.
#[derive(Clone, Copy)]
struct Place<'p> {
    owner: Option<&'static Definition>,
    path: Path<'p>,
}

pub(super) fn decode(text: &str, definition: &'static Definition) -> Scanned<(Value, Vec<String>)> {
    let mut decoder = Decoder::new(text);
    let place = Place {
        owner: None,
        path: Path::Root,
    };
    let value = decoder.value(&Type::Object(definition), place)?;
    decoder.finish(value.unwrap_or_else(|| empty_element(&Type::Object(definition))))
}

pub(super) fn decode_untyped(text: &str) -> Scanned<(Value, Vec<String>)> {
    let mut decoder = Decoder::new(text);
    let value = decoder.any(Path::Root)?;
    decoder.finish(value)
}

pub(super) fn type_meta(text: &str) -> Scanned<(String, String)> {
    let mut scanner = Scanner::new(text);
    let (mut api_version, mut kind) = (String::new(), String::new());
    match scanner.peek()? {
        b'{' => scanner.open()?,
        _ => {
            let found = described(scanner.skip()?);
            return Err(DecodeError::Type { found, field: None, wanted: "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }".to_owned() });
        }
    }
    let mut first = true;
    while let Some(key) = scanner.key(first)? {
        first = false;
        let slot = match key.as_ref() {
            "apiVersion" => &mut api_version,
            "kind" => &mut kind,
            _ => {
                scanner.skip()?;
                continue;
            }
        };
        match scanner.peek()? {
            b'"' => *slot = scanner.string()?.into_owned(),
            b'n' => scanner.literal("null")?,
            _ => {
                let found = described(scanner.skip()?);
                return Err(DecodeError::Type {
                    found,
                    field: Some(format!(".{key}")),
                    wanted: "string".to_owned(),
                });
            }
        }
    }
    scanner.finish()?;
    Ok((api_version, kind))
}

impl<'a> Decoder<'a> {
    fn new(text: &'a str) -> Self {
        Decoder {
            scanner: Scanner::new(text),
            first_type_error: None,
            problems: Vec::new(),
            seen_problems: HashSet::new(),
            budget: Budget::default(),
            strict: true,
        }
    }

    fn finish(mut self, value: Value) -> Scanned<(Value, Vec<String>)> {
        self.scanner.finish()?;
        match self.first_type_error {
            Some(error) => Err(error),
            None => Ok((value, self.problems)),
        }
    }

    /// A value of the type; none for null and for what has the wrong type.
    fn value(&mut self, kind: &Type, place: Place) -> Scanned<Option<Value>> {
        let first = self.scanner.peek()?;
        if first == b'n' {
            self.scanner.literal("null")?;
            return Ok(None);
        }
        match (kind, first) {
            (Type::Object(definition), b'{') => self.object(definition, place).map(Some),
            (Type::String, b'"') => Ok(Some(Value::String(self.scanner.string()?.into_owned()))),
            (Type::Map(values), b'{') => self.map(values, place).map(Some),
            (Type::List(elements), b'[') => self.list(elements, place).map(Some),
            (Type::Boolean, b't' | b'f') => {
                self.scanner
                    .literal(if first == b't' { "true" } else { "false" })?;
                Ok(Some(Value::Bool(first == b't')))
            }
            (Type::Int32 | Type::Int64 | Type::Double, b'-' | b'0'..=b'9') => {
                let text = self.scanner.number()?;
                Ok(self.number(kind, text, place))
            }
            (Type::Bytes, b'"') => self.bytes(),
            (Type::RawExtension | Type::FieldsV1 | Type::Json, _) => self.unchecked().map(Some),
            (Type::Quantity, _) => self.quantity().map(Some),
            (Type::Time, _) => self.time(SECOND_LAYOUT),
            (Type::MicroTime, _) => self.time(MICRO_LAYOUT),
            (Type::IntOrString, _) => self.int_or_string().map(Some),
            (Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStringArray, _) => {
                self.schema_or(kind, place)
            }
            _ => {
                let found = described(self.scanner.skip()?);
                self.wrong_type(found, kind, place);
                Ok(None)
            }
        }
    }

    fn object(&mut self, definition: &'static Definition, place: Place) -> Scanned<Value> {
        self.scanner.open()?;
        let mut out = Map::new();
        // One bit a field: no type has more than 128.
        let mut seen = 0u128;
        let mut first = true;
        while let Some(key) = self.scanner.key(first)? {
            first = false;
            let Ok(index) = definition
                .fields
                .binary_search_by(|field| field.name.cmp(&key))
            else {
                self.problem("unknown", place.path, &key);
                self.scanner.skip()?;
                continue;
            };
            let field = &definition.fields[index];
            let bit = 1u128 << index;
            if seen & bit != 0 {
                self.problem("duplicate", place.path, field.name);
            }
            seen |= bit;
            let inner = Place {
                owner: Some(definition),
                path: Path::Field(&place.path, field.name),
            };
            let value = self.value(&field.kind, inner)?;
            put(&mut out, field, value);
        }
        for (index, field) in definition
            .fields
            .iter()
            .enumerate()
            .filter(|(_, field)| field.always_written)
        {
            if seen & 1u128 << index == 0 || !out.contains_key(field.name) {
                self.budget.spend()?;
                out.insert(field.name.to_owned(), written_when_empty(field));
            }
        }
        Ok(Value::Object(out))
    }

    fn list(&mut self, elements: &Type, place: Place) -> Scanned<Value> {
        self.scanner.open()?;
        let mut out = Vec::new();
        while self.scanner.element(out.is_empty())? {
            let inner = Place {
                path: Path::Index(&place.path, out.len()),
                ..place
            };
            let value = self.value(elements, inner)?;
            out.push(value.unwrap_or_else(|| empty_element(elements)));
        }
        Ok(Value::Array(out))
    }

    fn map(&mut self, values: &Type, place: Place) -> Scanned<Value> {
        self.scanner.open()?;
        let mut out = Map::new();
        let mut first = true;
        while let Some(key) = self.scanner.key(first)? {
            first = false;
            if out.contains_key(key.as_ref()) {
                self.problem("duplicate", place.path, &key);
            }
            let inner = Place {
                path: Path::Key(&place.path, &key),
                ..place
            };
            let value = self
                .value(values, inner)?
                .unwrap_or_else(|| empty_element(values));
            out.insert(key.into_owned(), value);
        }
        Ok(Value::Object(out))
    }

    fn number(&mut self, kind: &Type, text: &str, place: Place) -> Option<Value> {
        let value = match kind {
            Type::Int32 => text.parse::<i32>().ok().map(Number::from),
            Type::Int64 => text.parse::<i64>().ok().map(Number::from),
            _ => text
                .parse::<f64>()
                .ok()
                .filter(|value| value.is_finite())
                .and_then(float),
        };
        if value.is_none() {
            self.wrong_type(format!("number {text}"), kind, place);
        }
        value.map(Value::Number)
    }

    fn bytes(&mut self) -> Scanned<Option<Value>> {
        let text = self.scanner.string()?;
        let text = if text.contains(['\r', '\n']) {
            Cow::Owned(text.replace(['\r', '\n'], ""))
        } else {
            text
        };
        match check_base64(&text) {
            Ok(()) => Ok(Some(Value::String(text.into_owned()))),
            Err(at) => {
                let error = DecodeError::Value(format!("illegal base64 data at input byte {at}"));
                self.first_type_error.get_or_insert(error);
                Ok(None)
            }
        }
    }

    fn quantity(&mut self) -> Scanned<Value> {
        let text = if self.scanner.peek()? == b'"' {
            self.scanner.string()?
        } else {
            Cow::Borrowed(self.scanner.skip()?)
        };
        let canonical = quantity::canonical(text.trim())
            .map_err(|error| DecodeError::Value(error.to_string()))?;
        Ok(Value::String(canonical.into_owned()))
    }

    fn time(&mut self, layout: &str) -> Scanned<Option<Value>> {
        if self.scanner.peek()? != b'"' {
            let found = described(self.scanner.skip()?);
            return Err(DecodeError::Type {
                found,
                field: None,
                wanted: "string".to_owned(),
            });
        }
        let text = self.scanner.string()?;
        let time = parse_time(&text, layout).map_err(DecodeError::Value)?;
        Ok(time.map(|time| Value::String(print_time(time, layout))))
    }

    fn int_or_string(&mut self) -> Scanned<Value> {
        if self.scanner.peek()? == b'"' {
            return Ok(Value::String(self.scanner.string()?.into_owned()));
        }
        let text = self.scanner.skip()?;
        match text.parse::<i32>() {
            Ok(number) => Ok(number.into()),
            Err(_) => {
                let found =
                    if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
                        format!("number {text}")
                    } else {
                        described(text)
                    };
                Err(DecodeError::Type {
                    found,
                    field: None,
                    wanted: "int32".to_owned(),
                })
            }
        }
    }

    /// The union types of CustomResourceDefinition schemas, which Go decodes apart and not strictly.
    fn schema_or(&mut self, kind: &Type, place: Place) -> Scanned<Option<Value>> {
        let props = schema_props();
        let first = self.scanner.peek()?;
        let strict = std::mem::replace(&mut self.strict, false);
        let value = match (kind, first) {
            (_, b'{') => self.object(props, place).map(Some),
            (Type::SchemaOrArray, b'[') => self.list(&Type::Object(props), place).map(Some),
            (Type::SchemaOrStringArray, b'[') => self.list(&Type::String, place).map(Some),
            (Type::SchemaOrBool, b't' | b'f') => self.value(&Type::Boolean, place),
            (Type::SchemaOrBool, _) => Err(DecodeError::Value(
                "boolean or JSON schema expected".to_owned(),
            )),
            _ => self.scanner.skip().map(|_| None), // Go makes nothing of it, silently.
        };
        self.strict = strict;
        value
    }

    /// Any JSON, kept as it stands.
    fn unchecked(&mut self) -> Scanned<Value> {
        let strict = std::mem::replace(&mut self.strict, false);
        let value = self.any(Path::Root);
        self.strict = strict;
        value
    }

    fn any(&mut self, path: Path) -> Scanned<Value> {
        Ok(match self.scanner.peek()? {
            b'{' => {
                self.scanner.open()?;
                let mut out = Map::new();
                let mut first = true;
                while let Some(key) = self.scanner.key(first)? {
                    first = false;
                    if self.strict && out.contains_key(key.as_ref()) {
                        self.problem("duplicate", path, &key);
                    }
                    let value = self.any(Path::Key(&path, &key))?;
                    out.insert(key.into_owned(), value);
                }
                Value::Object(out)
            }
            b'[' => {
                self.scanner.open()?;
                let mut out = Vec::new();
                while self.scanner.element(out.is_empty())? {
                    let value = self.any(Path::Index(&path, out.len()))?;
                    out.push(value);
                }
                Value::Array(out)
            }
            b'"' => Value::String(self.scanner.string()?.into_owned()),
            b'-' | b'0'..=b'9' => {
                let text = self.scanner.number()?;
                any_number(text).ok_or_else(|| DecodeError::Type {
                    found: format!("number {text}"),
                    field: None,
                    wanted: "float64".to_owned(),
                })?
            }
            _ => match self.scanner.skip()? {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            },
        })
    }

    fn problem(&mut self, what: &str, path: Path, name: &str) {
        if !self.strict || self.problems.len() >= PROBLEMS_MAX {
            return;
        }
        let mut text = format!("{what} field \"");
        path.print(&mut text);
        if !matches!(path, Path::Root) {
            text.push('.');
        }
        text.push_str(name);
        text.push('"');
        if self.seen_problems.insert(text.clone()) {
            self.problems.push(text);
        }
    }

    fn wrong_type(&mut self, found: String, kind: &Type, place: Place) {
        if self.first_type_error.is_some() {
            return;
        }
        let field = place.owner.map(|owner| {
            let mut names = Vec::new();
            place.path.field_names(&mut names);
            format!("{}.{}", owner.short_name(), names.join("."))
        });
        self.first_type_error = Some(DecodeError::Type {
            found,
            field,
            wanted: go_type(kind),
        });
    }
}

/// Stores what Go would write for the field. A second object for the same field is merged into the first, as Go does.
fn put(out: &mut Map<String, Value>, field: &Field, value: Option<Value>) {
    match value.filter(|value| field.pointer || !is_empty(value, &field.kind)) {
        Some(Value::Object(new)) => match out.get_mut(field.name) {
            Some(Value::Object(old)) => old.extend(new),
            _ => drop(out.insert(field.name.to_owned(), Value::Object(new))),
        },
        Some(value) => drop(out.insert(field.name.to_owned(), value)),
        None => drop(out.remove(field.name)),
    }
}

/// Whole numbers print without a point, as Go prints them.
pub(crate) fn float(value: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        Some(Number::from(value as i64))
    } else {
        Number::from_f64(value)
    }
}

fn any_number(text: &str) -> Option<Value> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    text.parse::<f64>()
        .ok()
        .filter(|value| value.is_finite())
        .and_then(Number::from_f64)
        .map(Value::Number)
}

/// Where the text stops being padded base64, as Go counts.
fn check_base64(text: &str) -> Result<(), usize> {
    match STANDARD.decode(text) {
        Ok(_) => Ok(()),
        Err(
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol { offset: at, .. },
        ) => Err(at),
        Err(_) => Err(text.len() / 4 * 4),
    }
}

impl Path<'_> {
    /// `spec.containers[0]`
    fn print(&self, out: &mut String) {
        let (parent, name) = match self {
            Path::Root => return,
            Path::Index(parent, index) => {
                parent.print(out);
                write!(out, "[{index}]").expect("strings grow");
                return;
            }
            Path::Field(parent, name) => (parent, *name),
            Path::Key(parent, name) => (parent, *name),
        };
        parent.print(out);
        if !matches!(parent, Path::Root) {
            out.push('.');
        }
        out.push_str(name);
    }

    fn field_names(&self, out: &mut Vec<&'static str>) {
        match self {
            Path::Root => {}
            Path::Field(parent, name) => {
                parent.field_names(out);
                out.push(name);
            }
            Path::Key(parent, _) | Path::Index(parent, _) => parent.field_names(out),
        }
    }
}

/// What Go calls a JSON value in its complaints.
fn described(text: &str) -> String {
    match text.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        _ => "number",
    }
    .to_owned()
}

/// Go's name of the type. Its names for strings (`v1.PodPhase`) are not known here.
fn go_type(kind: &Type) -> String {
    match kind {
        Type::String => "string".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Double => "float64".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::RawExtension => "runtime.RawExtension".to_owned(),
        Type::FieldsV1 => "v1.FieldsV1".to_owned(),
        Type::Json => "v1.JSON".to_owned(),
        Type::SchemaOrArray => "v1.JSONSchemaPropsOrArray".to_owned(),
        Type::SchemaOrBool => "v1.JSONSchemaPropsOrBool".to_owned(),
        Type::SchemaOrStringArray => "v1.JSONSchemaPropsOrStringArray".to_owned(),
        Type::Object(definition) => {
            let mut words = definition.name.rsplit('.');
            let (name, package) = (
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
            );
            format!("{package}.{name}")
        }
        Type::List(elements) => format!("[]{}", go_type(elements)),
        Type::Map(Type::Quantity) => "v1.ResourceList".to_owned(),
        Type::Map(values) => format!("map[string]{}", go_type(values)),
    }
}

/// The definition that the unions of CustomResourceDefinition schemas hold.
pub(crate) fn schema_props() -> &'static Definition {
    crate::schema::definition(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
    )
    .expect("the table holds apiextensions/v1")
}
