//! What changed between two objects, as sets of fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::Set;
use super::shape::{Shape, field_element, whole_set};

#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn attach(&mut self, element: String, child: Comparison) {
        if child.is_same() {
            return;
        }
        self.added.attach(element.clone(), child.added);
        self.modified.attach(element.clone(), child.modified);
        self.removed.attach(element, child.removed);
    }
}

/// Objects and lists that are empty on both sides count as leaves, which keeps null and empty apart.
pub(super) fn compare(old: Option<&Value>, new: Option<&Value>, shape: Shape) -> Comparison {
    match (old, new) {
        (None, None) => Comparison::default(),
        (None, Some(new)) => Comparison {
            added: whole_set(new, shape),
            ..Comparison::default()
        },
        (Some(old), None) => Comparison {
            removed: whole_set(old, shape),
            ..Comparison::default()
        },
        (Some(old), Some(new)) if old == new => Comparison::default(),
        (Some(old), Some(new)) => match shape {
            Shape::Struct(_) | Shape::Map(_) if !(is_empty(old) && is_empty(new)) => {
                objects(old.as_object(), new.as_object(), shape)
            }
            Shape::Keyed(..) | Shape::Values if !(is_empty(old) && is_empty(new)) => {
                lists(old.as_array(), new.as_array(), shape)
            }
            _ => Comparison {
                modified: Set::leaf(),
                ..Comparison::default()
            },
        },
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    }
}

fn objects(
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    shape: Shape,
) -> Comparison {
    let mut found = Comparison::default();
    for (name, old) in old.into_iter().flatten() {
        let new = new.and_then(|new| new.get(name));
        if new != Some(old) {
            found.attach(
                field_element(name),
                compare(Some(old), new, shape.child(name)),
            );
        }
    }
    for (name, new) in new.into_iter().flatten() {
        if !old.is_some_and(|old| old.contains_key(name)) {
            found.attach(
                field_element(name),
                compare(None, Some(new), shape.child(name)),
            );
        }
    }
    found
}

fn lists(old: Option<&Vec<Value>>, new: Option<&Vec<Value>>, shape: Shape) -> Comparison {
    let mut found = Comparison::default();
    let mut pairs: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for (element, item) in shape.items(old.map(Vec::as_slice).unwrap_or_default()) {
        pairs.entry(element).or_default().0.push(item);
    }
    for (element, item) in shape.items(new.map(Vec::as_slice).unwrap_or_default()) {
        pairs.entry(element).or_default().1.push(item);
    }
    for (element, (old, new)) in pairs {
        let child = match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => {
                compare(old.first().copied(), new.first().copied(), shape.element())
            }
            // Elements that share a key cannot be told apart: together they are one leaf.
            (same, also) if same == also => Comparison::default(),
            _ => Comparison {
                modified: Set::leaf(),
                ..Comparison::default()
            },
        };
        found.attach(element, child);
    }
    found
}
