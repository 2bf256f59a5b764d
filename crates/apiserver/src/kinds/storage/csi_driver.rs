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
        for field in ["attachRequired", "fsGroupPolicy", "volumeLifecycleModes"] {
            let path = format!("spec.{field}");
            problems.immutable(&root.at(&path), walk(old, &path));
        }
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
    for field in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        let at = spec.at(field);
        if !at.exists() {
            problems.required(&at, "");
        }
    }
    checks::optional_one_of(&spec.at("fsGroupPolicy"), &["File", "None", "ReadWriteOnceWithFSType"], problems);
    let mut audiences: Vec<&str> = Vec::new();
    for request in spec.at("tokenRequests").items() {
        let (audience, seconds) = (request.at("audience"), request.at("expirationSeconds"));
        if audiences.contains(&audience.str()) {
            problems.duplicate_str(&audience, audience.str());
        }
        audiences.push(audience.str());
        if seconds.exists() && seconds.int() < 600 {
            problems.invalid(&seconds, "may not specify a duration less than 10 minutes");
        }
    }
    for mode in spec.at("volumeLifecycleModes").items() {
        checks::one_of(&mode, &["Ephemeral", "Persistent"], problems);
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
