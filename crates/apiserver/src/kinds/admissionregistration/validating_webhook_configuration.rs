//! Webhooks that judge requests.

use super::webhooks::{self, COMMON};
use crate::kinds::Kind;

pub static KIND: Kind = Kind {
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    definition: "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
    storage: "validatingwebhookconfigurations",
    defaults: |object| webhooks::default_webhooks(object, false),
    validate: webhooks::validate,
    ..COMMON
};
