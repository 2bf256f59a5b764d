//! Merging a configuration into an object, and taking fields out of it.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::set::Set;
use super::shape::{Shape, field_element};

/// `config` over `live`.
pub(super) fn merge(live: Value, config: &Value, shape: Shape) -> Value {
    match (shape, live, config) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(mut live), Value::Object(config)) => {
            for (name, value) in config {
                let merged = match live.remove(name) {
                    Some(before) => merge(before, value, shape.child(name)),
                    None => value.clone(),
                };
                live.insert(name.clone(), merged);
            }
            Value::Object(live)
        }
        (Shape::Keyed(..) | Shape::Values, Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_lists(live, config, shape))
        }
        // Null says nothing about what is inside of a granular map or list.
        (
            Shape::Struct(_) | Shape::Map(_) | Shape::Keyed(..) | Shape::Values,
            live @ (Value::Object(_) | Value::Array(_)),
            Value::Null,
        ) => live,
        (_, _, config) => config.clone(),
    }
}

/// Elements of both in the configuration's order; elements of `live` alone keep their place before what follows
/// them there.
fn merge_lists(live: Vec<Value>, config: &[Value], shape: Shape) -> Vec<Value> {
    let key = |item: &Value| {
        shape
            .path_element(item)
            .unwrap_or_else(|_| item.to_string())
    };
    let live: Vec<(String, Value)> = live.into_iter().map(|item| (key(&item), item)).collect();
    let config: Vec<(String, &Value)> = config.iter().map(|item| (key(item), item)).collect();
    let configured: HashSet<&str> = config.iter().map(|(key, _)| key.as_str()).collect();
    let mut by_key: HashMap<&str, &Value> = HashMap::new();
    for (key, item) in &live {
        by_key.entry(key).or_insert(item);
    }
    let merged_with = |key: &str, item: &Value| match by_key.get(key) {
        Some(before) => merge((*before).clone(), item, shape.element()),
        None => item.clone(),
    };
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut done: HashSet<&str> = HashSet::new();
    let mut shared = config
        .iter()
        .map(|(key, _)| key.as_str())
        .filter(|key| by_key.contains_key(key))
        .peekable();
    let (mut at_live, mut at_config) = (0, 0);
    while at_live < live.len() || at_config < config.len() {
        if let Some((live_key, live_item)) = live.get(at_live) {
            if !configured.contains(live_key.as_str()) {
                out.push(live_item.clone());
                at_live += 1;
                continue;
            }
            let in_turn = config
                .get(at_config)
                .is_some_and(|(key, _)| key == live_key);
            if done.contains(live_key.as_str()) || in_turn {
                at_live += 1; // Its place is where the configuration has it.
            } else if at_config < config.len()
                && shared.peek().is_some_and(|next| *next != live_key)
            {
                at_live += 1; // Its turn in the configuration comes later.
                continue;
            }
        }
        if let Some((key, item)) = config.get(at_config) {
            out.push(merged_with(key, item));
            done.insert(key);
            if shared.peek() == Some(&key.as_str()) {
                shared.next();
            }
            at_config += 1;
        } else {
            at_live += 1;
        }
    }
    out
}

/// The value without the paths of the set. What nothing is left of becomes null.
pub(super) fn remove(value: &Value, removed: &Set, shape: Shape) -> Value {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(fields)) => {
            let mut kept = Map::new();
            for (name, value) in fields {
                match removed.children.get(&field_element(name)) {
                    None => drop(kept.insert(name.clone(), value.clone())),
                    Some(child) if child.member => {}
                    Some(child) => {
                        drop(kept.insert(name.clone(), remove(value, child, shape.child(name))))
                    }
                }
            }
            if kept.is_empty() {
                Value::Null
            } else {
                Value::Object(kept)
            }
        }
        (Shape::Keyed(..) | Shape::Values, Value::Array(list)) => {
            let mut kept = Vec::new();
            for item in list {
                match shape
                    .path_element(item)
                    .ok()
                    .and_then(|element| removed.children.get(&element))
                {
                    None => kept.push(item.clone()),
                    Some(child) if child.member => {}
                    Some(child) => kept.push(remove(item, child, shape.element())),
                }
            }
            if kept.is_empty() {
                Value::Null
            } else {
                Value::Array(kept)
            }
        }
        // Atomic values are there or not; something below them cannot be taken out alone.
        _ => value.clone(),
    }
}
