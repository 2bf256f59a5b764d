//! A volume attached to a node.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::pod_spec::driver_name;
use crate::kinds::printing::{self, AGE, NAME, boolean, text};
use crate::kinds::problems::IMMUTABLE;
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Column, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    definition: "io.k8s.api.storage.v1.VolumeAttachment",
    storage: "volumeattachments",
    answers_deletion_with_object: true,
    subresources: &[STATUS],
    prepare_create: |object| object["status"] = json!({"attached": false}),
    prepare_update: lifecycle::keep_status,
    validate,
    validate_update: |new, old, problems| {
        let root = Cursor::root(new);
        if walk(new, "spec") != walk(old, "spec") {
            problems.invalid_struct(&root.at("spec"), &["attacher", "source", "nodeName"], IMMUTABLE);
        }
    },
    validate_status_update: |new, _, problems| validate(new, problems),
    columns: &[
        NAME,
        Column { format: "name", ..text("Attacher", "io.k8s.api.storage.v1.VolumeAttachmentSpec#attacher") },
        text("PV", "io.k8s.api.storage.v1.VolumeAttachmentSource#persistentVolumeName"),
        text("Node", "io.k8s.api.storage.v1.VolumeAttachmentSpec#nodeName"),
        boolean("Attached", "io.k8s.api.storage.v1.VolumeAttachmentStatus#attached"),
        AGE,
    ],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let attacher = spec.at("attacher");
    checks::required(&attacher, problems);
    let source = spec.at("source");
    let (volume, inline) = (source.at("persistentVolumeName"), source.at("inlineVolumeSpec"));
    match (volume.exists(), inline.exists()) {
        (false, false) => {
            problems.required(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
        }
        (true, true) => {
            problems.forbidden(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
        }
        (true, false) if volume.is_empty() => problems.required(&volume, "must specify non empty persistentVolumeName"),
        _ => {}
    }
    checks::subdomain(&spec.at("nodeName"), problems);
    validate_status(&root.at("status"), problems);
    // What came with the stable version is judged for new ones alone.
    if root.at("metadata.resourceVersion").is_empty() {
        driver_name(&attacher, problems);
        if volume.exists() {
            checks::subdomain(&volume, problems);
        }
    }
}

const METADATA_BYTES_MAX: usize = 256 * 1024;
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

fn validate_status(status: &Cursor, problems: &mut Problems) {
    let metadata = status.at("attachmentMetadata");
    if metadata.entries().map(|(key, value)| key.len() + value.len()).sum::<usize>() > METADATA_BYTES_MAX {
        problems.too_long(&metadata, METADATA_BYTES_MAX);
    }
    for field in ["attachError", "detachError"] {
        let error = status.at(field);
        if error.at("message").len() > MESSAGE_BYTES_MAX {
            problems.too_long(&error.at("message"), METADATA_BYTES_MAX);
        }
        if error.at("errorCode").int() < 0 {
            problems.invalid(&error.at("errorCode"), "must be between 0 and 2147483647, inclusive");
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        printing::name(object),
        printing::string_at(object, "spec.attacher"),
        printing::string_at(object, "spec.source.persistentVolumeName"),
        printing::string_at(object, "spec.nodeName"),
        walk(object, "status.attached").as_bool().unwrap_or(false).into(),
        printing::age(object, now),
    ]
}
