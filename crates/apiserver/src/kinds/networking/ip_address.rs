//! One address in use.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, NAME, text};
use crate::kinds::{CLUSTER, Column, Cursor, Kind, Problems, checks};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    definition: "io.k8s.api.networking.v1.IPAddress",
    storage: "ipaddresses",
    name_problems,
    validate,
    validate_update: |new, old, problems| {
        problems.immutable(&Cursor::root(new).at("spec.parentRef"), walk(old, "spec.parentRef"));
    },
    columns: COLUMNS,
    cells,
    ..CLUSTER
};

const COLUMNS: &[Column] =
    &[NAME, text("ParentRef", "io.k8s.api.networking.v1.IPAddressSpec#parentRef"), printing::AGE];

/// Its name is the address, spelled the one right way.
fn name_problems(name: &str) -> Vec<String> {
    match checks::parse_ip(name) {
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
        Some(ip) if ip.to_string() != name => vec![format!("must be in canonical form (\"{ip}\")")],
        Some(_) => Vec::new(),
    }
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let parent = root.at("spec.parentRef");
    if !parent.exists() {
        return problems.required(&parent, "");
    }
    let group = parent.at("group");
    if !group.str().is_empty() {
        problems.invalid_each(&group, api::names::dns1123_subdomain(group.str()));
    }
    for field in ["resource", "name"] {
        let at = parent.at(field);
        if checks::required(&at, problems) {
            problems.invalid_each(&at, checks::path_segment_name(at.str()));
        }
    }
    let namespace = parent.at("namespace");
    problems.invalid_each(&namespace, checks::path_segment_name(namespace.str()));
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let parent = walk(object, "spec.parentRef");
    let string = |field: &str| walk(parent, field).as_str().unwrap_or("");
    let shown = if parent.is_null() {
        "<none>".to_owned()
    } else {
        let mut shown = string("resource").to_lowercase();
        if !string("group").is_empty() {
            shown = format!("{shown}.{}", string("group").to_lowercase());
        }
        if !string("namespace").is_empty() {
            shown = format!("{shown}/{}", string("namespace"));
        }
        format!("{shown}/{}", string("name"))
    };
    vec![printing::name(object), shown.into(), printing::age(object, now)]
}
