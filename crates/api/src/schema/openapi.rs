//! Publishes definitions as OpenAPI v2 and v3 schemas.

use serde_json::{Map, Value, json};

use super::{Definition, Field, ListType, MapType, Type, enums};

/// The definition as it stands under `definitions` in `/openapi/v2`.
pub fn openapi_v2_definition(definition: &Definition) -> Value {
    schema(definition, Version::Two)
}

/// The definition as it stands under `components/schemas` in `/openapi/v3`.
pub fn openapi_v3_schema(definition: &Definition) -> Value {
    schema(definition, Version::Three)
}

#[derive(Clone, Copy, PartialEq)]
enum Version {
    Two,
    Three,
}

fn schema(definition: &Definition, version: Version) -> Value {
    let mut out = Map::new();
    if !definition.description.is_empty() {
        out.insert("description".into(), definition.description.into());
    }
    if definition.fields.is_empty() {
        opaque(definition.short_name(), version, &mut out);
    } else {
        let fields = definition
            .fields
            .iter()
            .map(|field| (field.name.to_owned(), property(definition, field, version)));
        out.insert("properties".into(), Value::Object(fields.collect()));
        let required: Vec<&str> = definition
            .fields
            .iter()
            .filter(|field| field.required)
            .map(|field| field.name)
            .collect();
        if !required.is_empty() {
            out.insert("required".into(), json!(required));
        }
        out.insert("type".into(), "object".into());
    }
    if !definition.group_version_kinds.is_empty() {
        let kinds = definition.group_version_kinds.iter().map(
            |(group, version, kind)| json!({"group": group, "kind": kind, "version": version}),
        );
        out.insert("x-kubernetes-group-version-kind".into(), kinds.collect());
    }
    if let Some(map_type) = definition.map_type {
        out.insert("x-kubernetes-map-type".into(), word(map_type).into());
    }
    Value::Object(out)
}

/// Definitions that are no structs.
fn opaque(name: &str, version: Version, out: &mut Map<String, Value>) {
    match (name, version) {
        ("Time" | "MicroTime", _) => {
            out.insert("format".into(), "date-time".into());
            out.insert("type".into(), "string".into());
        }
        ("IntOrString", Version::Two) => {
            out.insert("format".into(), "int-or-string".into());
            out.insert("type".into(), "string".into());
        }
        ("IntOrString", Version::Three) => {
            out.insert("format".into(), "int-or-string".into());
            out.insert(
                "oneOf".into(),
                json!([{"type": "integer"}, {"type": "string"}]),
            );
        }
        ("Quantity", Version::Two) => drop(out.insert("type".into(), "string".into())),
        ("Quantity", Version::Three) => drop(out.insert(
            "oneOf".into(),
            json!([{"type": "string"}, {"type": "number"}]),
        )),
        (
            "JSON"
            | "JSONSchemaPropsOrArray"
            | "JSONSchemaPropsOrBool"
            | "JSONSchemaPropsOrStringArray",
            _,
        ) => {}
        _ => drop(out.insert("type".into(), "object".into())),
    }
}

