//! The published OpenAPI documents.
//!
//! Invariant: made on demand from the schema table and the registry; kept packed, one per group version.

mod gnostic;
mod parameters;
mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use api::schema::{self, openapi_v2_definition, openapi_v3_schema};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::discovery::{GIT_VERSION, groups, kinds_of};
use crate::error::RequestError;
use crate::http::body::Body;
use crate::http::negotiate::{accepts_gzip, not_acceptable};
use crate::http::reply::{Content, Reply};
use crate::server::ApiServer;

/// Packed documents by path.
#[derive(Default)]
pub struct Documents {
    packed: Mutex<BTreeMap<String, Arc<Packed>>>,
}

struct Packed {
    gzip: Bytes,
    etag: String,
}

/// `/openapi/v2`
pub fn v2(server: &ApiServer, headers: &HeaderMap) -> Result<Reply, RequestError> {
    // Answered with a dot: an @ is no part of a media type.
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    // kubectl asks with an @ in the name, newer clients with a dot.
    if ["proto-openapi.spec.v2@v1.0+protobuf", "proto-openapi.spec.v2.v1.0+protobuf"].iter().any(|name| accept.contains(name)) {
        let packed = server.openapi.get("v2.pb", || gnostic::encode(&v2_head(), v2_paths(), v2_definitions()));
        return Ok(respond(&packed, headers, PROTOBUF));
    }
    wants_json(headers)?;
    let packed = server.openapi.get("v2", v2_json);
    Ok(respond(&packed, headers, "application/json"))
}

/// Paths and definitions are made one at a time: as one tree they take ten times the memory of the document.
fn v2_paths() -> impl Iterator<Item = (String, Value)> {
    let others = paths::others(&group_names(), paths::Flavour::Two).into_iter().flat_map(|(_, paths)| paths);
    others.chain(group_versions().flat_map(|(group, version)| paths::of(group, version, paths::Flavour::Two)))
}

fn v2_definitions() -> impl Iterator<Item = (String, Value)> {
    schema::definitions()
        .filter(|definition| definition.published)
        .map(|definition| (definition.name.to_owned(), openapi_v2_definition(definition)))
}

fn v2_json() -> Vec<u8> {
    let head = v2_head().to_string();
    let mut out = head.as_bytes()[..head.len() - 1].to_vec(); // Without its closing brace.
    out.extend_from_slice(b",\"paths\":{");
    write_members(&mut out, v2_paths());
    out.extend_from_slice(b"},\"definitions\":{");
    write_members(&mut out, v2_definitions());
    out.extend_from_slice(b"}}");
    out
}

fn write_members(out: &mut Vec<u8>, members: impl Iterator<Item = (String, Value)>) {
    for (at, (name, value)) in members.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, &name).expect("writing to memory cannot fail");
        out.push(b':');
        serde_json::to_writer(&mut *out, &value).expect("writing to memory cannot fail");
    }
}

/// All but paths and definitions.
fn v2_head() -> Value {
    json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": GIT_VERSION},
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

/// `/openapi/v3` and below; `rest` is empty or starts with a slash.
pub fn v3(server: &ApiServer, rest: &str, headers: &HeaderMap) -> Result<Reply, RequestError> {
    wants_json(headers)?;
    let rest = rest.trim_start_matches('/');
    if rest.is_empty() {
        let others = paths::others(&group_names(), paths::Flavour::Three).into_iter().map(|(document, _)| document);
        let paths: Map<String, Value> = group_versions()
            .map(|(group, version)| document_path(group, version))
            .chain(others)
            .map(|path| {
                let url = format!("/openapi/v3/{path}?hash={}", hash(&path));
                (path, json!({"serverRelativeURL": url}))
            })
            .collect();
        return Ok(Reply::json(json!({"paths": paths}).to_string()));
    }
    let of_kinds = group_versions().find(|(group, version)| document_path(group, version) == rest);
    let packed = match of_kinds {
        Some((group, version)) => server.openapi.get(rest, || v3_document(group, version).to_string().into_bytes()),
        None => {
            let others = paths::others(&group_names(), paths::Flavour::Three);
            let Some((_, paths)) = others.into_iter().find(|(document, _)| document == rest) else {
                return Err(RequestError::NoSuchPath);
            };
            server.openapi.get(rest, || v3_with(paths, Vec::new()).to_string().into_bytes())
        }
    };
    Ok(respond(&packed, headers, "application/json"))
}

fn group_names() -> Vec<&'static str> {
    groups().into_iter().map(|(group, _)| group).collect()
}

