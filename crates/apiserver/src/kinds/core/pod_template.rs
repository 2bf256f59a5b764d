//! A stored pod template.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::pod_spec::{self, defaults};
use crate::kinds::printing::{self, NAME, text};
use crate::kinds::{Cursor, Kind, NAMESPACED, lifecycle};

pub static KIND: Kind = Kind {
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    definition: "io.k8s.api.core.v1.PodTemplate",
    storage: "podtemplates",
    answers_deletion_with_object: true,
    defaults: |object| defaults::default_template(object, "template"),
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update: |new, old| lifecycle::count_generation(new, old, &["template"]),
    validate: |object, problems| pod_spec::validate_template(&Cursor::root(object).at("template"), problems),
    columns: &[
        NAME,
        text("Containers", "Names of each container in the template."),
        text("Images", "Images referenced by each container in the template."),
        text("Pod Labels", "The labels for the pod template."),
    ],
    cells,
    ..NAMESPACED
};

fn cells(object: &Value, _now: Timestamp) -> Vec<Value> {
    let [names, images] = printing::containers(walk(object, "template.spec"));
    vec![printing::name(object), names, images, printing::labels(walk(object, "template.metadata.labels")).into()]
}
