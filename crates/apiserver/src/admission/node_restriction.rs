//! A kubelet may touch its own node, and the pods, leases and tokens that belong to it; nothing else.

use async_trait::async_trait;
use serde_json::Value;

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::Kind;
use crate::user::User;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";

pub struct NodeRestriction;

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, _operation: Operation, kind: &Kind, _subresource: &str) -> bool {
        matches!(
            (kind.group, kind.plural),
            ("", "pods" | "nodes" | "serviceaccounts")
                | ("coordination.k8s.io", "leases")
                | ("storage.k8s.io", "csinodes")
        )
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
        let Some(node) = node_of(attributes.user) else { return Ok(()) };
        let result = match attributes.kind.plural {
            "pods" => pod(attributes, object, node),
            "nodes" => own_node(attributes, object, node),
            "leases" => lease(attributes, node),
            "csinodes" if attributes.name != node => {
                Err("can only access CSINode with the same name as the requesting node".to_owned())
            }
            "serviceaccounts" if attributes.subresource == "token" => token(attributes, node),
            _ => Ok(()),
        };
        result.map_err(|why| RequestError::forbidden(attributes.kind, attributes.name, why))
    }
}

/// The node behind a kubelet's identity.
fn node_of(user: &User) -> Option<&str> {
    if !user.in_group("system:nodes") {
        return None;
    }
    user.name.strip_prefix("system:node:").filter(|name| !name.is_empty())
}

fn pod(attributes: &Attributes<'_>, object: &Value, node: &str) -> Result<(), String> {
    let on_node = |pod: &Value| pod["spec"]["nodeName"] == node;
    let stored = || attributes.old.unwrap_or(object);
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => mirror_pod(object, node),
        (Operation::Delete, "") if !on_node(stored()) => {
            Err(format!("node \"{node}\" can only delete pods with spec.nodeName set to itself"))
        }
        (Operation::Update, "status") => {
            if !on_node(stored()) {
                return Err(format!(
                    "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
                ));
            }
            if object["metadata"]["labels"] != stored()["metadata"]["labels"] {
                return Err(format!("node \"{node}\" cannot update labels through pod status"));
            }
            Ok(())
        }
        (Operation::Create, "eviction") if !on_node(object) => {
            Err(format!("node {node} can only evict pods with spec.nodeName set to itself"))
        }
        (Operation::Update, "") => {
            Err(format!("unexpected operation \"UPDATE\", node \"{node}\" can only create and delete mirror pods"))
        }
        _ => Ok(()),
    }
}

fn mirror_pod(pod: &Value, node: &str) -> Result<(), String> {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Err(format!("pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    match owners {
        [] => {}
        [owner] => {
            if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
                return Err(format!("node \"{node}\" can only create pods with an owner reference set to itself"));
            }
            if owner["controller"] != true {
                return Err(format!(
                    "node \"{node}\" can only create pods with a controller owner reference set to itself"
                ));
            }
            if owner["blockOwnerDeletion"] == true {
                return Err(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
            }
        }
        _ => return Err(format!("node \"{node}\" can only create pods with a single owner reference set to itself")),
    }
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err(format!("node \"{node}\" can not create pods that reference a service account"));
    }
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        for (field, what) in
            [("secret", "secrets"), ("configMap", "configmaps"), ("persistentVolumeClaim", "persistentvolumeclaims")]
        {
            if volume.get(field).is_some() {
                return Err(format!("node \"{node}\" can not create pods that reference {what}"));
            }
        }
    }
    Ok(())
}

