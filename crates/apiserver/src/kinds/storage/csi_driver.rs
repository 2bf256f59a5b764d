//! What a CSI driver can do.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, boolean, text};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    definition: "io.k8s.api.storage.v1.CSIDriver",
    storage: "csidrivers",
    answers_deletion_with_object: true,
    defaults: |object| {
        let Some(spec) = object_at(object, "spec") else { return };
        default(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            default(spec, field, false);
        }
        default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(|list| list.is_empty()) {
            spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
        }
    },
    validate,
    validate_update: |new, old, problems| {
        let root = Cursor::root(new);
        // The original calls the first by another name.
        let attach = root.at("spec.attachedRequired");
        problems.immutable(&attach.with(walk(new, "spec.attachRequired")), walk(old, "spec.attachRequired"));
        let modes = root.at("spec.volumeLifecycleModes");
        problems.immutable(&modes, walk(old, "spec.volumeLifecycleModes"));
    },
    columns: &[
        NAME,
        boolean("AttachRequired", "io.k8s.api.storage.v1.CSIDriverSpec#attachRequired"),
        boolean("PodInfoOnMount", "io.k8s.api.storage.v1.CSIDriverSpec#podInfoOnMount"),
        boolean("StorageCapacity", "io.k8s.api.storage.v1.CSIDriverSpec#storageCapacity"),
        text("TokenRequests", "io.k8s.api.storage.v1.CSIDriverSpec#tokenRequests"),
        boolean("RequiresRepublish", "io.k8s.api.storage.v1.CSIDriverSpec#requiresRepublish"),
        text("Modes", "io.k8s.api.storage.v1.CSIDriverSpec#volumeLifecycleModes"),
        AGE,
    ],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    for (field, named) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if !spec.at(field).exists() {
            problems.required(&spec.at(named), "");
        }
    }
    checks::optional_one_of(&spec.at("fsGroupPolicy"), &["File", "None", "ReadWriteOnceWithFSType"], problems);
    let mut audiences: Vec<&str> = Vec::new();
    for request in spec.at("tokenRequests").items() {
        let (audience, seconds) = (request.at("audience"), request.at("expirationSeconds"));
        if audiences.contains(&audience.str()) {
            problems.duplicate_str(&audience, audience.str());
            continue;
        }
        audiences.push(audience.str());
        if seconds.exists() && seconds.int() < 600 {
            problems.invalid(&seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds.int() > 1 << 32 {
            problems.invalid(&seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
    let modes = spec.at("volumeLifecycleModes");
    for mode in modes.items() {
        if !matches!(mode.str(), "Persistent" | "Ephemeral") {
            problems.not_supported_str(&modes, mode.str(), &["Persistent", "Ephemeral"]);
        }
    }
    if !spec.at("seLinuxMount").exists() {
        problems.required(&spec.at("seLinuxMount"), "");
    }
    let period = spec.at("nodeAllocatableUpdatePeriodSeconds");
    if period.exists() && period.int() < 10 {
        problems.invalid(&period, "must be greater than or equal to 10 seconds");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let flag = |field: &str, otherwise: bool| walk(walk(object, "spec"), field).as_bool().unwrap_or(otherwise).into();
    let requests = walk(object, "spec.tokenRequests");
    let audiences = match requests.as_array() {
        None => "<unset>".to_owned(),
        Some(list) => {
            let all: Vec<&str> = list.iter().map(|request| walk(request, "audience").as_str().unwrap_or("")).collect();
            all.join(",")
        }
    };
    let modes = printing::joined(walk(object, "spec.volumeLifecycleModes"), ",");
    vec![
        printing::name(object),
        flag("attachRequired", true),
        flag("podInfoOnMount", false),
        flag("storageCapacity", false),
        audiences.into(),
        flag("requiresRepublish", false),
        if modes.is_empty() { "<none>".into() } else { modes.into() },
        printing::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaulted, check_update};

    #[test]
    fn problems() {
        check_defaulted(&KIND, json!({"spec": {}}), "");
        check_defaulted(
            &KIND,
            json!({"spec": {"fsGroupPolicy": "Any", "volumeLifecycleModes": ["Brief"], "nodeAllocatableUpdatePeriodSeconds": 5,
                "tokenRequests": [{"audience": "a", "expirationSeconds": 5}, {"audience": "a"}]}}),
            "spec.fsGroupPolicy: Unsupported value: \"Any\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"\n\
             spec.tokenRequests[0].expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes\n\
             spec.tokenRequests[1].audience: Duplicate value: \"a\"\n\
             spec.volumeLifecycleModes: Unsupported value: \"Brief\": supported values: \"Persistent\", \"Ephemeral\"\n\
             spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 5: must be greater than or equal to 10 seconds",
        );
        check_update(
            &KIND,
            json!({"spec": {"attachRequired": false, "fsGroupPolicy": "None"}}),
            json!({"spec": {"attachRequired": true, "fsGroupPolicy": "File"}}),
            "spec.attachedRequired: Invalid value: false: field is immutable",
        );
    }
}
