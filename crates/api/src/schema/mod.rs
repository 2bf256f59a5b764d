//! The schema of every Kubernetes definition, as static tables made at build time.
//!
//! Invariant: one table drives strict decoding, protobuf, patches, apply and the published OpenAPI documents, so
//! they cannot disagree. Deliberately absent: custom resources, whose schema is data and lives elsewhere.

mod table {
    use super::{Definition, Field, ListType, MapType, Type};

    /// What a field is unless the table says otherwise.
    const FIELD: Field = Field {
        name: "",
        tag: 0,
        kind: Type::String,
        description: "",
        required: false,
        pointer: false,
        always_written: false,
        by_value: false,
        wrapped: false,
        list_type: None,
        list_map_keys: &[],
        map_type: None,
        patch_strategy: "",
        patch_merge_key: "",
        default: "",
    };

    include!(concat!(env!("OUT_DIR"), "/definitions.rs"));
}

mod enums;
mod openapi;

use std::collections::HashMap;
use std::sync::OnceLock;

pub use openapi::{openapi_v2_definition, openapi_v3_schema};

/// A type of the API: what OpenAPI calls a definition.
#[derive(Debug)]
pub struct Definition {
    /// `io.k8s.api.apps.v1.Deployment`
    pub name: &'static str,
    pub description: &'static str,
    /// Part of the published OpenAPI documents. Structs that Go inlines, and partial metadata, are not.
    pub published: bool,
    /// Whether server-side apply owns objects of this type whole.
    pub map_type: Option<MapType>,
    /// Sorted by name, those of inlined structs included.
    pub fields: &'static [Field],
    /// Structs that Go inlines: flat in JSON, a message of their own (with this tag) in protobuf.
    pub inlined: &'static [(u32, &'static Definition)],
    /// Protobuf order: tag, and index into `fields` or, past its end, into `inlined`.
    pub wire: &'static [(u32, usize)],
    /// Group, version, kind.
    pub group_version_kinds: &'static [(&'static str, &'static str, &'static str)],
}

#[derive(Debug)]
pub struct Field {
    /// As JSON spells it.
    pub name: &'static str,
    /// Protobuf; 0 for `apiVersion`, `kind`, and fields that live in an inlined struct.
    pub tag: u32,
    pub kind: Type,
    pub description: &'static str,
    pub required: bool,
    /// The Go scalar is a pointer: zero and "" mean something.
    pub pointer: bool,
    /// Present in JSON even when empty.
    pub always_written: bool,
    /// A struct, not a pointer to one, in Go: its empty form is `{}`, not null.
    pub by_value: bool,
    /// The list travels as a message `{repeated items = 1}` in protobuf.
    pub wrapped: bool,
    pub list_type: Option<ListType>,
    pub list_map_keys: &'static [&'static str],
    pub map_type: Option<MapType>,
    /// `merge`, `replace`, `retainKeys`, `merge,retainKeys` or empty.
    pub patch_strategy: &'static str,
    pub patch_merge_key: &'static str,
    /// JSON text of the declared default, or empty.
    pub default: &'static str,
}

/// How server-side apply merges a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Map,
    Set,
    Atomic,
}

/// How server-side apply merges a map or an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    Atomic,
    Granular,
}

#[derive(Clone, Copy, Debug)]
pub enum Type {
    String,
    Boolean,
    Int32,
    Int64,
    Double,
    /// base64 text in JSON.
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// Any JSON: `runtime.RawExtension`.
    RawExtension,
    /// Any JSON: a set of fields that a manager owns.
    FieldsV1,
    /// Any JSON: `apiextensions.v1.JSON`.
    Json,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStringArray,
    Object(&'static Definition),
    List(&'static Type),
    Map(&'static Type),
}

impl Type {
    /// The definition that values of this type, or of its elements, have.
    pub fn definition(&self) -> Option<&'static Definition> {
        match self {
            Type::Object(definition) => Some(definition),
            Type::List(inner) | Type::Map(inner) => inner.definition(),
            _ => None,
        }
    }

    /// Any JSON is allowed here.
    pub fn is_any(&self) -> bool {
        matches!(self, Type::RawExtension | Type::FieldsV1 | Type::Json)
    }
}

impl Definition {
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields
            .binary_search_by(|field| field.name.cmp(name))
            .ok()
            .map(|at| &self.fields[at])
    }

    /// `Deployment` of `io.k8s.api.apps.v1.Deployment`: the name of the Go type.
    pub fn short_name(&self) -> &'static str {
        self.name
            .rsplit_once('.')
            .map_or(self.name, |(_, short)| short)
    }
}

/// The definition of that name, such as `io.k8s.api.apps.v1.Deployment`.
pub fn definition(name: &str) -> Option<&'static Definition> {
    table::DEFINITIONS
        .binary_search_by(|found| found.name.cmp(name))
        .ok()
        .map(|at| table::DEFINITIONS[at])
}

/// All definitions, sorted by name.
pub fn definitions() -> impl Iterator<Item = &'static Definition> {
    table::DEFINITIONS.iter().copied()
}

/// The definition of a kind, lists included; `api_version` is `v1` or `apps/v1`.
pub fn definition_of_kind(api_version: &str, kind: &str) -> Option<&'static Definition> {
    static INDEX: OnceLock<HashMap<(&str, &str, &str), &'static Definition>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        definitions()
            .flat_map(|found| {
                found
                    .group_version_kinds
                    .iter()
                    .map(move |&key| (key, found))
            })
            .collect()
    });
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    index.get(&(group, version, kind)).copied()
}
