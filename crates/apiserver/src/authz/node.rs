//! What nodes may read: the secrets, config maps and claims that their own pods use, and nothing else of these kinds.
//!
//! Deliberately absent: the rest of a node's rights, which RBAC grants through the role `system:node`; and what a node
//! may write to which object, which admission decides.

use serde_json::Value;

use crate::admission_chain::Question;
use crate::cache::{Cache, Filter};
use crate::kinds::registry;
use crate::user::User;

const NODES: &str = "system:nodes";
const PREFIX: &str = "system:node:";
const PUBLIC: &str = "kube-public";

pub enum Verdict {
    Allowed,
    Refused(String),
    /// Left to RBAC.
    NotMine,
}

/// The node that a user is, if it is one.
pub fn node_name(user: &User) -> Option<&str> {
    user.name.strip_prefix(PREFIX).filter(|_| user.in_group(NODES))
}

pub fn decide(cache: &Cache, node: &str, question: &Question<'_>) -> Verdict {
    if !question.group.is_empty() {
        return Verdict::NotMine;
    }
    let reads = matches!(question.verb, "get" | "list" | "watch");
    // What is there is for all, and RBAC says who all are.
    if question.namespace == PUBLIC && question.resource == "configmaps" {
        return Verdict::NotMine;
    }
    match (question.resource, question.subresource) {
        ("secrets" | "configmaps" | "persistentvolumeclaims", "") if reads => {
            if question.name.is_empty() {
                return Verdict::Refused("No Object name found".into());
            }
            if is_used(cache, node, question) {
                Verdict::Allowed
            } else {
                Verdict::Refused(format!(
                    "no relationship found between node '{node}' and this object"
                ))
            }
        }
        ("serviceaccounts", "token") if question.verb == "create" => {
            let runs = pods(cache, node, question.namespace)
                .iter()
                .any(|pod| pod["spec"]["serviceAccountName"] == question.name);
            if runs {
                Verdict::Allowed
            } else {
                Verdict::Refused(format!("no relationship found between node '{node}' and this object"))
            }
        }
        _ => Verdict::NotMine,
    }
}

fn pods(cache: &Cache, node: &str, namespace: &str) -> Vec<Value> {
    let Some(kind) = registry::by_plural("", "v1", "pods") else { return Vec::new() };
    let on_node = api::selector::FieldSelector::parse(&format!("spec.nodeName={node}")).ok();
    match Filter::new(kind, namespace, None, on_node.as_ref()) {
        Ok(filter) => cache.select(kind, &filter, None, 0).entries.iter().map(|entry| entry.value()).collect(),
        Err(_) => Vec::new(),
    }
}

fn is_used(cache: &Cache, node: &str, question: &Question<'_>) -> bool {
    let (direct, reference, claim) = match question.resource {
        "secrets" => (&["secretName"][..], &["secretRef", "secretKeyRef", "secret", "imagePullSecrets"][..], ""),
        "configmaps" => (&[][..], &["configMapRef", "configMapKeyRef", "configMap"][..], ""),
        _ => (&["claimName"][..], &[][..], "ephemeral"),
    };
    pods(cache, node, question.namespace).iter().any(|pod| {
        let own_claim = !claim.is_empty()
            && pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| {
                volume.get(claim).is_some()
                    && question.name
                        == format!(
                            "{}-{}",
                            pod["metadata"]["name"].as_str().unwrap_or(""),
                            volume["name"].as_str().unwrap_or("")
                        )
            });
        own_claim || mentions(&pod["spec"], direct, reference, question.name)
    })
}

/// Whether a spec refers to `name`: by a field of its own, or in an object or list under one of `references`.
fn mentions(value: &Value, direct: &[&str], references: &[&str], name: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, inner)| {
            let key = key.as_str();
            (direct.contains(&key) && inner == name)
                || (references.contains(&key) && names(inner, name))
                || mentions(inner, direct, references, name)
        }),
        Value::Array(list) => list.iter().any(|inner| mentions(inner, direct, references, name)),
        _ => false,
    }
}

fn names(value: &Value, name: &str) -> bool {
    match value {
        Value::Object(map) => map.get("name").is_some_and(|own| own == name),
        Value::Array(list) => list.iter().any(|inner| names(inner, name)),
        _ => false,
    }
}
