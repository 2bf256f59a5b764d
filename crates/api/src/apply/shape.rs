//! How values divide into fields that can be owned: the schema as structured merge sees it.

use serde_json::{Map, Value};

use super::set::Set;
use crate::schema::{Definition, Field, ListType, MapType, Type};

/// What a value is to ownership.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Owned whole: scalars, atomic lists and maps, anything without a schema.
    Leaf,
    Struct(&'static Definition),
    Map(&'static Type),
    /// A list whose elements are found by their keys.
    Keyed(&'static Definition, &'static [&'static str]),
    /// A list of scalars that are their own keys.
    Values,
}

impl Shape {
    pub fn of(definition: &'static Definition) -> Shape {
        Shape::Struct(definition)
    }

    pub fn of_field(field: &'static Field) -> Shape {
        Shape::with_marks(
            &field.kind,
            field.list_type,
            field.list_map_keys,
            field.map_type,
        )
    }

    fn with_marks(
        kind: &'static Type,
        list_type: Option<ListType>,
        keys: &'static [&'static str],
        map_type: Option<MapType>,
    ) -> Shape {
        match kind {
            Type::Object(definition)
                if map_type.or(definition.map_type) != Some(MapType::Atomic)
                    && !definition.fields.is_empty() =>
            {
                Shape::Struct(definition)
            }
            Type::Map(values) if map_type != Some(MapType::Atomic) => Shape::Map(values),
            Type::List(Type::Object(definition)) if list_type == Some(ListType::Map) => {
                Shape::Keyed(definition, keys)
            }
            Type::List(_) if list_type == Some(ListType::Set) => Shape::Values,
            _ => Shape::Leaf,
        }
    }

    /// The shape of a field of an object, or of a map's value; unknown fields are leaves.
    pub fn child(&self, name: &str) -> Shape {
        match self {
            Shape::Struct(definition) => {
                definition.field(name).map_or(Shape::Leaf, Shape::of_field)
            }
            Shape::Map(values) => Shape::with_marks(values, None, &[], None),
            _ => Shape::Leaf,
        }
    }

    /// The shape of a list's elements.
    pub fn element(&self) -> Shape {
        match self {
            Shape::Keyed(definition, _) => Shape::Struct(definition),
            _ => Shape::Leaf,
        }
    }

    /// The path element of an element of such a list.
    pub fn path_element(&self, item: &Value) -> Result<String, String> {
        let Shape::Keyed(definition, keys) = self else {
            return Ok(format!("v:{item}"));
        };
        let Value::Object(fields) = item else {
            return Err("associative list with keys may not have non-map elements".to_owned());
        };
        let mut found = Map::new();
        for key in *keys {
            let value = fields
                .get(*key)
                .filter(|value| !value.is_null())
                .cloned()
                .or_else(|| {
                    let default = definition.field(key)?.default;
                    serde_json::from_str(default).ok()
                });
            if let Some(value) = value {
                found.insert((*key).to_owned(), value);
            }
        }
        if found.is_empty() {
            let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
            let keys = keys.join(" ");
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{keys}] (and doesn't have default values for any key fields)"
            ));
        }
        Ok(format!("k:{}", Value::Object(found)))
    }

    /// The elements of a list with their path elements; those without are left out.
    pub fn items<'v>(&self, list: &'v [Value]) -> Vec<(String, &'v Value)> {
        list.iter()
            .filter_map(|item| Some((self.path_element(item).ok()?, item)))
            .collect()
    }
}

pub(super) fn field_element(name: &str) -> String {
    let mut element = String::with_capacity(name.len() + 2);
    element.push_str("f:");
    element.push_str(name);
    element
}

/// What an applied configuration owns: its leaves, the elements of its lists, the keys of its maps.
pub(super) fn owned_set(value: &Value, shape: Shape) -> Set {
    let mut set = Set::default();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(fields)) => {
            for (name, value) in fields {
                let mut child = owned_set(value, shape.child(name));
                let declared =
                    matches!(shape, Shape::Struct(definition) if definition.field(name).is_some());
                child.member |=
                    !declared || value.is_null() || value.as_object().is_some_and(Map::is_empty);
                set.attach(field_element(name), child);
            }
        }
        (Shape::Keyed(..) | Shape::Values, Value::Array(list)) => {
            for (element, item) in shape.items(list) {
                let mut child = owned_set(item, shape.element());
                child.member = true;
                set.union_child(element, child);
            }
        }
        (Shape::Leaf, _) => set.member = true,
        _ => {}
    }
    set
}

