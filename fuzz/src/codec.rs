//! Decoders, patches, apply and selectors: functions of their input.

use api::apply::Manager;
use api::schema::{self, Definition};
use api::selector::{FieldSelector, LabelSelector};
use serde_json::Value;

use crate::OUTPUT_MAX;

/// Between the parts of an input that has several.
pub const SEPARATOR: u8 = 0xff;

/// Kinds that between them use every feature of the schema.
const KINDS: &[&str] = &[
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.core.v1.Pod",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.Secret",
    "io.k8s.api.core.v1.Node",
    "io.k8s.api.core.v1.Event",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.resource.v1.ResourceClaim",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
];

fn definition(name: &str) -> &'static Definition {
    schema::definition(name).expect("a built-in definition")
}

/// The first byte chooses the kind.
fn kind_and_rest(data: &[u8]) -> (&'static Definition, &[u8]) {
    match data.split_first() {
        Some((first, rest)) => (definition(KINDS[usize::from(*first) % KINDS.len()]), rest),
        None => (definition(KINDS[0]), data),
    }
}

fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == SEPARATOR);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

fn check_size(what: &str, len: usize) {
    assert!(len <= OUTPUT_MAX, "{what} became {len} bytes");
}

/// What was decoded is in normal form: decoding what it prints changes nothing more.
fn check_settled(value: &Value, definition: &'static Definition) {
    let text = api::json::encode(value);
    check_size("the decoded object", text.len());
    let again = api::json::decode(&text, definition).unwrap_or_else(|cause| panic!("{cause}: {}", String::from_utf8_lossy(&text)));
    assert_eq!(again.value, *value, "decoded again it differs");
}

/// JSON bodies, with and without a schema.
pub fn json(data: &[u8]) {
    let (definition, body) = kind_and_rest(data);
    let _ = api::json::type_meta(body);
    let _ = api::json::decode_untyped(body);
    if let Ok(decoded) = api::json::decode(body, definition) {
        check_settled(&decoded.value, definition);
        check_size("its protobuf form", api::protobuf::encode(&decoded.value, definition).len());
        check_size("its YAML form", api::yaml::to_yaml(&decoded.value).len());
    }
}

/// YAML bodies and files of several documents.
pub fn yaml(data: &[u8]) {
    for document in api::yaml::documents(data).iter().take(16) {
        let _ = api::yaml::to_json(document.as_bytes());
    }
    if let Ok((value, _)) = api::yaml::to_json(data) {
        let text = api::yaml::to_yaml(&value);
        check_size("the YAML", text.len());
        let (again, _) = api::yaml::to_json(text.as_bytes()).unwrap_or_else(|cause| panic!("{cause}: own YAML: {text}"));
        assert_eq!(again, value, "own YAML read back differs:\n{text}");
    }
}

/// Protobuf bodies.
pub fn protobuf(data: &[u8]) {
    let _ = api::protobuf::type_meta(data);
    let _ = api::protobuf::decode_watch_event(data);
    let (definition, body) = kind_and_rest(data);
    let _ = api::protobuf::decode_as(body, definition);
    if let Ok(value) = api::protobuf::decode(data) {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let Some(definition) = schema::definition_of_kind(text("apiVersion"), text("kind")) else {
            panic!("decoded as a kind that there is not: {value}");
        };
        let bytes = api::protobuf::encode(&value, definition);
        check_size("the protobuf", bytes.len());
        let again = api::protobuf::decode(&bytes).unwrap_or_else(|cause| panic!("{cause}: own protobuf of {value}"));
        assert_eq!(again, value, "own protobuf read back differs");
    }
}

/// An object and a patch, tried as each kind of patch.
pub fn patch(data: &[u8]) {
    let (definition, data) = kind_and_rest(data);
    let [document, patch] = parts::<2>(data);
    let (Ok(document), Ok(patch)) = (serde_json::from_slice::<Value>(document), serde_json::from_slice::<Value>(patch)) else {
        return;
    };
    let merged = api::patch::merge_patch(&document, &patch);
    assert_eq!(api::patch::merge_patch(&merged, &patch), merged, "a merge patch applied twice does more");
    for new in [api::patch::json_patch(&document, &patch), api::patch::strategic_merge_patch(&document, &patch, definition)] {
        if let Ok(mut new) = new {
            check_size("the patched object", api::json::encode(&new).len());
            if api::json::normalise(&mut new, definition).is_ok() {
                check_settled(&new, definition);
            }
        }
    }
}

/// A live object, whatever its managed fields say, and two configurations.
pub fn apply(data: &[u8]) {
    let (definition, data) = kind_and_rest(data);
    let [live, first, second] = parts::<3>(data);
    let read = |text: &[u8]| api::json::decode(text, definition).ok().map(|decoded| decoded.value);
    let (Some(live), Some(first)) = (read(live), read(first)) else { return };
    let manager = |name| Manager { name, api_version: "apps/v1", subresource: "", now: jiff::Timestamp::UNIX_EPOCH };
    let mut updated = first.clone();
    api::apply::record_update(Some(&live), &mut updated, &manager("updater"), definition);
    check_size("the updated object", api::json::encode(&updated).len());
    let _ = api::apply::apply(Some(&live), &first, &manager("a"), false, definition);
    let Ok(mut object) = api::apply::apply(Some(&live), &first, &manager("a"), true, definition) else { return };
    if let Some(second) = read(second)
        && let Ok(next) = api::apply::apply(Some(&object), &second, &manager("b"), true, definition)
    {
        object = next;
    }
    check_size("the applied object", api::json::encode(&object).len());
    let Ok(settled) = api::apply::apply(Some(&object), &first, &manager("a"), true, definition) else { return };
    let again = api::apply::apply(Some(&settled), &first, &manager("a"), true, definition);
    assert_eq!(again.as_ref(), Ok(&settled), "applied again it changes more");
}

/// Selectors as texts and as objects.
pub fn selector(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(selector) = LabelSelector::parse(&text) {
        let printed = selector.to_string();
        let again = LabelSelector::parse(&printed).unwrap_or_else(|cause| panic!("{cause}: own text {printed:?}"));
        assert_eq!(again.to_string(), printed);
        for labels in [&[][..], &[("a", "b")], &[("app", "web"), ("tier", "")]] {
            let get = |key: &str| labels.iter().find(|(own, _)| *own == key).map(|(_, value)| *value);
            assert_eq!(selector.matches_with(get), again.matches_with(get), "{printed:?} selects otherwise than {text:?}");
        }
    }
    if let Ok(selector) = FieldSelector::parse(&text) {
        let printed = selector.to_string();
        let again = FieldSelector::parse(&printed).unwrap_or_else(|cause| panic!("{cause}: own text {printed:?}"));
        assert_eq!(again.to_string(), printed);
        let _ = selector.matches(|_| "x");
    }
    if let Ok(value) = serde_json::from_slice::<Value>(data)
        && let Ok(selector) = LabelSelector::from_json(&value)
    {
        let _ = selector.matches_with(|_| Some("x"));
    }
    let _ = api::quantity::Quantity::parse(&text);
}
