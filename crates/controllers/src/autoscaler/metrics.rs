//! Reads metrics from the metrics APIs and turns each spec into replicas and a status.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::percent::encode;
use api::quantity::Quantity;
use api::selector::LabelSelector;
use client::Rest;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
use serde_json::Value;

use super::replicas::{self, PodsMetric, Sample, Samples, Target, Tolerance};
use crate::discovery::Resource;
use crate::failure::error_text;
use crate::owners::group_of;

pub(super) struct Scaled<'a> {
    pub namespace: &'a str,
    /// The target's selector as text, and its pods.
    pub selector: &'a str,
    pub pods: &'a [Arc<Pod>],
    pub current: i32,
    pub tolerance: Tolerance,
    pub kinds: &'a [Resource],
    pub now: Timestamp,
}

pub(super) struct Proposal {
    pub replicas: i32,
    /// As the event names it.
    pub name: String,
    pub status: MetricStatus,
}

/// Why a metric gave no number: reason and sentence.
pub(super) struct Unknown {
    pub reason: &'static str,
    pub text: String,
}

pub(super) async fn propose(rest: &Rest, scaled: &Scaled<'_>, spec: &MetricSpec) -> Result<Proposal, Unknown> {
    match spec.type_.as_str() {
        "Resource" => {
            let source = spec.resource.as_ref().ok_or_else(|| invalid(spec))?;
            resource(rest, scaled, &source.name, None, &source.target).await.map_err(|text| Unknown {
                reason: "FailedGetResourceMetric",
                text: format!("failed to get {} {}: {text}", source.name, kind_of_target(&source.target)),
            })
        }
        "ContainerResource" => {
            let source = spec.container_resource.as_ref().ok_or_else(|| invalid(spec))?;
            resource(rest, scaled, &source.name, Some(&source.container), &source.target).await.map_err(|text| Unknown {
                reason: "FailedGetContainerResourceMetric",
                text: format!("failed to get {} container metric value: {text}", source.name),
            })
        }
        "Pods" => pods_metric(rest, scaled, spec).await.map_err(|text| Unknown {
            reason: "FailedGetPodsMetric",
            text: format!("failed to get pods metric value: {text}"),
        }),
        "Object" => object(rest, scaled, spec).await.map_err(|text| Unknown {
            reason: "FailedGetObjectMetric",
            text: format!("failed to get object metric value: {text}"),
        }),
        "External" => external(rest, scaled, spec).await.map_err(|text| Unknown {
            reason: "FailedGetExternalMetric",
            text: format!("failed to get external metric value: {text}"),
        }),
        _ => Err(invalid(spec)),
    }
}

fn invalid(spec: &MetricSpec) -> Unknown {
    Unknown { reason: "InvalidMetricSourceType", text: format!("unknown metric source type \"{}\"", spec.type_) }
}

fn kind_of_target(target: &MetricTarget) -> &'static str {
    if target.average_utilization.is_some() { "utilization" } else { "usage" }
}

async fn resource(rest: &Rest, scaled: &Scaled<'_>, name: &str, container: Option<&str>, target: &MetricTarget) -> Result<Proposal, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods?labelSelector={}", scaled.namespace, encode(scaled.selector));
    let listed: Value = rest
        .get_at(path)
        .await
        .map_err(|error| format!("unable to get metrics for resource {name}: unable to fetch metrics from resource metrics API: {}", error_text(&error)))?;
    let samples = resource_samples(&listed, name, container);
    if samples.is_empty() {
        return Err(format!("unable to get metrics for resource {name}: no metrics returned from resource metrics API"));
    }
    let (aim, requests) = match (target.average_utilization, &target.average_value) {
        (Some(percent), _) => (Target::Utilization(percent), requests(scaled.pods, name, container)?),
        (None, Some(value)) => (Target::Average(milli(value)), BTreeMap::new()),
        (None, None) => return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into()),
    };
    let metric = PodsMetric { pods: scaled.pods, samples: &samples, requests: &requests, target: aim, is_cpu: name == "cpu" };
    let outcome = replicas::by_pods(scaled.current, &metric, scaled.tolerance, scaled.now)?;
    let current = MetricValueStatus {
        average_utilization: outcome.utilization,
        average_value: Some(quantity(outcome.average)),
        value: None,
    };
    let of = if container.is_some() { "container resource" } else { "resource" };
    let what = if outcome.utilization.is_some() { " utilization (percentage of request)" } else { "" };
    let mut status = MetricStatus::default();
    match container {
        None => {
            status.type_ = "Resource".into();
            status.resource = Some(ResourceMetricStatus { name: name.into(), current });
        }
        Some(container) => {
            status.type_ = "ContainerResource".into();
            status.container_resource = Some(ContainerResourceMetricStatus { container: container.into(), name: name.into(), current });
        }
    }
    Ok(Proposal { replicas: outcome.replicas, name: format!("{name} {of}{what}"), status })
}

