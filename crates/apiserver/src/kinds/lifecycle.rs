//! What creates and updates keep and reset, shared by kinds with a spec and a status.

use serde_json::{Map, Value, json};

use super::cursor::walk;

/// Create: no status from clients, first generation.
pub fn first_generation(object: &mut Value) {
    empty_status(object);
    set_generation(object, 1);
}

/// Create: no status from clients (kinds that count no generations).
pub fn empty_status(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("status".into(), json!({}));
    }
}

/// Update: status stays as it was.
pub fn keep_status(new: &mut Value, old: &Value) {
    keep_field(new, old, "status");
}

/// Update: status stays, and the generation counts changes of the spec.
pub fn keep_status_and_count(new: &mut Value, old: &Value) {
    keep_status(new, old);
    count_generation(new, old, &["spec"]);
}

/// Update of `status`: only status and metadata are taken.
pub fn only_status(new: &mut Value, old: &Value) {
    let (Some(new_map), Some(old_map)) = (new.as_object_mut(), old.as_object()) else { return };
    new_map.retain(|key, _| taken_by_status(key) || old_map.contains_key(key));
    for (key, value) in old_map {
        if !taken_by_status(key) {
            new_map.insert(key.clone(), value.clone());
        }
    }
}

/// The same, and labels stay too.
pub fn only_status_keep_labels(new: &mut Value, old: &Value) {
    only_status(new, old);
    keep_metadata(new, old, "labels");
}

fn taken_by_status(key: &str) -> bool {
    matches!(key, "status" | "metadata" | "apiVersion" | "kind")
}

/// Generation grows by one when one of the top-level fields changed, and otherwise stays.
pub fn count_generation(new: &mut Value, old: &Value, fields: &[&str]) {
    let changed = fields.iter().any(|field| new.get(field) != old.get(field));
    let generation = walk(old, "metadata.generation").as_i64().unwrap_or(0) + i64::from(changed);
    if generation > 0 {
        set_generation(new, generation);
    }
}

pub fn set_generation(object: &mut Value, generation: i64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("generation".into(), generation.into());
    }
}

pub fn keep_field(new: &mut Value, old: &Value, field: &str) {
    if let Some(map) = new.as_object_mut() {
        copy(map, old.get(field), field);
    }
}

pub fn keep_metadata(new: &mut Value, old: &Value, field: &str) {
    if let Some(map) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        copy(map, old.get("metadata").and_then(|metadata| metadata.get(field)), field);
    }
}

fn copy(map: &mut Map<String, Value>, value: Option<&Value>, field: &str) {
    match value {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_spec_are_written_apart() {
        let old = json!({"metadata": {"generation": 3, "labels": {"a": "b"}}, "spec": {"x": 1}, "status": {"y": 1}});

        let mut new = json!({"metadata": {}, "spec": {"x": 2}, "status": {"y": 2}});
        keep_status_and_count(&mut new, &old);
        assert_eq!(new, json!({"metadata": {"generation": 4}, "spec": {"x": 2}, "status": {"y": 1}}));

        let mut new = json!({"metadata": {"generation": 3}, "spec": {"x": 2}, "extra": 1, "status": {"y": 2}});
        only_status(&mut new, &old);
        assert_eq!(new, json!({"metadata": {"generation": 3}, "spec": {"x": 1}, "status": {"y": 2}}));
    }
}
