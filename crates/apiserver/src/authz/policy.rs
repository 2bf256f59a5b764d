//! The roles and bindings that every cluster has, as data.
//!
//! Invariant: reconciled at start. What is missing is added, also single rules and subjects, unless the object says
//! `rbac.authorization.kubernetes.io/autoupdate: "false"`; nothing is taken away.

use serde_json::{Value, json};

use super::controller_policy::{CONTROLLER_ROLES, all_rules};
use super::rbac::{Rule, aggregated};

pub const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const READ_WRITE: &str = "create delete deletecollection get list patch update watch";

/// verbs, groups (`-` for core), resources, names
pub type Grant = (&'static str, &'static str, &'static str, &'static str);

struct Role {
    name: &'static str,
    grants: &'static [Grant],
    /// verbs, paths
    urls: &'static [(&'static str, &'static str)],
    /// `rbac.authorization.k8s.io/aggregate-to-<this>: "true"`
    aggregates_to: &'static str,
}

const fn role(name: &'static str, grants: &'static [Grant]) -> Role {
    Role { name, grants, urls: &[], aggregates_to: "" }
}

pub const EVENTS: Grant = ("create patch update", "- events.k8s.io", "events", "");
const LEASE: Grant = ("create", "coordination.k8s.io", "leases", "");

