//! `metadata`, judged alike for every kind.
//!
//! Deliberately absent: what the server itself fills in (uid, creationTimestamp, resourceVersion, managedFields);
//! that is the handlers' work.

use serde_json::Value;

use super::problems::IMMUTABLE;
use super::{Cursor, Kind, Problems};

/// All annotation keys and values together.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

/// Metadata of a new object. `name` must be set by now (from generateName where asked for).
pub fn validate_metadata(kind: &Kind, object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let metadata = root.at("metadata");
    validate_names(kind, &metadata, problems);
    validate_rest(kind, &metadata, problems);
}

fn validate_names(kind: &Kind, metadata: &Cursor, problems: &mut Problems) {
    let generate_name = metadata.at("generateName");
    if !generate_name.is_empty() {
        // The prefix may end in what the random suffix would follow, such as a dash.
        let prefix = generate_name.str();
        let judged = prefix.strip_suffix('-').map_or_else(|| prefix.to_owned(), |cut| format!("{cut}a"));
        for sentence in (kind.name_problems)(&judged) {
            problems.invalid(&generate_name, &sentence);
        }
    }
    let name = metadata.at("name");
    if name.is_empty() {
        problems.required(&name, "name or generateName is required");
    } else {
        problems.invalid_each(&name, (kind.name_problems)(name.str()));
    }
    let namespace = metadata.at("namespace");
    if kind.namespaced {
        if namespace.is_empty() {
            problems.required(&namespace, "");
        } else {
            problems.invalid_each(&namespace, api::names::dns1123_label(namespace.str()));
        }
    } else if !namespace.is_empty() {
        problems.forbidden(&namespace, "not allowed on this type");
    }
}

fn validate_rest(kind: &Kind, metadata: &Cursor, problems: &mut Problems) {
    let generation = metadata.at("generation");
    if generation.int() < 0 {
        problems.invalid(&generation, "must be greater than or equal to 0");
    }
    validate_labels(&metadata.at("labels"), problems);
    validate_annotations(&metadata.at("annotations"), problems);
    validate_owner_references(&metadata.at("ownerReferences"), problems);
    let finalizers = metadata.at("finalizers");
    validate_finalizers(&finalizers, problems);
    // Kinds of extensions, and what extends, may call theirs as they like.
    if kind.definition.starts_with("io.k8s.api.") && kind.group != "admissionregistration.k8s.io" {
        for finalizer in finalizers.items() {
            well_known_finalizer(&finalizer, problems);
        }
    }
}

/// Without a domain there are few.
pub fn well_known_finalizer(finalizer: &Cursor, problems: &mut Problems) {
    if !finalizer.str().contains('/') && !matches!(finalizer.str(), "kubernetes" | "orphan" | "foregroundDeletion") {
        problems.invalid(finalizer, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// Keys are qualified names, values label values.
pub fn validate_labels(labels: &Cursor, problems: &mut Problems) {
    for (key, value) in labels.entries() {
        for sentence in api::names::qualified_name(key) {
            problems.invalid_str(labels, key, &sentence);
        }
        for sentence in api::names::label_value(value.str()) {
            problems.invalid_str(labels, value.str(), &sentence);
        }
    }
}

pub fn validate_annotations(annotations: &Cursor, problems: &mut Problems) {
    let mut bytes = 0;
    for (key, value) in annotations.entries() {
        // Keys may hold capitals, for old times' sake.
        for sentence in api::names::qualified_name(&key.to_lowercase()) {
            problems.invalid_str(annotations, key, &sentence);
        }
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_MAX_BYTES {
        problems.too_long(annotations, ANNOTATIONS_MAX_BYTES);
    }
}

fn validate_owner_references(references: &Cursor, problems: &mut Problems) {
    let mut controller: Option<&str> = None;
    for reference in references.items() {
        let api_version = reference.at("apiVersion");
        let version = api_version.str().rsplit('/').next().unwrap_or("");
        if version.is_empty() {
            problems.invalid_str(&api_version, api_version.str(), "version must not be empty");
        }
        for (field, sentence) in
            [("kind", "kind must not be empty"), ("name", "name must not be empty"), ("uid", "uid must not be empty")]
        {
            let value = reference.at(field);
            if value.is_empty() {
                problems.invalid_str(&value, "", sentence);
            }
        }
        if api_version.str() == "v1" && reference.at("kind").str() == "Event" {
            problems.invalid(&reference, "/v1, Kind=Event is disallowed from being an owner");
        }
        if reference.at("controller").bool() {
            let name = reference.at("name").str();
            match controller {
                Some(first) => problems.invalid(
                    references,
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    ),
                ),
                None => controller = Some(name),
            }
        }
    }
}

fn validate_finalizers(finalizers: &Cursor, problems: &mut Problems) {
    let (mut orphan, mut foreground) = (false, false);
    for finalizer in finalizers.items() {
        for sentence in api::names::qualified_name(finalizer.str()) {
            problems.invalid_str(finalizers, finalizer.str(), &sentence);
        }
        orphan |= finalizer.str() == "orphan";
        foreground |= finalizer.str() == "foregroundDeletion";
    }
    if orphan && foreground {
        problems.invalid(finalizers, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// What an update may not change. The handlers have already filled in what clients may leave out.
pub fn validate_metadata_update(kind: &Kind, new: &Value, old: &Value, problems: &mut Problems) {
    let (new_root, old_root) = (Cursor::root(new), Cursor::root(old));
    let (new_metadata, old_metadata) = (new_root.at("metadata"), old_root.at("metadata"));

    let fields: &[&str] = if kind.namespaced { &["name", "namespace", "uid"] } else { &["name", "uid"] };
    for field in fields {
        immutable(&new_metadata.at(field), &old_metadata.at(field), problems);
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(&new_metadata.at(field), &old_metadata.at(field), problems);
    }

    if old_metadata.at("deletionTimestamp").exists() {
        let (finalizers, before) = (new_metadata.at("finalizers"), old_metadata.at("finalizers"));
        let extra: Vec<&str> =
            finalizers.items().filter(|new| !before.array().contains(new.value)).map(|new| new.str()).collect();
        if !extra.is_empty() {
            let extra: Vec<String> = extra.into_iter().map(super::problems::go_quoted).collect();
            problems.forbidden(
                &finalizers,
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    extra.join(", ")
                ),
            );
        }
    }
    let generation = new_metadata.at("generation");
    if generation.int() < old_metadata.at("generation").int() {
        problems.invalid_plain(&generation, generation.int(), "must not be decremented");
    }
    validate_rest(kind, &new_metadata, problems);
}

fn immutable(new: &Cursor, old: &Cursor, problems: &mut Problems) {
    if new.value != old.value {
        problems.invalid(new, IMMUTABLE);
    }
}
