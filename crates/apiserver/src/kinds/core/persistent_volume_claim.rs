//! Asks for a volume.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::persistent_volume::{ACCESS_MODES, access_modes, only_once_pod_alone, storage_class};
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default_text, inside, make, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, text, wide};
use crate::kinds::subresources::STATUS;
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    definition: "io.k8s.api.core.v1.PersistentVolumeClaim",
    storage: "persistentvolumeclaims",
    answers_deletion_with_object: true,
    subresources: &[STATUS],
    defaults: default_claim,
    prepare_create: |object| {
        object["status"] = json!({"phase": "Pending"});
        normalise_data_source(object);
    },
    prepare_update: lifecycle::keep_status,
    validate: |object, problems| validate_claim_spec(&Cursor::root(object).at("spec"), problems),
    validate_update,
    selectable_fields: &["name"],
    field_value: |object, _| walk(object, "metadata.name").as_str().unwrap_or("").to_owned(),
    columns: &[
        NAME,
        text("Status", "io.k8s.api.core.v1.PersistentVolumeClaimStatus#phase"),
        text("Volume", "io.k8s.api.core.v1.PersistentVolumeClaimSpec#volumeName"),
        text("Capacity", "io.k8s.api.core.v1.PersistentVolumeClaimStatus#capacity"),
        text("Access Modes", "io.k8s.api.core.v1.PersistentVolumeClaimStatus#accessModes"),
        text("StorageClass", "StorageClass of the pvc"),
        text("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
        AGE,
        wide("VolumeMode", "io.k8s.api.core.v1.PersistentVolumeClaimSpec#volumeMode"),
    ],
    cells,
    ..NAMESPACED
};

/// Also for the claims inside a StatefulSet.
pub fn default_claim(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    default_text(make(map, "status"), "phase", "Pending");
    inside(map, "spec", |spec| default_text(spec, "volumeMode", "Filesystem"));
}

/// `dataSource` and `dataSourceRef` say the same where the first can say it.
fn normalise_data_source(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(reference)) if reference.get("namespace").is_none() => {
            spec.insert("dataSource".into(), reference);
        }
        _ => {}
    }
}

pub fn validate_claim_spec(spec: &Cursor, problems: &mut Problems) {
    let modes = spec.at("accessModes");
    if modes.is_empty() {
        problems.required(&modes, "at least 1 access mode is required");
    }
    checks::label_selector(&spec.at("selector"), problems);
    for mode in modes.items() {
        if !ACCESS_MODES.contains(&mode.str()) {
            problems.not_supported_str(&modes, mode.str(), ACCESS_MODES);
        }
    }
    only_once_pod_alone(&modes, problems);
    let requests = spec.at("resources.requests");
    let storage = requests.key("storage");
    if !storage.exists() {
        problems.required(&storage, "");
    } else if checks::quantity(storage.value).is_some_and(|quantity| quantity.milli_value() <= 0) {
        problems.invalid(&storage, checks::NOT_POSITIVE);
    }
    let class = spec.at("storageClassName");
    if !class.is_empty() {
        for sentence in api::names::dns1123_subdomain(class.str()) {
            problems.invalid(&class, &sentence);
        }
    }
    checks::optional_one_of(&spec.at("volumeMode"), &["Block", "Filesystem"], problems);
    for field in ["dataSource", "dataSourceRef"] {
        let source = spec.at(field);
        if !source.exists() {
            continue;
        }
        for inner in ["name", "kind"] {
            checks::required(&source.at(inner), problems);
        }
        if source.at("apiGroup").is_empty() && source.at("kind").str() != "PersistentVolumeClaim" {
            problems.invalid(&source, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
        }
    }
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let (new_root, old_root) = (Cursor::root(new), Cursor::root(old));
    let (spec, before) = (new_root.at("spec"), old_root.at("spec"));

    // Bound later: the volume's name may come, requests may grow on a bound claim, the attributes class may change.
    let may_change = |spec: &Value| {
        let mut rest = spec.clone();
        if let Some(map) = rest.as_object_mut() {
            map.remove("volumeAttributesClassName");
            inside(map, "resources", |resources| {
                inside(resources, "requests", |requests| {
                    requests.remove("storage");
                });
            });
            if before.at("volumeName").is_empty() {
                map.remove("volumeName");
            }
            if before.at("storageClassName").value.is_null() {
                // Retroactive assignment of the default class.
                map.remove("storageClassName");
            }
        }
        rest
    };
    if may_change(spec.value) != may_change(before.value) {
        problems.forbidden(
            &spec,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
        return;
    }
    let (wanted, had) = (spec.at("resources.requests.storage"), before.at("resources.requests.storage"));
    if wanted.value != had.value {
        let (quantity, had) = (checks::quantity(wanted.value), checks::quantity(had.value));
        if old_root.at("status.phase").str() != "Bound" {
            problems.forbidden(
                &spec,
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            );
        } else if quantity < had {
            let floor = checks::quantity(old_root.at("status.capacity.storage").value);
            if quantity <= floor {
                problems
                    .forbidden(&spec.at("resources.requests.storage"), "field can not be less than status.capacity");
            }
        }
    }
    problems.immutable(&spec.at("volumeMode"), before.at("volumeMode").value);
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let deleting = !walk(object, "metadata.deletionTimestamp").is_null();
    let volume = walk(object, "spec.volumeName").as_str().unwrap_or("");
    let (capacity, modes) = match volume {
        "" => ("".into(), String::new()),
        _ => (
            printing::text_or(object, "status.capacity.storage", "0"),
            access_modes(walk(object, "status.accessModes")),
        ),
    };
    vec![
        printing::name(object),
        if deleting { "Terminating".into() } else { printing::string_at(object, "status.phase") },
        volume.into(),
        capacity,
        modes.into(),
        storage_class(object),
        printing::text_or(object, "spec.volumeAttributesClassName", "<unset>"),
        printing::age(object, now),
        printing::text_or(object, "spec.volumeMode", "<unset>"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_row, check_update};

    fn claim(storage: &str) -> Value {
        json!({
            "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}},
                "storageClassName": "fast", "volumeMode": "Filesystem"},
            "status": {"phase": "Pending"},
        })
    }

    #[test]
    fn problems() {
        check(&KIND, claim("1Gi"), "");
        check(
            &KIND,
            json!({"spec": {}}),
            "spec.accessModes: Required value: at least 1 access mode is required\n\
             spec.resources.requests[storage]: Required value",
        );
        check(
            &KIND,
            json!({"spec": {"accessModes": ["X"], "resources": {"requests": {"storage": "0"}}}}),
            "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"\n\
             spec.resources.requests[storage]: Invalid value: \"0\": must be greater than 0",
        );
    }

    #[test]
    fn only_bound_claims_grow() {
        let forbidden = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        check_update(&KIND, claim("2Gi"), claim("1Gi"), forbidden);
        let mut bound = claim("1Gi");
        bound["status"]["phase"] = "Bound".into();
        check_update(&KIND, claim("2Gi"), bound.clone(), "");
        let mut other = claim("1Gi");
        other["spec"]["storageClassName"] = "slow".into();
        check_update(&KIND, other, bound, forbidden);
    }

    #[test]
    fn rows() {
        check_row(
            &KIND,
            claim("1Gi"),
            "2026-01-01T00:00:00Z",
            "data | Pending |  |  |  | fast | <unset> | <unknown> | Filesystem",
        );
    }
}
