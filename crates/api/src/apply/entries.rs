//! `metadata.managedFields`: who owns what, decoded, changed and written back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Manager;
use super::compare::Comparison;
use super::set::{Set, subtract_from_fields_v1};
use crate::json::{SECOND_LAYOUT, parse_time, print_time};

/// More managers that update than this are merged, oldest first.
const UPDATERS_MAX: usize = 10;
/// Who gets the fields of managers that are merged.
const ANCIENT: &str = "ancient-changes";

/// Who owns fields. Appliers are the same whatever version they speak, updaters are not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub name: String,
    pub applies: bool,
    /// Empty for appliers.
    version: String,
    pub subresource: String,
}

#[derive(Clone, Debug)]
pub(super) struct Owned {
    pub set: Set,
    pub api_version: String,
    pub time: Option<Timestamp>,
}

pub(super) type Entries = BTreeMap<Owner, Owned>;

impl Owner {
    pub fn new(manager: &Manager, applies: bool) -> Self {
        let version = if applies { "" } else { manager.api_version };
        Owner {
            name: manager.name.to_owned(),
            applies,
            version: version.to_owned(),
            subresource: manager.subresource.to_owned(),
        }
    }

    /// As conflicts name it: `"kubectl" using apps/v1`.
    pub fn printed(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applies {
            text.push_str(&format!(" using {}", self.version));
        }
        text
    }
}

/// The entries of an object; one that cannot be read makes all of them unreadable, as upstream.
pub(super) fn read(object: &Value) -> Option<Entries> {
    read_list(list(object))
}

pub(super) fn are_readable(list: &[Value]) -> bool {
    read_list(list).is_some()
}

fn read_list(list: &[Value]) -> Option<Entries> {
    let mut entries = Entries::new();
    for entry in list {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let applies = match text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        let fields = entry.get("fieldsV1").filter(|fields| fields.is_object());
        let (Some(fields), "FieldsV1", false) =
            (fields, text("fieldsType"), text("apiVersion").is_empty())
        else {
            return None;
        };
        let manager = Manager {
            name: text("manager"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            now: Timestamp::UNIX_EPOCH,
        };
        let time = parse_time(text("time"), SECOND_LAYOUT).ok().flatten();
        entries.insert(
            Owner::new(&manager, applies),
            Owned {
                set: Set::from_fields_v1(fields),
                api_version: text("apiVersion").to_owned(),
                time,
            },
        );
    }
    Some(entries)
}

pub(super) fn list(object: &Value) -> &[Value] {
    object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A request empties the list by sending one blank entry.
pub(super) fn asks_for_reset(object: &Value) -> bool {
    matches!(list(object), [Value::Object(entry)] if entry.values().all(|value| value.as_str() == Some("") || value.is_null()))
}

/// Appliers first, then by time.
pub(super) fn write(object: &mut Value, entries: Entries) {
    let mut sorted: Vec<(Owner, Owned)> = entries.into_iter().collect();
    sorted.sort_by(|(left, left_owned), (right, right_owned)| {
        let second = |owned: &Owned| owned.time.map_or(0, Timestamp::as_second);
        right
            .applies
            .cmp(&left.applies)
            .then(second(left_owned).cmp(&second(right_owned)))
            .then_with(|| left.cmp(right))
    });
    let list: Vec<Value> = sorted
        .into_iter()
        .map(|(owner, owned)| entry(owner, owned))
        .collect();
    replace(object, list);
}

pub(super) fn replace(object: &mut Value, list: Vec<Value>) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    let metadata = object
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    let Some(metadata) = metadata.as_object_mut() else {
        return;
    };
    if list.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), Value::Array(list));
    }
}

