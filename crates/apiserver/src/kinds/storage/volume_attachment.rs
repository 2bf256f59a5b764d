//! A volume attached to a node.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, boolean, text};
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
    validate_update: |new, old, problems| problems.immutable(&Cursor::root(new).at("spec"), walk(old, "spec")),
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
    if checks::required(&attacher, problems) {
        problems.invalid_each(&attacher, api::names::dns1123_subdomain(&attacher.str().to_lowercase()));
    }
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
