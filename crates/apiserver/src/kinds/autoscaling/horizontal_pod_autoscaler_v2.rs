//! Scales by metrics. v2 is the storage version: it holds what v1 can say, and v1 tunnels the rest through annotations.

use crate::kinds::lifecycle;
use crate::kinds::subresources::STATUS;
use crate::kinds::{Kind, NAMESPACED};

pub static KIND: Kind = Kind {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    definition: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    storage: "horizontalpodautoscalers",
    subresources: &[STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..NAMESPACED
};
