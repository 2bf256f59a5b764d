//! What the API server knows about each kind: one file per kind, one line in [`registry::REGISTRY`].
//!
//! Invariant: routes, discovery, OpenAPI, storage, selectors and tables loop over the registry; nothing outside
//! this directory names a kind, except admission plugins and subresources that exist for one kind only.
//!
//! A kind's file states only what sets it apart: `Kind { plural: "pods", ..NAMESPACED }`.

use jiff::Timestamp;
use serde_json::Value;

mod checks;
mod cursor;
mod edit;
mod go_diff;
mod lifecycle;
mod metadata;
pub mod pod_spec;
mod printing;
mod problems;
pub mod registry;
pub mod resources;
mod subresources;
#[cfg(test)]
mod testing;

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod events;
mod flowcontrol;
mod networking;
mod node;
mod policy;
mod rbac;
mod resource;
mod scheduling;
mod storage;

pub use self::core::namespace::prepare_finalize;
pub use cursor::Cursor;
pub use metadata::{validate_metadata, validate_metadata_update};
pub use problems::{Problem, ProblemReason, Problems};

/// A built-in kind. Functions get whole objects as JSON; the schema's decoder has already checked the types, so
/// they may rely on the shape.
pub struct Kind {
    /// `""` for core.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// Name in the schema table, e.g. `io.k8s.api.apps.v1.Deployment`.
    pub definition: &'static str,
    /// Where it lies under `/registry/`, as in etcd: `deployments`, `services/specs`, `minions`, `leases`.
    pub storage: &'static str,
    pub verbs: Verbs,
    pub subresources: &'static [Subresource],
    /// Problems with `metadata.name` (and generateName's prefix), worded as the original words them.
    pub name_problems: fn(&str) -> Vec<String>,
    /// Runs after decoding, before admission, on every write and on reads of old data.
    pub defaults: fn(&mut Value),
    /// On create: resets what a client may not set (status, generation = 1).
    pub prepare_create: fn(&mut Value),
    /// On update of the main resource: keeps status and immutable server-set fields, bumps generation.
    pub prepare_update: fn(new: &mut Value, old: &Value),
    /// On update of `status`: keeps everything else.
    pub prepare_status_update: fn(new: &mut Value, old: &Value),
    /// Everything but `metadata`, which [`validate_metadata`] judges for every kind alike.
    pub validate: fn(&Value, &mut Problems),
    /// Runs after `validate`: what an update may not change.
    pub validate_update: fn(new: &Value, old: &Value, &mut Problems),
    /// For `status`.
    pub validate_status_update: fn(new: &Value, old: &Value, &mut Problems),
    /// For updates of another part: `ephemeralcontainers`, `resize`, `approval`. Runs after `validate`.
    pub validate_part_update: fn(subresource: &str, new: &Value, old: &Value, &mut Problems),
    /// `Warning` headers, e.g. deprecated fields.
    pub warnings: fn(new: &Value, old: Option<&Value>) -> Vec<String>,
    /// A `Warning` header of every answer, reads too; empty: none.
    pub deprecation: &'static str,
    /// Whether a PUT or an apply may create it (leases, endpoints, nodes, ...: as the original's strategies say).
    pub create_on_update: bool,
    /// Whether a completed deletion answers with the object rather than with a Status.
    pub answers_deletion_with_object: bool,
    /// Fields besides `metadata.name` and `metadata.namespace` that field selectors may use.
    pub selectable_fields: &'static [&'static str],
    /// Value of one of `selectable_fields` (default: looked up by path; pods and events derive some).
    pub field_value: fn(&Value, field: &str) -> String,
    pub columns: &'static [Column],
    /// One cell per column.
    pub cells: fn(&Value, now: Timestamp) -> Vec<Value>,
    /// `conditions` of a row: what a printer may leave out. Null: none.
    pub row_conditions: fn(&Value) -> Value,
    /// Set where several versions share one storage (autoscaling v1/v2, core and events.k8s.io events):
    /// stored objects are of the storage version.
    pub conversion: Option<Conversion>,
    /// Seconds that a delete waits unless asked otherwise; None: deleted at once. Pods: by object.
    pub graceful_seconds: Option<fn(&Value) -> i64>,
}

/// Between this version and the storage version.
pub struct Conversion {
    pub to_storage: fn(Value) -> Value,
    pub from_storage: fn(Value) -> Value,
    /// What the storage version calls a field that selectors may use.
    pub stored_field: fn(&str) -> String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verbs {
    /// create delete deletecollection get list patch update watch
    All,
    /// All but deletecollection (namespaces).
    WithoutDeleteCollection,
    /// Only `create` (reviews).
    Create,
    /// Only get and list (componentstatuses).
    Read,
}

impl Verbs {
    /// As discovery lists them.
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Verbs::All => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            Verbs::WithoutDeleteCollection => &["create", "delete", "get", "list", "patch", "update", "watch"],
            Verbs::Create => &["create"],
            Verbs::Read => &["get", "list"],
        }
    }
}

/// One subresource; its handler is chosen by name.
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind that it speaks when it differs: scale, eviction, token, binding.
    pub speaks: Option<(&'static str, &'static str, &'static str)>,
    pub verbs: &'static [&'static str],
    /// For `scale`: where replicas and selector live.
    pub scale: Option<ScalePaths>,
}

pub struct ScalePaths {
    pub spec_replicas: &'static str,
    pub status_replicas: &'static str,
    /// Path of a selector object or map that is printed as a string.
    pub selector: &'static str,
}

/// A table column, as in `TableColumnDefinition`.
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean`.
    pub kind: &'static str,
    /// `name` for the first column, otherwise empty.
    pub format: &'static str,
    /// 0 is always shown; 1 only with `-o wide`.
    pub priority: i32,
    /// The description, or `definition#field` for the schema's own description of a field.
    pub about: &'static str,
}

impl Column {
    pub fn description(&self) -> &'static str {
        let Some((definition, field)) = self.about.split_once('#') else { return self.about };
        api::schema::definition(definition)
            .and_then(|definition| definition.fields.iter().find(|own| own.name == field))
            .map_or("", |field| field.description)
    }
}

/// What most namespaced kinds have in common; a kind overrides what sets it apart.
pub const NAMESPACED: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    definition: "",
    storage: "",
    verbs: Verbs::All,
    subresources: &[],
    name_problems: api::names::dns1123_subdomain,
    defaults: |_| {},
    prepare_create: |_| {},
    prepare_update: |_, _| {},
    prepare_status_update: lifecycle::only_status,
    validate: |_, _| {},
    validate_update: |_, _, _| {},
    validate_status_update: |_, _, _| {},
    validate_part_update: |_, _, _, _| {},
    warnings: |_, _| Vec::new(),
    deprecation: "",
    create_on_update: false,
    answers_deletion_with_object: false,
    selectable_fields: &[],
    field_value: field_by_path,
    columns: printing::NAME_AND_AGE,
    cells: printing::name_and_age,
    row_conditions: |_| Value::Null,
    conversion: None,
    graceful_seconds: None,
};

/// The same without a namespace.
pub const CLUSTER: Kind = Kind { namespaced: false, ..NAMESPACED };

/// Field selectors compare strings: what is missing is `""`, numbers and booleans as Go prints them.
fn field_by_path(object: &Value, field: &str) -> String {
    let mut at = object;
    for step in field.split('.') {
        match at.get(step) {
            Some(inner) => at = inner,
            None => return String::new(),
        }
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
