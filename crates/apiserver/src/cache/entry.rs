//! One stored object: its bytes and the few fields that it is selected by.
//!
//! Invariant: the bytes start with `{"kind":K,"apiVersion":V,"metadata":{` and hold no resourceVersion; serving puts
//! one in at a fixed offset. Deliberately absent: the object as a tree; it is parsed only by who must change it.

use std::borrow::Cow;
use std::sync::Arc;

use api::selector::{FieldSelector, LabelSelector};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;
use store::Revision;

use crate::kinds::Kind;

/// Longest text of a revision, with room for `"resourceVersion":"",`.
const REVISION_ROOM: usize = 48;

pub struct Entry {
    /// `<namespace>/<name>`, or the name of a cluster-scoped object.
    pub key: Box<str>,
    namespace_len: u16,
    /// Where metadata's first field starts.
    splice: u16,
    /// Just after metadata's closing brace.
    metadata_end: u32,
    pub revision: Revision,
    bytes: Bytes,
    labels: Box<[(Box<str>, Box<str>)]>,
    /// Values of the kind's `selectable_fields`, in their order.
    fields: Box<[Box<str>]>,
}

/// `{"kind":"Pod","apiVersion":"v1","metadata":{`
pub fn prefix(kind: &Kind) -> String {
    format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{{", kind.kind, api_version(kind))
}

/// `v1`, `apps/v1`.
pub fn api_version(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.version.into() } else { format!("{}/{}", kind.group, kind.version) }
}

/// The bytes under which an object is stored: Go's field order, no resourceVersion.
pub fn encode(kind: &Kind, object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(2048);
    out.extend_from_slice(prefix(kind).as_bytes());
    let mut first = true;
    if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
        for (name, value) in metadata.iter().filter(|(name, _)| *name != "resourceVersion") {
            write_field(&mut out, &mut first, name, value);
        }
    }
    out.push(b'}');
    first = false;
    if let Some(map) = object.as_object() {
        for (name, value) in map.iter().filter(|(name, _)| !matches!(name.as_str(), "kind" | "apiVersion" | "metadata")) {
            write_field(&mut out, &mut first, name, value);
        }
    }
    out.push(b'}');
    // Kept as long as the object is: what was reserved too much goes back.
    out.into_boxed_slice().into()
}

fn write_field(out: &mut Vec<u8>, first: &mut bool, name: &str, value: &Value) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, name).expect("writing to memory cannot fail");
    out.push(b':');
    serde_json::to_writer(&mut *out, value).expect("writing to memory cannot fail");
}

#[derive(Deserialize, Default)]
struct MetadataHead<'a> {
    #[serde(borrow, default)]
    labels: Option<Labels<'a>>,
}

/// A map as pairs, without a tree.
struct Labels<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        impl<'de> serde::de::Visitor<'de> for Pairs {
            type Value = Labels<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    pairs.push((key, value));
                }
                Ok(Labels(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Entry {
    /// `bytes` as stored. Foreign layouts (another writer's field order) are laid out anew. None: no object at all.
    pub fn new(kind: &'static Kind, prefix: &str, key: &str, bytes: Bytes, revision: Revision) -> Option<Entry> {
        let bytes = if bytes.starts_with(prefix.as_bytes()) {
            bytes
        } else {
            encode(kind, &serde_json::from_slice(&bytes).ok().filter(Value::is_object)?)
        };
        let splice = prefix.len();
        let mut metadata = serde_json::Deserializer::from_slice(&bytes[splice - 1..]).into_iter::<MetadataHead>();
        let head = metadata.next()?.ok()?;
        let metadata_end = splice - 1 + metadata.byte_offset();
        let labels = head.labels.map(|labels| labels.0).unwrap_or_default();
        let fields = if kind.selectable_fields.is_empty() {
            Box::default()
        } else {
            let object = super::upper::read(&bytes, kind.selectable_fields)?;
            kind.selectable_fields.iter().map(|field| (kind.field_value)(&object, field).into()).collect()
        };
        let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Some(Entry {
            key: key.into(),
            namespace_len: if kind.namespaced { key.find('/')?.try_into().ok()? } else { 0 },
            splice: splice.try_into().ok()?,
            metadata_end: metadata_end.try_into().ok()?,
            revision,
            labels,
            fields,
            bytes,
        })
    }

    pub fn namespace(&self) -> &str {
        &self.key[..self.namespace_len as usize]
    }

    pub fn name(&self) -> &str {
        if self.namespace_len == 0 { &self.key } else { &self.key[self.namespace_len as usize + 1..] }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(own, _)| &**own == key).map(|(_, value)| &**value)
    }

    /// How many bytes the object takes when served.
    pub fn served_len(&self) -> usize {
        self.bytes.len() + REVISION_ROOM
    }

    /// As stored.
    pub fn stored(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole object with its own revision.
    pub fn served(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.served_len());
        self.write_served(&mut out, self.revision);
        out.freeze()
    }

    pub fn write_served(&self, out: &mut BytesMut, revision: Revision) {
        write_spliced(out, &self.bytes, self.splice as usize, revision);
    }

    /// As an item of a typed list: without kind and apiVersion, as Go prints it.
    pub fn write_item(&self, out: &mut BytesMut) {
        out.extend_from_slice(b"{\"metadata\":{");
        write_revision(out, self.revision);
        out.extend_from_slice(&self.bytes[self.splice as usize..]);
    }

    /// The fields of metadata and its closing brace.
    pub fn write_metadata(&self, out: &mut BytesMut, revision: Revision) {
        write_revision(out, revision);
        out.extend_from_slice(&self.bytes[self.splice as usize..self.metadata_end as usize]);
    }

    /// The object as a tree, with its revision.
    pub fn value(&self) -> Value {
        self.value_at(self.revision)
    }

    pub fn value_at(&self, revision: Revision) -> Value {
        let mut value: Value = serde_json::from_slice(&self.bytes).expect("parsed once when it was indexed");
        set_revision(&mut value, revision);
        value
    }
}

pub fn set_revision(object: &mut Value, revision: Revision) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
}

