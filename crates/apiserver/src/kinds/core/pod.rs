//! Containers that share a network and volumes.

use crate::kinds::lifecycle;
use crate::kinds::subresources::{STATUS, connect, create, proxy, same};
use crate::kinds::{Kind, NAMESPACED, Subresource};

pub static KIND: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    definition: "io.k8s.api.core.v1.Pod",
    storage: "pods",
    subresources: &[
        connect("attach", "PodAttachOptions"),
        create("binding", ("", "v1", "Binding")),
        same("ephemeralcontainers"),
        create("eviction", ("policy", "v1", "Eviction")),
        connect("exec", "PodExecOptions"),
        Subresource { name: "log", speaks: None, verbs: &["get"], scale: None },
        connect("portforward", "PodPortForwardOptions"),
        proxy("PodProxyOptions"),
        same("resize"),
        STATUS,
    ],
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    ..NAMESPACED
};
