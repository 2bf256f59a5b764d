//! Fills in and enforces what a namespace's LimitRanges say.

use api::quantity::Quantity;
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::admission_chain::{Admission, Attributes, Operation};
use crate::error::RequestError;
use crate::kinds::{Kind, resources};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanger;

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation, kind: &Kind, subresource: &str) -> bool {
        let pod = kind.plural == "pods" && operation == Operation::Create;
        let claim =
            kind.plural == "persistentvolumeclaims" && matches!(operation, Operation::Create | Operation::Update);
        kind.group.is_empty() && subresource.is_empty() && (pod || claim)
    }

    async fn mutate(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), RequestError> {
        if attributes.kind.plural != "pods" {
            return Ok(());
        }
        for range in ranges(attributes) {
            for item in items(&range, "Container") {
                fill_in(object, item);
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), RequestError> {
        let mut problems = Vec::new();
        for range in ranges(attributes) {
            match attributes.kind.plural {
                "pods" => check_pod(object, &range, &mut problems),
                _ => {
                    for item in items(&range, "PersistentVolumeClaim") {
                        let requests = object["spec"]["resources"]["requests"].as_object().cloned().unwrap_or_default();
                        check_bounds(item, "PersistentVolumeClaim", &requests, &Map::new(), true, &mut problems);
                    }
                }
            }
        }
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(RequestError::forbidden(attributes.kind, attributes.name, one.as_str())),
            many => Err(RequestError::forbidden(attributes.kind, attributes.name, format!("[{}]", many.join(", ")))),
        }
    }
}

fn ranges(attributes: &Attributes<'_>) -> Vec<Value> {
    attributes.cluster.list("", "limitranges", attributes.namespace)
}

fn items<'v>(range: &'v Value, kind: &'static str) -> impl Iterator<Item = &'v Value> {
    range["spec"]["limits"].as_array().into_iter().flatten().filter(move |item| item["type"] == kind)
}

/// Sets missing limits and requests of containers, and notes it down.
fn fill_in(pod: &mut Value, item: &Value) {
    let mut notes = Vec::new();
    for (list, title) in [("containers", "container"), ("initContainers", "init container")] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let name = container["name"].as_str().unwrap_or("").to_owned();
            for (field, source) in [("limits", "default"), ("requests", "defaultRequest")] {
                let mut set = Vec::new();
                for (resource, amount) in item[source].as_object().into_iter().flatten() {
                    let amounts = &mut container["resources"][field];
                    if amounts.get(resource).is_none() {
                        amounts[resource] = amount.clone();
                        set.push(resource.clone());
                    }
                }
                if !set.is_empty() {
                    let what = if field == "limits" { "limit" } else { "request" };
                    notes.push(format!("{} {what} for {title} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        // Requests are told before limits.
        notes.sort_by_key(|note| note.contains(" limit for "));
        let text = format!("LimitRanger plugin set: {}", notes.join("; "));
        if !pod["metadata"]["annotations"].is_object() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"][ANNOTATION] = text.into();
    }
}

fn check_pod(pod: &Value, range: &Value, problems: &mut Vec<String>) {
    let amounts =
        |container: &Value, field: &str| container["resources"][field].as_object().cloned().unwrap_or_default();
    for item in items(range, "Container") {
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array().into_iter().flatten() {
                let (requests, limits) = (amounts(container, "requests"), amounts(container, "limits"));
                check_bounds(item, "Container", &requests, &limits, false, problems);
            }
        }
    }
    let Some(spec) = pod["spec"].as_object() else { return };
    for item in items(range, "Pod") {
        let total = |field: &str| -> Map<String, Value> {
            named(item)
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), resources::pod_total(spec, field, name)?.to_string().into())))
                .collect()
        };
        check_bounds(item, "Pod", &total("requests"), &total("limits"), false, problems);
    }
}

fn named(item: &Value) -> Vec<&str> {
    let fields = ["min", "max", "maxLimitRequestRatio"];
    let names = fields.iter().filter_map(|field| item[*field].as_object()).flat_map(|map| map.keys());
    names.map(String::as_str).collect()
}