fn property(definition: &Definition, field: &Field, version: Version) -> Value {
    let mut out = Map::new();
    let reference = reference_of(&field.kind);
    match (reference, version) {
        // v3 forbids siblings of $ref, hence allOf.
        (Some(name), Version::Three) => {
            drop(out.insert("allOf".into(), json!([{"$ref": path(&name, version)}])))
        }
        _ => type_of(&field.kind, version, &mut out),
    }
    if !field.description.is_empty() {
        out.insert("description".into(), field.description.into());
    }
    let words = enums::words(definition, field.name);
    if !words.is_empty() {
        out.insert("description".into(), enums::described(field.description, words).into());
        let of_elements = ["items", "additionalProperties"].into_iter().find(|key| out.contains_key(*key));
        let holder = match of_elements {
            Some(key) => out.get_mut(key).and_then(Value::as_object_mut),
            None => Some(&mut out),
        };
        if let Some(holder) = holder {
            holder.insert("enum".into(), json!(words));
        }
    }
    if let (Version::Three, Some(default)) = (version, default(field)) {
        out.insert("default".into(), default);
    }
    if let Some(list_type) = field.list_type {
        let word = match list_type {
            ListType::Map => "map",
            ListType::Set => "set",
            ListType::Atomic => "atomic",
        };
        out.insert("x-kubernetes-list-type".into(), word.into());
    }
    if let Some(map_type) = field.map_type {
        out.insert("x-kubernetes-map-type".into(), word(map_type).into());
    }
    if !field.list_map_keys.is_empty() {
        out.insert(
            "x-kubernetes-list-map-keys".into(),
            json!(field.list_map_keys),
        );
    }
    if !field.patch_strategy.is_empty() {
        out.insert(
            "x-kubernetes-patch-strategy".into(),
            field.patch_strategy.into(),
        );
    }
    if !field.patch_merge_key.is_empty() {
        out.insert(
            "x-kubernetes-patch-merge-key".into(),
            field.patch_merge_key.into(),
        );
    }
    Value::Object(out)
}

/// The zero of what Go writes even when empty, or the declared default.
fn default(field: &Field) -> Option<Value> {
    if !field.default.is_empty() {
        return serde_json::from_str(field.default).ok();
    }
    if field.by_value {
        return Some(json!({}));
    }
    if !field.always_written || field.pointer {
        return None;
    }
    match field.kind {
        Type::String => Some("".into()),
        Type::Boolean => Some(false.into()),
        Type::Int32 | Type::Int64 | Type::Double => Some(0.into()),
        _ => None,
    }
}

fn type_of(kind: &Type, version: Version, out: &mut Map<String, Value>) {
    let (name, format) = match kind {
        Type::String => ("string", ""),
        Type::Boolean => ("boolean", ""),
        Type::Int32 => ("integer", "int32"),
        Type::Int64 => ("integer", "int64"),
        Type::Double => ("number", "double"),
        Type::Bytes => ("string", "byte"),
        Type::List(inner) => {
            out.insert("items".into(), element(inner, version));
            ("array", "")
        }
        Type::Map(inner) => {
            out.insert("additionalProperties".into(), element(inner, version));
            ("object", "")
        }
        _ => {
            let name =
                reference_of(kind).expect("whatever is no scalar, list or map has a definition");
            out.insert("$ref".into(), path(&name, version).into());
            return;
        }
    };
    out.insert("type".into(), name.into());
    if !format.is_empty() {
        out.insert("format".into(), format.into());
    }
}

fn element(kind: &Type, version: Version) -> Value {
    let mut out = Map::new();
    match (reference_of(kind), version) {
        (Some(name), Version::Three) => {
            out.insert("allOf".into(), json!([{"$ref": path(&name, version)}]));
            out.insert("default".into(), json!({}));
        }
        _ => type_of(kind, version, &mut out),
    }
    if version == Version::Three && matches!(kind, Type::String) {
        out.insert("default".into(), "".into());
    }
    Value::Object(out)
}

fn path(name: &str, version: Version) -> String {
    match version {
        Version::Two => format!("#/definitions/{name}"),
        Version::Three => format!("#/components/schemas/{name}"),
    }
}

fn reference_of(kind: &Type) -> Option<String> {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
    const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
    Some(match kind {
        Type::Object(definition) => definition.name.to_owned(),
        Type::Time => format!("{META}.Time"),
        Type::MicroTime => format!("{META}.MicroTime"),
        Type::FieldsV1 => format!("{META}.FieldsV1"),
        Type::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        Type::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
        Type::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(),
        Type::Json => format!("{EXTENSIONS}.JSON"),
        Type::SchemaOrArray => format!("{EXTENSIONS}.JSONSchemaPropsOrArray"),
        Type::SchemaOrBool => format!("{EXTENSIONS}.JSONSchemaPropsOrBool"),
        Type::SchemaOrStringArray => format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"),
        _ => return None,
    })
}

fn word(map_type: MapType) -> &'static str {
    match map_type {
        MapType::Atomic => "atomic",
        MapType::Granular => "granular",
    }
}
