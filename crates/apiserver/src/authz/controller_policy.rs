//! The roles of the single controllers, `system:controller:*`, as data.
//!
//! Invariant: each is bound to the service account in kube-system that has its name. Coracle's controllers run as one
//! user, who has all of these roles through [`all_rules`] and little beyond.

use super::policy::{Grant, READ, rules_from};
use super::rbac::Rule;

const EVENTS: Grant = super::policy::EVENTS;
const EVERY_WRITE_OF_JOBS: &str = "create delete get list patch update watch";

/// name without prefix, what it may do
pub static CONTROLLER_ROLES: &[(&str, &[Grant])] = &[
    (
        "attachdetach-controller",
        &[
            ("list watch", "-", "persistentvolumeclaims persistentvolumes", ""),
            (READ, "-", "nodes", ""),
            ("patch update", "-", "nodes/status", ""),
            ("list watch", "-", "pods", ""),
            EVENTS,
            ("create delete get list watch", "storage.k8s.io", "volumeattachments", ""),
            (READ, "storage.k8s.io", "csidrivers", ""),
            (READ, "storage.k8s.io", "csinodes", ""),
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &[("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles", "")],
    ),
    (
        "cronjob-controller",
        &[
            ("get list update watch", "batch", "cronjobs", ""),
            (EVERY_WRITE_OF_JOBS, "batch", "jobs", ""),
            ("update", "batch", "cronjobs/status", ""),
            ("update", "batch", "cronjobs/finalizers", ""),
            ("delete list", "-", "pods", ""),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            (READ, "apps extensions", "daemonsets", ""),
            ("update", "apps extensions", "daemonsets/status", ""),
            ("update", "apps extensions", "daemonsets/finalizers", ""),
            ("list watch", "-", "nodes", ""),
            ("create delete list patch watch", "-", "pods", ""),
            ("create", "-", "pods/binding", ""),
            ("create delete get list patch update watch", "apps", "controllerrevisions", ""),
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            ("get list update watch", "apps extensions", "deployments", ""),
            ("update", "apps extensions", "deployments/status", ""),
            ("update", "apps extensions", "deployments/finalizers", ""),
            ("create delete get list patch update watch", "apps extensions", "replicasets", ""),
            ("get list update watch", "-", "pods", ""),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            (READ, "apps extensions", "deployments", ""),
            (READ, "apps extensions", "replicasets", ""),
            (READ, "-", "replicationcontrollers", ""),
            (READ, "policy", "poddisruptionbudgets", ""),
            (READ, "apps", "statefulsets", ""),
            ("update", "policy", "poddisruptionbudgets/status", ""),
            ("patch update", "-", "pods/status", ""),
            ("get", "*", "*/scale", ""),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            (READ, "-", "pods services", ""),
            ("create delete get list update", "-", "endpoints", ""),
            ("create", "-", "endpoints/restricted", ""),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            (READ, "-", "nodes pods services", ""),
            ("update", "-", "services/finalizers", ""),
            ("create delete get list update", "discovery.k8s.io", "endpointslices", ""),
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            (READ, "-", "endpoints services", ""),
            ("update", "-", "services/finalizers", ""),
            ("update", "-", "endpoints/finalizers", ""),
            ("create delete get list update", "discovery.k8s.io", "endpointslices", ""),
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            ("get list patch update watch", "-", "persistentvolumes", ""),
            ("patch update", "-", "persistentvolumeclaims/status", ""),
            (READ, "-", "persistentvolumeclaims", ""),
            (READ, "storage.k8s.io", "storageclasses", ""),
            ("get", "-", "endpoints services", ""),
            ("get", "-", "secrets", ""),
            EVENTS,
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            (READ, "-", "pods", ""),
            ("update", "-", "pods/finalizers", ""),
            ("create get list watch", "-", "persistentvolumeclaims", ""),
            EVENTS,
        ],
    ),
    (
        "resource-claim-controller",
        &[
            (READ, "-", "pods", ""),
            ("update", "-", "pods/finalizers", ""),
            ("create delete get list watch", "resource.k8s.io", "resourceclaims", ""),
            ("patch update", "resource.k8s.io", "resourceclaims resourceclaims/status", ""),
            ("patch update", "-", "pods/status", ""),
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &[("delete get list patch update watch", "*", "*", ""), EVENTS]),
    (
        "horizontal-pod-autoscaler",
        &[
            (READ, "autoscaling", "horizontalpodautoscalers", ""),
            ("update", "autoscaling", "horizontalpodautoscalers/status", ""),
            ("get update", "*", "*/scale", ""),
            ("list", "-", "pods", ""),
            ("list", "metrics.k8s.io", "pods", ""),
            ("get list", "custom.metrics.k8s.io", "*", ""),
            ("get list", "external.metrics.k8s.io", "*", ""),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            ("get list patch update watch", "batch", "jobs", ""),
            ("update", "batch", "jobs/status", ""),
            ("update", "batch", "jobs/finalizers", ""),
            ("create delete list patch watch", "-", "pods", ""),
            EVENTS,
        ],
    ),
    (
        "namespace-controller",
        &[
            ("delete get list watch", "-", "namespaces", ""),
            ("update", "-", "namespaces/finalize namespaces/status", ""),
            ("delete deletecollection get list", "*", "*", ""),
        ],
    ),
    (
        "node-controller",
        &[
            ("delete get list patch update", "-", "nodes", ""),
            ("patch update", "-", "nodes/status", ""),
            ("patch update", "-", "pods/status", ""),
            ("delete get list", "-", "pods", ""),
            EVENTS,
        ],
    ),
    // Ours: the default StorageClass, whose volumes are directories of the nodes.
    ("local-path-class", &[("create get list watch", "storage.k8s.io", "storageclasses", "")]),
    (
        "persistent-volume-binder",
        &[
            ("create delete get list update watch", "-", "persistentvolumes", ""),
            ("update", "-", "persistentvolumes/status", ""),
            ("get list update watch", "-", "persistentvolumeclaims", ""),
            ("update", "-", "persistentvolumeclaims/status", ""),
            ("create delete get list watch", "-", "pods", ""),
            (READ, "storage.k8s.io", "storageclasses", ""),
            ("create delete get update", "-", "endpoints", ""),
            ("create delete get", "-", "services", ""),
            ("get", "-", "secrets", ""),
            ("get list", "-", "nodes", ""),
            ("watch", "-", "events", ""),
            EVENTS,
        ],
    ),
    (
        "pod-garbage-collector",
        &[("delete list watch", "-", "pods", ""), ("get list", "-", "nodes", ""), ("patch", "-", "pods/status", "")],
    ),
    (
        "replicaset-controller",
        &[
            ("get list update watch", "apps extensions", "replicasets", ""),
            ("update", "apps extensions", "replicasets/status", ""),
            ("update", "apps extensions", "replicasets/finalizers", ""),
            ("create delete list patch watch", "-", "pods", ""),
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            ("get list update watch", "-", "replicationcontrollers", ""),
            ("update", "-", "replicationcontrollers/status", ""),
            ("update", "-", "replicationcontrollers/finalizers", ""),
            ("create delete list patch watch", "-", "pods", ""),
            EVENTS,
        ],
    ),
    ("resourcequota-controller", &[("list watch", "*", "*", ""), ("update", "-", "resourcequotas/status", ""), EVENTS]),
    ("route-controller", &[("list watch", "-", "nodes", ""), ("patch", "-", "nodes/status", ""), EVENTS]),
    ("service-account-controller", &[("create", "-", "serviceaccounts", ""), EVENTS]),
    (
        "service-controller",
        &[(READ, "-", "services", ""), ("patch update", "-", "services/status", ""), ("list watch", "-", "nodes", ""), EVENTS],
    ),
    (
        "service-cidrs-controller",
        &[
            ("get list patch update watch", "networking.k8s.io", "servicecidrs", ""),
            ("patch update", "networking.k8s.io", "servicecidrs/finalizers", ""),
            ("patch update", "networking.k8s.io", "servicecidrs/status", ""),
            (READ, "networking.k8s.io", "ipaddresses", ""),
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            ("list watch", "-", "pods", ""),
            (READ, "apps", "statefulsets", ""),
            ("update", "apps", "statefulsets/status", ""),
            ("update", "apps", "statefulsets/finalizers", ""),
            ("create delete get patch update", "-", "pods", ""),
            ("create delete get list patch update watch", "apps", "controllerrevisions", ""),
            ("create get", "-", "persistentvolumeclaims", ""),
            EVENTS,
            ("delete update", "-", "persistentvolumeclaims", ""),
        ],
    ),
    ("ttl-controller", &[("list patch update watch", "-", "nodes", ""), EVENTS]),
    (
        "certificate-controller",
        &[
            ("delete get list watch", "certificates.k8s.io", "certificatesigningrequests", ""),
            ("update", "certificates.k8s.io", "certificatesigningrequests/approval certificatesigningrequests/status", ""),
            ("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving"),
            (
                "sign",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            ),
            ("create", "authorization.k8s.io", "subjectaccessreviews", ""),
            EVENTS,
        ],
    ),
    (
        "pvc-protection-controller",
        &[("get list update watch", "-", "persistentvolumeclaims", ""), (READ, "-", "pods", ""), EVENTS],
    ),
    ("pv-protection-controller", &[("get list update watch", "-", "persistentvolumes", ""), EVENTS]),
    (
        "selinux-warning-controller",
        &[
            (READ, "-", "persistentvolumeclaims persistentvolumes pods", ""),
            (READ, "storage.k8s.io", "csidrivers", ""),
            EVENTS,
        ],
    ),
    (
        "volumeattributesclass-protection-controller",
        &[
            (READ, "-", "persistentvolumeclaims", ""),
            (READ, "-", "persistentvolumes", ""),
            ("get list update watch", "storage.k8s.io", "volumeattributesclasses", ""),
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &[("delete get list watch", "batch", "jobs", ""), EVENTS]),
    ("root-ca-cert-publisher", &[("create update", "-", "configmaps", ""), EVENTS]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            (READ, "admissionregistration.k8s.io", "validatingadmissionpolicies", ""),
            ("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status", ""),
            EVENTS,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[("get", "-", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"), ("delete patch", "-", "secrets", "")],
    ),
];

/// What the original's controllers do not do: the class of the volumes that are directories on the nodes.
const OWN: &[Grant] = &[("create", "storage.k8s.io", "storageclasses", "")];

/// What the one user needs who runs all controllers.
pub fn all_rules() -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    let grants = CONTROLLER_ROLES.iter().map(|(_, grants)| *grants).chain([OWN]);
    for rule in grants.flat_map(rules_from) {
        if !all.contains(&rule) {
            all.push(rule);
        }
    }
    all
}