/// Encoded by [`encode`], with a revision put in.
pub fn spliced(kind: &Kind, bytes: &Bytes, revision: Revision) -> Bytes {
    let mut out = BytesMut::with_capacity(bytes.len() + REVISION_ROOM);
    write_spliced(&mut out, bytes, prefix(kind).len(), revision);
    out.freeze()
}

fn write_spliced(out: &mut BytesMut, bytes: &[u8], splice: usize, revision: Revision) {
    out.extend_from_slice(&bytes[..splice]);
    write_revision(out, revision);
    out.extend_from_slice(&bytes[splice..]);
}

fn write_revision(out: &mut BytesMut, revision: Revision) {
    use std::fmt::Write;
    out.put_slice(b"\"resourceVersion\":\"");
    write!(out, "{revision}").expect("writing to memory cannot fail");
    out.put_slice(b"\",");
}

/// What a list or watch selects.
#[derive(Clone, Default)]
pub struct Filter {
    /// Empty: all.
    pub namespace: String,
    pub labels: Option<Arc<LabelSelector>>,
    /// (position in `selectable_fields`, negated, value) and the two that every kind has.
    fields: Vec<(FieldAt, bool, String)>,
}

#[derive(Clone, Copy)]
enum FieldAt {
    Name,
    Namespace,
    Own(usize),
}

impl Filter {
    /// Err: a field that is not selectable. `kind` is the stored one, by whose fields entries are indexed.
    pub fn new(
        kind: &Kind,
        namespace: &str,
        labels: Option<LabelSelector>,
        fields: Option<&FieldSelector>,
    ) -> Result<Filter, String> {
        let mut filter =
            Filter { namespace: namespace.into(), labels: labels.map(Arc::new), fields: Vec::new() };
        for requirement in fields.iter().flat_map(|selector| &selector.requirements) {
            let at = match requirement.field.as_str() {
                "metadata.name" => FieldAt::Name,
                "metadata.namespace" if kind.namespaced => FieldAt::Namespace,
                field => match kind.selectable_fields.iter().position(|own| *own == field) {
                    Some(position) => FieldAt::Own(position),
                    None => return Err(field.to_owned()),
                },
            };
            filter.fields.push((at, requirement.negated, requirement.value.clone()));
        }
        Ok(filter)
    }

    /// Everything in a namespace; everywhere, if it is empty.
    pub fn within(namespace: &str) -> Filter {
        Filter { namespace: namespace.into(), ..Filter::default() }
    }

    pub fn one(namespace: &str, name: &str) -> Filter {
        Filter { namespace: namespace.into(), labels: None, fields: vec![(FieldAt::Name, false, name.into())] }
    }

    /// Selects by more than the namespace.
    pub fn is_selective(&self) -> bool {
        self.labels.is_some() || !self.fields.is_empty()
    }

    /// The only name that can match, where there is one.
    pub fn single_name(&self) -> Option<&str> {
        self.fields.iter().find(|(at, negated, _)| matches!(at, FieldAt::Name) && !negated).map(|(_, _, name)| &**name)
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || self.namespace == entry.namespace())
            && self.labels.as_ref().is_none_or(|labels| labels.matches_with(|key| entry.label(key)))
            && self.fields.iter().all(|(at, negated, wanted)| {
                let actual = match at {
                    FieldAt::Name => entry.name(),
                    FieldAt::Namespace => entry.namespace(),
                    FieldAt::Own(position) => &entry.fields[*position],
                };
                (actual == wanted) != *negated
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::registry;

    fn config_map() -> &'static Kind {
        registry::by_plural("", "v1", "configmaps").expect("registered")
    }

    #[test]
    fn a_revision_is_put_in_on_the_way_out() {
        let object = json!({"apiVersion": "v1", "data": {"a": "b"}, "kind": "ConfigMap",
            "metadata": {"name": "x", "namespace": "n", "labels": {"app": "web"}, "resourceVersion": "3"}});
        let kind = config_map();
        let entry = Entry::new(kind, &prefix(kind), "n/x", encode(kind, &object), 7).expect("an object");
        assert_eq!(
            entry.served(),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"7","labels":{"app":"web"},"name":"x","namespace":"n"},"data":{"a":"b"}}"#
        );
        let mut item = BytesMut::new();
        entry.write_item(&mut item);
        assert!(item.starts_with(br#"{"metadata":{"resourceVersion":"7","labels""#));
        assert_eq!((entry.namespace(), entry.name(), entry.label("app")), ("n", "x", Some("web")));
    }

    #[test]
    fn another_writers_layout_is_read() {
        let kind = config_map();
        let foreign = Bytes::from_static(br#"{"metadata":{"name":"x","namespace":"n"},"apiVersion":"v1","kind":"ConfigMap"}"#);
        let entry = Entry::new(kind, &prefix(kind), "n/x", foreign, 7).expect("an object");
        assert_eq!(entry.value()["metadata"], json!({"name": "x", "namespace": "n", "resourceVersion": "7"}));
        assert!(Entry::new(kind, &prefix(kind), "n/x", Bytes::from_static(b"k8s"), 7).is_none());
    }
}
