//! What one object uses of the resources that quotas count.

use api::quantity::Quantity;
use serde_json::{Map, Value};

use super::Amounts;
use crate::kinds::{Kind, registry, resources};

pub fn of(kind: &Kind, object: &Value) -> Amounts {
    let mut amounts = Amounts::new();
    let one = || Quantity::from_value(1);
    let count = if kind.group.is_empty() {
        format!("count/{}", kind.plural)
    } else {
        format!("count/{}.{}", kind.plural, kind.group)
    };
    amounts.insert(count, one());
    if !kind.group.is_empty() {
        return amounts;
    }
    match kind.plural {
        "pods" => pod(object, &mut amounts),
        "services" => service(object, &mut amounts),
        "persistentvolumeclaims" => claim(object, &mut amounts),
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            amounts.insert(kind.plural.to_owned(), one());
        }
        _ => {}
    }
    amounts
}

/// The kinds that a quota over these resources counts.
pub fn kinds(hard: &Amounts) -> Vec<&'static Kind> {
    let mut found: Vec<&'static Kind> = Vec::new();
    for resource in hard.keys() {
        let (plural, group) = match resource.strip_prefix("count/") {
            Some(counted) => counted.split_once('.').unwrap_or((counted, "")),
            None if resource.starts_with("services") => ("services", ""),
            None if resource.ends_with("persistentvolumeclaims") || resource.ends_with("requests.storage") => {
                ("persistentvolumeclaims", "")
            }
            None => match resource.as_str() {
                "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => (resource.as_str(), ""),
                _ => ("pods", ""),
            },
        };
        let kind = registry::REGISTRY.iter().copied().find(|kind| kind.plural == plural && kind.group == group);
        if let Some(kind) = kind.filter(|kind| !found.iter().any(|own| std::ptr::eq(*own, *kind))) {
            found.push(kind);
        }
    }
    found
}

fn pod(pod: &Value, amounts: &mut Amounts) {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if ended {
        return;
    }
    amounts.insert("pods".into(), Quantity::from_value(1));
    let Some(spec) = pod["spec"].as_object() else { return };
    for (field, prefix) in [("requests", "requests."), ("limits", "limits.")] {
        for name in named(spec, field) {
            let Some(mut total) = resources::pod_total(spec, field, &name) else { continue };
            if let Some(overhead) = pod["spec"]["overhead"][&name].as_str().and_then(|text| text.parse().ok()) {
                total = total + overhead;
            }
            // Requests of the classic resources go by their bare name, too.
            let classic =
                matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            if field == "requests" && classic {
                amounts.insert(name.clone(), total.clone());
            }
            if field == "requests" || classic {
                amounts.insert(format!("{prefix}{name}"), total);
            }
        }
    }
}

fn named(spec: &Map<String, Value>, field: &str) -> Vec<String> {
    let mut names: Vec<String> = containers(spec)
        .filter_map(|container| container["resources"][field].as_object())
        .flat_map(|map| map.keys().cloned())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn containers(spec: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| spec.get(list).and_then(Value::as_array).into_iter().flatten())
}

fn service(service: &Value, amounts: &mut Amounts) {
    let spec = &service["spec"];
    let ports = i64::try_from(spec["ports"].as_array().map_or(0, Vec::len)).unwrap_or(0);
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports, 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            let given = spec["ports"].as_array().into_iter().flatten().filter(|port| port["nodePort"].is_i64());
            (i64::try_from(given.count()).unwrap_or(0), 1)
        }
        Some("LoadBalancer") => (ports, 1),
        _ => (0, 0),
    };
    amounts.insert("services".into(), Quantity::from_value(1));
    amounts.insert("services.nodeports".into(), Quantity::from_value(node_ports));
    amounts.insert("services.loadbalancers".into(), Quantity::from_value(balancers));
}

fn claim(claim: &Value, amounts: &mut Amounts) {
    amounts.insert("persistentvolumeclaims".into(), Quantity::from_value(1));
    let storage =
        claim["spec"]["resources"]["requests"]["storage"].as_str().and_then(|text| text.parse::<Quantity>().ok());
    if let Some(storage) = &storage {
        amounts.insert("requests.storage".into(), storage.clone());
    }
    if let Some(class) = claim["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty()) {
        let prefix = format!("{class}.storageclass.storage.k8s.io/");
        amounts.insert(format!("{prefix}persistentvolumeclaims"), Quantity::from_value(1));
        if let Some(storage) = storage {
            amounts.insert(format!("{prefix}requests.storage"), storage);
        }
    }
}

/// Whether a quota's scopes cover the object. Scopes are about pods alone.
pub fn in_scope(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let plain =
        quota["spec"]["scopes"].as_array().into_iter().flatten().map(|scope| (scope.as_str().unwrap_or(""), None));
    let selected = quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let selected = selected.map(|expression| (expression["scopeName"].as_str().unwrap_or(""), Some(expression)));
    let mut all = plain.chain(selected).peekable();
    if all.peek().is_some() && !(kind.group.is_empty() && kind.plural == "pods") {
        return false;
    }
    all.all(|(scope, expression)| matches_scope(scope, expression, object))
}

fn matches_scope(scope: &str, expression: Option<&Value>, pod: &Value) -> bool {
    let spec = &pod["spec"];
    let best_effort = || spec.as_object().is_some_and(|spec| resources::qos_class(spec) == "BestEffort");
    let terminating = spec["activeDeadlineSeconds"].is_i64();
    match scope {
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().unwrap_or("");
            let Some(expression) = expression else { return !class.is_empty() };
            let listed = || expression["values"].as_array().into_iter().flatten().any(|value| value == class);
            match expression["operator"].as_str() {
                Some("In") => listed(),
                Some("NotIn") => !listed(),
                Some("Exists") => !class.is_empty(),
                Some("DoesNotExist") => class.is_empty(),
                _ => false,
            }
        }
        "CrossNamespacePodAffinity" => {
            ["podAffinity", "podAntiAffinity"].iter().any(|field| crosses(&spec["affinity"][*field]))
        }
        _ => false,
    }
}

fn crosses(affinity: &Value) -> bool {
    let terms = |field: &str| affinity[field].as_array().into_iter().flatten();
    terms("requiredDuringSchedulingIgnoredDuringExecution")
        .chain(terms("preferredDuringSchedulingIgnoredDuringExecution").map(|weighted| &weighted["podAffinityTerm"]))
        .any(|term| {
            !term["namespaceSelector"].is_null() || term["namespaces"].as_array().is_some_and(|list| !list.is_empty())
        })
}

/// Where a quota limits compute, each container must say what it wants: `requests.cpu for: a,b`.
pub fn unspecified(pod: &Value, hard: &Amounts) -> Vec<String> {
    let Some(spec) = pod["spec"].as_object() else { return Vec::new() };
    hard.keys()
        .filter_map(|resource| {
            let (field, name) = match resource.as_str() {
                "cpu" | "memory" => ("requests", resource.as_str()),
                other => match other.split_once('.') {
                    Some(("requests", name @ ("cpu" | "memory"))) => ("requests", name),
                    Some(("limits", name @ ("cpu" | "memory"))) => ("limits", name),
                    _ => return None,
                },
            };
            let lacking: Vec<&str> = containers(spec)
                .filter(|container| container["resources"][field].get(name).is_none())
                .map(|container| container["name"].as_str().unwrap_or(""))
                .collect();
            if lacking.is_empty() { None } else { Some(format!("{resource} for: {}", lacking.join(","))) }
        })
        .collect()
}