/// All of a value: every path in it, the inner ones too.
pub(super) fn whole_set(value: &Value, shape: Shape) -> Set {
    let mut set = Set::leaf();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(fields)) => {
            set.children = fields
                .iter()
                .map(|(name, value)| (field_element(name), whole_set(value, shape.child(name))))
                .collect();
        }
        (Shape::Keyed(..) | Shape::Values, Value::Array(list)) => {
            for (element, item) in shape.items(list) {
                set.union_child(element, whole_set(item, shape.element()));
            }
        }
        _ => {}
    }
    set
}

impl Set {
    fn union_child(&mut self, element: String, child: Set) {
        self.children.entry(element).or_default().union(child);
    }

    /// Makes a member of every struct field that something is owned below.
    pub fn with_fields_as_members(mut self, shape: Shape) -> Set {
        self.mark_fields(shape);
        self
    }

    fn mark_fields(&mut self, shape: Shape) {
        for (element, child) in &mut self.children {
            match element.strip_prefix("f:") {
                Some(name) => {
                    child.member |= matches!(shape, Shape::Struct(definition) if definition.field(name).is_some());
                    child.mark_fields(shape.child(name));
                }
                None => child.mark_fields(shape.element()),
            }
        }
    }
}

/// What is wrong with an applied configuration, as a typed reader sees it.
pub(super) fn problems(
    value: &Value,
    shape: Shape,
    kind: Option<&Type>,
    path: &str,
    found: &mut Vec<String>,
) {
    match (shape, value) {
        (_, Value::Null) => {}
        (Shape::Struct(definition), Value::Object(fields)) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match definition.field(name) {
                    Some(field) => problems(
                        value,
                        Shape::of_field(field),
                        Some(&field.kind),
                        &path,
                        found,
                    ),
                    None => found.push(format!("{path}: field not declared in schema")),
                }
            }
        }
        (Shape::Map(values), Value::Object(fields)) => {
            for (name, value) in fields {
                problems(
                    value,
                    shape.child(name),
                    Some(values),
                    &format!("{path}.{name}"),
                    found,
                );
            }
        }
        (Shape::Keyed(..) | Shape::Values, Value::Array(list)) => {
            let mut seen = std::collections::HashSet::new();
            for (at, item) in list.iter().enumerate() {
                match shape.path_element(item) {
                    Err(problem) => found.push(format!("{path}: element {at}: {problem}")),
                    Ok(element) => {
                        let shown = Set {
                            member: false,
                            children: [(element.clone(), Set::leaf())].into(),
                        }
                        .paths()
                        .concat();
                        if !seen.insert(element) {
                            found.push(format!("{path}: duplicate entries for key {shown}"));
                        }
                        problems(
                            item,
                            shape.element(),
                            None,
                            &format!("{path}{shown}"),
                            found,
                        );
                    }
                }
            }
        }
        (Shape::Struct(_) | Shape::Map(_), _) => {
            found.push(format!("{path}: expected map, got &{{{value}}}"))
        }
        (Shape::Keyed(..) | Shape::Values, _) => {
            found.push(format!("{path}: expected list, got &{{{value}}}"))
        }
        (Shape::Leaf, _) => scalar_problem(value, kind, path, found),
    }
}

fn scalar_problem(value: &Value, kind: Option<&Type>, path: &str, found: &mut Vec<String>) {
    let problem = match (kind, value) {
        (Some(Type::String | Type::Bytes | Type::Time | Type::MicroTime), Value::String(_)) => {
            return;
        }
        (Some(Type::String | Type::Bytes | Type::Time | Type::MicroTime), _) => {
            format!("expected string, got &value.valueUnstructured{{Value:{value}}}")
        }
        (Some(Type::Boolean), Value::Bool(_)) => return,
        (Some(Type::Boolean), _) => {
            format!("expected boolean, got &value.valueUnstructured{{Value:{value}}}")
        }
        (Some(Type::Int32 | Type::Int64 | Type::Double), Value::Number(_)) => return,
        (Some(Type::Int32 | Type::Int64 | Type::Double), _) => {
            let type_name = match value {
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Array(_) => "[]interface {}",
                _ => "map[string]interface {}",
            };
            format!("expected numeric (int or float), got {type_name}")
        }
        _ => return,
    };
    found.push(format!("{path}: {problem}"));
}
