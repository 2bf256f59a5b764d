//! The CPU-only face of the autoscaler, converted from and to v2.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "autoscaling",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    definition: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    storage: "horizontalpodautoscalers",
    subresources: &[STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..NAMESPACED
};
