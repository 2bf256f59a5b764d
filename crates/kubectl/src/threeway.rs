//! Patches made from what was applied last, what is to be applied, and what the server has.
//!
//! Invariant: applying the patch to `current` yields `modified` in every field that `modified` names, without the fields
//! that `original` named and `modified` does not; everything else stays. Deliberately absent: applying patches, which
//! `api::patch` does.

use api::schema::{Definition, Field, Type};
use serde_json::{Map, Value, json};

/// JSON merge patch, for kinds without a schema.
pub fn merge(original: &Value, modified: &Value, current: &Value) -> Value {
    let mut patch = Map::new();
    let empty = Map::new();
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (original, current) = (fields(original), fields(current));
    for (name, wanted) in modified.as_object().unwrap_or(&empty) {
        match (wanted, current.get(name)) {
            (Value::Object(_), Some(now @ Value::Object(_))) => {
                let inner = merge(original.get(name).unwrap_or(&Value::Null), wanted, now);
                if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
                    patch.insert(name.clone(), inner);
                }
            }
            (Value::Null, None) => {}
            (wanted, now) => {
                if now != Some(wanted) {
                    patch.insert(name.clone(), wanted.clone());
                }
            }
        }
    }
    for name in original.keys() {
        if modified.get(name).is_none() && current.contains_key(name) {
            patch.insert(name.clone(), Value::Null);
        }
    }
    Value::Object(patch)
}

/// Strategic merge patch, for kinds whose schema says how lists merge.
pub fn strategic(original: &Value, modified: &Value, current: &Value, definition: &'static Definition) -> Value {
    Value::Object(objects(original, modified, current, Some(definition)))
}

fn objects(original: &Value, modified: &Value, current: &Value, definition: Option<&'static Definition>) -> Map<String, Value> {
    let mut patch = Map::new();
    let empty = Map::new();
    let original = original.as_object().unwrap_or(&empty);
    let current = current.as_object().unwrap_or(&empty);
    let modified = modified.as_object().unwrap_or(&empty);
    for (name, wanted) in modified {
        let before = original.get(name).unwrap_or(&Value::Null);
        let field = definition.and_then(|definition| definition.field(name));
        match (wanted, current.get(name)) {
            (Value::Object(keys), Some(now @ Value::Object(_))) => {
                if field.is_some_and(|field| field.patch_strategy == "replace") {
                    if wanted != now {
                        let mut whole = keys.clone();
                        whole.insert("$patch".to_owned(), "replace".into());
                        patch.insert(name.clone(), Value::Object(whole));
                    }
                    continue;
                }
                let mut inner = objects(before, wanted, now, field.and_then(|field| field.kind.definition()));
                if inner.is_empty() {
                    continue;
                }
                if field.is_some_and(|field| field.patch_strategy.contains("retainKeys")) {
                    inner.insert("$retainKeys".to_owned(), keys.keys().cloned().collect::<Vec<_>>().into());
                }
                patch.insert(name.clone(), Value::Object(inner));
            }
            (Value::Array(wanted), Some(Value::Array(now))) if field.is_some_and(|field| field.patch_strategy.contains("merge")) => {
                let field = field.expect("looked at in the guard");
                let before = before.as_array().map_or(&[][..], Vec::as_slice);
                if field.patch_merge_key.is_empty() {
                    primitives(name, before, wanted, now, &mut patch);
                } else {
                    keyed(name, field, before, wanted, now, &mut patch);
                }
            }
            (Value::Null, None) => {}
            (wanted, now) => {
                if now != Some(wanted) {
                    patch.insert(name.clone(), wanted.clone());
                }
            }
        }
    }
    for name in original.keys() {
        if !modified.contains_key(name) && current.contains_key(name) {
            patch.insert(name.clone(), Value::Null);
        }
    }
    patch
}

fn primitives(name: &str, original: &[Value], modified: &[Value], current: &[Value], patch: &mut Map<String, Value>) {
    let added: Vec<Value> = modified.iter().filter(|item| !current.contains(item)).cloned().collect();
    let removed: Vec<Value> = original.iter().filter(|item| !modified.contains(item) && current.contains(item)).cloned().collect();
    if added.is_empty() && removed.is_empty() && in_order(modified, current) {
        return;
    }
    patch.insert(format!("$setElementOrder/{name}"), modified.to_vec().into());
    if !added.is_empty() {
        patch.insert(name.to_owned(), added.into());
    }
    if !removed.is_empty() {
        patch.insert(format!("$deleteFromPrimitiveList/{name}"), removed.into());
    }
}

