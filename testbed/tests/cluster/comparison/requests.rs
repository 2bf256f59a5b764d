//! What our client asks a server for: nothing that a stock Kubernetes would not know.
//!
//! Every request of a comparison stands in the server's audit log. Its path, its verb and the names in its query must
//! stand in the published OpenAPI document, which is compared with the original's elsewhere; the rest is discovery.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

/// Parameters of every table, which the document leaves out.
const TABLES: &str = "includeObject";
/// Beside the resources: what every server has, and whether more may follow.
const COMMON: &[(&str, bool)] = &[
    ("/api", false), ("/apis", true), ("/version", false), ("/openapi/v2", false), ("/openapi/v3", true),
    ("/healthz", true), ("/livez", true), ("/readyz", true), ("/metrics", false),
];

/// What stands in requests of ours alone, and says so in words.
pub struct Requests {
    pub total: usize,
    pub paths: BTreeSet<String>,
    /// Requests that no stock server would know.
    pub private: BTreeSet<String>,
}

/// `also` names what command lines ask for themselves, with `get --raw` and its like.
pub fn of(log: &str, document: &Value, also: &dyn Fn(&str) -> bool) -> Requests {
    let templates = templates(document);
    let mut found = Requests { total: 0, paths: BTreeSet::new(), private: BTreeSet::new() };
    for event in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if !event["userAgent"].as_str().unwrap_or_default().ends_with(" coracle") {
            continue;
        }
        let uri = event["requestURI"].as_str().unwrap_or_default();
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let method = method(event["verb"].as_str().unwrap_or_default());
        found.total += 1;
        if COMMON.iter().any(|(known, more)| path == *known || *more && path.starts_with(&format!("{known}/")) && (path.starts_with("/openapi/") || path.split('/').count() <= 4)) || also(uri) {
            continue;
        }
        let segments: Vec<&str> = path.split('/').collect();
        let known = templates.iter().filter(|(template, _)| matches(template, &segments)).filter_map(|(template, methods)| Some((template, methods.get(method)?)));
        let names: BTreeSet<&str> = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).filter(|name| !name.is_empty() && *name != TABLES).collect();
        let fits = known.into_iter().find(|(_, parameters)| names.iter().all(|name| parameters.contains(*name)));
        match fits {
            Some((template, _)) => drop(found.paths.insert(format!("{method} {}", template.join("/")))),
            None => drop(found.private.insert(format!("{method} {uri}"))),
        }
    }
    found
}

fn method(verb: &str) -> &str {
    match verb {
        "list" | "watch" => "get",
        "create" => "post",
        "update" => "put",
        "deletecollection" => "delete",
        other => other,
    }
}

fn matches(template: &[String], segments: &[&str]) -> bool {
    let last = template.len() - 1;
    let one = |(part, segment): (&String, &&str)| part.starts_with('{') || part == segment;
    match template[last].as_str() {
        "{path}" => segments.len() > last && template[..last].iter().zip(segments).all(one),
        _ => template.len() == segments.len() && template.iter().zip(segments).all(one),
    }
}

type Methods = BTreeMap<String, BTreeSet<String>>;

/// Each path in pieces, with the names that the query of each method may have.
fn templates(document: &Value) -> Vec<(Vec<String>, Methods)> {
    let resolve = |parameter: &Value| match parameter["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).cloned().unwrap_or_default(),
        None => parameter.clone(),
    };
    let names = |of: &Value| -> BTreeSet<String> {
        let all = of["parameters"].as_array().into_iter().flatten().map(resolve);
        all.filter(|one| one["in"] == "query").filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    };
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .map(|(path, item)| {
            let common = names(item);
            let methods = item.as_object().into_iter().flatten().filter(|(method, _)| *method != "parameters");
            let methods = methods.map(|(method, operation)| (method.clone(), names(operation).union(&common).cloned().collect()));
            (path.trim_end_matches('/').split('/').map(str::to_owned).collect(), methods.collect())
        })
        .collect()
}
