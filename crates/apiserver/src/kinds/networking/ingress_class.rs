//! Which controller serves an Ingress.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default_text, inside, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    definition: "io.k8s.api.networking.v1.IngressClass",
    storage: "ingressclasses",
    defaults: |object| {
        if let Some(spec) = object_at(object, "spec") {
            inside(spec, "parameters", |parameters| default_text(parameters, "scope", "Cluster"));
        }
    },
    prepare_create: |object| lifecycle::set_generation(object, 1),
    prepare_update: |new, old| lifecycle::count_generation(new, old, &["spec"]),
    validate,
    validate_update: |new, old, problems| {
        problems.immutable(&Cursor::root(new).at("spec.controller"), walk(old, "spec.controller"));
    },
    columns: &[
        NAME,
        text("Controller", "Controller that is responsible for handling this class"),
        text("Parameters", "A reference to a resource with additional parameters"),
        AGE,
    ],
    cells,
    ..CLUSTER
};

const CONTROLLER_MAX: usize = 250;

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let controller = root.at("spec.controller");
    if controller.len() > CONTROLLER_MAX {
        problems.too_long(&controller, CONTROLLER_MAX);
    }
    checks::domain_prefixed_path(&controller, problems);
    let parameters = root.at("spec.parameters");
    if !parameters.exists() {
        return;
    }
    for field in ["kind", "name"] {
        checks::required(&parameters.at(field), problems);
    }
    let (scope, namespace) = (parameters.at("scope"), parameters.at("namespace"));
    match scope.str() {
        "" => problems.required(&scope, ""),
        "Cluster" => {
            if namespace.exists() {
                problems.forbidden(
                    &namespace,
                    "parameters.namespace must not be set when parameters.scope is set to 'Cluster'",
                );
            }
        }
        "Namespace" => {
            if namespace.exists() {
                checks::label(&namespace, problems);
            } else {
                problems.required(&namespace, "parameters.scope is set to 'Namespace'");
            }
        }
        _ => problems.not_supported(&scope, &["Cluster", "Namespace"]),
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = walk(object, "spec.parameters");
    let string = |field: &str| walk(parameters, field).as_str().unwrap_or("");
    let shown = match (parameters.is_null(), walk(parameters, "apiGroup").as_str()) {
        (true, _) => "<none>".to_owned(),
        (false, Some(group)) => format!("{}.{group}/{}", string("kind"), string("name")),
        (false, None) => format!("{}/{}", string("kind"), string("name")),
    };
    vec![
        printing::name(object),
        printing::string_at(object, "spec.controller"),
        shown.into(),
        printing::age(object, now),
    ]
}
