//! A kubelet may touch its own node, and the pods, leases and tokens that belong to it; nothing else.

use async_trait::async_trait;
use serde_json::Value;

use crate::admission_chain::{Admission, Attributes, Operation, Question};
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
                | ("resource.k8s.io", "resourceslices")
        )
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
        let Some(node) = node_of(attributes.user) else { return Ok(()) };
        if node.is_empty() {
            let why = format!("could not determine node from user {:?}", attributes.user.name);
            return Err(RequestError::forbidden(attributes.kind, attributes.name, why));
        }
        let result = match attributes.kind.plural {
            "pods" => pod(attributes, object, node),
            "nodes" => own_node(attributes, object, node),
            "leases" => lease(attributes, node),
            "csinodes" if attributes.name != node => {
                Err("can only access CSINode with the same name as the requesting node".to_owned())
            }
            "resourceslices" => slice(attributes, object, node),
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
    user.name.strip_prefix("system:node:")
}

fn pod(attributes: &Attributes<'_>, object: &Value, node: &str) -> Result<(), String> {
    let on_node = |pod: &Value| pod["spec"]["nodeName"] == node;
    let stored = || attributes.old.unwrap_or(object);
    let operation = attributes.operation.name();
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => mirror_pod(attributes, object, node),
        (Operation::Delete, "") => {
            if !on_node(stored()) {
                return Err(format!("node \"{node}\" can only delete pods with spec.nodeName set to itself"));
            }
            Ok(())
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
            if object["status"]["resourceClaimStatuses"] != stored()["status"]["resourceClaimStatuses"] {
                return Err(format!("node \"{node}\" cannot update resource claim statuses"));
            }
            Ok(())
        }
        (Operation::Create, "eviction") => {
            if !on_node(object) {
                return Err(format!("node {node} can only evict pods with spec.nodeName set to itself"));
            }
            Ok(())
        }
        (_, "") => {
            Err(format!("unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"))
        }
        (_, "status") => Err(format!("unexpected operation {operation:?}")),
        (_, "eviction") => Err(format!("unexpected operation {operation}")),
        (_, other) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
    }
}

fn mirror_pod(attributes: &Attributes<'_>, pod: &Value, node: &str) -> Result<(), String> {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Err(format!("pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    if owners.len() > 1 {
        return Err(format!("node \"{node}\" can only create pods with a single owner reference set to itself"));
    }
    let Some(owner) = owners.first().filter(|owner| owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node)
    else {
        return Err(format!("node \"{node}\" can only create pods with an owner reference set to itself"));
    };
    if owner["controller"] != true {
        return Err(format!("node \"{node}\" can only create pods with a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
    }
    let uid = attributes.cluster.get("", "nodes", "", node).map(|node| node["metadata"]["uid"].clone());
    let uid = uid.ok_or_else(|| format!("nodes \"{node}\" not found"))?;
    if uid != owner["uid"] {
        let text = |uid: &Value| uid.as_str().unwrap_or("").to_owned();
        return Err(format!("node {node} UID mismatch: expected {} got {}", text(&owner["uid"]), text(&uid)));
    }
    let spec = &pod["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err(format!("node \"{node}\" can not create pods that reference a service account"));
    }
    for (what, keys) in REFERENCES {
        if mentions(spec, keys) {
            return Err(format!("node \"{node}\" can not create pods that reference {what}"));
        }
    }
    Ok(())
}

/// By which fields a pod refers to other objects.
const REFERENCES: &[(&str, &[&str])] = &[
    ("secrets", &["secret", "secretName", "secretRef", "secretKeyRef", "imagePullSecrets", "nodePublishSecretRef"]),
    ("configmaps", &["configMap", "configMapRef", "configMapKeyRef"]),
    ("clustertrustbundles", &["clusterTrustBundle"]),
    ("persistentvolumeclaims", &["persistentVolumeClaim"]),
    ("resourceclaims", &["resourceClaims"]),
];

fn mentions(value: &Value, keys: &[&str]) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, inner)| {
            let empty = inner.is_null() || inner.as_array().is_some_and(Vec::is_empty);
            (keys.contains(&key.as_str()) && !empty) || mentions(inner, keys)
        }),
        Value::Array(list) => list.iter().any(|inner| mentions(inner, keys)),
        _ => false,
    }
}

