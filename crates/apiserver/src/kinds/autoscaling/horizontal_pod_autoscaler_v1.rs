//! The CPU-only face of the autoscaler, converted from and to v2.
//!
//! Invariant: what v1 cannot say survives a round trip in annotations.

use serde_json::{Map, Value, json};

use super::horizontal_pod_autoscaler_v2::COMMON;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, inside, make, object as object_at};
use crate::kinds::{Conversion, Kind};

pub static KIND: Kind = Kind {
    version: "v1",
    definition: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    defaults: |object| {
        if let Some(spec) = object_at(object, "spec") {
            default(spec, "minReplicas", 1);
        }
    },
    prepare_create: |object| object["status"] = json!({"currentReplicas": 0, "desiredReplicas": 0}),
    conversion: Some(Conversion { to_storage, from_storage, stored_field: str::to_owned }),
    ..COMMON
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn to_storage(mut object: Value) -> Value {
    let mut tunnelled = |key: &str| -> Value {
        let annotations = object_at(&mut object, "metadata.annotations");
        let text = annotations.and_then(|map| map.remove(key));
        text.and_then(|text| serde_json::from_str(text.as_str()?).ok()).unwrap_or(Value::Null)
    };
    let (metrics, current, conditions, behavior) =
        (tunnelled(METRICS), tunnelled(CURRENT_METRICS), tunnelled(CONDITIONS), tunnelled(BEHAVIOR));
    let Some(map) = object.as_object_mut() else { return object };
    map.insert("apiVersion".into(), "autoscaling/v2".into());
    inside(map, "metadata", |metadata| {
        if metadata.get("annotations").and_then(Value::as_object).is_some_and(Map::is_empty) {
            metadata.remove("annotations");
        }
    });
    inside(map, "spec", |spec| {
        let mut list: Vec<Value> = metrics.as_array().cloned().unwrap_or_default();
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|percent| !percent.is_null()) {
            list.insert(
                0,
                json!({"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}),
            );
        }
        if !list.is_empty() {
            spec.insert("metrics".into(), list.into());
        }
        if behavior.is_object() {
            spec.insert("behavior".into(), behavior);
        }
    });
    inside(map, "status", |status| {
        let mut list: Vec<Value> = current.as_array().cloned().unwrap_or_default();
        if let Some(percent) = status.remove("currentCPUUtilizationPercentage").filter(|percent| !percent.is_null()) {
            list.insert(
                0,
                json!({"type": "Resource", "resource": {
                "name": "cpu", "current": {"averageUtilization": percent}}}),
            );
        }
        status.insert("currentMetrics".into(), if list.is_empty() { Value::Null } else { list.into() });
        if conditions.is_array() {
            status.insert("conditions".into(), conditions);
        }
    });
    object
}

fn from_storage(mut object: Value) -> Value {
    let mut tunnelled: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = object_at(&mut object, "spec") {
        let metrics = spec.remove("metrics").and_then(|list| list.as_array().cloned()).unwrap_or_default();
        let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(|metric| is_cpu(metric, "target"));
        if let Some(percent) = cpu.first().map(|metric| walk(metric, "resource.target.averageUtilization").clone()) {
            spec.insert("targetCPUUtilizationPercentage".into(), percent);
        }
        if !others.is_empty() {
            tunnelled.push((METRICS, others.into()));
        }
        if let Some(behavior) = spec.remove("behavior") {
            tunnelled.push((BEHAVIOR, behavior));
        }
    }
    if let Some(status) = object_at(&mut object, "status") {
        default(status, "currentReplicas", 0);
        let metrics = status.remove("currentMetrics").and_then(|list| list.as_array().cloned()).unwrap_or_default();
        let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(|metric| is_cpu(metric, "current"));
        if let Some(percent) = cpu.first().map(|metric| walk(metric, "resource.current.averageUtilization").clone()) {
            status.insert("currentCPUUtilizationPercentage".into(), percent);
        }
        if !others.is_empty() {
            tunnelled.push((CURRENT_METRICS, others.into()));
        }
        if let Some(conditions) = status.remove("conditions") {
            tunnelled.push((CONDITIONS, conditions));
        }
    }
    let Some(map) = object.as_object_mut() else { return object };
    map.insert("apiVersion".into(), "autoscaling/v1".into());
    if !tunnelled.is_empty() {
        let annotations = make(make(map, "metadata"), "annotations");
        for (key, value) in tunnelled {
            annotations.insert(key.to_owned(), value.to_string().into());
        }
    }
    object
}

fn is_cpu(metric: &Value, field: &str) -> bool {
    let resource = walk(metric, "resource");
    walk(resource, "name").as_str() == Some("cpu") && !walk(walk(resource, field), "averageUtilization").is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
        let v2 = to_storage(v1.clone());
        assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        assert_eq!(from_storage(v2), v1);

        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]}});
        let v1 = from_storage(v2.clone());
        assert!(v1["metadata"]["annotations"][METRICS].is_string());
        assert_eq!(to_storage(v1), v2);
    }
}
