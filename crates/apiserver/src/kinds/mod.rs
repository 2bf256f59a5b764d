//! What the API server knows about each kind: one file per kind, one line in [`REGISTRY`].
//!
//! Invariant: routes, discovery, OpenAPI, storage, selectors and tables loop over the registry; nothing outside
//! this directory names a kind, except admission plugins and subresources that exist for one kind only.

use jiff::Timestamp;
use serde_json::Value;

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
    pub validate: fn(&Value, &mut Problems),
    /// Runs after `validate`: what an update may not change.
    pub validate_update: fn(new: &Value, old: &Value, &mut Problems),
    /// For `status`.
    pub validate_status_update: fn(new: &Value, old: &Value, &mut Problems),
    /// `Warning` headers, e.g. deprecated fields.
    pub warnings: fn(new: &Value, old: Option<&Value>) -> Vec<String>,
    /// Fields besides `metadata.name` and `metadata.namespace` that field selectors may use.
    pub selectable_fields: &'static [&'static str],
    /// Value of one of `selectable_fields` (default: looked up by path; pods and events derive some).
    pub field_value: fn(&Value, field: &str) -> String,
    pub columns: &'static [Column],
    /// One cell per column.
    pub cells: fn(&Value, now: Timestamp) -> Vec<Value>,
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
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verbs {
    /// create delete deletecollection get list patch update watch
    All,
    /// Only `create` (reviews).
    Create,
    /// Only get and list (componentstatuses).
    Read,
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
    pub description: &'static str,
}

/// Collects what is wrong with an object, in the original's words and order.
#[derive(Default)]
pub struct Problems {
    pub list: Vec<Problem>,
}

/// A `StatusCause`: reason `FieldValue...`, the field's path, and the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: ProblemReason,
    /// `spec.template.spec.containers[0].name`
    pub field: String,
    /// `Invalid value: "a_b": a lowercase RFC 1123 label must consist of ...`
    pub detail: String,
}

/// The `reason` of a `StatusCause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemReason {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
}
