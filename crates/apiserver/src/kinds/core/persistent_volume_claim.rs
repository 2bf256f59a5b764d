//! Asks for a volume.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::persistent_volume::{ACCESS_MODES, access_modes, only_once_pod_alone, storage_class};
use crate::kinds::cursor::walk;
use crate::kinds::edit::{Object, default_text, inside, make, object as object_at};
use crate::kinds::go_diff::go_diff;
use crate::kinds::pod_spec::claim_spec_warnings;
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
    warnings: |new, _| {
        let mut out = Vec::new();
        if walk(new, "metadata.annotations").get(super::persistent_volume::BETA_CLASS).is_some() {
            out.push(format!(
                "metadata.annotations[{}]: deprecated since v1.8; use \"storageClassName\" attribute instead",
                super::persistent_volume::BETA_CLASS
            ));
        }
        claim_spec_warnings(walk(new, "spec"), "spec", &mut out);
        out
    },
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
        // Sources elsewhere are an alpha feature, and such a reference is dropped while it is off.
        (_, Some(reference)) if reference.get("namespace").is_some_and(|namespace| namespace != "") => {
            spec.remove("dataSourceRef");
        }
        (None, Some(reference)) => {
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
    let (resources, requests) = (spec.at("resources"), spec.at("resources.requests"));
    let named = resources.key("storage"); // So the original calls it.
    let storage = named.with(requests.key("storage").value);
    if !storage.exists() {
        problems.required(&storage, "");
    } else if checks::quantity(storage.value).is_some_and(|quantity| quantity.milli_value() <= 0) {
        problems.invalid(&storage, checks::NOT_ABOVE_ZERO);
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
        let (group, kind, namespace) = (source.at("apiGroup"), source.at("kind"), source.at("namespace"));
        if !group.is_empty() {
            checks::subdomain(&group, problems);
        } else if kind.str() != "PersistentVolumeClaim" {
            problems.invalid_str(
                &source,
                kind.str(),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        if !namespace.is_empty() {
            checks::label(&namespace, problems);
        }
    }
    let (source, reference) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    if source.exists() && reference.exists() {
        let same = ["apiGroup", "kind", "name"].iter().all(|field| source.at(field).value == reference.at(field).value);
        if !reference.at("namespace").is_empty() {
            problems.invalid_plain(spec, "{}", "may not be specified when dataSourceRef.namespace is specified");
        } else if !same {
            problems.invalid_plain(spec, "{}", "must match dataSourceRef");
        }
    }
    let attributes = spec.at("volumeAttributesClassName");
    if !attributes.is_empty() {
        checks::subdomain(&attributes, problems);
    }
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    const IMMUTABLE: &str =
        "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    let (new_root, old_root) = (Cursor::root(new), Cursor::root(old));
    let (spec, before) = (new_root.at("spec"), old_root.at("spec"));
    let annotation = new_root.at("metadata.annotations");
    problems.immutable(&annotation.key(BETA_CLASS), old_root.at("metadata.annotations").key(BETA_CLASS).value);

    let wanted = with_what_may_change(&spec, &before, old_root.at("status.phase").str() == "Bound");
    let mut had = before.value.clone();
    if let (true, Some(map)) = (before.at("volumeName").is_empty(), had.as_object_mut()) {
        put(map, "volumeName", spec.at("volumeName").value);
    }
    if wanted != had {
        let differs = go_diff("io.k8s.api.core.v1.PersistentVolumeClaimSpec", &had, &wanted);
        problems.forbidden(&spec, &format!("{IMMUTABLE}\n{differs}"));
    }
    let (size, had) = (spec.at("resources.requests.storage"), before.at("resources.requests.storage"));
    let (wanted, had) = (checks::quantity(size.value), checks::quantity(had.value));
    if wanted < had && wanted <= checks::quantity(old_root.at("status.capacity.storage").value) {
        problems.forbidden(&size, "field can not be less than status.capacity");
    }
    problems.immutable(&new_root.at("volumeMode").with(spec.at("volumeMode").value), before.at("volumeMode").value);
    let (attributes, had) = (spec.at("volumeAttributesClassName"), before.at("volumeAttributesClassName"));
    if had.exists() && !attributes.exists() {
        problems.forbidden(&attributes, "update from non-nil value to nil is forbidden");
    }
}

/// The new spec, with the old one's values where a change is allowed.
fn with_what_may_change(spec: &Cursor, before: &Cursor, bound: bool) -> Value {
    let mut wanted = spec.value.clone();
    let Some(map) = wanted.as_object_mut() else { return wanted };
    if !before.at("storageClassName").exists() {
        map.remove("storageClassName"); // The default class may come later.
    }
    if bound {
        inside(map, "resources", |resources| {
            inside(resources, "requests", |requests| put(requests, "storage", before.at("resources.requests.storage").value));
        });
        if map.contains_key("volumeAttributesClassName") {
            put(map, "volumeAttributesClassName", before.at("volumeAttributesClassName").value);
        }
    }
    wanted
}

/// Null: takes it away.
fn put(map: &mut Object, field: &str, value: &Value) {
    if value.is_null() {
        map.remove(field);
    } else {
        map.insert(field.to_owned(), value.clone());
    }
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
             spec.resources[storage]: Required value",
        );
        check(
            &KIND,
            json!({"spec": {"accessModes": ["X"], "resources": {"requests": {"storage": "0"}}}}),
            "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"\n\
             spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
        );
    }

    #[test]
    fn only_bound_claims_grow() {
        const FORBIDDEN: &str = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n  core.PersistentVolumeClaimSpec{\n";
        check_update(
            &KIND,
            claim("2Gi"),
            claim("1Gi"),
            &format!(
                "{FORBIDDEN}  \t... // 3 identical fields\n  \tResources: core.VolumeResourceRequirements{{\n  \t\t... // 1 identical field\n- \t\tRequests: {{\"storage\": \"1Gi\"}},\n+ \t\tRequests: {{\"storage\": \"2Gi\"}},\n  \t}},\n  \t... // 5 identical fields\n  }}\n"
            ),
        );
        let mut bound = claim("1Gi");
        bound["status"]["phase"] = "Bound".into();
        check_update(&KIND, claim("2Gi"), bound.clone(), "");
        let mut other = claim("1Gi");
        other["spec"]["storageClassName"] = "slow".into();
        check_update(
            &KIND,
            other,
            bound.clone(),
            &format!(
                "{FORBIDDEN}  \t... // 5 identical fields\n- \tStorageClassName: \"fast\",\n+ \tStorageClassName: \"slow\",\n  \t... // 3 identical fields\n  }}\n"
            ),
        );
        // It shrinks to what it never got, and no further.
        let mut grown = bound.clone();
        grown["spec"]["resources"]["requests"]["storage"] = "5Gi".into();
        grown["status"]["capacity"] = json!({"storage": "1Gi"});
        check_update(&KIND, claim("2Gi"), grown.clone(), "");
        check_update(
            &KIND,
            claim("1Gi"),
            grown,
            "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity",
        );
        let mut attributed = bound.clone();
        attributed["spec"]["volumeAttributesClassName"] = "gold".into();
        check_update(&KIND, attributed.clone(), bound.clone(), "");
        let why = "spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden";
        let mut problems = Problems::default();
        validate_update(&bound, &attributed, &mut problems);
        assert!(problems.list.iter().any(|problem| problem.to_string() == why));
    }

    #[test]
    fn sources() {
        let with = |source: Value, reference: Value| {
            let mut claim = claim("1Gi");
            for (field, value) in [("dataSource", source), ("dataSourceRef", reference)] {
                if !value.is_null() {
                    claim["spec"][field] = value;
                }
            }
            claim
        };
        let snapshot = || json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
        check(&KIND, with(snapshot(), snapshot()), "");
        check(
            &KIND,
            with(json!({"kind": "VolumeSnapshot", "name": ""}), Value::Null),
            "spec.dataSource.name: Required value\n\
             spec.dataSource: Invalid value: \"VolumeSnapshot\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        );
        check(
            &KIND,
            with(snapshot(), json!({"kind": "PersistentVolumeClaim", "name": "s"})),
            "spec: Invalid value: {}: must match dataSourceRef",
        );
        // A reference to elsewhere is dropped, as upstream without the alpha feature.
        let mut elsewhere = snapshot();
        elsewhere["namespace"] = "other".into();
        let mut made = with(Value::Null, elsewhere);
        (KIND.prepare_create)(&mut made);
        assert_eq!((&made["spec"]["dataSource"], &made["spec"]["dataSourceRef"]), (&Value::Null, &Value::Null));
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
