//! Keeps a namespace within its quotas.
//!
//! Invariant: usage is raised before the object is stored, one quota at a time, under optimistic concurrency. Where a
//! quota seems full and has been quiet, usage is counted anew before anything is refused, so that failed writes and
//! deletes hold nobody up. Deliberately absent: showing what deletes free before somebody asks for it; that is the
//! quota controller's work.

mod usage;

use std::collections::{BTreeMap, HashMap};

use api::quantity::Quantity;
use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Operation, Target};
use crate::error::RequestError;
use crate::kinds::Kind;

type Amounts = BTreeMap<String, Quantity>;

/// How long after a charge its object may still be on its way into the store, so that a count would miss it.
const SETTLED_SECONDS: i64 = 5;

#[derive(Default)]
pub struct ResourceQuota {
    /// When each quota, by namespace and name, was last charged; entries older than that are dropped.
    charged: Mutex<HashMap<[String; 2], Timestamp>>,
}

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
            self.charge(attributes, quota, object, &wanted).await?;
        }
        Ok(())
    }
}

impl ResourceQuota {
    async fn charge(
        &self,
        attributes: &Attributes<'_>,
        quota: &Value,
        object: &Value,
        wanted: &Amounts,
    ) -> Result<(), RequestError> {
        let name = quota["metadata"]["name"].as_str().unwrap_or("");
        let hard = amounts(&quota["spec"]["hard"]);
        if attributes.operation == Operation::Create && attributes.kind.plural == "pods" {
            let missing = usage::unspecified(object, &hard);
            if !missing.is_empty() {
                let why = format!("failed quota: {name}: must specify {}", missing.join("; "));
                return Err(RequestError::forbidden(attributes.kind, attributes.name, why));
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
        let target = Target { group: "", plural: "resourcequotas", namespace: attributes.namespace, name };
        let first = write(attributes, target, quota, &relevant, None).await;
        let full = matches!(first, Err(RequestError::Forbidden { .. }));
        let result = if full && self.is_settled(attributes, name) {
            let counted = count(attributes, quota, &hard);
            write(attributes, target, quota, &relevant, Some(&counted)).await
        } else {
            first
        };
        if result.is_ok() && !attributes.dry_run {
            self.note_charge(attributes, name);
        }
        result
    }

    fn is_settled(&self, attributes: &Attributes<'_>, name: &str) -> bool {
        let key = [attributes.namespace.to_owned(), name.to_owned()];
        self.charged
            .lock()
            .get(&key)
            .is_none_or(|last| attributes.now.as_second() - last.as_second() >= SETTLED_SECONDS)
    }

    fn note_charge(&self, attributes: &Attributes<'_>, name: &str) {
        let now = attributes.now;
        let mut charged = self.charged.lock();
        charged.retain(|_, last| now.as_second() - last.as_second() < SETTLED_SECONDS);
        charged.insert([attributes.namespace.to_owned(), name.to_owned()], now);
    }
}

/// Raises what the quota says is used, or `counted` where that is given.
async fn write(
    attributes: &Attributes<'_>,
    target: Target<'_>,
    quota: &Value,
    wanted: &Amounts,
    counted: Option<&Amounts>,
) -> Result<(), RequestError> {
    let change = |quota: &mut Value| -> Result<bool, RequestError> {
        let used = raise(target.name, quota, wanted, counted)
            .map_err(|why| RequestError::forbidden(attributes.kind, attributes.name, why))?;
        let used: serde_json::Map<String, Value> =
            used.into_iter().map(|(resource, amount)| (resource, amount.to_string().into())).collect();
        let hard = quota["spec"]["hard"].clone();
        quota["status"] = json!({"hard": hard, "used": used});
        Ok(true)
    };
    if attributes.dry_run {
        return change(&mut quota.clone()).map(drop);
    }
    attributes.cluster.update(target, &change).await
}

/// What the objects of the namespace use of a quota's resources.
fn count(attributes: &Attributes<'_>, quota: &Value, hard: &Amounts) -> Amounts {
    let mut counted: Amounts = hard.keys().map(|resource| (resource.clone(), Quantity::default())).collect();
    for kind in usage::kinds(hard) {
        for object in attributes.cluster.list(kind.group, kind.plural, attributes.namespace) {
            if !usage::in_scope(quota, kind, &object) {
                continue;
            }
            for (resource, amount) in usage::of(kind, &object) {
                if let Some(total) = counted.get_mut(&resource) {
                    *total += amount;
                }
            }
        }
    }
    counted
}

/// Usage with the new object in it, or why it does not fit.
fn raise(name: &str, quota: &Value, wanted: &Amounts, counted: Option<&Amounts>) -> Result<Amounts, String> {
    let hard = amounts(&quota["spec"]["hard"]);
    let mut used = counted.cloned().unwrap_or_else(|| amounts(&quota["status"]["used"]));
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
        let plugin = ResourceQuota::default();
        let world = World::new(&[(
            "",
            "resourcequotas",
            quota(json!({"pods": "1", "requests.cpu": "2"}), json!({"pods": "0", "requests.cpu": "500m"})),
        )]);
        let made = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        let check = async |object: &Value, expected: &str| {
            assert_eq!(world.validate(&plugin, "", "pods", "a", object, None).await, expected);
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
        let plugin = ResourceQuota::default();
        let world = World::new(&[(
            "",
            "resourcequotas",
            quota(json!({"count/deployments.apps": "0"}), json!({"count/deployments.apps": "0"})),
        )]);
        let deployment = json!({"metadata": {"name": "d"}});
        assert_eq!(
            world.validate(&plugin, "apps", "deployments", "a", &deployment, None).await,
            "deployments.apps \"d\" is forbidden: exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=0, limited: count/deployments.apps=0"
        );
        let map = json!({"metadata": {"name": "m"}});
        assert_eq!(world.validate(&plugin, "", "configmaps", "a", &map, None).await, "");
    }

    #[tokio::test]
    async fn a_quiet_quota_is_counted_anew() {
        // It was full once; its one object has gone since.
        let world =
            World::new(&[("", "resourcequotas", quota(json!({"configmaps": "1"}), json!({"configmaps": "1"})))]);
        let plugin = ResourceQuota::default();
        let map = json!({"metadata": {"name": "m"}});
        assert_eq!(world.validate(&plugin, "", "configmaps", "a", &map, None).await, "");
        // The one just admitted may not be stored yet: no counting now.
        assert_eq!(
            world.validate(&plugin, "", "configmaps", "a", &map, None).await,
            "configmaps \"m\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1"
        );
    }
}