fn own_node(attributes: &Attributes<'_>, object: &Value, node: &str) -> Result<(), String> {
    if attributes.name != node {
        return Err(format!("node \"{node}\" is not allowed to modify node \"{}\"", attributes.name));
    }
    match attributes.operation {
        Operation::Create => {
            let forbidden = forbidden_labels(&object["metadata"]["labels"], &Value::Null);
            if !forbidden.is_empty() {
                return Err(format!(
                    "node \"{node}\" is not allowed to set the following labels: {}",
                    forbidden.join(", ")
                ));
            }
        }
        Operation::Update => {
            let old = attributes.old.unwrap_or(&Value::Null);
            if object["spec"]["taints"] != old["spec"]["taints"] && attributes.subresource.is_empty() {
                return Err(format!("node \"{node}\" is not allowed to modify taints"));
            }
            if object["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
                return Err(format!("node \"{node}\" is not allowed to modify ownerReferences"));
            }
            let forbidden = forbidden_labels(&object["metadata"]["labels"], &old["metadata"]["labels"]);
            if !forbidden.is_empty() {
                return Err(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Labels that changed and that a kubelet may not set on itself.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let keys =
        |labels: &Value| labels.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut changed: Vec<String> =
        keys(new).into_iter().chain(keys(old)).filter(|key| new.get(key) != old.get(key)).collect();
    changed.sort_unstable();
    changed.dedup();
    changed.retain(|key| !may_label(key));
    changed
}

fn may_label(key: &str) -> bool {
    const ALLOWED: &[&str] = &[
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "node.kubernetes.io/windows-build",
    ];
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |suffix: &str| domain == suffix || domain.ends_with(&format!(".{suffix}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    ALLOWED.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

fn lease(attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
    if attributes.namespace != LEASES {
        return Err(format!("can only access leases in the \"{LEASES}\" system namespace"));
    }
    if attributes.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn token(attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
    let bound = attributes.options.map(|request| &request["spec"]["boundObjectRef"]).filter(|bound| !bound.is_null());
    let Some(bound) = bound.filter(|bound| bound["kind"] == "Pod" && bound["name"] != "") else {
        return Err("node requested token not bound to a pod".into());
    };
    if bound["uid"].as_str().is_none_or(str::is_empty) {
        return Err("node requested token with a pod binding without a uid".into());
    }
    let name = bound["name"].as_str().unwrap_or("");
    let Some(pod) = attributes.cluster.get("", "pods", attributes.namespace, name) else {
        return Err(format!("pod \"{name}\" not found"));
    };
    if pod["metadata"]["uid"] != bound["uid"] {
        return Err(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            bound["uid"].as_str().unwrap_or("")
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return Err("node requested token bound to a pod scheduled on a different node".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::World;
    use serde_json::json;

    #[tokio::test]
    async fn a_kubelet_keeps_to_itself() {
        let mut world = World::new(&[]);
        world.user = User::authenticated("system:node:n1", &["system:nodes"]);
        let check = async |plural: &str, namespace: &str, object: Value, old: Option<Value>, expected: &str| {
            let group = if plural == "leases" { "coordination.k8s.io" } else { "" };
            let found = world.validate(&NodeRestriction, group, plural, namespace, &object, old.as_ref()).await;
            assert!(found.ends_with(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        let named = |name: &str| json!({"metadata": {"name": name}});
        check("nodes", "", named("n1"), None, "").await;
        check("nodes", "", named("n2"), None, "node \"n1\" is not allowed to modify node \"n2\"").await;
        check("leases", LEASES, named("n1"), None, "").await;
        check(
            "leases",
            "default",
            named("n1"),
            None,
            "can only access leases in the \"kube-node-lease\" system namespace",
        )
        .await;
        let tainted = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "x"}]}});
        check("nodes", "", tainted, Some(named("n1")), "node \"n1\" is not allowed to modify taints").await;
        check("pods", "a", named("p"), None, "node \"n1\" can only create mirror pods").await;
    }

    #[test]
    fn labels() {
        #[track_caller]
        fn check(key: &str, expected: bool) {
            assert_eq!(may_label(key), expected, "{key}");
        }
        check("team", true);
        check("example.com/team", true);
        check("kubernetes.io/hostname", true);
        check("node-role.kubernetes.io/control-plane", false);
        check("node.kubernetes.io/exotic", true);
        check("node-restriction.kubernetes.io/x", false);
    }
}
