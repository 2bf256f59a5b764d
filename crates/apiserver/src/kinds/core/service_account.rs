//! Who a pod is.

use crate::kinds::subresources::create;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    definition: "io.k8s.api.core.v1.ServiceAccount",
    storage: "serviceaccounts",
    subresources: &[create("token", ("authentication.k8s.io", "v1", "TokenRequest"))],
    ..NAMESPACED
};