fn resource_samples(listed: &Value, name: &str, container: Option<&str>) -> Samples {
    let mut samples = Samples::new();
    for item in listed["items"].as_array().into_iter().flatten() {
        let containers = item["containers"].as_array().into_iter().flatten();
        let counted = containers.filter(|known| container.is_none_or(|container| known["name"] == container));
        // A pod counts only when all its containers are known.
        let usage: Option<Vec<i64>> = counted.map(|known| Some(Quantity::parse(known["usage"][name].as_str()?).ok()?.milli_value())).collect();
        let Some(usage) = usage.filter(|usage| !usage.is_empty()) else { continue };
        samples.insert(item["metadata"]["name"].as_str().unwrap_or_default().to_owned(), Sample { value: usage.iter().sum(), ..timing(item) });
    }
    samples
}

fn timing(item: &Value) -> Sample {
    let at = item["timestamp"].as_str().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    let window = item["window"].as_str().and_then(|text| text.trim_end_matches('s').parse::<f64>().ok());
    let seconds = item["windowSeconds"].as_f64().or(window).unwrap_or(60.0);
    Sample { value: 0, at, window_seconds: seconds as i64 }
}

fn requests(pods: &[Arc<Pod>], name: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let pod_name = pod.metadata.name.clone().unwrap_or_default();
        let Some(spec) = &pod.spec else { continue };
        let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let mut total = 0;
        for known in spec.containers.iter().chain(sidecars).filter(|known| container.is_none_or(|container| known.name == container)) {
            let request = known.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get(name));
            let Some(request) = request else {
                return Err(format!("missing request for {name} in container {} of Pod {pod_name}", known.name));
            };
            total += milli(request);
        }
        requests.insert(pod_name, total);
    }
    Ok(requests)
}

async fn pods_metric(rest: &Rest, scaled: &Scaled<'_>, spec: &MetricSpec) -> Result<Proposal, String> {
    let source = spec.pods.as_ref().ok_or("no pods metric source")?;
    let metric = &source.metric.name;
    let listed = custom(rest, scaled, &format!("pods/*/{metric}"), &format!("labelSelector={}", encode(scaled.selector)), &source.metric).await?;
    let mut samples = Samples::new();
    for item in listed["items"].as_array().into_iter().flatten() {
        let Some(value) = item["value"].as_str().and_then(|text| Quantity::parse(text).ok()) else { continue };
        let name = item["describedObject"]["name"].as_str().unwrap_or_default().to_owned();
        samples.insert(name, Sample { value: value.milli_value(), ..timing(item) });
    }
    let target = source.target.average_value.as_ref().map(milli).ok_or("no average value target was set")?;
    let aim = Target::Average(target);
    let asked = PodsMetric { pods: scaled.pods, samples: &samples, requests: &BTreeMap::new(), target: aim, is_cpu: false };
    let outcome = replicas::by_pods(scaled.current, &asked, scaled.tolerance, scaled.now)?;
    let current = MetricValueStatus { average_value: Some(quantity(outcome.average)), ..MetricValueStatus::default() };
    let status = MetricStatus {
        type_: "Pods".into(),
        pods: Some(PodsMetricStatus { current, metric: source.metric.clone() }),
        ..MetricStatus::default()
    };
    Ok(Proposal { replicas: outcome.replicas, name: format!("pods metric {metric}"), status })
}

