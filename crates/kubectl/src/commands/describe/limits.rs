//! What bounds others: quotas, limit ranges, budgets, priorities, autoscalers

use serde_json::Value;

use super::{head, labels_and_annotations, rfc1123, selector_text};
use crate::value::{flag, int, list, map, name, name_of, pairs, plain, text};

/// Used and hard limits, one resource a line.
fn usage(quota: &Value, indent: &str) -> String {
    let mut out = String::new();
    for (resource, hard) in map(quota, "/status/hard") {
        let used = quota.pointer("/status/used").and_then(|used| used.get(resource)).map_or_else(|| "0".to_owned(), plain);
        out += &format!("{indent}{resource}\t{used}\t{}\n", plain(hard));
    }
    out
}

fn scopes(quota: &Value, indent: &str, bullet: &str) -> String {
    let mut all: Vec<&str> = list(quota, "/spec/scopes").iter().filter_map(Value::as_str).collect();
    if all.is_empty() {
        return String::new();
    }
    all.sort_unstable();
    let mut out = format!("{indent}Scopes:\t{}\n", all.join(", "));
    for scope in all {
        let meaning = match scope {
            "Terminating" => "Matches all pods that have an active deadline. These pods have a limited lifespan on a node before being actively terminated by the system.",
            "NotTerminating" => "Matches all pods that do not have an active deadline. These pods usually include long running pods whose container command is not expected to terminate.",
            "BestEffort" => "Matches all pods that do not have resource requirements set. These pods have a best effort quality of service.",
            "NotBestEffort" => "Matches all pods that have at least one resource requirement set. These pods have a burstable or guaranteed quality of service.",
            _ => continue,
        };
        out += &format!("{indent}{bullet}{meaning}\n");
    }
    out
}

pub fn quota(object: &Value) -> String {
    head(object) + &scopes(object, "", " * ") + "Resource\tUsed\tHard\n--------\t----\t----\n" + &usage(object, "")
}

/// All quotas of a namespace.
pub fn quotas(found: &[Value]) -> String {
    if found.is_empty() {
        return "No resource quota.\n".to_owned();
    }
    let mut out = "Resource Quotas\n".to_owned();
    for quota in found {
        out += &format!("  Name:\t{}\n{}  Resource\tUsed\tHard\n  --------\t---\t---\n{}", name(quota), scopes(quota, "  ", "* "), usage(quota, "  "));
    }
    out
}

const RANGE_HEADER: &str = "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio\n";
const RANGE_RULER: &str = "----\t--------\t---\t---\t---------------\t-------------\t-----------------------\n";

fn range_lines(range: &Value, indent: &str) -> String {
    const FIELDS: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
    let mut out = String::new();
    for limit in list(range, "/spec/limits") {
        let mut resources: Vec<&str> = FIELDS.iter().flat_map(|field| limit.get(field).and_then(Value::as_object)).flat_map(|found| found.keys().map(String::as_str)).collect();
        resources.sort_unstable();
        resources.dedup();
        for resource in resources {
            let cells: Vec<String> = FIELDS.iter().map(|field| limit.get(field).and_then(|found| found.get(resource)).map_or_else(|| "-".to_owned(), plain)).collect();
            out += &format!("{indent}{}\t{resource}\t{}\n", text(limit, "/type"), cells.join("\t"));
        }
    }
    out
}

pub fn limit_range(object: &Value) -> String {
    head(object) + RANGE_HEADER + RANGE_RULER + &range_lines(object, "")
}

/// All limit ranges of a namespace.
pub fn limit_ranges(found: &[Value]) -> String {
    if found.is_empty() {
        return "No LimitRange resource.\n".to_owned();
    }
    let lines: String = found.iter().map(|range| range_lines(range, " ")).collect();
    format!("Resource Limits\n {RANGE_HEADER} {RANGE_RULER}{lines}")
}

pub fn disruption_budget(object: &Value) -> String {
    let mut out = head(object);
    if let Some(least) = object.pointer("/spec/minAvailable") {
        out += &format!("Min available:\t{}\n", plain(least));
    } else if let Some(most) = object.pointer("/spec/maxUnavailable") {
        out += &format!("Max unavailable:\t{}\n", plain(most));
    }
    let selector = match object.pointer("/spec/selector") {
        Some(selector) => selector_text(selector),
        None => "<unset>".to_owned(),
    };
    let count = |field: &str| int(object, &format!("/status/{field}"));
    out + &format!(
        "Selector:\t{selector}\nStatus:\n    Allowed disruptions:\t{}\n    Current:\t{}\n    Desired:\t{}\n    Total:\t{}\n",
        count("disruptionsAllowed"),
        count("currentHealthy"),
        count("desiredHealthy"),
        count("expectedPods")
    )
}

