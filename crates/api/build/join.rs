//! Joins OpenAPI definitions, protobuf messages and the facts about Go's types into one table.
//!
//! Invariant: every JSON field of a definition that has a message gets a tag, or the build fails; `apiVersion`
//! and `kind` alone have none, they travel in the envelope.

use std::collections::{BTreeMap, HashMap};

use crate::openapi::{Document, Resource, Schema};
use crate::proto::{Message, Messages, plain};

pub struct Row {
    pub name: String,
    pub description: String,
    pub published: bool,
    pub atomic: bool,
    pub granular: bool,
    pub fields: Vec<FieldRow>,
    /// Tag and definition name of structs that Go inlines into this one.
    pub inlined: Vec<(u32, String)>,
    pub kinds: Vec<(String, String, String)>,
}

#[derive(Clone, Default)]
pub struct FieldRow {
    pub name: String,
    pub tag: u32,
    pub kind: Kind,
    pub description: String,
    pub required: bool,
    /// Go's `+optional`.
    pub optional: bool,
    pub pointer: bool,
    pub written: bool,
    pub by_value: bool,
    pub wrapped: bool,
    pub list_type: String,
    pub list_map_keys: Vec<String>,
    pub map_type: String,
    pub patch_strategy: String,
    pub patch_merge_key: String,
    pub default: String,
}

#[derive(Clone)]
pub enum Kind {
    Scalar(&'static str),
    Object(String),
    List(Box<Kind>),
    Map(Box<Kind>),
}

impl Default for Kind {
    fn default() -> Self {
        Kind::Scalar("String")
    }
}

/// What `go_fields.txt` says of each definition's fields.
pub type Facts = HashMap<String, HashMap<String, Fact>>;

#[derive(Clone, Copy)]
pub enum Fact {
    Pointer,
    Written,
    ByValue,
}

pub fn read_facts(text: &str) -> Facts {
    let mut facts = Facts::new();
    let mut package = "";
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(section) = line.strip_prefix('[') {
            package = section.trim_end_matches(']');
            continue;
        }
        let mut words = line.split(' ');
        let definition = format!("{package}.{}", words.next().unwrap_or_default());
        let fields = words.map(
            |word| match (word.strip_prefix('*'), word.strip_suffix("{}")) {
                (Some(name), _) => (name.to_owned(), Fact::Pointer),
                (_, Some(name)) => (name.to_owned(), Fact::ByValue),
                _ => (word.to_owned(), Fact::Written),
            },
        );
        facts.insert(definition, fields.collect());
    }
    facts
}

pub fn join(documents: Vec<Document>, messages: &Messages, facts: &Facts) -> Vec<Row> {
    let mut joiner = Joiner {
        messages,
        facts,
        rows: BTreeMap::new(),
    };
    let group_versions: Vec<(String, String)> = group_versions(&documents);
    for document in &documents {
        joiner.document(document);
    }
    for document in &documents {
        if let Some(Resource {
            list_kind: Some(list_kind),
            group,
            version,
            ..
        }) = &document.resource
        {
            joiner.list(document, list_kind, (group, version));
        }
    }
    joiner.partial_metadata();
    for kind in ["DeleteOptions", "WatchEvent"] {
        let row = joiner
            .rows
            .get_mut(&meta(kind))
            .expect("meta/v1 is published");
        row.kinds = group_versions
            .iter()
            .map(|(group, version)| (group.clone(), version.clone(), kind.to_owned()))
            .collect();
    }
    for (kind, name) in [
        ("Status", "Status"),
        ("APIGroup", "APIGroup"),
        ("APIGroupList", "APIGroupList"),
        ("APIResourceList", "APIResourceList"),
        ("APIVersions", "APIVersions"),
    ] {
        joiner
            .rows
            .get_mut(&meta(name))
            .expect("meta/v1 is published")
            .kinds = vec![(String::new(), "v1".to_owned(), kind.to_owned())];
    }
    joiner.rows.into_values().collect()
}

fn meta(kind: &str) -> String {
    format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")
}