fn group_versions() -> impl Iterator<Item = (&'static str, &'static str)> {
    groups().into_iter().flat_map(|(group, versions)| versions.into_iter().map(move |version| (group, version)))
}

fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Documents change with the program alone.
fn hash(path: &str) -> String {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let definitions = schema::definitions().count();
        format!("{GIT_VERSION} {} {definitions}", env!("CARGO_PKG_VERSION"))
    });
    Sha256::digest(format!("{program} {path}")).iter().map(|byte| format!("{byte:02X}")).collect()
}

fn v3_document(group: &'static str, version: &'static str) -> Value {
    let kinds = kinds_of(group, version).map(|kind| kind.definition.to_owned()).collect();
    v3_with(paths::of(group, version, paths::Flavour::Three), kinds)
}

/// Paths, and every schema that they or `wanted` refer to.
fn v3_with(paths: Map<String, Value>, mut wanted: Vec<String>) -> Value {
    references(&Value::Object(paths.clone()), &mut wanted);
    let mut schemas = Map::new();
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        if let Some(definition) = schema::definition(&name) {
            let schema = openapi_v3_schema(definition);
            references(&schema, &mut wanted);
            schemas.insert(name, schema);
        }
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": GIT_VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
            }},
        },
        "security": [{"BearerToken": []}],
    })
}

/// Names of the schemas that a document refers to.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref")
                && let Some(name) = target.rsplit('/').next()
            {
                out.push(name.to_owned());
            }
            map.values().for_each(|inner| references(inner, out));
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, out)),
        _ => {}
    }
}

fn wants_json(headers: &HeaderMap) -> Result<(), RequestError> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let json = accept.is_empty()
        || accept.split(',').any(|clause| {
            matches!(clause.split(';').next().unwrap_or("").trim(), "application/json" | "*/*" | "application/*")
        });
    if json { Ok(()) } else { Err(not_acceptable()) }
}

impl Documents {
    fn get(&self, path: &str, make: impl FnOnce() -> Vec<u8>) -> Arc<Packed> {
        if let Some(found) = self.packed.lock().get(path) {
            return found.clone();
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&make()).expect("writing to memory cannot fail");
        let gzip = encoder.finish().expect("writing to memory cannot fail");
        let packed = Arc::new(Packed { gzip: gzip.into(), etag: format!("\"{}\"", hash(path)) });
        self.packed.lock().insert(path.to_owned(), packed.clone());
        packed
    }
}

fn respond(packed: &Packed, headers: &HeaderMap, content_type: &'static str) -> Reply {
    let known = headers.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == packed.etag.as_bytes());
    let gzip = accepts_gzip(headers);
    let body = if known {
        Body::empty()
    } else if gzip {
        Body::full(packed.gzip.clone())
    } else {
        let mut plain = Vec::new();
        GzDecoder::new(&packed.gzip[..]).read_to_end(&mut plain).expect("was packed by this server");
        Body::full(plain)
    };
    let mut response = Response::new(body);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let answer = response.headers_mut();
    answer.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if gzip && !known {
        answer.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(etag) = HeaderValue::from_str(&packed.etag) {
        answer.insert(ETAG, etag);
    }
    Reply::ok(Content::Response(response))
}