static CLUSTER_ROLES: &[Role] = &[
    Role { name: "cluster-admin", grants: &[("*", "*", "*", "")], urls: &[("*", "*")], aggregates_to: "" },
    Role {
        name: "system:discovery",
        grants: &[],
        urls: &[("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")],
        aggregates_to: "",
    },
    Role {
        name: "system:public-info-viewer",
        grants: &[],
        urls: &[("get", "/healthz /livez /readyz /version /version/")],
        aggregates_to: "",
    },
    Role {
        name: "system:monitoring",
        grants: &[],
        urls: &[("get", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")],
        aggregates_to: "",
    },
    role(
        "system:basic-user",
        &[
            ("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", ""),
            ("create", "authentication.k8s.io", "selfsubjectreviews", ""),
        ],
    ),
    Role {
        name: "system:service-account-issuer-discovery",
        grants: &[],
        urls: &[("get", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")],
        aggregates_to: "",
    },
    Role {
        name: "system:aggregate-to-view",
        grants: &[
            (
                READ,
                "-",
                "bindings configmaps endpoints events limitranges namespaces namespaces/status persistentvolumeclaims persistentvolumeclaims/status pods pods/log pods/status replicationcontrollers replicationcontrollers/scale replicationcontrollers/status resourcequotas resourcequotas/status serviceaccounts services services/status",
                "",
            ),
            (
                READ,
                "apps",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
                "",
            ),
            (READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status", ""),
            (
                READ,
                "extensions",
                "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
                "",
            ),
            (READ, "batch", "cronjobs cronjobs/status jobs jobs/status", ""),
            (READ, "discovery.k8s.io", "endpointslices", ""),
            (READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies", ""),
            (READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status", ""),
            (READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates", ""),
        ],
        urls: &[],
        aggregates_to: "view",
    },
    Role {
        name: "system:aggregated-metrics-reader",
        grants: &[("get list watch", "metrics.k8s.io", "pods nodes", "")],
        urls: &[],
        aggregates_to: "view",
    },
    Role {
        name: "system:aggregate-to-edit",
        grants: &[
            (READ, "-", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy", ""),
            ("impersonate", "-", "serviceaccounts", ""),
            (WRITE, "-", "pods pods/attach pods/exec pods/portforward pods/proxy", ""),
            ("create", "-", "pods/eviction", ""),
            (
                WRITE,
                "-",
                "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy",
                "",
            ),
            ("create", "-", "serviceaccounts/token", ""),
            (
                WRITE,
                "apps",
                "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
                "",
            ),
            (WRITE, "autoscaling", "horizontalpodautoscalers", ""),
            (
                WRITE,
                "extensions",
                "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale",
                "",
            ),
            (WRITE, "batch", "cronjobs jobs", ""),
            (WRITE, "networking.k8s.io", "ingresses networkpolicies", ""),
            (WRITE, "policy", "poddisruptionbudgets", ""),
            (READ_WRITE, "coordination.k8s.io", "leases", ""),
            (WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates", ""),
        ],
        urls: &[],
        aggregates_to: "edit",
    },
    Role {
        name: "system:aggregate-to-admin",
        grants: &[
            ("create", "authorization.k8s.io", "localsubjectaccessreviews", ""),
            (READ_WRITE, "rbac.authorization.k8s.io", "rolebindings roles", ""),
        ],
        urls: &[],
        aggregates_to: "admin",
    },
    role(
        "system:node",
        &[
            ("create", "authentication.k8s.io", "tokenreviews", ""),
            ("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews", ""),
            (READ, "-", "services", ""),
            ("create get list watch", "-", "nodes", ""),
            ("patch update", "-", "nodes/status", ""),
            ("patch update", "-", "nodes", ""),
            EVENTS,
            (READ, "-", "pods", ""),
            ("create delete", "-", "pods", ""),
            ("patch update", "-", "pods/status", ""),
            ("create", "-", "pods/eviction", ""),
            (READ, "-", "configmaps secrets", ""),
            ("get", "-", "persistentvolumeclaims persistentvolumes", ""),
            ("get", "-", "endpoints", ""),
            ("create get list watch", "certificates.k8s.io", "certificatesigningrequests", ""),
            ("create delete get patch update", "coordination.k8s.io", "leases", ""),
            ("get", "storage.k8s.io", "volumeattachments", ""),
            ("create", "-", "serviceaccounts/token", ""),
            ("get patch update", "-", "persistentvolumeclaims/status", ""),
            (READ, "storage.k8s.io", "csidrivers", ""),
            ("create delete get patch update", "storage.k8s.io", "csinodes", ""),
            (READ, "node.k8s.io", "runtimeclasses", ""),
            ("get", "resource.k8s.io", "resourceclaims", ""),
            ("create deletecollection get list patch update watch delete", "resource.k8s.io", "resourceslices", ""),
            (READ, "certificates.k8s.io", "clustertrustbundles", ""),
            ("get", "-", "serviceaccounts", ""),
        ],
    ),
    role(
        "system:node-problem-detector",
        &[("get", "-", "nodes", ""), ("patch", "-", "nodes/status", ""), EVENTS],
    ),
    role(
        "system:node-proxier",
        &[
            ("list watch", "-", "endpoints services", ""),
            ("get list watch", "-", "nodes", ""),
            EVENTS,
            ("list watch", "discovery.k8s.io", "endpointslices", ""),
            ("list watch", "networking.k8s.io", "servicecidrs", ""),
        ],
    ),
    role(
        "system:kubelet-api-admin",
        &[
            (READ, "-", "nodes", ""),
            ("proxy", "-", "nodes", ""),
            ("*", "-", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats", ""),
        ],
    ),
    // What a node's proxy, DNS and network have to know; the original's run under names of their own.
    role(
        "system:coracle-node",
        &[
            (READ, "-", "services nodes namespaces pods", ""),
            (READ, "discovery.k8s.io", "endpointslices", ""),
            (READ, "networking.k8s.io", "networkpolicies servicecidrs ipaddresses", ""),
        ],
    ),
    // Whether the name of a node that is to join is still free.
    role("system:coracle-get-nodes", &[("get", "-", "nodes", "")]),
    role(
        "system:node-bootstrapper",
        &[("create get list watch", "certificates.k8s.io", "certificatesigningrequests", "")],
    ),
    role(
        "system:auth-delegator",
        &[
            ("create", "authentication.k8s.io", "tokenreviews", ""),
            ("create", "authorization.k8s.io", "subjectaccessreviews", ""),
        ],
    ),
    role("system:kube-aggregator", &[(READ, "-", "endpoints services", "")]),
    role(
        "system:kube-controller-manager",
        &[
            EVENTS,
            LEASE,
            ("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
            ("create", "-", "secrets serviceaccounts", ""),
            ("delete", "-", "secrets", ""),
            ("get", "-", "configmaps namespaces secrets serviceaccounts", ""),
            ("update", "-", "secrets serviceaccounts", ""),
            ("create", "authentication.k8s.io", "tokenreviews", ""),
            ("create", "authorization.k8s.io", "subjectaccessreviews", ""),
            ("list watch", "*", "*", ""),
            ("create", "-", "serviceaccounts/token", ""),
        ],
    ),
    role(
        "system:kube-scheduler",
        &[
            EVENTS,
            LEASE,
            ("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
            (READ, "-", "nodes", ""),
            ("delete get list watch", "-", "pods", ""),
            ("create", "-", "bindings pods/binding", ""),
            ("patch update", "-", "pods/status", ""),
            (READ, "-", "replicationcontrollers services", ""),
            (READ, "apps extensions", "replicasets", ""),
            (READ, "apps", "statefulsets", ""),
            (READ, "policy", "poddisruptionbudgets", ""),
            (READ, "-", "namespaces persistentvolumeclaims persistentvolumes", ""),
            ("create", "authentication.k8s.io", "tokenreviews", ""),
            ("create", "authorization.k8s.io", "subjectaccessreviews", ""),
            (READ, "storage.k8s.io", "csidrivers csinodes csistoragecapacities storageclasses volumeattachments", ""),
            (READ, "resource.k8s.io", "deviceclasses resourceslices", ""),
            ("get list patch update watch", "resource.k8s.io", "resourceclaims", ""),
            ("get list patch update watch", "resource.k8s.io", "resourceclaims/status", ""),
            ("get list patch update watch", "-", "pods/finalizers", ""),
            (READ, "scheduling.k8s.io", "priorityclasses", ""),
        ],
    ),
    role("system:kube-dns", &[("list watch", "-", "endpoints services", "")]),
    role(
        "system:heapster",
        &[(READ, "-", "events namespaces nodes pods", ""), (READ, "extensions", "deployments", "")],
    ),
    role(
        "system:persistent-volume-provisioner",
        &[
            ("create delete get list watch", "-", "persistentvolumes", ""),
            ("get list update watch", "-", "persistentvolumeclaims", ""),
            (READ, "storage.k8s.io", "storageclasses", ""),
            ("watch", "-", "events", ""),
            EVENTS,
        ],
    ),
    role(
        "system:volume-scheduler",
        &[
            ("get list patch update watch", "-", "persistentvolumes", ""),
            (READ, "storage.k8s.io", "storageclasses", ""),
            ("get list patch update watch", "-", "persistentvolumeclaims", ""),
        ],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient", "")],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient", "")],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client")],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    role(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving")],
    ),
    role(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown")],
    ),
];

/// Roles that are the union of others: name, what it aggregates, what it is aggregated to.
static AGGREGATED: &[(&str, &[&str], &str)] =
    &[("admin", &["admin"], ""), ("edit", &["edit"], "admin"), ("view", &["view"], "edit")];

/// name, role, subjects as `Kind:name`
static CLUSTER_ROLE_BINDINGS: &[(&str, &str, &[&str])] = &[
    ("cluster-admin", "cluster-admin", &["Group:system:masters"]),
    ("system:monitoring", "system:monitoring", &["Group:system:monitoring"]),
    ("system:discovery", "system:discovery", &["Group:system:authenticated"]),
    ("system:basic-user", "system:basic-user", &["Group:system:authenticated"]),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        &["Group:system:authenticated", "Group:system:unauthenticated"],
    ),
    ("system:node-proxier", "system:node-proxier", &["User:system:kube-proxy"]),
    ("system:kube-controller-manager", "system:kube-controller-manager", &["User:system:kube-controller-manager"]),
    // All controllers run under this one name, as in the original without credentials of their own for each; there
    // an administrator must grant what they need, here the role has what all of `system:controller:*` have.
    ("system:coracle-controllers", "system:coracle-controllers", &["User:system:kube-controller-manager"]),
    ("system:kube-dns", "system:kube-dns", &["ServiceAccount:kube-system/kube-dns"]),
    ("system:kube-scheduler", "system:kube-scheduler", &["User:system:kube-scheduler"]),
    ("system:volume-scheduler", "system:volume-scheduler", &["User:system:kube-scheduler"]),
    // Nodes have this role by the Node authorizer in the original; here RBAC grants what that one leaves to it.
    ("system:node", "system:node", &["Group:system:nodes"]),
    ("system:coracle-node", "system:coracle-node", &["Group:system:nodes"]),
    ("system:kubelet-bootstrap", "system:node-bootstrapper", &["Group:system:bootstrappers"]),
    // kubeadm makes the like of these.
    ("system:coracle-get-nodes", "system:coracle-get-nodes", &["Group:system:bootstrappers"]),
    (
        "system:coracle-node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["Group:system:bootstrappers"],
    ),
    (
        "system:coracle-node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["Group:system:nodes"],
    ),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &["Group:system:serviceaccounts"],
    ),
];

/// namespace, role
static ROLES: &[(&str, Role)] = &[
    (
        "kube-system",
        role("extension-apiserver-authentication-reader", &[(READ, "-", "configmaps", "extension-apiserver-authentication")]),
    ),
    ("kube-system", role("system:controller:bootstrap-signer", &[(READ, "-", "secrets", "")])),
    (
        "kube-system",
        role("system:controller:cloud-provider", &[("create get list update watch", "-", "configmaps", ""), EVENTS]),
    ),
    ("kube-system", role("system:controller:token-cleaner", &[("delete get list watch", "-", "secrets", ""), EVENTS])),
    (
        "kube-system",
        role(
            "system::leader-locking-kube-controller-manager",
            &[("watch", "-", "configmaps", ""), ("get update", "-", "configmaps", "kube-controller-manager")],
        ),
    ),
    (
        "kube-system",
        role(
            "system::leader-locking-kube-scheduler",
            &[("watch", "-", "configmaps", ""), ("get update", "-", "configmaps", "kube-scheduler")],
        ),
    ),
    // How the cluster is set up, for nodes that join.
    ("kube-public", role("system:coracle-settings", &[("get", "-", "configmaps", "coracle")])),
    (
        "kube-public",
        role(
            "system:controller:bootstrap-signer",
            &[(READ, "-", "configmaps", ""), ("update", "-", "configmaps", "cluster-info"), EVENTS],
        ),
    ),
];

/// namespace, name, role, subjects
static ROLE_BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &["User:system:kube-controller-manager", "User:system:kube-scheduler"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &["User:system:kube-controller-manager", "ServiceAccount:kube-system/kube-controller-manager"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["User:system:kube-scheduler", "ServiceAccount:kube-system/kube-scheduler"],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["ServiceAccount:kube-system/bootstrap-signer"],
    ),
    (
        "kube-system",
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &["ServiceAccount:kube-system/cloud-provider"],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &["ServiceAccount:kube-system/token-cleaner"],
    ),
    ("kube-public", "system:coracle-settings", "system:coracle-settings", &["Group:system:bootstrappers", "Group:system:nodes"]),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["ServiceAccount:kube-system/bootstrap-signer"],
    ),
];

fn list(text: &str) -> Vec<String> {
    text.split(' ').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

pub fn rules_from(grants: &[Grant]) -> Vec<Rule> {
    let rule = |(verbs, groups, resources, names): &Grant| Rule {
        verbs: list(verbs),
        api_groups: groups.split(' ').map(|group| if group == "-" { String::new() } else { group.to_owned() }).collect(),
        resources: list(resources),
        resource_names: list(names),
        non_resource_urls: Vec::new(),
    };
    grants.iter().map(rule).collect()
}

fn rules(role: &Role) -> Vec<Rule> {
    let grants = rules_from(role.grants).into_iter();
    let urls = role.urls.iter().map(|(verbs, urls)| Rule {
        verbs: list(verbs),
        non_resource_urls: list(urls),
        ..Rule::default()
    });
    grants.chain(urls).collect()
}

fn metadata(namespace: &str, name: &str, aggregates_to: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    if !aggregates_to.is_empty() {
        metadata["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{aggregates_to}")] = "true".into();
    }
    metadata
}

fn subjects(list: &[&str]) -> Vec<Value> {
    list.iter()
        .filter_map(|text| text.split_once(':'))
        .map(|(kind, name)| match (kind, name.split_once('/')) {
            ("ServiceAccount", Some((namespace, name))) => json!({"kind": kind, "name": name, "namespace": namespace}),
            _ => json!({"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}),
        })
        .collect()
}

fn role_reference(kind: &str, name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name})
}

/// All of them: (plural, object).
pub fn objects() -> Vec<(&'static str, Value)> {
    let mut cluster_roles: Vec<Value> = CLUSTER_ROLES
        .iter()
        .map(|role| json!({"metadata": metadata("", role.name, role.aggregates_to), "rules": rules(role)}))
        .collect();
    let unions: Vec<Value> = AGGREGATED
        .iter()
        .map(|(name, sources, to)| {
            let selectors: Vec<Value> = sources
                .iter()
                .map(|source| {
                    json!({"matchLabels": {format!("rbac.authorization.k8s.io/aggregate-to-{source}"): "true"}})
                })
                .collect();
            json!({
                "metadata": metadata("", name, to),
                "aggregationRule": {"clusterRoleSelectors": selectors},
            })
        })
        .collect();
    cluster_roles.extend(unions);
    let controller = |name: &str| format!("system:controller:{name}");
    cluster_roles.extend(CONTROLLER_ROLES.iter().map(|(name, grants)| {
        json!({"metadata": metadata("", &controller(name), ""), "rules": rules_from(grants)})
    }));
    cluster_roles.push(json!({"metadata": metadata("", "system:coracle-controllers", ""), "rules": all_rules()}));
    let unions: Vec<Option<Vec<Rule>>> = cluster_roles.iter().map(|role| aggregated(role, &cluster_roles)).collect();
    for (role, union) in cluster_roles.iter_mut().zip(unions) {
        if let Some(rules) = union {
            role["rules"] = json!(rules);
        }
    }
    let mut objects: Vec<(&'static str, Value)> =
        cluster_roles.into_iter().map(|role| ("clusterroles", role)).collect();
    objects.extend(CLUSTER_ROLE_BINDINGS.iter().map(|(name, role, list)| {
        let binding = json!({
            "metadata": metadata("", name, ""), "roleRef": role_reference("ClusterRole", role), "subjects": subjects(list),
        });
        ("clusterrolebindings", binding)
    }));
    objects.extend(CONTROLLER_ROLES.iter().map(|(name, _)| {
        let account = format!("ServiceAccount:kube-system/{name}");
        let binding = json!({
            "metadata": metadata("", &controller(name), ""), "roleRef": role_reference("ClusterRole", &controller(name)),
            "subjects": subjects(&[&account]),
        });
        ("clusterrolebindings", binding)
    }));
    objects.extend(
        ROLES
            .iter()
            .map(|(namespace, role)| ("roles", json!({"metadata": metadata(namespace, role.name, ""), "rules": rules(role)}))),
    );
    objects.extend(ROLE_BINDINGS.iter().map(|(namespace, name, role, list)| {
        let binding = json!({
            "metadata": metadata(namespace, name, ""), "roleRef": role_reference("Role", role), "subjects": subjects(list),
        });
        ("rolebindings", binding)
    }));
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_has_what_edit_and_view_have() {
        let objects = objects();
        let rules = |name: &str| {
            let (_, role) = objects.iter().find(|(_, role)| role["metadata"]["name"] == name).expect("there");
            super::super::rbac::rules_of(role)
        };
        let (admin, edit, view) = (rules("admin"), rules("edit"), rules("view"));
        assert!(view.iter().all(|rule| edit.contains(rule)) && edit.iter().all(|rule| admin.contains(rule)));
        assert!(admin.len() > edit.len() && edit.len() > view.len() && !view.is_empty());
    }
}