fn group_versions(documents: &[Document]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = documents
        .iter()
        .filter_map(|document| document.resource.as_ref())
        .map(|resource| (resource.group.clone(), resource.version.clone()))
        .collect();
    found.sort();
    found.dedup();
    found
}

struct Joiner<'a> {
    messages: &'a Messages,
    facts: &'a Facts,
    rows: BTreeMap<String, Row>,
}

impl Joiner<'_> {
    fn document(&mut self, document: &Document) {
        let short = short_name(&document.name);
        let key = (document.directory.clone(), short.to_lowercase());
        let properties: BTreeMap<String, Schema> = document.schema.properties.clone();
        let message = self.messages.get(&key);
        // What is no struct on the wire has a description only.
        let opaque = scalar_name(&document.name).is_some() || document.name == meta("Patch");
        let (mut fields, inlined) = if opaque {
            Default::default()
        } else {
            self.fields(&document.name, &properties, message)
        };
        let untold: Vec<&String> = properties
            .keys()
            .filter(|name| !fields.iter().any(|field| field.name == **name))
            .collect();
        assert!(
            opaque || untold.is_empty(),
            "{}: no protobuf tag for {untold:?}",
            document.name
        );
        for field in &mut fields {
            // k8s-openapi calls required what it made a plain field of its structs; the Go comments know better,
            // but for metadata, which only the oldest event's requires, and for a time that it made optional.
            let listed = document.schema.required.contains(&field.name) && !field.optional;
            field.required = match (document.name.as_str(), field.name.as_str()) {
                ("io.k8s.api.events.v1.Event", "eventTime") => true,
                (name, "metadata") => listed && name == "io.k8s.api.core.v1.Event",
                _ => listed,
            };
        }
        let (atomic, granular) = message.map_or((false, false), |message| {
            (
                message.markers.get("structType") == "atomic",
                message.markers.get("structType") == "granular",
            )
        });
        let kinds = document
            .resource
            .iter()
            .map(|resource| {
                (
                    resource.group.clone(),
                    resource.version.clone(),
                    resource.kind.clone(),
                )
            })
            .collect();
        self.rows.insert(
            document.name.clone(),
            Row {
                name: document.name.clone(),
                description: document.schema.description.clone(),
                published: true,
                atomic,
                granular,
                fields,
                inlined,
                kinds,
            },
        );
    }

    /// Those of `properties` that the message has, itself or in a struct that the Go type inlines.
    fn fields(
        &mut self,
        name: &str,
        properties: &BTreeMap<String, Schema>,
        message: Option<&Message>,
    ) -> (Vec<FieldRow>, Vec<(u32, String)>) {
        let Some(message) = message else {
            assert!(
                properties.is_empty() || untagged(name),
                "{name} has no protobuf message"
            );
            return (
                properties
                    .iter()
                    .map(|(field, schema)| self.field(name, field, schema, None))
                    .collect(),
                Vec::new(),
            );
        };
        let mut rows = BTreeMap::new();
        let mut rest = properties.clone();
        for (field, schema) in properties {
            let found = message
                .fields
                .iter()
                .find(|candidate| candidate.name == plain(field));
            if found.is_some() || field == "apiVersion" || field == "kind" {
                rest.remove(field);
                rows.insert(field.clone(), self.field(name, field, schema, found));
            }
        }
        let mut inlined = Vec::new();
        for candidate in &message.fields {
            let Some(key) = candidate
                .message
                .as_ref()
                .filter(|_| !candidate.repeated && !candidate.map)
            else {
                continue;
            };
            if properties
                .keys()
                .any(|field| plain(field) == candidate.name)
            {
                continue;
            }
            let inner = &self.messages[key];
            let inner_name = format!(
                "{}.{}",
                package_name(name),
                inlined_name(&candidate.name, &key.1)
            );
            let (inner_fields, inner_inlined) = self.fields(&inner_name, &rest, Some(inner));
            if inner_fields.is_empty() {
                continue; // Not published, such as a field behind a gate.
            }
            for field in &inner_fields {
                rest.remove(&field.name);
                rows.insert(
                    field.name.clone(),
                    FieldRow {
                        tag: 0,
                        ..field.clone()
                    },
                );
            }
            // A definition of its own so that the flat fields find their tags; not part of the document.
            let hidden = format!("{name}.{}", candidate.name);
            inlined.push((candidate.tag, hidden.clone()));
            self.rows.insert(
                hidden.clone(),
                Row {
                    name: hidden,
                    description: String::new(),
                    published: false,
                    atomic: false,
                    granular: false,
                    fields: inner_fields,
                    inlined: inner_inlined,
                    kinds: Vec::new(),
                },
            );
        }
        (rows.into_values().collect(), inlined)
    }

    fn field(
        &self,
        definition: &str,
        name: &str,
        schema: &Schema,
        proto: Option<&crate::proto::ProtoField>,
    ) -> FieldRow {
        let kind = kind(schema);
        let fact = self.fact(definition, name);
        let marker =
            |key: &str| proto.map_or(String::new(), |proto| proto.markers.get(key).to_owned());
        let metadata =
            name == "metadata" && matches!(&kind, Kind::Object(object) if object.ends_with("Meta"));
        FieldRow {
            name: name.to_owned(),
            tag: proto.map_or(0, |proto| proto.tag),
            wrapped: matches!(kind, Kind::List(_)) && proto.is_some_and(|proto| !proto.repeated),
            kind,
            description: schema.description.clone(),
            required: false,
            optional: proto.is_some_and(|proto| proto.markers.has("optional")),
            pointer: matches!(fact, Some(Fact::Pointer)),
            written: metadata || matches!(fact, Some(Fact::Written | Fact::ByValue)),
            by_value: metadata || matches!(fact, Some(Fact::ByValue)),
            list_type: marker("listType"),
            list_map_keys: proto.map_or(Vec::new(), |proto| proto.markers.all("listMapKey")),
            map_type: [marker("mapType"), marker("structType")].concat(),
            patch_strategy: marker("patchStrategy"),
            patch_merge_key: marker("patchMergeKey"),
            default: Some(marker("default"))
                .filter(|value| !value.starts_with("ref("))
                .unwrap_or_default(),
        }
    }

    /// Alpha and beta types have the shape of their stable twin, which is the one with facts.
    fn fact(&self, definition: &str, field: &str) -> Option<Fact> {
        let direct = self
            .facts
            .get(definition)
            .and_then(|fields| fields.get(field));
        if direct.is_some() || !definition.contains("alpha") && !definition.contains("beta") {
            return direct.copied();
        }
        let (package, short) = definition
            .rsplit_once('.')
            .expect("definition names have dots");
        let (group, _) = package.rsplit_once('.').expect("packages have versions");
        self.facts
            .get(&format!("{group}.v1.{short}"))
            .and_then(|fields| fields.get(field))
            .copied()
    }

    fn list(&mut self, item: &Document, list_kind: &str, (group, version): (&str, &str)) {
        let Some(message) = self
            .messages
            .get(&(item.directory.clone(), list_kind.to_lowercase()))
        else {
            panic!("{} has a list without a message", item.name)
        };
        let name = format!("{}.{list_kind}", package_name(&item.name));
        let of = |field: &str| {
            message
                .fields
                .iter()
                .find(|found| found.name == field)
                .expect("lists have metadata and items")
        };
        let type_meta = &self.rows[&item.name].fields;
        let copied = |field: &str| {
            type_meta
                .iter()
                .find(|found| found.name == field)
                .cloned()
                .unwrap_or_default()
        };
        let items = FieldRow {
            name: "items".to_owned(),
            tag: of("items").tag,
            kind: Kind::List(Box::new(Kind::Object(item.name.clone()))),
            description: of("items").description.clone(),
            required: true,
            written: true,
            ..FieldRow::default()
        };
        let metadata = FieldRow {
            name: "metadata".to_owned(),
            tag: of("metadata").tag,
            kind: Kind::Object(meta("ListMeta")),
            description: of("metadata").description.clone(),
            written: true,
            by_value: true,
            ..FieldRow::default()
        };
        let row = Row {
            name: name.clone(),
            description: message.description.clone(),
            published: true,
            atomic: false,
            granular: false,
            fields: vec![copied("apiVersion"), items, copied("kind"), metadata],
            inlined: Vec::new(),
            kinds: vec![(group.to_owned(), version.to_owned(), list_kind.to_owned())],
        };
        self.rows.insert(name, row);
    }

    /// The metadata-only view of any object, which has no schema in the document.
    fn partial_metadata(&mut self) {
        let type_meta: Vec<FieldRow> = self.rows["io.k8s.api.core.v1.Pod"]
            .fields
            .iter()
            .filter(|field| ["apiVersion", "kind"].contains(&field.name.as_str()))
            .cloned()
            .collect();
        for (kind, metadata, items) in [
            ("PartialObjectMetadata", "ObjectMeta", None),
            (
                "PartialObjectMetadataList",
                "ListMeta",
                Some(meta("PartialObjectMetadata")),
            ),
        ] {
            let mut fields = type_meta.clone();
            fields.push(FieldRow {
                name: "metadata".to_owned(),
                tag: 1,
                kind: Kind::Object(meta(metadata)),
                written: true,
                by_value: true,
                ..FieldRow::default()
            });
            if let Some(item) = items {
                fields.insert(
                    1,
                    FieldRow {
                        name: "items".to_owned(),
                        tag: 2,
                        kind: Kind::List(Box::new(Kind::Object(item))),
                        required: true,
                        written: true,
                        ..FieldRow::default()
                    },
                );
            }
            let row = Row {
                name: meta(kind),
                description: String::new(),
                published: false,
                atomic: false,
                granular: false,
                fields,
                inlined: Vec::new(),
                kinds: vec![("meta.k8s.io".to_owned(), "v1".to_owned(), kind.to_owned())],
            };
            self.rows.insert(row.name.clone(), row);
        }
    }
}

