//! The schema table against the published OpenAPI document, definition by definition.
//!
//! Runs where the document is found: `CORACLE_ORACLE`, or `../shared/upstream/openapi-v2.json` beside the
//! repository. The known differences are few and listed here, each with its reason.

use std::collections::BTreeMap;

use api::schema;
use serde_json::{Map, Value};

fn oracle() -> Option<Value> {
    let beside = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/upstream/openapi-v2.json"
    );
    let path = std::env::var("CORACLE_ORACLE").unwrap_or_else(|_| beside.to_owned());
    let text = std::fs::read(path).ok()?;
    Some(serde_json::from_slice(&text).expect("the oracle is JSON"))
}

/// Differences by what differs.
#[derive(Default)]
struct Differences(BTreeMap<&'static str, Vec<String>>);

impl Differences {
    fn add(&mut self, what: &'static str, place: String) {
        self.0.entry(what).or_default().push(place);
    }
}

#[test]
#[allow(clippy::print_stderr)] // The list of differences is what this test is read for.
fn the_table_matches_the_published_document() {
    let Some(oracle) = oracle() else {
        eprintln!("skipped: no OpenAPI document of the original found");
        return;
    };
    let definitions = oracle["definitions"]
        .as_object()
        .expect("definitions are an object");
    let mut differences = Differences::default();
    for (name, theirs) in definitions {
        match schema::definition(name) {
            Some(ours) => {
                let mut ours = schema::openapi_v2_definition(ours);
                without_words(&mut ours);
                compare(name, &ours, theirs, &mut differences);
            }
            None => differences.add("missing definition", name.clone()),
        }
    }
    for ours in
        schema::definitions().filter(|ours| ours.published && !definitions.contains_key(ours.name))
    {
        differences.add("definition of ours alone", ours.name.to_owned());
    }
    let counts: Vec<(&str, usize)> = differences
        .0
        .iter()
        .map(|(what, places)| (*what, places.len()))
        .collect();
    for (what, places) in &differences.0 {
        eprintln!("{what}: {}", places.len());
        for place in places.iter().take(12) {
            eprintln!("    {place}");
        }
    }
    assert_eq!(counts, KNOWN);
}

/// The document was written by a server that was told not to publish enumerations.
fn without_words(ours: &mut Value) {
    const FROM: &str = "\n\nPossible enum values:\n";
    match ours {
        Value::Object(map) => {
            if map.get("enum").is_some_and(Value::is_array) {
                map.remove("enum");
            }
            if let Some(Value::String(text)) = map.get_mut("description")
                && let Some(at) = text.find(FROM)
            {
                text.truncate(at);
            }
            map.values_mut().for_each(without_words);
        }
        Value::Array(list) => list.iter_mut().for_each(without_words),
        _ => {}
    }
}

/// How many differences of each sort there are, and no more.
const KNOWN: &[(&str, usize)] = &[
    // `WatchEvent` alone, which k8s-openapi makes generic and describes anew.
    ("definition's description", 1),
    ("field's description", 1),
    // `DeleteOptions` and `WatchEvent` name the groups and versions that are served here, not all that ever were.
    ("group, version, kind", 2),
];

fn compare(name: &str, ours: &Value, theirs: &Value, differences: &mut Differences) {
    let empty = Map::new();
    let part = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    for key in [
        "description",
        "required",
        "type",
        "format",
        "x-kubernetes-map-type",
    ] {
        let what = match key {
            "description" => "definition's description",
            "required" => "required",
            "x-kubernetes-map-type" => "definition's map type",
            _ => "definition's type",
        };
        if sorted(ours.get(key)) != sorted(theirs.get(key)) {
            differences.add(
                what,
                format!(
                    "{name}: {} instead of {}",
                    shown(ours.get(key)),
                    shown(theirs.get(key))
                ),
            );
        }
    }
    if kinds(ours) != kinds(theirs) {
        differences.add(
            "group, version, kind",
            format!(
                "{name}: {} instead of {}",
                kinds(ours).len(),
                kinds(theirs).len()
            ),
        );
    }
    let (our_fields, their_fields) = (part(ours, "properties"), part(theirs, "properties"));
    for (field, theirs) in &their_fields {
        let Some(ours) = our_fields.get(field).and_then(Value::as_object) else {
            differences.add("missing field", format!("{name}.{field}"));
            continue;
        };
        let theirs = theirs.as_object().unwrap_or(&empty);
        for key in ours
            .keys()
            .chain(theirs.keys().filter(|key| !ours.contains_key(*key)))
        {
            if ours.get(key) != theirs.get(key) {
                let what = match key.as_str() {
                    "description" => "field's description",
                    "x-kubernetes-list-type" => "list type",
                    "x-kubernetes-list-map-keys" => "list map keys",
                    "x-kubernetes-patch-strategy" => "patch strategy",
                    "x-kubernetes-patch-merge-key" => "patch merge key",
                    "x-kubernetes-map-type" => "map type",
                    _ => "field's type",
                };
                differences.add(
                    what,
                    format!(
                        "{name}.{field}: {} instead of {}",
                        shown(ours.get(key)),
                        shown(theirs.get(key))
                    ),
                );
            }
        }
    }
    for field in our_fields
        .keys()
        .filter(|field| !their_fields.contains_key(*field))
    {
        differences.add("field of ours alone", format!("{name}.{field}"));
    }
}

fn sorted(value: Option<&Value>) -> Option<Value> {
    let mut value = value.cloned()?;
    if let Value::Array(list) = &mut value {
        list.sort_by_key(Value::to_string);
    }
    Some(value)
}

fn kinds(definition: &Value) -> Vec<String> {
    let list = definition
        .get("x-kubernetes-group-version-kind")
        .and_then(Value::as_array);
    let mut kinds: Vec<String> = list.into_iter().flatten().map(Value::to_string).collect();
    kinds.sort();
    kinds
}

fn shown(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    text.chars().take(160).collect()
}
