//! Objects as clients read them, from their stored bytes.
//!
//! Invariant: nothing here makes a tree of an object. What needs one (tables, YAML, kinds that are converted, pretty
//! printing) is made elsewhere.

use api::protobuf::{self, ListMessage};
use api::schema::{self, Definition};
use bytes::{Bytes, BytesMut};
use store::Revision;

use super::entry::{Entry, api_version};
use super::shelf::EventType;
use crate::kinds::Kind;

const PARTIAL_VERSION: &str = "meta.k8s.io/v1";
const PARTIAL_KIND: &str = "PartialObjectMetadata";
const PARTIAL: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata";

/// What is asked for of objects, and in which encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub protobuf: bool,
    /// PartialObjectMetadata, not the whole object.
    pub partial: bool,
}

impl Shape {
    /// `{"type":"ADDED","object":{...}}` and a line end, or the same as protobuf.
    pub fn watch_frame(self, kind: &Kind, event_type: EventType, entry: &Entry, revision: Revision) -> Bytes {
        let mut out = BytesMut::with_capacity(entry.served_len() + 128);
        if self.protobuf {
            self.write_object(&mut out, entry, revision);
            let (version, name, definition) = self.type_of(kind);
            let message = protobuf::encode_text(&version, name, &api::json::text(&out), definition);
            return protobuf::encode_watch_event(event_type.name(), &message).into();
        }
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(event_type.name().as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        self.write_object(&mut out, entry, revision);
        out.extend_from_slice(b"}\n");
        out.freeze()
    }

    fn write_object(self, out: &mut BytesMut, entry: &Entry, revision: Revision) {
        if self.partial {
            for text in ["{\"kind\":\"", PARTIAL_KIND, "\",\"apiVersion\":\"", PARTIAL_VERSION, "\",\"metadata\":{"] {
                out.extend_from_slice(text.as_bytes());
            }
            entry.write_metadata(out, revision);
            out.extend_from_slice(b"}");
        } else {
            entry.write_served(out, revision);
        }
    }

    /// As an item of a typed list: without kind and apiVersion, as Go prints it.
    pub fn write_item(self, out: &mut BytesMut, entry: &Entry) {
        if self.partial {
            out.extend_from_slice(b"{\"metadata\":{");
            entry.write_metadata(out, entry.revision);
            out.extend_from_slice(b"}");
        } else {
            entry.write_item(out);
        }
    }

    /// A list as protobuf, in pieces.
    pub fn list_message<'a>(self, kind: &Kind, entries: impl Iterator<Item = &'a Entry>, metadata: &serde_json::Value) -> Vec<Bytes> {
        let (version, name, definition) = self.type_of(kind);
        let mut list = ListMessage::default();
        let mut item = BytesMut::new();
        for entry in entries {
            item.clear();
            self.write_item(&mut item, entry);
            list.add(&api::json::text(&item), definition);
        }
        list.finish(&version, &format!("{name}List"), metadata).into_iter().map(Bytes::from).collect()
    }

    /// The apiVersion and kind that a list of such objects has.
    pub fn list_type(self, kind: &Kind) -> (String, String) {
        let (version, name, _) = self.type_of(kind);
        (version, format!("{name}List"))
    }

    fn type_of(self, kind: &Kind) -> (String, &'static str, &'static Definition) {
        let named = |name| schema::definition(name).expect("every kind has a schema");
        match self.partial {
            true => (PARTIAL_VERSION.to_owned(), PARTIAL_KIND, named(PARTIAL)),
            false => (api_version(kind), kind.kind, named(kind.definition)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::entry::{encode, prefix};
    use super::*;
    use crate::kinds::registry;

    /// From bytes comes what comes from a tree.
    #[test]
    fn bytes_and_trees_give_the_same() {
        let kind = registry::by_plural("", "v1", "configmaps").expect("registered");
        let definition = schema::definition(kind.definition).expect("in the table");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b\n\"}"},
            "metadata": {"name": "x", "namespace": "n", "labels": {"}": "\\"}, "creationTimestamp": "2026-02-03T04:05:06Z"}});
        let entry = Entry::new(kind, &prefix(kind), "n/x", encode(kind, &object), 7).expect("an object");
        let mut whole = object.clone();
        whole["metadata"]["resourceVersion"] = "8".into();
        let partial = json!({"kind": PARTIAL_KIND, "apiVersion": PARTIAL_VERSION, "metadata": whole["metadata"]});

        for (partial_only, value, definition) in
            [(false, &whole, definition), (true, &partial, schema::definition(PARTIAL).expect("in the table"))]
        {
            let json = Shape { protobuf: false, partial: partial_only };
            let frame = json.watch_frame(kind, EventType::Modified, &entry, 8);
            let read: Value = serde_json::from_slice(&frame).expect("JSON");
            assert_eq!(read, json!({"type": "MODIFIED", "object": value}));

            let binary = Shape { protobuf: true, partial: partial_only };
            let frame = binary.watch_frame(kind, EventType::Modified, &entry, 8);
            assert_eq!(frame, protobuf::encode_watch_event("MODIFIED", &protobuf::encode(value, definition)));

            let mut item = BytesMut::new();
            json.write_item(&mut item, &entry);
            let mut wanted = value.clone();
            wanted["metadata"]["resourceVersion"] = "7".into();
            let map = wanted.as_object_mut().expect("an object");
            map.remove("kind");
            map.remove("apiVersion");
            assert_eq!(serde_json::from_slice::<Value>(&item).expect("JSON"), wanted);

            let (version, name) = binary.list_type(kind);
            let list = json!({"apiVersion": version, "kind": name, "metadata": {"resourceVersion": "9"}, "items": [wanted]});
            let pieces = binary.list_message(kind, [&entry].into_iter(), &list["metadata"]);
            let list_definition = schema::definition(&format!("{}List", definition.name)).expect("in the table");
            assert_eq!(pieces.concat(), protobuf::encode(&list, list_definition));
        }
    }
}
