//! Who a pod is.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::create;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    definition: "io.k8s.api.core.v1.ServiceAccount",
    storage: "serviceaccounts",
    answers_deletion_with_object: true,
    subresources: &[create("token", ("authentication.k8s.io", "v1", "TokenRequest"))],
    columns: &[NAME, text("Secrets", "io.k8s.api.core.v1.ServiceAccount#secrets"), AGE],
    cells,
    ..NAMESPACED
};

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = walk(object, "secrets").as_array().map_or(0, Vec::len);
    vec![printing::name(object), json!(count), printing::age(object, now)]
}
