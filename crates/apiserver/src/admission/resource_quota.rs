//! Keeps a namespace within its quotas.
//!
//! Invariant: usage is raised before the object is stored, one quota at a time, under optimistic concurrency. What a
//! failed write leaves behind, and what deletes free, is the quota controller's to recount.

mod usage;

use std::collections::BTreeMap;

use api::quantity::Quantity;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Operation, Target};
use crate::error::RequestError;
use crate::kinds::Kind;

type Amounts = BTreeMap<String, Quantity>;

pub struct ResourceQuota;

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        if !kind.namespaced || kind.storage.is_empty() {
            return false;
        }
        match operation {
            Operation::Create => subresource.is_empty(),
            // Only what an update can make larger.
            Operation::Update => {
                kind.group.is_empty()
                    && match kind.plural {
                        "services" | "persistentvolumeclaims" => subresource.is_empty(),
                        "pods" => subresource == "resize",
                        _ => false,
                    }
            }
            _ => false,
        }
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
        let quotas = attributes.cluster.list("", "resourcequotas", attributes.namespace);
        if quotas.is_empty() {
            return Ok(());
        }
        let mut wanted = usage::of(attributes.kind, object);
        if let Some(old) = attributes.old {
            for (name, amount) in usage::of(attributes.kind, old) {
                let left = wanted.remove(&name).unwrap_or_default() - amount;
                wanted.insert(name, left);
            }
            wanted.retain(|_, amount| amount.sign() > 0);
        }
        for quota in quotas.iter().filter(|quota| usage::in_scope(quota, attributes.kind, object)) {
            charge(attributes, quota, object, &wanted).await?;
        }
        Ok(())
    }
}

async fn charge(
    attributes: &Attributes<'_>,
    quota: &Value,
    object: &Value,
    wanted: &Amounts,
) -> Result<(), RequestError> {
    let name = quota["metadata"]["name"].as_str().unwrap_or("");
    let forbidden = |why: String| RequestError::forbidden(attributes.kind, attributes.name, why);
    let hard = amounts(&quota["spec"]["hard"]);
    if attributes.operation == Operation::Create && attributes.kind.plural == "pods" {
        let missing = usage::unspecified(object, &hard);
        if !missing.is_empty() {
            return Err(forbidden(format!("failed quota: {name}: must specify {}", missing.join("; "))));
        }
    }
    let relevant: Amounts = wanted
        .iter()
        .filter(|(resource, _)| hard.contains_key(*resource))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if relevant.is_empty() {
        return Ok(());
    }
    let change = |quota: &mut Value| -> Result<bool, RequestError> {
        let used = raise(name, quota, &relevant).map_err(forbidden)?;
        let used: serde_json::Map<String, Value> =
            used.into_iter().map(|(resource, amount)| (resource, amount.to_string().into())).collect();
        quota["status"]["used"] = json!(used);
        Ok(true)
    };
    if attributes.dry_run {
        return change(&mut quota.clone()).map(drop);
    }
    let target = Target { group: "", plural: "resourcequotas", namespace: attributes.namespace, name };
    attributes.cluster.update(target, &change).await
}

/// Usage with the new object in it, or why it does not fit.
fn raise(name: &str, quota: &Value, wanted: &Amounts) -> Result<Amounts, String> {
    let (hard, mut used) = (amounts(&quota["status"]["hard"]), amounts(&quota["status"]["used"]));
    let unknown: Vec<&str> =
        wanted.keys().filter(|resource| !used.contains_key(*resource)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(format!("status unknown for quota: {name}, resources: {}", unknown.join(",")));
    }
    let before = used.clone();
    let mut exceeded = Vec::new();
    for (resource, amount) in wanted {
        let total = used.get(resource).cloned().unwrap_or_default() + amount.clone();
        if hard.get(resource).is_some_and(|hard| total > *hard) {
            exceeded.push(resource.as_str());
        }
        used.insert(resource.clone(), total);
    }
    if exceeded.is_empty() {
        return Ok(used);
    }
    let list = |amounts: &Amounts| -> String {
        let parts: Vec<String> = exceeded
            .iter()
            .map(|resource| format!("{resource}={}", amounts.get(*resource).cloned().unwrap_or_default()))
            .collect();
        parts.join(",")
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        list(wanted),
        list(&before),
        list(&hard)
    ))
}

fn amounts(map: &Value) -> Amounts {
    map.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), amount.as_str()?.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{World, pod};

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"namespace": "a", "name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    #[tokio::test]
    async fn usage_is_raised_until_it_is_full() {
        let world = World::new(&[(
            "",
            "resourcequotas",
            quota(json!({"pods": "1", "requests.cpu": "2"}), json!({"pods": "0", "requests.cpu": "500m"})),
        )]);
        let made = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        let check = async |object: &Value, expected: &str| {
            assert_eq!(world.validate(&ResourceQuota, "", "pods", "a", object, None).await, expected);
        };
        check(
            &pod(json!({"containers": [{"name": "c"}]})),
            "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c",
        )
        .await;
        check(&made, "").await;
        check(
            &made,
            "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=1, used: pods=1,requests.cpu=1500m, limited: pods=1,requests.cpu=2",
        )
        .await;
    }

    #[tokio::test]
    async fn counts_any_kind() {
        let world = World::new(&[(
            "",
            "resourcequotas",
            quota(json!({"count/deployments.apps": "0"}), json!({"count/deployments.apps": "0"})),
        )]);
        let deployment = json!({"metadata": {"name": "d"}});
        assert_eq!(
            world.validate(&ResourceQuota, "apps", "deployments", "a", &deployment, None).await,
            "deployments.apps \"d\" is forbidden: exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=0, limited: count/deployments.apps=0"
        );
        let map = json!({"metadata": {"name": "m"}});
        assert_eq!(world.validate(&ResourceQuota, "", "configmaps", "a", &map, None).await, "");
    }
}