fn own_node(attributes: &Attributes<'_>, object: &Value, node: &str) -> Result<(), String> {
    if attributes.name != node {
        return Err(format!("node \"{node}\" is not allowed to modify node \"{}\"", attributes.name));
    }
    match attributes.operation {
        Operation::Create => {
            if !object["spec"]["configSource"].is_null() {
                return Err(format!("node \"{node}\" is not allowed to create pods with a non-nil configSource"));
            }
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
            let source = &object["spec"]["configSource"];
            if !source.is_null() && *source != old["spec"]["configSource"] {
                return Err(format!("node \"{node}\" is not allowed to update configSource to a new non-nil configSource"));
            }
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

/// What else is asked for is the node authorizer's to judge.
fn slice(attributes: &Attributes<'_>, slice: &Value, node: &str) -> Result<(), String> {
    let (verb, slice) = match attributes.operation {
        Operation::Create => ("create", slice),
        Operation::Delete => ("delete", attributes.old.unwrap_or(slice)),
        _ => return Ok(()),
    };
    if slice["spec"]["nodeName"] != node {
        return Err(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"));
    }
    Ok(())
}

fn token(attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
    let bound = attributes.options.map(|request| &request["spec"]["boundObjectRef"]).filter(|bound| !bound.is_null());
    let is_pod = |bound: &&Value| bound["apiVersion"] == "v1" && bound["kind"] == "Pod" && bound["name"].as_str().is_some_and(|name| !name.is_empty());
    let Some(bound) = bound.filter(is_pod) else {
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
    audience(attributes, &pod)
}

/// A node asks for tokens as the pod's volumes say, or as it was allowed to.
fn audience(attributes: &Attributes<'_>, pod: &Value) -> Result<(), String> {
    let asked = attributes.options.and_then(|request| request["spec"]["audiences"].as_array());
    let audience = match asked.map_or(&[][..], Vec::as_slice) {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return Err("node may only request 0 or 1 audiences".into()),
    };
    let volumes = || pod["spec"]["volumes"].as_array().into_iter().flatten();
    let sources = volumes().flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    let mut tokens = sources.map(|source| &source["serviceAccountToken"]).filter(|token| !token.is_null());
    let by_driver = |volume: &Value| {
        let driver = driver_of(attributes, volume);
        let driver = driver.and_then(|name| attributes.cluster.get("storage.k8s.io", "csidrivers", "", &name));
        let driver = driver.unwrap_or_default();
        let requests = driver["spec"]["tokenRequests"].as_array();
        requests.into_iter().flatten().any(|request| request["audience"].as_str().unwrap_or("") == audience)
    };
    if tokens.any(|token| token["audience"].as_str().unwrap_or("") == audience) || volumes().any(by_driver) {
        return Ok(());
    }
    let question = Question {
        verb: "request-serviceaccounts-token-audience",
        version: "v1",
        resource: audience,
        namespace: attributes.namespace,
        name: attributes.name,
        ..Question::default()
    };
    if !audience.is_empty() && attributes.cluster.allowed(attributes.user, &question) {
        return Ok(());
    }
    Err(format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        attributes.user.name
    ))
}

/// The CSI driver behind a pod's volume.
fn driver_of(attributes: &Attributes<'_>, volume: &Value) -> Option<String> {
    if let Some(driver) = volume["csi"]["driver"].as_str() {
        return Some(driver.to_owned());
    }
    let claim = volume["persistentVolumeClaim"]["claimName"].as_str()?;
    let claim = attributes.cluster.get("", "persistentvolumeclaims", attributes.namespace, claim)?;
    let volume = attributes.cluster.get("", "persistentvolumes", "", claim["spec"]["volumeName"].as_str()?)?;
    volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
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

    #[tokio::test]
    async fn mirror_pods() {
        let node = json!({"metadata": {"name": "n1", "uid": "node-1"}});
        let mut world = World::new(&[("", "nodes", node)]);
        world.user = User::authenticated("system:node:n1", &["system:nodes"]);
        let mirror = || {
            json!({
                "metadata": {"name": "p", "annotations": {MIRROR: "x"}, "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-1", "controller": true,
                }]},
                "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            })
        };
        let check = async |path: &str, value: Value, expected: &str| {
            let mut pod = mirror();
            if !path.is_empty() {
                let (parent, last) = path.rsplit_once('/').expect("a pointer");
                pod.pointer_mut(parent).expect("a parent")[last] = value;
            }
            let found = world.validate(&NodeRestriction, "", "pods", "a", &pod, None).await;
            assert!(found.ends_with(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        check("", Value::Null, "").await;
        check("/spec/nodeName", json!("n2"), "node \"n1\" can only create pods with spec.nodeName set to itself").await;
        check("/metadata/ownerReferences", json!([]), "node \"n1\" can only create pods with an owner reference set to itself").await;
        let two = json!([{"kind": "Node"}, {"kind": "Node"}]);
        check("/metadata/ownerReferences", two, "node \"n1\" can only create pods with a single owner reference set to itself").await;
        let other = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "other", "controller": true}]);
        check("/metadata/ownerReferences", other, "node n1 UID mismatch: expected other got node-1").await;
        let loose = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-1"}]);
        check("/metadata/ownerReferences", loose, "node \"n1\" can only create pods with a controller owner reference set to itself").await;
        check("/spec/serviceAccountName", json!("a"), "node \"n1\" can not create pods that reference a service account").await;
        let from = |key: &str| json!([{"name": "c", "env": [{"name": "A", "valueFrom": {key: {"name": "x", "key": "y"}}}]}]);
        check("/spec/containers", from("secretKeyRef"), "node \"n1\" can not create pods that reference secrets").await;
        check("/spec/containers", from("configMapKeyRef"), "node \"n1\" can not create pods that reference configmaps").await;
        check("/spec/imagePullSecrets", json!([{"name": "x"}]), "node \"n1\" can not create pods that reference secrets").await;
        let claim = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]);
        check("/spec/volumes", claim, "node \"n1\" can not create pods that reference persistentvolumeclaims").await;
        check("/spec/resourceClaims", json!([{"name": "x"}]), "node \"n1\" can not create pods that reference resourceclaims").await;
    }

    #[tokio::test]
    async fn slices_of_others_are_not_touched() {
        let mut world = World::new(&[]);
        world.user = User::authenticated("system:node:n1", &["system:nodes"]);
        let slice = |node: &str| json!({"metadata": {"name": "s"}, "spec": {"nodeName": node}});
        for (operation, node, expected) in [
            (Operation::Create, "n1", ""),
            (Operation::Create, "n2", "can only create ResourceSlice with the same NodeName as the requesting node"),
            (Operation::Delete, "n1", ""),
            (Operation::Delete, "n2", "can only delete ResourceSlice with the same NodeName as the requesting node"),
            (Operation::Update, "n2", ""),
        ] {
            let target = ("resource.k8s.io", "resourceslices", "");
            let found = world.validate_for(&NodeRestriction, target, operation, "", &slice(node), None).await;
            assert!(found.ends_with(expected) && found.is_empty() == expected.is_empty(), "{found}");
        }
    }

    #[tokio::test]
    async fn pods_of_others_are_not_touched() {
        let mut world = World::new(&[]);
        world.user = User::authenticated("system:node:n1", &["system:nodes"]);
        let pod = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        let check = async |subresource: &str, operation: Operation, new: Value, old: Option<Value>, expected: &str| {
            let target = ("", "pods", subresource);
            let found = world.validate_for(&NodeRestriction, target, operation, "a", &new, old.as_ref()).await;
            assert!(found.ends_with(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        check("", Operation::Delete, pod("n1"), None, "").await;
        check("", Operation::Delete, pod("n2"), None, "node \"n1\" can only delete pods with spec.nodeName set to itself").await;
        check("", Operation::Update, pod("n1"), Some(pod("n1")), "unexpected operation \"UPDATE\", node \"n1\" can only create and delete mirror pods").await;
        check("status", Operation::Update, pod("n1"), Some(pod("n1")), "").await;
        check("status", Operation::Update, pod("n2"), Some(pod("n2")), "node \"n1\" can only update pod status for pods with spec.nodeName set to itself").await;
        let mut labelled = pod("n1");
        labelled["metadata"]["labels"] = json!({"a": "b"});
        check("status", Operation::Update, labelled, Some(pod("n1")), "node \"n1\" cannot update labels through pod status").await;
        let mut claimed = pod("n1");
        claimed["status"] = json!({"resourceClaimStatuses": [{"name": "x"}]});
        check("status", Operation::Update, claimed, Some(pod("n1")), "node \"n1\" cannot update resource claim statuses").await;
        check("binding", Operation::Create, pod("n1"), None, "unexpected pod subresource \"binding\", only 'status' and 'eviction' are allowed").await;
        world.user = User::authenticated("system:node:", &["system:nodes"]);
        let found = world.validate(&NodeRestriction, "", "nodes", "", &json!({"metadata": {"name": "n1"}}), None).await;
        assert!(found.ends_with("could not determine node from user \"system:node:\""), "{found}");
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