pub fn priority_class(object: &Value) -> String {
    let mut out = format!("Name:\t{}\nValue:\t{}\nGlobalDefault:\t{}\n", name(object), int(object, "/value"), flag(object, "/globalDefault"));
    if !text(object, "/preemptionPolicy").is_empty() {
        out += &format!("PreemptionPolicy:\t{}\n", text(object, "/preemptionPolicy"));
    }
    out + &format!("Description:\t{}\nAnnotations:\t{}\n", text(object, "/description"), pairs(object, "/metadata/annotations", "<none>"))
}

pub fn autoscaler(object: &Value) -> String {
    let mut out = head(object) + &labels_and_annotations(object);
    out += &format!("CreationTimestamp:\t{}\n", rfc1123(text(object, "/metadata/creationTimestamp")));
    let target = |field: &str| text(object, &format!("/spec/scaleTargetRef/{field}"));
    out += &format!("Reference:\t{}/{}\nMetrics:\t( current / target )\n", target("kind"), target("name"));
    for (index, metric) in list(object, "/spec/metrics").iter().enumerate() {
        out += &metric_line(metric, list(object, "/status/currentMetrics").get(index));
    }
    let least = object.pointer("/spec/minReplicas").map_or_else(|| "<unset>".to_owned(), plain);
    out += &format!("Min replicas:\t{least}\nMax replicas:\t{}\n", int(object, "/spec/maxReplicas"));
    if let Some(behavior) = object.pointer("/spec/behavior") {
        out += "Behavior:\n";
        for (title, field) in [("Scale Up", "scaleUp"), ("Scale Down", "scaleDown")] {
            out += &behavior.get(field).map(|rules| direction(title, rules)).unwrap_or_default();
        }
    }
    out += &format!("{} pods:\t{} current / {} desired\n", target("kind"), int(object, "/status/currentReplicas"), int(object, "/status/desiredReplicas"));
    let conditions = list(object, "/status/conditions");
    if !conditions.is_empty() {
        out += "Conditions:\n  Type\tStatus\tReason\tMessage\n  ----\t------\t------\t-------\n";
    }
    for one in conditions {
        out += &format!("  {}\t{}\t{}\t{}\n", text(one, "/type"), text(one, "/status"), text(one, "/reason"), text(one, "/message"));
    }
    out
}

/// `  resource cpu on pods  (as a percentage of request):  10% (1m) / 50%`
fn metric_line(metric: &Value, current: Option<&Value>) -> String {
    let kind = text(metric, "/type");
    let field = match kind {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return format!("  <unknown metric type {kind:?}>\n"),
    };
    let metric = &metric[field];
    let current = current.and_then(|current| current.get(field));
    let quantity = |pointer: &str| current.and_then(|current| current.pointer(&format!("/current/{pointer}"))).map(plain);
    let unknown = || "<unknown>".to_owned();
    let wanted = |pointer: &str| metric.pointer(&format!("/target/{pointer}")).map(plain);
    let title = match kind {
        "Object" => format!("{:?} on {}/{}", text(metric, "/metric/name"), text(metric, "/describedObject/kind"), text(metric, "/describedObject/name")),
        "Resource" => format!("resource {} on pods", name_of(metric)),
        "ContainerResource" => format!("resource {} of container {:?} on pods", name_of(metric), text(metric, "/container")),
        _ => format!("{:?}", text(metric, "/metric/name")),
    };
    match (kind, wanted("averageValue")) {
        ("Resource" | "ContainerResource", Some(target)) => format!("  {title}:\t{} / {target}\n", quantity("averageValue").unwrap_or_else(unknown)),
        ("Resource" | "ContainerResource", None) => {
            let now = quantity("averageUtilization").map(|share| format!("{share}% ({})", quantity("averageValue").unwrap_or_default()));
            let target = wanted("averageUtilization").map_or_else(|| "<auto>".to_owned(), |share| format!("{share}%"));
            format!("  {title}  (as a percentage of request):\t{} / {target}\n", now.unwrap_or_else(unknown))
        }
        ("Pods", target) => format!("  {title} on pods:\t{} / {}\n", quantity("averageValue").unwrap_or_else(unknown), target.unwrap_or_default()),
        (_, Some(target)) => format!("  {title} (target average value):\t{} / {target}\n", quantity("averageValue").unwrap_or_else(unknown)),
        (_, None) => format!("  {title} (target value):\t{} / {}\n", quantity("value").unwrap_or_else(unknown), wanted("value").unwrap_or_default()),
    }
}

fn direction(title: &str, rules: &Value) -> String {
    let mut out = format!("  {title}:\n");
    if let Some(seconds) = rules.get("stabilizationWindowSeconds") {
        out += &format!("    Stabilization Window: {} seconds\n", plain(seconds));
    }
    let policies = list(rules, "/policies");
    if policies.is_empty() {
        return out;
    }
    let select = text(rules, "/selectPolicy");
    out += &format!("    Select Policy: {}\n    Policies:\n", if select.is_empty() { "Max" } else { select });
    for policy in policies {
        out += &format!("      - Type: {}\tValue: {}\tPeriod: {} seconds\n", text(policy, "/type"), int(policy, "/value"), int(policy, "/periodSeconds"));
    }
    out
}