fn check_bounds(
    item: &Value,
    kind: &str,
    requests: &Map<String, Value>,
    limits: &Map<String, Value>,
    requests_only: bool,
    problems: &mut Vec<String>,
) {
    let amount = |map: &Map<String, Value>, name: &str| map.get(name).and_then(parse);
    for (name, bound, shown) in bounds(item, "min") {
        let (request, limit) = (amount(requests, name), amount(limits, name));
        match request {
            None => problems.push(format!("minimum {name} usage per {kind} is {shown}.  No request is specified")),
            Some(request) if request < bound => {
                problems.push(format!("minimum {name} usage per {kind} is {shown}, but request is {request}"));
            }
            _ => {}
        }
        if let Some(limit) = limit.filter(|limit| *limit < bound) {
            problems.push(format!("minimum {name} usage per {kind} is {shown}, but limit is {limit}"));
        }
    }
    for (name, bound, shown) in bounds(item, "max") {
        let (request, limit) = (amount(requests, name), amount(limits, name));
        if requests_only {
            match request {
                None => problems.push(format!("maximum {name} usage per {kind} is {shown}.  No request is specified")),
                Some(request) if request > bound => {
                    problems.push(format!("maximum {name} usage per {kind} is {shown}, but request is {request}"));
                }
                _ => {}
            }
            continue;
        }
        match limit {
            None => problems.push(format!("maximum {name} usage per {kind} is {shown}.  No limit is specified")),
            Some(limit) if limit > bound => {
                problems.push(format!("maximum {name} usage per {kind} is {shown}, but limit is {limit}"));
            }
            _ => {}
        }
        if let Some(request) = request.filter(|request| *request > bound) {
            problems.push(format!("maximum {name} usage per {kind} is {shown}, but request is {request}"));
        }
    }
    for (name, bound, shown) in bounds(item, "maxLimitRequestRatio") {
        let (request, limit) = (amount(requests, name), amount(limits, name));
        let positive = |amount: &Quantity| amount.milli_value() > 0;
        match (request.filter(positive), limit.filter(positive)) {
            (None, _) => problems.push(format!(
                "{name} max limit to request ratio per {kind} is {shown}, but no request is specified or request is 0"
            )),
            (_, None) => problems.push(format!(
                "{name} max limit to request ratio per {kind} is {shown}, but no limit is specified or limit is 0"
            )),
            (Some(request), Some(limit)) => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio > bound.as_f64() {
                    problems.push(format!(
                        "{name} max limit to request ratio per {kind} is {shown}, but provided ratio is {ratio:.6}"
                    ));
                }
            }
        }
    }
}

fn bounds<'v>(item: &'v Value, field: &'static str) -> impl Iterator<Item = (&'v str, Quantity, &'v str)> {
    item[field]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.as_str(), parse(amount)?, amount.as_str()?)))
}

fn parse(amount: &Value) -> Option<Quantity> {
    amount.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{World, pod};

    fn world(limits: Value) -> World {
        World::new(&[(
            "",
            "limitranges",
            json!({"metadata": {"namespace": "a", "name": "l"}, "spec": {"limits": limits}}),
        )])
    }

    #[tokio::test]
    async fn defaults_are_noted() {
        let world = world(json!([{"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}}]));
        let made = world.mutate(&LimitRanger, "", "pods", "a", pod(json!({"containers": [{"name": "c"}]}))).await;
        let made = made.expect("a pod");
        assert_eq!(
            made["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}})
        );
        assert_eq!(
            made["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
    }

    #[tokio::test]
    async fn bounds_are_kept() {
        let world = world(json!([{"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}}]));
        let check = async |resources: Value, expected: &str| {
            let pod = pod(json!({"containers": [{"name": "c", "resources": resources}]}));
            assert_eq!(world.validate(&LimitRanger, "", "pods", "a", &pod, None).await, expected);
        };
        check(json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "1"}}), "").await;
        check(
            json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "2"}}),
            "pods \"p\" is forbidden: [minimum cpu usage per Container is 100m, but request is 50m, maximum cpu usage per Container is 1, but limit is 2]",
        )
        .await;
    }
}
