//! A piece of storage.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, default_text, inside, make};
use crate::kinds::pod_spec::defaults::default_network_volume;
use crate::kinds::printing::{self, AGE, NAME, text, wide};
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    definition: "io.k8s.api.core.v1.PersistentVolume",
    storage: "persistentvolumes",
    answers_deletion_with_object: true,
    subresources: &[STATUS],
    defaults,
    prepare_create: |object| object["status"] = json!({"phase": "Pending"}),
    prepare_update: lifecycle::keep_status,
    validate,
    validate_update,
    selectable_fields: &["name"],
    field_value: |object, _| walk(object, "metadata.name").as_str().unwrap_or("").to_owned(),
    columns: &[
        NAME,
        text("Capacity", "io.k8s.api.core.v1.PersistentVolumeSpec#capacity"),
        text("Access Modes", "io.k8s.api.core.v1.PersistentVolumeSpec#accessModes"),
        text("Reclaim Policy", "io.k8s.api.core.v1.PersistentVolumeSpec#persistentVolumeReclaimPolicy"),
        text("Status", "io.k8s.api.core.v1.PersistentVolumeStatus#phase"),
        text("Claim", "io.k8s.api.core.v1.PersistentVolumeSpec#claimRef"),
        text("StorageClass", "StorageClass of the pv"),
        text("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
        text("Reason", "io.k8s.api.core.v1.PersistentVolumeStatus#reason"),
        AGE,
        wide("VolumeMode", "io.k8s.api.core.v1.PersistentVolumeSpec#volumeMode"),
    ],
    cells,
    ..CLUSTER
};

pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

const SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

fn defaults(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    default_text(make(map, "status"), "phase", "Pending");
    inside(map, "spec", |spec| {
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_text(spec, "volumeMode", "Filesystem");
        inside(spec, "hostPath", |source| default(source, "type", ""));
        default_network_volume(spec);
    });
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let modes = spec.at("accessModes");
    if modes.is_empty() {
        problems.required(&modes, "");
    }
    for mode in modes.items() {
        // The original reports the list itself, not the item.
        if !ACCESS_MODES.contains(&mode.str()) {
            problems.not_supported_str(&modes, mode.str(), ACCESS_MODES);
        }
    }
    only_once_pod_alone(&modes, problems);
    let capacity = spec.at("capacity");
    if capacity.is_empty() {
        problems.required(&capacity, "");
    }
    if !capacity.key("storage").exists() || capacity.len() > 1 {
        problems.not_supported_str(&capacity, &capacity.value.to_string(), &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        if checks::quantity(amount.value).is_some_and(|quantity| quantity.milli_value() <= 0) {
            problems.invalid(&amount, checks::NOT_POSITIVE);
        }
    }
    checks::optional_one_of(&spec.at("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"], problems);
    checks::optional_one_of(&spec.at("volumeMode"), &["Block", "Filesystem"], problems);
    validate_source(&spec, problems);
    let class = spec.at("storageClassName");
    if !class.is_empty() {
        for sentence in api::names::dns1123_subdomain(class.str()) {
            problems.invalid(&class, &sentence);
        }
    }
    if spec.at("hostPath.path").str() == "/" && spec.at("persistentVolumeReclaimPolicy").str() == "Recycle" {
        problems
            .forbidden(&spec.at("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
}

fn validate_source(spec: &Cursor, problems: &mut Problems) {
    let mut first = true;
    for source in SOURCES.iter().map(|source| (*source, spec.at(source))).filter(|(_, source)| source.exists()) {
        if !first {
            problems.forbidden(&source.1, "may not specify more than 1 volume type");
        }
        first = false;
        let required: &[&str] = match source.0 {
            "hostPath" | "local" => &["path"],
            "nfs" => &["server", "path"],
            "csi" => &["driver", "volumeHandle"],
            "iscsi" => &["targetPortal", "iqn"],
            _ => &[],
        };
        for field in required {
            checks::required(&source.1.at(field), problems);
        }
        if source.0 == "local" && !spec.at("nodeAffinity").exists() {
            problems.required(&spec.at("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if first {
        problems.required(spec, "must specify a volume type");
    }
}

/// `ReadWriteOncePod` excludes every other mode.
pub fn only_once_pod_alone(modes: &Cursor, problems: &mut Problems) {
    if modes.len() > 1 && modes.array().iter().any(|mode| mode == "ReadWriteOncePod") {
        problems.forbidden(modes, "may not use ReadWriteOncePod with other access modes");
    }
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let spec = root.at("spec");
    let source = |value: &Value| -> Vec<Value> {
        SOURCES.iter().map(|source| walk(walk(value, "spec"), source).clone()).collect()
    };
    if source(new) != source(old) {
        problems
            .forbidden(&spec.at("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation");
    }
    problems.immutable(&spec.at("volumeMode"), walk(old, "spec.volumeMode"));
    let affinity = walk(old, "spec.nodeAffinity");
    if !affinity.is_null() {
        problems.immutable(&spec.at("nodeAffinity"), affinity);
    }
}

/// `RWO,ROX,RWX,RWOP`, in this order.
pub fn access_modes(modes: &Value) -> String {
    let has = |mode: &str| modes.as_array().is_some_and(|list| list.iter().any(|own| own == mode));
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let list: Vec<&str> = short.into_iter().filter(|(mode, _)| has(mode)).map(|(_, short)| short).collect();
    list.join(",")
}

/// The beta annotation outlives the field.
pub fn storage_class(object: &Value) -> Value {
    match walk(object, "metadata.annotations").get("volume.beta.kubernetes.io/storage-class") {
        Some(class) => class.clone(),
        None => printing::string_at(object, "spec.storageClassName"),
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = walk(object, "spec.claimRef");
    let claim = match claim.is_null() {
        true => String::new(),
        false => format!(
            "{}/{}",
            walk(claim, "namespace").as_str().unwrap_or(""),
            walk(claim, "name").as_str().unwrap_or("")
        ),
    };
    let deleting = !walk(object, "metadata.deletionTimestamp").is_null();
    vec![
        printing::name(object),
        printing::text_or(object, "spec.capacity.storage", "0"),
        access_modes(walk(object, "spec.accessModes")).into(),
        printing::string_at(object, "spec.persistentVolumeReclaimPolicy"),
        if deleting { "Terminating".into() } else { printing::string_at(object, "status.phase") },
        claim.into(),
        storage_class(object),
        printing::text_or(object, "spec.volumeAttributesClassName", "<unset>"),
        printing::string_at(object, "status.reason"),
        printing::age(object, now),
        printing::text_or(object, "spec.volumeMode", "<unset>"),
    ]
}
