//! A resource on its way through the layers.

use std::fmt;

use serde_json::Value;

use crate::value::{name, namespace, set, text};

/// Group, version, kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

impl Id {
    pub fn of(object: &Value) -> Self {
        let api_version = text(object, "/apiVersion");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Id {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: text(object, "/kind").to_owned(),
            namespace: namespace(object).to_owned(),
            name: name(object).to_owned(),
        }
    }

    pub fn same_kind(&self, other: &Id) -> bool {
        self.group == other.group && self.version == other.version && self.kind == other.kind
    }

    /// No namespace and the default one are the same place.
    pub fn same_namespace(&self, other: &Id) -> bool {
        let place = |id: &Id| if id.namespace.is_empty() { "default".to_owned() } else { id.namespace.clone() };
        place(self) == place(other)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
        write!(
            out,
            "{}.{}.{}/{}.{}",
            self.kind, or(&self.version, "[noVer]"), or(&self.group, "[noGrp]"), or(&self.name, "[noName]"), or(&self.namespace, "[noNs]")
        )
    }
}

#[derive(Clone, Debug)]
pub struct Resource {
    pub object: Value,
    /// What it was called before, the oldest first.
    past: Vec<Id>,
    /// Its name shall end in a hash of its content.
    pub hashed: bool,
}

impl Resource {
    pub fn new(object: Value) -> Self {
        Resource { object, past: Vec::new(), hashed: false }
    }

    pub fn current(&self) -> Id {
        Id::of(&self.object)
    }

    /// All names it ever had, the oldest first.
    pub fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.past.iter().cloned().chain(std::iter::once(self.current()))
    }

    /// Keeps what it is called now, before a change.
    pub fn remember(&mut self) {
        let now = self.current();
        if self.past.last() != Some(&now) {
            self.past.push(now);
        }
    }

    pub fn rename(&mut self, new: String) {
        self.remember();
        set(&mut self.object, &["metadata", "name"], new.into());
    }

    pub fn append_hash(&mut self) {
        if self.hashed {
            let suffix = crate::commands::create::hash::suffix(&self.object, "");
            self.rename(format!("{}-{suffix}", name(&self.object)));
            self.hashed = false;
        }
    }
}

/// Calls `change` for every value at `path`, whose parts lists on the way pass through. A missing field is made where
/// `create` says so, but never an element of a list.
pub fn each(object: &mut Value, path: &str, create: bool, change: &mut dyn FnMut(&mut Value)) {
    let parts: Vec<String> = path.replace("\\/", "\u{0}").split('/').map(|part| part.replace('\u{0}', "/")).collect();
    walk(object, &parts, create, change);
}

fn walk(value: &mut Value, parts: &[String], create: bool, change: &mut dyn FnMut(&mut Value)) {
    if let Value::Array(items) = value {
        // A path that ends at a list means its elements.
        for item in items {
            walk(item, parts, create, change);
        }
        return;
    }
    let Some((first, rest)) = parts.split_first() else { return change(value) };
    let (first, is_list) = first.strip_suffix("[]").map_or((first.as_str(), false), |name| (name, true));
    let Some(fields) = value.as_object_mut() else { return };
    match fields.get_mut(first) {
        Some(Value::Null) | None if create && !is_list => {
            let entry = fields.entry(first.to_owned()).or_insert(Value::Null);
            if entry.is_null() && !rest.is_empty() {
                *entry = serde_json::json!({});
            }
            walk(entry, rest, create, change);
        }
        Some(Value::Null) | None => {}
        Some(inner) => walk(inner, rest, create, change),
    }
}
