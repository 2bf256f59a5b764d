//! A snapshot of a controller's state.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    definition: "io.k8s.api.apps.v1.ControllerRevision",
    storage: "controllerrevisions",
    validate,
    validate_update: |new, old, problems| problems.immutable(&Cursor::root(new).at("data"), walk(old, "data")),
    columns: &[
        NAME,
        text("Controller", "Controller of the object"),
        text("Revision", "io.k8s.api.apps.v1.ControllerRevision#revision"),
        AGE,
    ],
    cells,
    ..NAMESPACED
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    if !root.at("data").exists() {
        problems.required(&root.at("data"), "data is mandatory");
    }
    checks::non_negative(&root.at("revision"), problems);
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let owners = walk(object, "metadata.ownerReferences").as_array().into_iter().flatten();
    let mut controllers = owners.filter(|owner| walk(owner, "controller").as_bool() == Some(true));
    let controller = controllers.next().map_or("<none>".to_owned(), |owner| {
        let string = |field: &str| walk(owner, field).as_str().unwrap_or("");
        // `statefulset.apps/web`
        let kind = string("kind").to_lowercase();
        match string("apiVersion").split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{}", string("name")),
            None => format!("{kind}/{}", string("name")),
        }
    });
    vec![printing::name(object), controller.into(), printing::int_at(object, "revision"), printing::age(object, now)]
}
