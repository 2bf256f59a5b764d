//! What the server offers: versions, groups, resources; in the plain and in the aggregated form.
//!
//! Invariant: made from the registry alone.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::bootstrap::host_and_port;
use crate::error::RequestError;
use crate::http::body::Body;
use crate::http::negotiate;
use crate::http::query::Query;
use crate::http::reply::{Content, Form, Reply};
use crate::kinds::registry::REGISTRY;
use crate::kinds::{Kind, Subresource};
use crate::server::ApiServer;
use crate::{resource_metrics, views};

pub const GIT_VERSION: &str = "v1.35.0+coracle";

/// Aggregated documents, made when first asked for.
#[derive(Default)]
pub struct Documents {
    aggregated: [OnceLock<(String, String)>; 4],
}

/// `/version`
pub fn version() -> Reply {
    let document = json!({
        "major": "1", "minor": "35",
        "emulationMajor": "1", "emulationMinor": "35",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "34",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    });
    Reply::json(serde_json::to_vec_pretty(&document).expect("a tree of texts can be written"))
}

/// `/`
pub fn paths() -> Reply {
    let mut paths: Vec<String> = vec!["/.well-known/openid-configuration".into(), "/api".into(), "/api/v1".into(), "/apis".into()];
    for (group, versions) in offered().into_iter().filter(|(group, _)| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    for path in ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"] {
        paths.push(path.into());
    }
    paths.sort();
    Reply::json(serde_json::to_vec_pretty(&json!({"paths": paths})).expect("a tree of texts can be written"))
}

/// Groups with their versions, in the registry's order, the preferred version first.
pub fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in REGISTRY {
        match groups.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, versions)) if versions.contains(&kind.version) => {}
            Some((_, versions)) => versions.push(kind.version),
            None => groups.push((kind.group, vec![kind.version])),
        }
    }
    groups
}

pub fn kinds_of<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    REGISTRY.iter().copied().filter(move |kind| kind.group == group && kind.version == version)
}

/// The same with what is served but described by no schema.
pub fn offered() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups = groups();
    groups.push((resource_metrics::GROUP, vec![resource_metrics::VERSION]));
    groups
}

fn offered_of<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    let metrics = resource_metrics::KINDS.iter().copied();
    kinds_of(group, version).chain(metrics.filter(move |kind| kind.group == group && kind.version == version))
}

/// `/api`, `/apis` and what is below them down to a version.
pub fn document(
    server: &ApiServer,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
    form: &mut Form,
) -> Result<Reply, RequestError> {
    if matches!(path, "/api" | "/apis")
        && let Some(version) = aggregated_version(headers)
    {
        return Ok(aggregated(server, path, version, headers));
    }
    form.output = negotiate::output(headers, query, false)?;
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (name, value) = match parts.as_slice() {
        ["api"] => ("APIVersions", json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{
                "clientCIDR": "0.0.0.0/0",
                "serverAddress": host_and_port(server.config.advertise_address, server.config.advertise_port),
            }],
        })),
        ["apis"] => {
            let list: Vec<Value> = offered().into_iter().filter(|(group, _)| !group.is_empty()).map(group_value).collect();
            ("APIGroupList", json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}))
        }
        ["apis", group] => {
            let found = offered().into_iter().find(|(own, _)| own == group && !own.is_empty());
            let mut value = group_value(found.ok_or(RequestError::NoSuchPath)?);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            ("APIGroup", value)
        }
        ["api", version] => ("APIResourceList", resources("", version)?),
        ["apis", group, version] if !group.is_empty() => ("APIResourceList", resources(group, version)?),
        _ => return Err(RequestError::NoSuchPath),
    };
    let definition = match name {
        "APIVersions" => "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions",
        "APIGroupList" => "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList",
        "APIGroup" => "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup",
        _ => "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList",
    };
    Ok(Reply::ok(Content::Value { kind: views::plain_kind(), definition, value }))
}

fn group_value((group, versions): (&str, Vec<&str>)) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let preferred = versions.first().map(version);
    json!({"name": group, "versions": versions.iter().map(version).collect::<Vec<_>>(), "preferredVersion": preferred})
}

fn resources(group: &str, version: &str) -> Result<Value, RequestError> {
    let mut list = Vec::new();
    for kind in offered_of(group, version) {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs.names(),
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        if let Some(hash) = storage_version_hash(kind) {
            resource["storageVersionHash"] = hash.into();
        }
        list.push(resource);
        for subresource in kind.subresources {
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, subresource.name), "singularName": "",
                "namespaced": kind.namespaced, "kind": spoken(kind, subresource).2, "verbs": subresource.verbs,
            });
            if let Some((group, version, _)) = subresource.speaks
                && (group, version) != (kind.group, kind.version)
            {
                resource["group"] = group.into();
                resource["version"] = version.into();
            }
            list.push(resource);
        }
    }
    if list.is_empty() {
        return Err(RequestError::NoSuchPath);
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

/// Tells whether two servers store a kind alike: a digest of what is stored.
fn storage_version_hash(kind: &Kind) -> Option<String> {
    if kind.storage.is_empty() {
        return None;
    }
    let stored = REGISTRY.iter().find(|own| own.storage == kind.storage && own.conversion.is_none())?;
    let digest = Sha256::digest(format!("{}/{}/{}", stored.group, stored.version, stored.kind));
    Some(STANDARD.encode(&digest[..8]))
}

fn spoken(kind: &Kind, subresource: &Subresource) -> (&'static str, &'static str, &'static str) {
    subresource.speaks.unwrap_or((kind.group, kind.version, kind.kind))
}

/// `v2` or `v2beta1`, if the first acceptable form is the aggregated one.
fn aggregated_version(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        if parts.next() != Some("application/json") {
            continue;
        }
        let parameters: Vec<&str> = parts.collect();
        if parameters.contains(&"g=apidiscovery.k8s.io") && parameters.contains(&"as=APIGroupDiscoveryList") {
            for version in ["v2", "v2beta1"] {
                if parameters.iter().any(|parameter| *parameter == format!("v={version}")) {
                    return Some(version);
                }
            }
        } else if !parameters.iter().any(|parameter| parameter.starts_with("g=")) {
            return None; // The plain form is wanted more.
        }
    }
    None
}

fn aggregated(server: &ApiServer, path: &str, version: &'static str, headers: &HeaderMap) -> Reply {
    let at = usize::from(path == "/apis") * 2 + usize::from(version == "v2beta1");
    let (text, etag) = server.discovery.aggregated[at].get_or_init(|| {
        let text = aggregated_document(path == "/api", version).to_string();
        let digest: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect();
        (text, format!("\"{digest}\""))
    });
    let known = headers.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let mut response = Response::new(if known { Body::empty() } else { Body::full(text.clone()) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let content_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    let answer = response.headers_mut();
    answer.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.insert(VARY, HeaderValue::from_static("Accept"));
    answer.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public"));
    if let Ok(etag) = HeaderValue::from_str(etag) {
        answer.insert(ETAG, etag);
    }
    Reply::ok(Content::Response(response))
}

fn aggregated_document(core: bool, version: &str) -> Value {
    let items: Vec<Value> = offered()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = offered_of(group, version).map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = group.into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let response_kind = |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": response_kind((kind.group, kind.version, kind.kind)),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs.names(),
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if !kind.subresources.is_empty() {
        resource["subresources"] = kind
            .subresources
            .iter()
            .map(|subresource| {
                json!({
                    "subresource": subresource.name,
                    "responseKind": response_kind(spoken(kind, subresource)),
                    "verbs": subresource.verbs,
                })
            })
            .collect();
    }
    resource
}