/// Definitions that have JSON only.
fn untagged(name: &str) -> bool {
    name == "io.k8s.apimachinery.pkg.version.Info"
}

fn short_name(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, short)| short)
}

fn package_name(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(package, _)| package)
}

/// Go's name of an inlined struct, as `go_fields.txt` spells it; the protobuf field keeps its words but not their case.
fn inlined_name(field: &str, message: &str) -> String {
    match field {
        "ephemeralcontainercommon" => "EphemeralContainerCommon".to_owned(),
        "localobjectreference" => "LocalObjectReference".to_owned(),
        _ => message.to_owned(),
    }
}

/// Definitions that are no structs on the wire.
fn scalar_name(name: &str) -> Option<&'static str> {
    Some(match short_name(name) {
        "Quantity" => "Quantity",
        "IntOrString" => "IntOrString",
        "Time" => "Time",
        "MicroTime" => "MicroTime",
        "RawExtension" => "RawExtension",
        "FieldsV1" => "FieldsV1",
        "JSON" => "Json",
        "JSONSchemaPropsOrArray" => "SchemaOrArray",
        "JSONSchemaPropsOrBool" => "SchemaOrBool",
        "JSONSchemaPropsOrStringArray" => "SchemaOrStringArray",
        _ => return None,
    })
}

fn kind(schema: &Schema) -> Kind {
    if let Some(reference) = &schema.reference {
        return scalar_name(reference)
            .map_or_else(|| Kind::Object(reference.clone()), Kind::Scalar);
    }
    match (schema.type_name.as_str(), schema.format.as_str()) {
        ("array", _) => Kind::List(Box::new(kind(
            schema.items.as_ref().expect("arrays have items"),
        ))),
        ("object", _) => Kind::Map(Box::new(kind(
            schema
                .additional_properties
                .as_ref()
                .expect("objects without properties are maps"),
        ))),
        ("string", "byte") => Kind::Scalar("Bytes"),
        ("string", "") => Kind::Scalar("String"),
        ("boolean", _) => Kind::Scalar("Boolean"),
        ("integer", "int32") => Kind::Scalar("Int32"),
        ("integer", _) => Kind::Scalar("Int64"),
        ("number", _) => Kind::Scalar("Double"),
        other => panic!("no type for {other:?}"),
    }
}
