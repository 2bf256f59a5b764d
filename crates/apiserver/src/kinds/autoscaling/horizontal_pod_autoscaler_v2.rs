//! Scales by metrics.
//!
//! v2 is the storage version: it holds what v1 can say, and v1 tunnels the rest through annotations.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::cursor::walk;
use crate::kinds::edit::{Object, default, default_text, inside, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{Column, Cursor, Kind, NAMESPACED, Problems, checks};

pub static KIND: Kind = Kind {
    version: "v2",
    definition: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    defaults: default_autoscaler,
    validate,
    validate_status_update,
    ..COMMON
};

/// What both versions share.
pub const COMMON: Kind = Kind {
    group: "autoscaling",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    storage: "horizontalpodautoscalers",
    subresources: &[STATUS],
    prepare_create: |object| object["status"] = json!({"desiredReplicas": 0, "currentMetrics": null}),
    prepare_update: crate::kinds::lifecycle::keep_status,
    columns: COLUMNS,
    cells,
    ..NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    text("Reference", "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec#scaleTargetRef"),
    text("Targets", "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec#metrics"),
    text("MinPods", "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec#minReplicas"),
    text("MaxPods", "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec#maxReplicas"),
    text("Replicas", "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus#currentReplicas"),
    AGE,
];

const CPU_PERCENT: i64 = 80;

fn default_autoscaler(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    default(spec, "minReplicas", 1);
    if spec.get("metrics").and_then(Value::as_array).is_none_or(|list| list.is_empty()) {
        let target = json!({"type": "Utilization", "averageUtilization": CPU_PERCENT});
        spec.insert("metrics".into(), json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    inside(spec, "behavior", |behavior| {
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        inside(behavior, "scaleUp", |rules| {
            default(rules, "stabilizationWindowSeconds", 0);
            default_rules(rules, json!([pods, percent]));
        });
        inside(behavior, "scaleDown", |rules| default_rules(rules, json!([percent])));
    });
}

fn default_rules(rules: &mut Object, policies: Value) {
    default_text(rules, "selectPolicy", "Max");
    default(rules, "policies", policies);
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let (min, max) = (spec.at("minReplicas"), spec.at("maxReplicas"));
    if min.exists() && min.int() < 1 {
        problems.invalid_plain(&min, min.int(), "must be greater than or equal to 1");
    }
    if max.int() < 1 {
        problems.invalid_plain(&max, max.int(), checks::NOT_POSITIVE);
    }
    if min.exists() && max.int() < min.int() {
        problems.invalid_plain(&max, max.int(), "must be greater than or equal to `minReplicas`");
    }
    validate_reference(&spec.at("scaleTargetRef"), problems);
    for metric in spec.at("metrics").items() {
        validate_metric(&metric, problems);
    }
    for (direction, window) in [("scaleUp", 3600), ("scaleDown", 3600)] {
        let rules = spec.at("behavior");
        let rules = rules.at(direction);
        if rules.exists() {
            validate_rules(&rules, window, problems);
        }
    }
}

const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

fn validate_metric(metric: &Cursor, problems: &mut Problems) {
    let kind = metric.at("type");
    if kind.is_empty() {
        return problems.required(&kind, "must specify a metric source type");
    }
    let Some((_, field)) = SOURCES.iter().find(|(name, _)| *name == kind.str()) else {
        let names: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
        return problems.not_supported(&kind, &names);
    };
    for (name, other) in SOURCES {
        let at = metric.at(other);
        if name != &kind.str() && at.exists() {
            problems.forbidden(&at, "must populate the given metric source only");
        }
    }
    let source = metric.at(field);
    if !source.exists() {
        return problems.required(&source, "must populate information for the given metric source");
    }
    let target = source.at("target");
    let (value, average, utilization) =
        (target.at("value"), target.at("averageValue"), target.at("averageUtilization"));
    match *field {
        "resource" | "containerResource" => {
            required_name(&source.at("name"), "must specify a resource name", problems);
            if *field == "containerResource" {
                required_name(&source.at("container"), "must specify a container", problems);
            }
        }
        _ => {
            if *field == "object" {
                validate_reference(&source.at("describedObject"), problems);
            }
            let name = source.at("metric.name");
            if name.is_empty() {
                problems.required(&name, "must specify a metric name");
            } else {
                problems.invalid_each(&name, checks::path_segment_name(name.str()));
            }
        }
    }
    validate_target(&target, problems);
    match *field {
        "resource" | "containerResource" => {
            if !utilization.exists() && !average.exists() {
                problems
                    .required(&utilization, "must set either a target raw value or a target utilization");
            } else if utilization.exists() && average.exists() {
                problems.forbidden(&average, "may not set both a target raw value and a target utilization");
            }
        }
        "pods" => {
            if !average.exists() {
                problems.required(&average, "must specify a positive target averageValue");
            }
        }
        _ => {
            if !value.exists() && !average.exists() {
                problems.required(&average, "must set either a target value for metric or a per-pod target");
            } else if *field == "external" && value.exists() && average.exists() {
                problems.forbidden(&value, "may not set both a target value for metric and a per-pod target");
            }
        }
    }
}

fn required_name(name: &Cursor, sentence: &str, problems: &mut Problems) {
    if name.is_empty() {
        problems.required(name, sentence);
    }
}

/// A thing by kind and name.
fn validate_reference(target: &Cursor, problems: &mut Problems) {
    for field in ["kind", "name"] {
        let at = target.at(field);
        if at.is_empty() {
            problems.required(&at, "");
        } else {
            problems.invalid_each(&at, checks::path_segment_name(at.str()));
        }
    }
}

fn validate_target(target: &Cursor, problems: &mut Problems) {
    let kind = target.at("type");
    match kind.str() {
        "" => {
            problems.required(&kind, "must specify a metric target type");
            problems.invalid_str(&kind, "", "must be either Utilization, Value, or AverageValue");
        }
        "Utilization" | "Value" | "AverageValue" => {}
        _ => problems.invalid(&kind, "must be either Utilization, Value, or AverageValue"),
    }
    for field in ["value", "averageValue"] {
        let at = target.at(field);
        if checks::quantity(at.value).is_some_and(|quantity| quantity.sign() <= 0) {
            problems.invalid(&at, "must be positive");
        }
    }
    let utilization = target.at("averageUtilization");
    if utilization.exists() && utilization.int() < 1 {
        problems.invalid(&utilization, checks::NOT_POSITIVE);
    }
}

fn validate_rules(rules: &Cursor, window_max: i64, problems: &mut Problems) {
    let window = rules.at("stabilizationWindowSeconds");
    if window.int() < 0 {
        problems.invalid(&window, "must be greater than or equal to zero");
    }
    if window.int() > window_max {
        problems.invalid(&window, &format!("must be less than or equal to {window_max}"));
    }
    checks::optional_one_of(&rules.at("selectPolicy"), &["Disabled", "Max", "Min"], problems);
    let policies = rules.at("policies");
    if policies.is_empty() {
        problems.required(&policies, "must specify at least one Policy");
    }
    for policy in policies.items() {
        checks::one_of(&policy.at("type"), &["Percent", "Pods"], problems);
        let (value, period) = (policy.at("value"), policy.at("periodSeconds"));
        if value.int() <= 0 {
            problems.invalid_plain(&value, value.int(), "must be greater than zero");
        }
        if period.int() <= 0 {
            problems.invalid_plain(&period, period.int(), "must be greater than zero");
        }
        if period.int() > 1800 {
            problems.invalid_plain(&period, period.int(), "must be less than or equal to 1800");
        }
    }
}

fn validate_status_update(new: &Value, _old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    for field in ["status.currentReplicas", "status.desiredReplicas"] {
        checks::non_negative(&root.at(field), problems);
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let string = |path: &str| walk(object, path).as_str().unwrap_or("");
    vec![
        printing::name(object),
        format!("{}/{}", string("spec.scaleTargetRef.kind"), string("spec.scaleTargetRef.name")).into(),
        targets(object).into(),
        walk(object, "spec.minReplicas").as_i64().map_or("<unset>".into(), |count| count.to_string().into()),
        printing::int_at(object, "spec.maxReplicas"),
        printing::int_at(object, "status.currentReplicas"),
        printing::age(object, now),
    ]
}

const SHOWN: usize = 2;

fn targets(object: &Value) -> String {
    let list = |path: &str| walk(object, path).as_array().map_or(&[][..], Vec::as_slice);
    let (specs, statuses) = (list("spec.metrics"), list("status.currentMetrics"));
    if specs.is_empty() {
        return "<none>".into();
    }
    let all: Vec<String> = specs
        .iter()
        .enumerate()
        .map(|(index, spec)| target(spec, statuses.get(index).unwrap_or(&Value::Null)))
        .collect();
    let shown = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{shown} + {} more...", all.len() - SHOWN) } else { shown }
}

fn target(spec: &Value, status: &Value) -> String {
    let kind = walk(spec, "type").as_str().unwrap_or("");
    let Some((_, field)) = SOURCES.iter().find(|(name, _)| *name == kind) else { return "<unknown type>".into() };
    let (source, current) = (walk(spec, field), walk(walk(status, field), "current"));
    let wanted = walk(source, "target");
    let text = |value: &Value, field: &str| walk(value, field).as_str().map(str::to_owned);
    let percent = |value: &Value| walk(value, "averageUtilization").as_i64().map(|percent| format!("{percent}%"));
    let unknown = || "<unknown>".to_owned();
    match *field {
        "resource" | "containerResource" => {
            let name = walk(source, "name").as_str().unwrap_or("");
            match text(wanted, "averageValue") {
                Some(wanted) => format!("{name}: {}/{wanted}", text(current, "averageValue").unwrap_or_else(unknown)),
                None => format!(
                    "{name}: {}/{}",
                    percent(current).unwrap_or_else(unknown),
                    percent(wanted).unwrap_or_else(|| "<auto>".into())
                ),
            }
        }
        "pods" => format!(
            "{}/{}",
            text(current, "averageValue").unwrap_or_else(unknown),
            text(wanted, "averageValue").unwrap_or_default()
        ),
        _ => match text(wanted, "averageValue") {
            Some(wanted) => format!("{}/{wanted} (avg)", text(current, "averageValue").unwrap_or_else(unknown)),
            None => format!(
                "{}/{}",
                text(current, "value").unwrap_or_else(unknown),
                text(wanted, "value").unwrap_or_default()
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaulted, check_row};

    fn autoscaler(max: i64) -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": max,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}})
    }

    #[test]
    fn problems() {
        check_defaulted(&KIND, autoscaler(3), "");
        check_defaulted(
            &KIND,
            autoscaler(0),
            "spec.maxReplicas: Invalid value: 0: must be greater than 0\n\
             spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
        );
    }

    #[test]
    fn metrics() {
        let with = |metric: Value| {
            let mut object = autoscaler(3);
            object["spec"]["metrics"] = json!([metric]);
            object
        };
        let pods = |target: Value| with(json!({"type": "Pods", "pods": {"metric": {"name": "rate"}, "target": target}}));
        check_defaulted(&KIND, pods(json!({"type": "AverageValue", "averageValue": "10"})), "");
        check_defaulted(
            &KIND,
            pods(json!({"type": "Odd", "averageValue": "0"})),
            "spec.metrics[0].pods.target.type: Invalid value: \"Odd\": must be either Utilization, Value, or AverageValue\n\
             spec.metrics[0].pods.target.averageValue: Invalid value: \"0\": must be positive",
        );
        check_defaulted(
            &KIND,
            pods(json!({"type": "Value", "value": "1"})),
            "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
        );
        let external = json!({"metric": {"name": "a/b"}, "target": {"type": "Value", "value": "1", "averageValue": "1"}});
        check_defaulted(
            &KIND,
            with(json!({"type": "External", "external": external})),
            "spec.metrics[0].external.metric.name: Invalid value: \"a/b\": may not contain '/'\n\
             spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
        );
        check_defaulted(
            &KIND,
            with(json!({"type": "Object", "object": {"describedObject": {"kind": "Service", "name": ""}, "metric": {"name": "m"}, "target": {"type": "Value"}}})),
            "spec.metrics[0].object.describedObject.name: Required value\n\
             spec.metrics[0].object.target.averageValue: Required value: must set either a target value for metric or a per-pod target",
        );
    }

    #[test]
    fn rows() {
        let mut object = autoscaler(3);
        default_autoscaler(&mut object);
        check_row(
            &KIND,
            object.clone(),
            "2026-01-01T00:00:00Z",
            "web | Deployment/web | cpu: <unknown>/80% | 1 | 3 | 0 | <unknown>",
        );
        object["status"] = json!({"currentReplicas": 2, "currentMetrics": [{"type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": 35}}}]});
        check_row(&KIND, object, "2026-01-01T00:00:00Z", "web | Deployment/web | cpu: 35%/80% | 1 | 3 | 2 | <unknown>");
    }
}
