//! Webhooks that change requests.

use super::webhooks::{self, COMMON};
use crate::kinds::Kind;

pub static KIND: Kind = Kind {
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    definition: "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
    storage: "mutatingwebhookconfigurations",
    defaults: |object| webhooks::default_webhooks(object, true),
    validate: webhooks::validate,
    ..COMMON
};
