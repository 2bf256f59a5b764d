//! Turns the name of a priority class into the number that the scheduler sorts by.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::Kind;

const GROUP: &str = "scheduling.k8s.io";
const PREEMPT: &str = "PreemptLowerPriority";

pub struct Priority;

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        let writes = matches!(operation, Operation::Create | Operation::Update);
        let watched = (kind.group.is_empty() && kind.plural == "pods")
            || (kind.group == GROUP && kind.plural == "priorityclasses");
        writes && watched && subresource.is_empty()
    }

    async fn mutate(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), RequestError> {
        if attributes.kind.plural != "pods" {
            return Ok(());
        }
        match attributes.old {
            Some(old) => keep(object, old),
            None => assign(attributes, object)?,
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
        if attributes.kind.plural != "priorityclasses" || object["globalDefault"] != true {
            return Ok(());
        }
        let name = object["metadata"]["name"].as_str().unwrap_or("");
        match default_class(attributes) {
            Some(other) if other["metadata"]["name"] != name => Err(RequestError::forbidden(
                attributes.kind,
                attributes.name,
                format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    other["metadata"]["name"].as_str().unwrap_or("")
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Clients that do not know the fields may leave them out of an update.
fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if pod["spec"].get(field).is_none_or(Value::is_null)
            && let Some(kept) = old["spec"].get(field)
        {
            pod["spec"][field] = kept.clone();
        }
    }
}

fn assign(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), RequestError> {
    let forbidden = |why: String| RequestError::forbidden(attributes.kind, attributes.name, why);
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or("").to_owned();
    let class = if name.is_empty() {
        default_class(attributes)
    } else {
        let found = attributes.cluster.get(GROUP, "priorityclasses", "", &name);
        Some(found.ok_or_else(|| forbidden(format!("no PriorityClass with name {name} was found")))?)
    };
    let mut priority = 0;
    let mut policy = PREEMPT.to_owned();
    if let Some(class) = &class {
        priority = class["value"].as_i64().unwrap_or(0);
        policy = class["preemptionPolicy"].as_str().unwrap_or(PREEMPT).to_owned();
        pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
    }
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != priority) {
        return Err(forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        )));
    }
    if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|given| *given != policy) {
        return Err(forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    pod["spec"]["priority"] = json!(priority);
    pod["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}

/// Where old data holds several defaults, the lowest counts.
fn default_class(attributes: &Attributes<'_>) -> Option<Value> {
    let classes = attributes.cluster.list(GROUP, "priorityclasses", "");
    let defaults = classes.into_iter().filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{World, pod};

    #[tokio::test]
    async fn names_become_numbers() {
        let world = World::new(&[
            (
                GROUP,
                "priorityclasses",
                json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}),
            ),
            (GROUP, "priorityclasses", json!({"metadata": {"name": "base"}, "value": 5, "globalDefault": true})),
        ]);
        let check = async |spec: Value, expected: &str| {
            let found = match world.mutate(&Priority, "", "pods", "a", pod(spec)).await {
                Ok(pod) => format!(
                    "{} {} {}",
                    pod["spec"]["priorityClassName"], pod["spec"]["priority"], pod["spec"]["preemptionPolicy"]
                ),
                Err(why) => why,
            };
            assert_eq!(found, expected);
        };
        check(json!({"priorityClassName": "high"}), "\"high\" 1000 \"Never\"").await;
        check(json!({}), "\"base\" 5 \"PreemptLowerPriority\"").await;
        check(
            json!({"priorityClassName": "gone"}),
            "pods \"p\" is forbidden: no PriorityClass with name gone was found",
        )
        .await;
        check(json!({"priority": 7}), "pods \"p\" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 5 from the given PriorityClass name").await;
        let class = json!({"metadata": {"name": "second"}, "globalDefault": true});
        assert_eq!(
            world.validate(&Priority, GROUP, "priorityclasses", "", &class, None).await,
            "priorityclasses.scheduling.k8s.io \"second\" is forbidden: PriorityClass base is already marked as default. Only one default can exist"
        );
    }
}
