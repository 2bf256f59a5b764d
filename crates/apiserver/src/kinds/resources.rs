//! Sums over the resources of a pod spec, as scheduler, quota and limits see them.

use api::quantity::Quantity;
use serde_json::{Map, Value};

use super::cursor::walk;

/// What the containers of a pod ask for of one resource (`requests`), by the scheduler's rule: the sum over
/// containers and restartable init containers, or the largest need while initialising, if greater. None when no
/// container names it.
pub fn pod_request(spec: &Map<String, Value>, resource: &str) -> Option<Quantity> {
    pod_total(spec, "requests", resource)
}

/// The same for `requests` or `limits`.
pub fn pod_total(spec: &Map<String, Value>, field: &str, resource: &str) -> Option<Quantity> {
    let of = |container: &Value| {
        walk(container, "resources").get(field)?.get(resource)?.as_str().and_then(|text| text.parse::<Quantity>().ok())
    };
    let list = |name: &str| spec.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);

    let mut total: Option<Quantity> = None;
    for amount in list("containers").iter().filter_map(of) {
        total = Some(add(total, amount));
    }
    // Sidecars run beside what follows them; an ordinary init container beside the sidecars before it.
    let mut sidecars: Option<Quantity> = None;
    let mut initialising: Option<Quantity> = None;
    for container in list("initContainers") {
        let amount = of(container);
        if walk(container, "restartPolicy").as_str() == Some("Always") {
            if let Some(amount) = amount {
                total = Some(add(total, amount.clone()));
                sidecars = Some(add(sidecars, amount));
            }
            initialising = larger(initialising, sidecars.clone());
        } else if let Some(amount) = amount {
            initialising = larger(initialising, Some(add(sidecars.clone(), amount)));
        }
    }
    larger(total, initialising)
}

fn add(sum: Option<Quantity>, amount: Quantity) -> Quantity {
    match sum {
        Some(sum) => sum + amount,
        None => amount,
    }
}

fn larger(a: Option<Quantity>, b: Option<Quantity>) -> Option<Quantity> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b > a { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &Map<String, Value>) -> &'static str {
    let mut all: Vec<&Value> = Vec::new();
    if let Some(resources) = spec.get("resources").filter(|resources| {
        ["requests", "limits"]
            .iter()
            .any(|field| resources.get(field).and_then(Value::as_object).is_some_and(|map| !map.is_empty()))
    }) {
        all.push(resources);
    } else {
        for list in ["containers", "initContainers"] {
            let containers = spec.get(list).and_then(Value::as_array).into_iter().flatten();
            all.extend(containers.map(|container| walk(container, "resources")));
        }
    }
    let amount = |resources: &Value, field: &str, name: &str| {
        let text = resources.get(field)?.get(name)?.as_str()?;
        text.parse::<Quantity>().ok().filter(|quantity| quantity.milli_value() > 0)
    };
    let mut guaranteed = !all.is_empty();
    let mut any = false;
    for resources in all {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(resources, "requests", name), amount(resources, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (guaranteed, any) {
        (true, _) => "Guaranteed",
        (false, true) => "Burstable",
        (false, false) => "BestEffort",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sums_follow_the_scheduler() {
        #[track_caller]
        fn check(spec: Value, expected: Option<&str>) {
            let sum = pod_request(spec.as_object().expect("an object"), "cpu").map(|sum| sum.to_string());
            assert_eq!(sum.as_deref(), expected);
        }
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        check(json!({"containers": [{}]}), None);
        check(json!({"containers": [c("100m"), c("200m")]}), Some("300m"));
        check(json!({"containers": [c("100m")], "initContainers": [c("1"), c("500m")]}), Some("1"));
        check(json!({"containers": [c("100m")], "initContainers": [sidecar("1"), c("500m")]}), Some("1500m"));
        check(json!({"containers": [c("1")], "initContainers": [c("500m"), sidecar("1")]}), Some("2"));
    }

    #[test]
    fn quality_of_service() {
        #[track_caller]
        fn check(resources: Value, expected: &str) {
            let spec = json!({"containers": [{"resources": resources}]});
            assert_eq!(qos_class(spec.as_object().expect("an object")), expected);
        }
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        );
        check(json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}), "Burstable");
        check(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}), "Burstable");
    }
}
