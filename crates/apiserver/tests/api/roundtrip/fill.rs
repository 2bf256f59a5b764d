//! One object of every kind with every field set, as far as the rules of its kind allow.
//!
//! The schema says what there is to set; `values.yaml` says what types cannot: enumerations, references, unions.

use std::collections::BTreeMap;

use api::schema::{Definition, Field, Type};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Schemas contain themselves.
const DEPTH_MAX: usize = 10;

pub struct Filler {
    /// Definition (short or full name) -> field -> value, `$skip`, or `$one`: the fields of a union.
    values: Value,
    /// How often each union was met, and its size: its members are taken in turn.
    turns: BTreeMap<&'static str, (usize, usize)>,
}

impl Filler {
    pub fn new() -> Filler {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/roundtrip/values.yaml");
        let text = std::fs::read(path).expect("values.yaml lies beside this file");
        let (values, duplicates) = api::yaml::to_json(&text).expect("values.yaml is YAML");
        assert_eq!(duplicates, Vec::<String>::new());
        Filler { values, turns: BTreeMap::new() }
    }

    /// As many objects as it takes to set every member of every union.
    pub fn objects(&mut self, definition: &'static Definition) -> Vec<Value> {
        self.turns.clear();
        let mut objects = Vec::new();
        while objects.is_empty() || self.turns.values().any(|(turn, members)| turn < members) {
            objects.push(self.object(definition));
        }
        let own: Map<String, Value> = self.own(definition).collect();
        for changes in own.get("$also").and_then(Value::as_array).into_iter().flatten() {
            let mut object = objects[0].clone();
            for (path, value) in changes.as_object().into_iter().flatten() {
                set(&mut object, path, value.clone());
            }
            objects.push(object);
        }
        objects
    }

    fn object(&mut self, definition: &'static Definition) -> Value {
        let mut object = self.fields(definition, None, 0);
        for (path, value) in self.own(definition).filter(|(path, _)| path.contains('/')) {
            set(&mut object, &path, value);
        }
        object
    }

    fn own(&self, definition: &Definition) -> impl Iterator<Item = (String, Value)> + use<> {
        let find = |name: &str| self.values.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut own = find(definition.short_name());
        own.extend(find(definition.name));
        own.into_iter()
    }

    /// `member`: the one field of the union that is set; none: the next in turn.
    fn fields(&mut self, definition: &'static Definition, member: Option<&str>, depth: usize) -> Value {
        let own: Map<String, Value> = self.own(definition).collect();
        if let Some(whole) = own.get("$value") {
            return whole.clone();
        }
        let members = union(&own);
        let member = match member {
            Some(member) => member.to_owned(),
            None if members.is_empty() => String::new(),
            None => {
                let (turn, _) = self.turns.entry(definition.name).or_insert((0, members.len()));
                *turn += 1;
                members[(*turn - 1) % members.len()].clone()
            }
        };
        let mut out = Map::new();
        for field in definition.fields {
            if matches!(field.name, "apiVersion" | "kind") && field.tag == 0 {
                continue;
            }
            if members.iter().any(|name| name == field.name) && field.name != member {
                continue;
            }
            let value = match own.get(field.name) {
                Some(Value::String(text)) if text == "$skip" => None,
                Some(Value::String(text)) if text == "$bundle" => Some(STANDARD.encode(certificate()).into()),
                Some(Value::String(text)) if text == "$member" => Some(capital(&member).into()),
                Some(value) => Some(value.clone()),
                None => self.value(field, &field.kind, depth),
            };
            if let Some(value) = value {
                out.insert(field.name.to_owned(), value);
            }
        }
        Value::Object(out)
    }

    fn value(&mut self, field: &Field, kind: &Type, depth: usize) -> Option<Value> {
        Some(match kind {
            Type::String => word(field.name).into(),
            Type::Boolean => true.into(),
            Type::Int32 => 7.into(),
            Type::Int64 => 3_000_000_000i64.into(),
            Type::Double => 1.5.into(),
            Type::Bytes => "AAEC/w==".into(),
            Type::Time => "2026-02-03T04:05:06Z".into(),
            Type::MicroTime => "2026-02-03T04:05:06.789012Z".into(),
            Type::Quantity => "1536Mi".into(),
            Type::IntOrString => "25%".into(),
            Type::RawExtension | Type::FieldsV1 | Type::Json => json!({"a": {"b": [1, 2.5, "c"]}}),
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStringArray => return None,
            Type::Object(_) if depth > DEPTH_MAX => return None,
            Type::Object(definition) => self.fields(definition, None, depth + 1),
            Type::List(inner) => match **inner {
                Type::Object(definition) => self.members(definition, depth)?,
                _ => json!([self.value(field, inner, depth)?]),
            },
            Type::Map(inner) => json!({"key": self.value(field, inner, depth)?}),
        })
    }

    /// A list: of a union, one element for each member.
    fn members(&mut self, definition: &'static Definition, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        let own: Map<String, Value> = self.own(definition).collect();
        let members = union(&own);
        if members.is_empty() {
            return Some(json!([self.fields(definition, None, depth + 1)]));
        }
        let list = members.iter().map(|member| {
            let mut element = self.fields(definition, Some(member), depth + 1);
            if element.get("name").is_some_and(Value::is_string) {
                element["name"] = word(member).into();
            }
            element
        });
        Some(list.collect())
    }
}

/// A certificate authority, for fields that want one.
fn certificate() -> String {
    let signed = rcgen::generate_simple_self_signed(vec!["example.com".to_owned()]).expect("a certificate");
    signed.cert.pem()
}

fn union(own: &Map<String, Value>) -> Vec<String> {
    let members = own.get("$one").and_then(Value::as_array);
    members.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// `podIP` -> `PodIP`: how unions call their members.
fn capital(member: &str) -> String {
    let mut letters = member.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// `podIP` -> `pod-ip`: a label of DNS.
fn word(name: &str) -> String {
    let mut out = String::new();
    let mut lower = false;
    for letter in name.chars().filter(char::is_ascii_alphanumeric) {
        if letter.is_ascii_uppercase() && lower {
            out.push('-');
        }
        lower = letter.is_ascii_lowercase();
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// Sets what stands at a JSON pointer less its first slash; `$skip` removes it.
fn set(object: &mut Value, path: &str, value: Value) {
    let (parent, last) = match path.rsplit_once('/') {
        Some((parent, last)) => (format!("/{parent}"), last),
        None => (String::new(), path),
    };
    let Some(parent) = object.pointer_mut(&parent).and_then(Value::as_object_mut) else { panic!("nothing at {path}") };
    if value == "$skip" {
        parent.remove(last);
    } else {
        parent.insert(last.to_owned(), value);
    }
}
