//! Defines a kind at run time.
//!
//! Deliberately absent: judging the OpenAPI schemas themselves, and serving what is defined.

use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, default_text, inside, make, object as object_at, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle, printing};

pub static KIND: Kind = Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    definition: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    storage: "apiextensions.k8s.io/customresourcedefinitions",
    subresources: &[STATUS],
    defaults,
    prepare_create: |object| {
        lifecycle::first_generation(object);
        object["status"] =
            json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
        note_stored_version(object);
    },
    prepare_update: |new, old| {
        lifecycle::keep_status_and_count(new, old);
        note_stored_version(new);
    },
    validate,
    validate_update,
    columns: printing::NAME_AND_CREATION,
    cells: printing::name_and_creation,
    ..CLUSTER
};

fn defaults(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    inside(spec, "names", |names| {
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            default_text(names, "singular", &kind.to_lowercase());
            default_text(names, "listKind", &format!("{kind}List"));
        }
    });
    default_text(make(spec, "conversion"), "strategy", "None");
    inside(spec, "conversion", |conversion| {
        inside(conversion, "webhook", |webhook| {
            inside(webhook, "clientConfig", |config| {
                inside(config, "service", |service| default(service, "port", 443))
            });
        });
    });
}

/// Objects may be stored in every version that ever was the storage version.
fn note_stored_version(object: &mut Value) {
    let versions = walk(object, "spec.versions").as_array().cloned().unwrap_or_default();
    let stored = versions.iter().find(|version| walk(version, "storage").as_bool() == Some(true));
    let Some(name) = stored.map(|version| walk(version, "name").clone()) else { return };
    let Some(status) = object_at(object, "status") else { return };
    let list = status.entry("storedVersions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut()
        && !list.contains(&name)
    {
        list.push(name);
    }
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let (group, names, name) = (spec.at("group"), spec.at("names"), root.at("metadata.name"));
    let expected = format!("{}.{}", names.at("plural").str(), group.str());
    if name.str() != expected {
        problems.invalid(&name, "must be spec.names.plural+\".\"+spec.group");
    }
    if group.is_empty() {
        problems.required(&group, "");
    } else {
        checks::subdomain(&group, problems);
        if !group.str().contains('.') {
            problems.invalid(&group, "should be a domain with at least one dot");
        }
    }
    let scope = spec.at("scope");
    if scope.is_empty() {
        problems.required(&scope, "");
    } else {
        checks::one_of(&scope, &["Cluster", "Namespaced"], problems);
    }
    validate_versions(&spec, problems);
    validate_names(&names, problems);
    validate_conversion(&spec.at("conversion"), problems);
}

fn validate_versions(spec: &Cursor, problems: &mut Problems) {
    let versions = spec.at("versions");
    let mut stored = 0;
    let mut seen: Vec<&str> = Vec::new();
    for version in versions.items() {
        let name = version.at("name");
        if name.is_empty() {
            problems.required(&name, "");
        } else {
            for sentence in api::names::dns1035_label(name.str()) {
                problems.invalid(&name, &sentence);
            }
        }
        if seen.contains(&name.str()) {
            problems.invalid(&versions, "must contain unique version names");
        }
        seen.push(name.str());
        stored += usize::from(version.at("storage").bool());
        let schema = version.at("schema.openAPIV3Schema");
        if !schema.exists() {
            problems.required(&schema, "schemas are required");
        } else {
            let kind = schema.at("type");
            if kind.is_empty() {
                problems.required(&kind, "must not be empty at the root");
            } else if kind.str() != "object" {
                problems.invalid(&kind, "must be object at the root");
            }
        }
    }
    if versions.is_empty() || stored != 1 {
        problems.invalid_object(&versions, "must have exactly one version marked as storage version");
    }
}

fn validate_names(names: &Cursor, problems: &mut Problems) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let at = names.at(field);
        if at.is_empty() {
            problems.required(&at, "");
        } else {
            for sentence in api::names::dns1035_label(&at.str().to_lowercase()) {
                let lower =
                    if field.ends_with("ind") { "may have mixed case, but should otherwise match: " } else { "" };
                problems.invalid(&at, &format!("{lower}{sentence}"));
            }
        }
    }
    if !names.at("kind").is_empty() && names.at("kind").str() == names.at("listKind").str() {
        problems.invalid(&names.at("listKind"), "kind and listKind may not be the same");
    }
    for list in ["shortNames", "categories"] {
        for name in names.at(list).items() {
            for sentence in api::names::dns1035_label(name.str()) {
                problems.invalid(&name, &sentence);
            }
        }
    }
}

fn validate_conversion(conversion: &Cursor, problems: &mut Problems) {
    let (strategy, webhook) = (conversion.at("strategy"), conversion.at("webhook"));
    match strategy.str() {
        "None" => {
            if webhook.exists() {
                problems.forbidden(&webhook, "should not be set when strategy is not set to Webhook");
            }
        }
        "Webhook" => {
            if !webhook.at("clientConfig").exists() {
                problems.required(&webhook.at("clientConfig"), "required when strategy is set to Webhook");
            }
            if webhook.at("conversionReviewVersions").is_empty() {
                problems.required(&webhook.at("conversionReviewVersions"), "");
            }
        }
        "" => problems.required(&strategy, ""),
        _ => problems.not_supported(&strategy, &["None", "Webhook"]),
    }
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let established = printing::condition(old, "Established")
        .is_some_and(|condition| walk(condition, "status").as_str() == Some("True"));
    problems.immutable(&root.at("spec.group"), walk(old, "spec.group"));
    problems.immutable(&root.at("spec.names.plural"), walk(old, "spec.names.plural"));
    if established {
        problems.immutable(&root.at("spec.scope"), walk(old, "spec.scope"));
        problems.immutable(&root.at("spec.names.kind"), walk(old, "spec.names.kind"));
    }
    let stored = root.at("status.storedVersions");
    let versions = walk(new, "spec.versions").as_array().map_or(&[][..], Vec::as_slice);
    for version in stored.items() {
        if !versions.iter().any(|own| walk(own, "name") == version.value) {
            problems.invalid(&version, "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions".replace("v1", version.str()).as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::check_defaulted;

    fn definition(name: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
    }

    #[test]
    fn rules() {
        check_defaulted(&KIND, definition("crontabs.stable.example.com"), "");
        check_defaulted(
            &KIND,
            definition("x"),
            "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
        );
        let mut created = definition("crontabs.stable.example.com");
        (KIND.prepare_create)(&mut created);
        assert_eq!(created["status"]["storedVersions"], json!(["v1"]));
    }
}
