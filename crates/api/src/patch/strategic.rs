//! Strategic merge patch: lists merge by the keys that the schema names, and directives in the patch steer it.
//!
//! Invariant: the result holds no directive. The order of merged lists follows the patch, elements that only the
//! object has stay where they were relative to the others.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Definition, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

type Fields = Map<String, Value>;
/// What is known of an object: nothing inside of maps and of fields without a schema.
type Schema = Option<&'static Definition>;

pub fn strategic_merge_patch(
    doc: &Value,
    patch: &Value,
    definition: &'static Definition,
) -> Result<Value, PatchError> {
    let (Value::Object(doc), Value::Object(patch)) = (doc, patch) else {
        return Err(malformed("invalid JSON document"));
    };
    merge_objects(doc.clone(), patch.clone(), Some(definition)).map(Value::Object)
}

fn malformed(problem: impl Into<String>) -> PatchError {
    PatchError::Malformed(problem.into())
}

/// What the schema says of one field.
#[derive(Clone, Copy, Default)]
struct Strategy {
    merge: bool,
    replace: bool,
    key: &'static str,
    inner: Schema,
}

fn strategy(schema: Schema, name: &str) -> Result<Strategy, PatchError> {
    let Some(definition) = schema else {
        return Ok(Strategy::default());
    };
    let Some(field) = definition.field(name) else {
        let problem = format!(
            "unable to find api field in struct {} for the json field {name:?}",
            definition.short_name()
        );
        return Err(malformed(problem));
    };
    let inner = match field.kind {
        Type::Object(_) | Type::List(_) => field.kind.definition(),
        _ => None,
    };
    let has = |wanted: &str| field.patch_strategy.split(',').any(|found| found == wanted);
    Ok(Strategy {
        merge: has("merge"),
        replace: has("replace"),
        key: field.patch_merge_key,
        inner,
    })
}

fn merge_objects(
    mut original: Fields,
    mut patch: Fields,
    schema: Schema,
) -> Result<Fields, PatchError> {
    match patch.remove(PATCH) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => return Ok(patch),
        Some(Value::String(directive)) if directive == "delete" => return Ok(Fields::new()),
        Some(other) => {
            return Err(malformed(format!(
                "unknown patch type: {} in map: {}",
                bare(&other),
                Value::Object(patch)
            )));
        }
    }
    retain_keys(&mut original, &mut patch)?;
    order_lists(&mut original, &mut patch, schema)?;
    for (name, change) in patch {
        if let Some(list) = name.strip_prefix(DELETE_FROM_LIST) {
            delete_from_list(&mut original, list, &change)?;
            continue;
        }
        if change.is_null() {
            original.remove(&name);
            continue;
        }
        let before = original.remove(&name);
        let after = match (before, change) {
            (Some(Value::Object(before)), Value::Object(change)) => {
                let strategy = strategy(schema, &name)?;
                if strategy.replace {
                    without_directives(Value::Object(change))
                } else {
                    Some(Value::Object(merge_objects(
                        before,
                        change,
                        strategy.inner,
                    )?))
                }
            }
            (Some(Value::Array(before)), Value::Array(change)) => {
                let strategy = strategy(schema, &name)?;
                let merged = if strategy.merge {
                    merge_lists(before, change, strategy)?
                } else {
                    change
                };
                Some(Value::Array(merged))
            }
            (_, change) => without_directives(change),
        };
        if let Some(after) = after {
            original.insert(name, after);
        }
    }
    Ok(original)
}

/// Of a patch that meets nothing: the content, without nulls and directives.
fn without_directives(patch: Value) -> Option<Value> {
    match patch {
        Value::Object(mut fields) => {
            if fields
                .get(PATCH)
                .is_some_and(|directive| directive == "delete")
            {
                return None;
            }
            fields.remove(PATCH);
            let kept = fields.into_iter().filter(|(name, value)| {
                !value.is_null()
                    && !name.starts_with(DELETE_FROM_LIST)
                    && !name.starts_with(ELEMENT_ORDER)
                    && name != RETAIN_KEYS
            });
            Some(Value::Object(
                kept.filter_map(|(name, value)| Some((name, without_directives(value)?)))
                    .collect(),
            ))
        }
        Value::Array(elements) => Some(Value::Array(
            elements
                .into_iter()
                .filter_map(without_directives)
                .collect(),
        )),
        other => Some(other),
    }
}

