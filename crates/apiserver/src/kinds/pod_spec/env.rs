//! Environment variables and where they come from.

use super::Context;
use super::volumes::{relative_path, validate_field_reference, validate_resource_reference};
use crate::kinds::{Cursor, Problems, checks};

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

pub fn validate(vars: &Cursor, context: &Context, problems: &mut Problems) {
    for var in vars.items() {
        let name = var.at("name");
        if name.is_empty() {
            problems.required(&name, "");
        } else {
            problems.invalid_each(&name, relaxed_name(name.str()));
        }
        let from = var.at("valueFrom");
        if from.exists() {
            validate_source(&var, &from, context, problems);
        }
    }
}

/// Any printable ASCII but `=`.
fn relaxed_name(name: &str) -> Vec<String> {
    if name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
}

fn validate_source(var: &Cursor, from: &Cursor, context: &Context, problems: &mut Problems) {
    let mut sources = 0;
    let mut present = |field: &'static str| {
        let exists = from.at(field).exists();
        sources += usize::from(exists);
        exists
    };
    if present("fieldRef") {
        validate_field_reference(&from.at("fieldRef"), FIELDS, problems);
    }
    if present("resourceFieldRef") {
        validate_resource_reference(&from.at("resourceFieldRef"), false, problems);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if present(field) {
            let reference = from.at(field);
            let (name, key) = (reference.at("name"), reference.at("key"));
            problems.invalid_each(&name, api::names::dns1123_subdomain(name.str()));
            validate_key(&key, problems);
        }
    }
    if present("fileKeyRef") {
        validate_file_key(&from.at("fileKeyRef"), context, problems);
    }
    if sources == 0 {
        problems.invalid_str(
            from,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !var.at("value").is_empty() {
        problems.invalid_str(from, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        problems.invalid_str(from, "", "may not have more than one field specified at a time");
    }
}

fn validate_key(key: &Cursor, problems: &mut Problems) {
    if key.is_empty() {
        problems.required(key, "");
    } else {
        problems.invalid_each(key, api::names::config_map_key(key.str()));
    }
}

fn validate_file_key(reference: &Cursor, context: &Context, problems: &mut Problems) {
    let (key, volume, path) = (reference.at("key"), reference.at("volumeName"), reference.at("path"));
    if key.is_empty() {
        problems.required(&key, "");
    } else {
        problems.invalid_each(&key, relaxed_name(key.str()));
    }
    if checks::required(&volume, problems) && !context.volumes.iter().any(|(name, _)| *name == volume.str()) {
        problems.not_found(&volume);
    }
    if checks::required(&path, problems) {
        relative_path(&path, problems);
    }
}

pub fn validate_from(sources: &Cursor, problems: &mut Problems) {
    for source in sources.items() {
        let prefix = source.at("prefix");
        if !prefix.is_empty() {
            problems.invalid_each(&prefix, relaxed_name(prefix.str()));
        }
        let mut count = 0;
        for field in ["configMapRef", "secretRef"] {
            let reference = source.at(field);
            if !reference.exists() {
                continue;
            }
            count += 1;
            let name = reference.at("name");
            if name.is_empty() {
                problems.required(&name, "");
            } else {
                checks::subdomain(&name, problems);
            }
        }
        if count == 0 {
            problems.invalid_str(sources, "", "must specify one of: `configMapRef` or `secretRef`");
        } else if count > 1 {
            problems.invalid_str(sources, "", "may not have more than one field specified at a time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::{Value, json};

    fn env(var: Value) -> Value {
        json!({"containers": [{"name": "c", "image": "nginx", "env": [var]}]})
    }

    #[test]
    fn sources() {
        check(env(json!({"name": "A.b-c", "value": "x"})), "");
        check(env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})), "");
        check(env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}})), "");
        check(env(json!({"name": "", "value": "x"})), "spec.containers[0].env[0].name: Required value");
        check(
            env(json!({"name": "A=", "value": "x"})),
            "spec.containers[0].env[0].name: Invalid value: \"A=\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        );
        check(
            env(json!({"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        );
        check(
            env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}})),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x",
        );
        check(
            env(json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}})),
            "spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value",
        );
    }
}