fn keyed(name: &str, field: &Field, original: &[Value], modified: &[Value], current: &[Value], patch: &mut Map<String, Value>) {
    let key = field.patch_merge_key;
    let inner = match &field.kind {
        Type::List(inner) => inner.definition(),
        _ => None,
    };
    let same = |item: &Value, list: &[Value]| list.iter().find(|other| other.get(key) == item.get(key)).cloned();
    if modified.iter().any(|item| item.get(key).is_none()) {
        // An element without its key cannot be merged: the list goes as a whole.
        if modified != current {
            patch.insert(name.to_owned(), modified.to_vec().into());
        }
        return;
    }
    let mut changes = Vec::new();
    for item in modified {
        match same(item, current) {
            None => changes.push(item.clone()),
            Some(now) => {
                let before = same(item, original).unwrap_or(Value::Null);
                let mut change = objects(&before, item, &now, inner);
                if !change.is_empty() {
                    change.insert(key.to_owned(), item[key].clone());
                    changes.push(Value::Object(change));
                }
            }
        }
    }
    for item in original {
        if same(item, modified).is_none() && same(item, current).is_some() {
            changes.push(json!({"$patch": "delete", key: item[key]}));
        }
    }
    let keys = |list: &[Value]| -> Vec<Value> { list.iter().map(|item| json!({key: item[key]})).collect() };
    let wanted = keys(modified);
    if changes.is_empty() && in_order(&wanted, &keys(current)) {
        return;
    }
    patch.insert(format!("$setElementOrder/{name}"), wanted.into());
    if !changes.is_empty() {
        patch.insert(name.to_owned(), changes.into());
    }
}

/// Whether the wanted elements stand in `current` in the wanted order.
fn in_order(wanted: &[Value], current: &[Value]) -> bool {
    let positions: Vec<Option<usize>> = wanted.iter().map(|item| current.iter().position(|other| other == item)).collect();
    positions.windows(2).all(|pair| pair[0] <= pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(spec: &str) -> Value {
        let (value, _) = api::yaml::to_json(spec.as_bytes()).unwrap();
        json!({"spec": {"template": {"spec": value}}})
    }

    /// The patch, and that applying it gives `expected`.
    #[track_caller]
    fn check(original: &str, modified: &str, current: &str, patch: Value, expected: &str) {
        let definition = api::schema::definition("io.k8s.api.apps.v1.Deployment").unwrap();
        let current = deployment(current);
        let made = strategic(&deployment(original), &deployment(modified), &current, definition);
        let inner = made.pointer("/spec/template/spec").cloned().unwrap_or(json!({}));
        assert_eq!(inner, patch);
        let result = api::patch::strategic_merge_patch(&current, &made, definition).unwrap();
        assert_eq!(result, deployment(expected));
    }

    #[test]
    fn strategic_cases() {
        let one = "containers: [{name: a, image: x}]";
        check(one, one, "containers: [{name: a, image: x, imagePullPolicy: Always}]", json!({}), "containers: [{name: a, image: x, imagePullPolicy: Always}]");
        check(
            one,
            "containers: [{name: a, image: x2}]",
            "containers: [{name: a, image: x, imagePullPolicy: Always}]",
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "image": "x2"}]}),
            "containers: [{name: a, image: x2, imagePullPolicy: Always}]",
        );
        check(
            "containers: [{name: a, image: x}, {name: b, image: z}]",
            one,
            "containers: [{name: a, image: x}, {name: b, image: z}, {name: injected, image: i}]",
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b", "$patch": "delete"}]}),
            "containers: [{name: a, image: x}, {name: injected, image: i}]",
        );
        check("hostname: a", "{}", "hostname: a", json!({"hostname": null}), "{}");
    }

    #[test]
    fn merge_cases() {
        let check = |original: Value, modified: Value, current: Value, expected: Value| {
            assert_eq!(merge(&original, &modified, &current), expected);
        };
        check(json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "c": 3}), json!({"a": null, "b": 2}));
        check(json!({"l": [1]}), json!({"l": [1, 2]}), json!({"l": [1]}), json!({"l": [1, 2]}));
        check(json!({"m": {"x": 1}}), json!({"m": {}}), json!({"m": {"x": 1, "y": 2}}), json!({"m": {"x": null}}));
        check(json!({}), json!({"a": 1}), json!({"a": 1}), json!({}));
    }
}