/// `$retainKeys`: what the list does not name goes.
fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(kept) = directive else {
        return Err(malformed("invalid patch format of retainKeys"));
    };
    let named = |name: &str| kept.iter().any(|found| found == name);
    if patch
        .iter()
        .any(|(name, value)| !value.is_null() && !name.starts_with('$') && !named(name))
    {
        return Err(malformed("patch content doesn't match retainKeys list"));
    }
    original.retain(|name, _| named(name));
    Ok(())
}

fn delete_from_list(original: &mut Fields, name: &str, deleted: &Value) -> Result<(), PatchError> {
    let Value::Array(deleted) = deleted else {
        return Err(malformed("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(elements)) = original.get_mut(name) {
        elements.retain(|element| !deleted.contains(element));
    }
    Ok(())
}

/// `$setElementOrder/x`: merges list `x` and puts it into the order given.
fn order_lists(
    original: &mut Fields,
    patch: &mut Fields,
    schema: Schema,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|name| name.starts_with(ELEMENT_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let name = &directive[ELEMENT_ORDER.len()..];
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(malformed("invalid patch format of setElementOrder list"));
        };
        let strategy = strategy(schema, name)?;
        let change = match patch.remove(name) {
            None => None,
            Some(Value::Array(change)) => Some(change),
            Some(other) => {
                patch.insert(name.to_owned(), other); // Null, or a mistake: as without the directive.
                continue;
            }
        };
        if let Some(change) = &change {
            check_order(change, &order, strategy.key)?;
        }
        let before = match original.remove(name) {
            None => None,
            Some(Value::Array(before)) => Some(before),
            Some(other) => {
                original.insert(name.to_owned(), other);
                continue;
            }
        };
        let merged = match (before.clone(), change) {
            (None, None) => continue,
            (Some(before), None) => before,
            (None, Some(change)) => match without_directives(Value::Array(change)) {
                Some(Value::Array(change)) => change,
                _ => continue,
            },
            (Some(before), Some(change)) if strategy.merge => {
                merge_lists(before, change, strategy)?
            }
            (Some(_), Some(change)) => change,
        };
        let ordered = in_order(merged, &order, &before.unwrap_or_default(), strategy.key);
        original.insert(name.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

/// The elements that the patch changes must stand in the order that it gives.
fn check_order(change: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    let mut rest = order.iter().map(|element| identity(element, key));
    for element in change.iter().filter(|element| element.get(PATCH).is_none()) {
        let wanted = identity(element, key);
        if !rest.any(|found| found == wanted) {
            let shown = |list: &[Value]| {
                list.iter()
                    .map(Value::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            let problem = format!(
                "The order in patch list:\n[{}]\n doesn't match $setElementOrder list:\n[{}]\n",
                shown(change),
                shown(order)
            );
            return Err(malformed(problem));
        }
    }
    Ok(())
}

fn merge_lists(
    original: Vec<Value>,
    patch: Vec<Value>,
    strategy: Strategy,
) -> Result<Vec<Value>, PatchError> {
    let objects = original.iter().chain(&patch).any(Value::is_object);
    if original.iter().chain(&patch).any(Value::is_array) {
        return Err(malformed("lists of lists are not supported"));
    }
    let before = original.clone();
    let (merged, order, key) = if objects {
        let (merged, order) = merge_object_lists(original, patch, strategy)?;
        (merged, order, strategy.key)
    } else {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        let mut seen = std::collections::HashSet::new();
        merged.extend(
            original
                .into_iter()
                .chain(patch.iter().cloned())
                .filter(|element| seen.insert(element.to_string())),
        );
        (merged, patch, "")
    };
    Ok(in_order(merged, &order, &before, key))
}

/// The merged list, and the patch's elements without those that only were directives.
fn merge_object_lists(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    strategy: Strategy,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let key = strategy.key;
    if key.is_empty() {
        let name = strategy.inner.map_or("", Definition::short_name);
        return Err(malformed(format!(
            "cannot merge lists without merge key for {name}"
        )));
    }
    let mut changes = Vec::new();
    let mut replace = false;
    for element in patch {
        let Value::Object(mut fields) = element else {
            return Err(malformed(format!(
                "expected a map[string]interface {{}}, but received a {}",
                go_type(&element)
            )));
        };
        match fields.remove(PATCH) {
            None => changes.push(fields),
            Some(directive) if directive == "delete" => {
                let deleted = fields.get(key).ok_or_else(|| no_merge_key(&fields, key))?;
                original.retain(|element| element.get(key) != Some(deleted));
            }
            Some(directive) if directive == "replace" => replace = true,
            Some(directive) if directive == "merge" => {
                return Err(malformed(
                    "merging lists cannot yet be specified in the patch",
                ));
            }
            Some(other) => {
                return Err(malformed(format!(
                    "unknown patch type: {} in map: {}",
                    bare(&other),
                    Value::Object(fields)
                )));
            }
        }
    }
    let order: Vec<Value> = changes.iter().cloned().map(Value::Object).collect();
    if replace {
        return Ok((order.clone(), order));
    }
    let mut places: HashMap<String, usize> = HashMap::new();
    for (at, element) in original.iter().enumerate() {
        places.entry(identity(element, key)).or_insert(at);
    }
    for change in changes {
        let found = change
            .get(key)
            .ok_or_else(|| no_merge_key(&change, key))?
            .to_string();
        match places.get(&found) {
            Some(at) => {
                let before = match original[*at].take() {
                    Value::Object(before) => before,
                    _ => Fields::new(),
                };
                original[*at] = Value::Object(merge_objects(before, change, strategy.inner)?);
            }
            None => {
                places.insert(found, original.len());
                original.extend(without_directives(Value::Object(change)));
            }
        }
    }
    Ok((original, order))
}

fn no_merge_key(fields: &Fields, key: &str) -> PatchError {
    malformed(format!(
        "map: {} does not contain declared merge key: {key}",
        Value::Object(fields.clone())
    ))
}

/// What makes an element of a list the same as another: its merge key, or all of it.
fn identity(element: &Value, key: &str) -> String {
    if key.is_empty() {
        element.to_string()
    } else {
        element.get(key).unwrap_or(&Value::Null).to_string()
    }
}

/// Elements that `order` names stand as it says; the others stay as near to their old place as that allows.
fn in_order(merged: Vec<Value>, order: &[Value], before: &[Value], key: &str) -> Vec<Value> {
    let places = |list: &[Value]| {
        let mut found: HashMap<String, usize> = HashMap::new();
        for (at, element) in list.iter().enumerate() {
            found.entry(identity(element, key)).or_insert(at);
        }
        found
    };
    let (wanted, old) = (places(order), places(before));
    let (mut named, mut others): (Vec<_>, Vec<_>) = merged
        .into_iter()
        .map(|element| (identity(&element, key), element))
        .partition(|(identity, _)| wanted.contains_key(identity));
    named.sort_by_key(|(identity, _)| wanted[identity]);
    others.sort_by_key(|(identity, _)| old.get(identity).copied().unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((other, _)), Some((name, _))) => {
                matches!((old.get(other), old.get(name)), (Some(other), Some(name)) if other < name)
            }
        };
        let next = if other_first {
            others.next()
        } else {
            named.next()
        };
        out.extend(next.map(|(_, element)| element));
    }
}

fn bare(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::Array(_) => "[]interface {}",
        _ => "map[string]interface {}",
    }
}