/// The list itself, out of the object.
pub(super) fn take(object: &mut Value) -> Vec<Value> {
    match object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|metadata| metadata.remove("managedFields"))
    {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn entry(owner: Owner, owned: Owned) -> Value {
    let mut entry = json!({
        "manager": owner.name,
        "operation": if owner.applies { "Apply" } else { "Update" },
        "apiVersion": owned.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": owned.set.into_fields_v1(),
    });
    if let Some(time) = owned.time {
        entry["time"] = print_time(time, SECOND_LAYOUT).into();
    }
    if !owner.subresource.is_empty() {
        entry["subresource"] = owner.subresource.into();
    }
    entry
}

/// What nobody owns, since only the server sets it or it names the object.
pub(super) fn strip(set: &mut Set) {
    set.member = false;
    for name in ["f:apiVersion", "f:kind"] {
        set.children.remove(name);
    }
    let Some(metadata) = set.children.get_mut("f:metadata") else {
        return;
    };
    metadata.member = false;
    for name in [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ] {
        metadata.children.remove(name);
    }
    if metadata.is_empty() {
        set.children.remove("f:metadata");
    }
}

/// Of every owner but the applier: loses what changed under it.
pub(super) fn take_from_others(entries: &mut Entries, applier: &Owner, changes: &Comparison) {
    for (owner, owned) in entries.iter_mut() {
        if owner != applier {
            owned.set.subtract(&changes.added);
            owned.set.subtract(&changes.modified);
            owned.set.subtract(&changes.removed);
        }
    }
    entries.retain(|_, owned| !owned.set.is_empty());
}

/// The list after an update: what changed is taken from everybody and given to this manager.
pub(super) fn updated(mut list: Vec<Value>, manager: &Manager, changes: Comparison) -> Vec<Value> {
    for entry in &mut list {
        if let Some(Value::Object(fields)) = entry.get_mut("fieldsV1") {
            for change in [&changes.added, &changes.modified, &changes.removed] {
                subtract_from_fields_v1(fields, change);
            }
        }
    }
    let mut gained = changes.added;
    gained.union(changes.modified);
    let is_mine = |entry: &Value| {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        (
            text("manager"),
            text("operation"),
            text("apiVersion"),
            text("subresource"),
        ) == (
            manager.name,
            "Update",
            manager.api_version,
            manager.subresource,
        )
    };
    if !gained.is_empty() {
        let mine = list.iter().position(is_mine).map(|at| list.swap_remove(at));
        let mut set = mine
            .map(|entry| Set::from_fields_v1(&entry["fieldsV1"]))
            .unwrap_or_default();
        // An entry whose last field was just taken reads as nothing, not as the whole object.
        set.member = false;
        set.union(gained);
        let owned = Owned {
            set,
            api_version: manager.api_version.to_owned(),
            time: Some(manager.now),
        };
        list.push(entry(Owner::new(manager, false), owned));
    }
    list.retain(|entry| {
        entry
            .get("fieldsV1")
            .and_then(Value::as_object)
            .is_some_and(|fields| !fields.is_empty())
    });
    sort(&mut list);
    list
}

/// The order in which entries are written, for a list that is not decoded. Times are all of one form, and sort as text.
fn sort(list: &mut [Value]) {
    let key = |entry: &Value| {
        let text = |name: &str| {
            entry
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        ["operation", "time", "manager", "apiVersion", "subresource"].map(text)
    };
    if list.len() > 1 {
        list.sort_by_cached_key(key);
    }
}

pub(super) fn has_too_many_updaters(list: &[Value]) -> bool {
    list.iter()
        .filter(|entry| entry["operation"] == "Update")
        .count()
        > UPDATERS_MAX
}

/// Merges the oldest updaters of the same version until few enough are left.
pub(super) fn cap(entries: &mut Entries) {
    let mut updaters: Vec<Owner> = entries
        .keys()
        .filter(|owner| !owner.applies)
        .cloned()
        .collect();
    if updaters.len() <= UPDATERS_MAX {
        return;
    }
    updaters.sort_by_key(|owner| {
        (
            entries[owner].time.map_or(0, Timestamp::as_second),
            owner.clone(),
        )
    });
    let mut left = updaters.len();
    let mut first_of_version: BTreeMap<String, Owner> = BTreeMap::new();
    for owner in updaters {
        if left <= UPDATERS_MAX {
            return;
        }
        let Some(first) = first_of_version.get(&owner.version) else {
            first_of_version.insert(owner.version.clone(), owner);
            continue;
        };
        let bucket = Owner {
            name: ANCIENT.to_owned(),
            applies: false,
            version: owner.version.clone(),
            subresource: String::new(),
        };
        if !entries.contains_key(&bucket) {
            let oldest = entries
                .remove(first)
                .expect("the first of a version stays until it becomes the bucket");
            entries.insert(bucket.clone(), oldest);
        }
        if owner == bucket {
            continue;
        }
        let merged = entries
            .remove(&owner)
            .expect("updaters were listed from the entries");
        let into = entries.get_mut(&bucket).expect("the bucket was made above");
        into.set.union(merged.set);
        into.time = merged.time;
        left -= 1;
    }
}