async fn object(rest: &Rest, scaled: &Scaled<'_>, spec: &MetricSpec) -> Result<Proposal, String> {
    let source = spec.object.as_ref().ok_or("no object metric source")?;
    let described = &source.described_object;
    let group = group_of(described.api_version.as_deref().unwrap_or_default());
    let resource = scaled.kinds.iter().find(|resource| resource.group == group && resource.kind == described.kind);
    let resource = resource.ok_or_else(|| format!("no matches for kind \"{}\" in group \"{group}\"", described.kind))?;
    let path = format!("{}/{}/{}", resource.group_resource(), described.name, source.metric.name);
    let listed = custom(rest, scaled, &path, "", &source.metric).await?;
    let value = listed["items"][0]["value"].as_str().and_then(|text| Quantity::parse(text).ok());
    let value = value.ok_or("no metrics returned from custom metrics API")?.milli_value();
    let (replicas, current) = whole(scaled, value, &source.target)?;
    let status = MetricStatus {
        type_: "Object".into(),
        object: Some(ObjectMetricStatus { current, described_object: described.clone(), metric: source.metric.clone() }),
        ..MetricStatus::default()
    };
    Ok(Proposal { replicas, name: format!("{} metric {}", described.kind, source.metric.name), status })
}

async fn external(rest: &Rest, scaled: &Scaled<'_>, spec: &MetricSpec) -> Result<Proposal, String> {
    let source = spec.external.as_ref().ok_or("no external metric source")?;
    let metric = &source.metric;
    let selector = metric_selector(metric);
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}?labelSelector={}", scaled.namespace, metric.name, encode(&selector));
    let listed: Value = rest
        .get_at(path)
        .await
        .map_err(|error| format!("unable to get external metric {}/{}: {}", scaled.namespace, metric.name, error_text(&error)))?;
    let values = listed["items"].as_array().into_iter().flatten();
    let values: Vec<i64> = values.filter_map(|item| Some(Quantity::parse(item["value"].as_str()?).ok()?.milli_value())).collect();
    if values.is_empty() {
        return Err(format!("unable to get external metric {}/{}: no metrics returned from external metrics API", scaled.namespace, metric.name));
    }
    let (replicas, current) = whole(scaled, values.iter().sum(), &source.target)?;
    let status = MetricStatus {
        type_: "External".into(),
        external: Some(ExternalMetricStatus { current, metric: metric.clone() }),
        ..MetricStatus::default()
    };
    Ok(Proposal { replicas, name: format!("external metric {}({selector})", metric.name), status })
}

/// A number for the whole target, met as such or shared by the pods.
fn whole(scaled: &Scaled<'_>, value: i64, target: &MetricTarget) -> Result<(i32, MetricValueStatus), String> {
    if let Some(aim) = &target.value {
        let ready = replicas::ready_count(scaled.pods);
        let replicas = replicas::by_value(scaled.current, ready, value, milli(aim), scaled.tolerance);
        return Ok((replicas, MetricValueStatus { value: Some(quantity(value)), ..MetricValueStatus::default() }));
    }
    let aim = target.average_value.as_ref().ok_or("neither a value target nor an average value target was set")?;
    let replicas = replicas::by_average(scaled.current, value, milli(aim), scaled.tolerance);
    let average = if scaled.current > 0 { (value as f64 / f64::from(scaled.current)).ceil() as i64 } else { value };
    Ok((replicas, MetricValueStatus { average_value: Some(quantity(average)), ..MetricValueStatus::default() }))
}

async fn custom(rest: &Rest, scaled: &Scaled<'_>, path: &str, query: &str, metric: &MetricIdentifier) -> Result<Value, String> {
    let selector = metric_selector(metric);
    let mut query = query.to_owned();
    if !selector.is_empty() {
        query.push_str(&format!("&metricLabelSelector={}", encode(&selector)));
    }
    let path = format!("/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/{path}?{query}", scaled.namespace);
    let failed = |error: kube::Error| format!("unable to get metric {}: unable to fetch metrics from custom metrics API: {}", metric.name, error_text(&error));
    rest.get_at(path).await.map_err(failed)
}

fn metric_selector(metric: &MetricIdentifier) -> String {
    let selector = metric.selector.as_ref().and_then(|selector| LabelSelector::from_typed(selector).ok());
    selector.map(|selector| selector.to_string()).unwrap_or_default()
}

fn milli(quantity: &QuantityText) -> i64 {
    Quantity::parse(&quantity.0).map_or(0, |quantity| quantity.milli_value())
}

fn quantity(milli: i64) -> QuantityText {
    QuantityText(Quantity::from_milli(milli).to_string())
}
