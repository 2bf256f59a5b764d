//! A piece of storage.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, default_text, inside, make};
use crate::kinds::pod_spec::defaults::default_network_volume;
use crate::kinds::go_diff::go_diff;
use crate::kinds::pod_spec::{
    DEPRECATED_VOLUMES, Of, driver_name, node_term_warnings, validate_node_selector, volumes,
};
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
    warnings,
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
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
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
        problems.not_supported_plain(&capacity, &capacity.value.to_string(), &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        if let Some(bytes) = checks::quantity(amount.value).map(|quantity| quantity.value()).filter(|bytes| *bytes < 0) {
            problems.invalid_plain(&amount, bytes, "must be a valid resource quantity");
        }
        if checks::quantity(amount.value).is_some_and(|quantity| quantity.milli_value() <= 0) {
            problems.invalid(&amount, checks::NOT_ABOVE_ZERO);
        }
    }
    checks::optional_one_of(&spec.at("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"], problems);
    let affinity = spec.at("nodeAffinity");
    if affinity.exists() {
        let required = affinity.at("required");
        if required.exists() {
            validate_node_selector(&required, problems);
        } else {
            problems.required(&required, "must specify required node constraints");
        }
    }
    validate_source(&spec, problems);
    if spec.at("hostPath.path").str() == "/" && spec.at("persistentVolumeReclaimPolicy").str() == "Recycle" {
        problems
            .forbidden(&spec.at("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.at("storageClassName");
    if !class.is_empty() {
        for sentence in api::names::dns1123_subdomain(class.str()) {
            problems.invalid(&class, &sentence);
        }
    }
    checks::optional_one_of(&spec.at("volumeMode"), &["Block", "Filesystem"], problems);
    let attributes = spec.at("volumeAttributesClassName");
    if attributes.exists() {
        if attributes.is_empty() {
            problems.required(&attributes, "an empty string is disallowed");
        } else {
            checks::subdomain(&attributes, problems);
        }
        if !spec.at("csi").exists() {
            problems.required(&spec.at("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

fn validate_source(spec: &Cursor, problems: &mut Problems) {
    let mut first = true;
    for source in SOURCES.iter().map(|source| (*source, spec.at(source))).filter(|(_, source)| source.exists()) {
        // The original lets one more of these pass.
        if !first && source.0 != "flexVolume" {
            let named = if source.0 == "cephfs" { "cephFS" } else { source.0 };
            problems.forbidden(&spec.at(named), "may not specify more than 1 volume type");
            continue;
        }
        first = false;
        match source.0 {
            "csi" => validate_driver(&source.1, problems),
            "local" => {
                let path = source.1.at("path");
                if checks::required(&path, problems) {
                    volumes::no_backsteps(&path, problems);
                }
                if !spec.at("nodeAffinity.required").exists() {
                    problems.required(&spec.at("nodeAffinity"), "Local volume requires node affinity");
                }
            }
            other => {
                volumes::validate_one(other, &source.1, Of::Template, problems);
                validate_namespaces(other, &source.1, problems);
            }
        }
    }
    if first {
        problems.required(spec, "must specify a volume type");
    }
}

/// Volumes stand in no namespace, so that what they refer to must name one.
fn validate_namespaces(kind: &str, source: &Cursor, problems: &mut Problems) {
    match kind {
        "glusterfs" => {
            let namespace = source.at("endpointsNamespace");
            if namespace.exists() && namespace.is_empty() {
                problems.invalid(&namespace, "if the endpointnamespace is set, it must be a valid namespace name");
            } else if namespace.exists() {
                checks::label(&namespace, problems);
            }
        }
        "azureFile" => {
            let namespace = source.at("secretNamespace");
            if namespace.exists() {
                checks::required(&namespace, problems);
            }
        }
        "cinder" | "storageos" => {
            let secret = source.at("secretRef");
            if secret.exists() {
                checks::required(&secret.at("namespace"), problems);
            }
        }
        _ => {}
    }
}

fn validate_driver(source: &Cursor, problems: &mut Problems) {
    driver_name(&source.at("driver"), problems);
    checks::required(&source.at("volumeHandle"), problems);
    for field in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        let reference = source.at(field);
        if !reference.exists() {
            continue;
        }
        let (name, namespace) = (reference.at("name"), reference.at("namespace"));
        if checks::required(&name, problems) {
            checks::subdomain(&name, problems);
        }
        if checks::required(&namespace, problems) {
            checks::label(&namespace, problems);
        }
    }
}

pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const BETA_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

fn warnings(new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    let (spec, annotations) = (walk(new, "spec"), walk(new, "metadata.annotations"));
    if annotations.get(BETA_CLASS).is_some() {
        out.push(format!(
            "metadata.annotations[{BETA_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    if annotations.get(BETA_OPTIONS).is_some() {
        out.push(format!(
            "metadata.annotations[{BETA_OPTIONS}]: deprecated since v1.31; use \"mountOptions\" attribute instead"
        ));
    }
    if walk(spec, "persistentVolumeReclaimPolicy").as_str() == Some("Recycle") {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".into());
    }
    let terms = walk(spec, "nodeAffinity.required.nodeSelectorTerms").as_array().into_iter().flatten();
    for (index, term) in terms.enumerate() {
        node_term_warnings(term, &format!("spec.nodeAffinity.required.nodeSelectorTerms[{index}]"), &mut out);
    }
    for (field, named, sentence) in DEPRECATED_VOLUMES {
        if !walk(spec, field).is_null() {
            out.push(format!("spec.{named}: {sentence}"));
        }
    }
    out
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
    let source = |value: &Value| -> Value {
        let own = walk(value, "spec").as_object().into_iter().flatten();
        own.filter(|(field, _)| SOURCES.contains(&field.as_str())).map(|(field, value)| (field.clone(), value.clone())).collect()
    };
    let (mut wanted, had) = (source(new), source(old));
    // A secret for growing may come later.
    if walk(&had, "csi.controllerExpandSecretRef").is_null()
        && let Some(csi) = wanted.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove("controllerExpandSecretRef");
    }
    if wanted != had {
        let differs = go_diff("io.k8s.api.core.v1.PersistentVolumeSpec", &had, &wanted)
            .replacen("core.PersistentVolumeSpec", "core.PersistentVolumeSource", 1);
        problems.forbidden(
            &spec.at("persistentvolumesource"),
            &format!("spec.persistentvolumesource is immutable after creation\n{differs}"),
        );
    }
    // The original leaves `spec` out of these two.
    problems.immutable(&root.at("volumeMode").with(spec.at("volumeMode").value), walk(old, "spec.volumeMode"));
    let affinity = walk(old, "spec.nodeAffinity");
    if !affinity.is_null() {
        problems.immutable(&root.at("nodeAffinity").with(spec.at("nodeAffinity").value), affinity);
    }
    let attributes = spec.at("volumeAttributesClassName");
    if !walk(old, "spec.volumeAttributesClassName").is_null() && !attributes.exists() {
        problems.forbidden(&attributes, "update from non-nil value to nil is forbidden");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaulted, check_update};

    fn volume(rest: Value) -> Value {
        let mut spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]});
        spec.as_object_mut().expect("a map").extend(rest.as_object().cloned().unwrap_or_default());
        json!({"metadata": {"name": "v"}, "spec": spec})
    }

    #[test]
    fn problems() {
        check_defaulted(&KIND, volume(json!({"hostPath": {"path": "/data"}})), "");
        check_defaulted(&KIND, volume(json!({})), "spec: Required value: must specify a volume type");
        check_defaulted(
            &KIND,
            volume(json!({"glusterfs": {"endpoints": "e", "path": "p", "endpointsNamespace": ""}})),
            "spec.glusterfs.endpointsNamespace: Invalid value: \"\": if the endpointnamespace is set, it must be a valid namespace name",
        );
        check_defaulted(
            &KIND,
            volume(json!({"csi": {"driver": "d", "volumeHandle": "h", "nodeExpandSecretRef": {"name": "s"}}})),
            "spec.csi.nodeExpandSecretRef.namespace: Required value",
        );
        let mut negative = volume(json!({"hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"}));
        negative["spec"]["capacity"]["storage"] = "-1".into();
        check_defaulted(
            &KIND,
            negative.clone(),
            "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity\n\
             spec.capacity[storage]: Invalid value: \"-1\": must be greater than zero\n\
             spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
        );
        assert_eq!(
            warnings(&negative, None),
            ["spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."]
        );
        check_defaulted(
            &KIND,
            volume(json!({"hostPath": {"path": "/data"}, "nfs": {"server": "s", "path": "p"}})),
            "spec.nfs: Forbidden: may not specify more than 1 volume type",
        );
        check_defaulted(
            &KIND,
            volume(json!({"nfs": {"server": "s", "path": "p"}})),
            "spec.nfs.path: Invalid value: \"p\": must be an absolute path",
        );
        check_defaulted(
            &KIND,
            volume(json!({"hostPath": {"path": "/a/../b", "type": "Odd"}})),
            "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'\n\
             spec.hostPath.type: Unsupported value: \"Odd\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
        );
        check_defaulted(
            &KIND,
            volume(json!({"local": {"path": "/a"}})),
            "spec.nodeAffinity: Required value: Local volume requires node affinity",
        );
        check_defaulted(
            &KIND,
            volume(json!({"csi": {"driver": "", "volumeHandle": ""}, "nodeAffinity": {}})),
            "spec.nodeAffinity.required: Required value: must specify required node constraints\n\
             spec.csi.driver: Required value\n\
             spec.csi.driver: Invalid value: \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')\n\
             spec.csi.volumeHandle: Required value",
        );
        check_defaulted(
            &KIND,
            volume(json!({"capacity": {"cpu": "1"}, "hostPath": {"path": "/a"}})),
            "spec.capacity: Unsupported value: {\"cpu\":\"1\"}: supported values: \"storage\"",
        );
        check_defaulted(
            &KIND,
            volume(json!({"hostPath": {"path": "/a"}, "volumeAttributesClassName": ""})),
            "spec.volumeAttributesClassName: Required value: an empty string is disallowed\n\
             spec.csi: Required value: has to be specified when using volumeAttributesClassName",
        );
    }

    #[test]
    fn the_source_stays() {
        let path = |path: &str| volume(json!({"hostPath": {"path": path}, "volumeMode": "Filesystem"}));
        check_update(&KIND, path("/a"), path("/a"), "");
        check_update(
            &KIND,
            path("/b"),
            path("/a"),
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n  core.PersistentVolumeSource{\n  \t... // 14 identical fields\n  \tHostPath: core.HostPathVolumeSource{\n- \t\tPath: \"/a\",\n+ \t\tPath: \"/b\",\n  \t\t... // 1 identical field\n  \t},\n  \t... // 16 identical fields\n  }\n",
        );
        let mut block = path("/a");
        block["spec"]["volumeMode"] = "Block".into();
        check_update(&KIND, block, path("/a"), "volumeMode: Invalid value: \"Block\": field is immutable");
    }
}
