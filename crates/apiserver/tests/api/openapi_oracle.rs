//! The published documents against those of the original, path by path.
//!
//! Runs where the original's v2 document is found: `CORACLE_ORACLE`, or `../shared/upstream/openapi-v2.json` beside
//! the repository. What differs and why is the table `KNOWN`; definitions are compared beside the schema table.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::harness::TestServer;

/// Differences of each sort: how many, and why they stay.
const KNOWN: &[(&str, usize, &str)] = &[
    ("missing path", 4, "/logs/ serves the host's log files; two groups that have preview versions alone"),
    ("path of a preview version", 133, "the original's document is of a server with everything switched on"),
];

fn oracle() -> Option<Value> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/upstream/openapi-v2.json");
    let path = std::env::var("CORACLE_ORACLE").unwrap_or_else(|_| beside.to_owned());
    let text = std::fs::read(path).ok()?;
    Some(serde_json::from_slice(&text).expect("the oracle is JSON"))
}

#[derive(Default)]
struct Differences(BTreeMap<&'static str, BTreeSet<String>>);

impl Differences {
    fn add(&mut self, what: &'static str, place: impl Into<String>) {
        self.0.entry(what).or_default().insert(place.into());
    }

    fn compare(&mut self, what: &'static str, place: &str, ours: &Value, theirs: &Value) {
        if ours != theirs {
            self.add(what, format!("{place}: {ours} instead of {theirs}"));
        }
    }
}

#[tokio::test]
async fn paths_and_operations() {
    let Some(oracle) = oracle() else {
        println!("skipped: no OpenAPI document of the original found");
        return;
    };
    let server = TestServer::start().await;
    let two = server.get("/openapi/v2").await.expect(200);
    let mut differences = Differences::default();
    compare_paths(&two, &oracle, &mut differences);
    let names = |document: &Value| -> BTreeSet<String> {
        document["definitions"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    for name in names(&two).symmetric_difference(&names(&oracle)) {
        differences.add("definition in one document alone", name);
    }

    let index = server.get("/openapi/v3").await.expect(200);
    let mut three = Map::new();
    for (_, document) in index["paths"].as_object().expect("an index") {
        let url = document["serverRelativeURL"].as_str().expect("a URL");
        three.extend(as_two(server.get(url).await.expect(200)));
    }
    let (mut of_two, of_three) = (normal(&two["paths"], &two), normal(&Value::Object(three), &Value::Null));
    for (path, theirs) in of_two.as_object_mut().expect("paths") {
        for (_, operation) in theirs.as_object_mut().into_iter().flatten() {
            let has_body = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(|own| own["in"] == "body"));
            if !has_body(&operation["parameters"]) {
                operation["consumes"] = json!([]); // v3 tells it of bodies alone.
            }
        }
        differences.compare("v3 and v2 differ", path, &of_three[path], theirs);
    }

    let counts: Vec<(&str, usize)> = differences.0.iter().map(|(what, places)| (*what, places.len())).collect();
    for (what, places) in &differences.0 {
        println!("{what}: {}", places.len());
        for place in places.iter().take(15) {
            println!("    {}", place.chars().take(600).collect::<String>());
        }
    }
    let known: Vec<(&str, usize)> = KNOWN.iter().map(|(what, count, _)| (*what, *count)).collect();
    assert_eq!(counts, known);
}

/// Whether only clusters with everything switched on serve it.
fn is_preview(path: &str) -> bool {
    let version = path.split('/').nth(3).unwrap_or("");
    version.contains("alpha") || version.contains("beta")
}

fn compare_paths(ours: &Value, theirs: &Value, differences: &mut Differences) {
    let (our_paths, their_paths) = (normal(&ours["paths"], ours), normal(&theirs["paths"], theirs));
    let (our_paths, their_paths) = (our_paths.as_object().expect("paths"), their_paths.as_object().expect("paths"));
    for (path, theirs) in their_paths {
        let Some(ours) = our_paths.get(path) else {
            differences.add(if is_preview(path) { "path of a preview version" } else { "missing path" }, path);
            continue;
        };
        let methods: BTreeSet<&String> =
            ours.as_object().into_iter().chain(theirs.as_object()).flatten().map(|(method, _)| method).collect();
        for method in methods {
            let place = format!("{method} {path}");
            let (ours, theirs) = (&ours[method], &theirs[method]);
            if ours.is_null() || theirs.is_null() {
                differences.add("operation in one document alone", place);
                continue;
            }
            for (what, key) in [
                ("operation's id", "operationId"),
                ("operation's action", "x-kubernetes-action"),
                ("operation's kind", "x-kubernetes-group-version-kind"),
                ("operation's description", "description"),
                ("operation's tags", "tags"),
                ("operation's answers", "responses"),
                ("operation's parameters", "parameters"),
                ("operation's media types", "consumes"),
                ("operation's media types", "produces"),
                ("operation's schemes", "schemes"),
            ] {
                differences.compare(what, &place, &ours[key], &theirs[key]);
            }
        }
    }
    for path in our_paths.keys().filter(|path| !their_paths.contains_key(*path)) {
        differences.add("path of ours alone", path);
    }
}

/// Path -> method -> operation, with references to parameters resolved, those of the path in each operation, and all
/// lists sorted. Parameters lose their descriptions, which are our own.
fn normal(paths: &Value, document: &Value) -> Value {
    let mut out = Map::new();
    for (path, item) in paths.as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten().filter(|(method, _)| *method != "parameters") {
            let mut operation = operation.clone();
            let lists = [&item["parameters"], &operation["parameters"]];
            let mut parameters: Vec<Value> = lists
                .into_iter()
                .flat_map(|list| list.as_array().into_iter().flatten())
                .map(|parameter| {
                    let target = parameter["$ref"].as_str().map(|target| target.trim_start_matches('#'));
                    let mut parameter = target.and_then(|path| document.pointer(path)).unwrap_or(parameter).clone();
                    parameter.as_object_mut().expect("a parameter").remove("description");
                    parameter
                })
                .collect();
            parameters.sort_by_key(Value::to_string);
            operation["parameters"] = parameters.into();
            for key in ["consumes", "produces"] {
                let mut medias = operation[key].as_array().cloned().unwrap_or_default();
                // CBOR is an alpha feature, off by default.
                medias.retain(|media| media.as_str().is_some_and(|media| !media.contains("cbor")));
                medias.sort_by_key(Value::to_string);
                operation[key] = medias.into();
            }
            out.entry(path).or_insert_with(|| json!({}))[method] = operation;
        }
    }
    Value::Object(out)
}

/// The paths of a v3 document as v2 would have them.
fn as_two(document: Value) -> Map<String, Value> {
    let text = document["paths"].to_string().replace("#/components/schemas/", "#/definitions/");
    let mut paths: Map<String, Value> = serde_json::from_str(&text).expect("JSON still");
    for item in paths.values_mut() {
        for (key, value) in item.as_object_mut().into_iter().flatten() {
            if key == "parameters" {
                value.as_array_mut().into_iter().flatten().for_each(flatten_schema);
                continue;
            }
            value["parameters"].as_array_mut().into_iter().flatten().for_each(flatten_schema);
            value["schemes"] = json!(["https"]);
            let medias = |content: &Value| -> Value {
                content["content"].as_object().into_iter().flatten().map(|(media, _)| media.clone()).collect()
            };
            let schema = |content: &Value| content["content"].as_object()?.values().next()?.get("schema").cloned();
            value["produces"] = medias(&value["responses"]["200"]);
            value["consumes"] = value.get("requestBody").map_or(Value::Null, medias);
            if let Some(body) = value.as_object_mut().expect("an operation").remove("requestBody") {
                let mut parameter = json!({"name": "body", "in": "body", "schema": schema(&body)});
                if body["required"] == true {
                    parameter["required"] = true.into();
                }
                let mut list = value["parameters"].as_array().cloned().unwrap_or_default();
                list.push(parameter);
                value["parameters"] = list.into();
            }
            for (_, answer) in value["responses"].as_object_mut().into_iter().flatten() {
                if let Some(schema) = schema(answer) {
                    answer["schema"] = schema;
                }
                answer.as_object_mut().expect("an answer").remove("content");
            }
        }
    }
    paths
}

fn flatten_schema(parameter: &mut Value) {
    if let Some(Value::Object(schema)) = parameter.as_object_mut().expect("a parameter").remove("schema") {
        parameter.as_object_mut().expect("a parameter").extend(schema);
    }
}
