//! Turns each metric of an autoscaler into replicas and a status.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;
use client::Rest;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::replicas::{self, PodsMetric, Target, Tolerance};
use super::resource_of;
use super::sources::Sources;
use crate::failure::go_selector;
use crate::owners::group_of;

pub(super) struct Scaled<'a> {
    pub namespace: &'a str,
    /// The target's selector as text, and its pods.
    pub selector: &'a str,
    pub pods: &'a [Arc<Pod>],
    /// Wanted at present, and there at present.
    pub current: i32,
    pub existing: i32,
    pub tolerance: Tolerance,
    pub now: Timestamp,
}

pub(super) struct Proposal {
    pub replicas: i32,
    /// As the event names it.
    pub name: String,
    pub status: MetricStatus,
}

/// Why a metric gave no number: the reason, the sentence, and the sentence as one of several metrics.
pub(super) struct Unknown {
    pub reason: &'static str,
    pub text: String,
    pub among_others: String,
}

pub(super) async fn propose(rest: &Rest, scaled: &Scaled<'_>, spec: &MetricSpec) -> Result<Proposal, Unknown> {
    let sources = Sources { rest, namespace: scaled.namespace };
    let (reason, what, outcome) = match spec.type_.as_str() {
        "Resource" => {
            let source = spec.resource.as_ref().ok_or_else(|| invalid(spec))?;
            let outcome = resource(&sources, scaled, &source.name, None, &source.target).await;
            ("FailedGetResourceMetric", format!("{} resource metric value", source.name), outcome)
        }
        "ContainerResource" => {
            let source = spec.container_resource.as_ref().ok_or_else(|| invalid(spec))?;
            let outcome = resource(&sources, scaled, &source.name, Some(&source.container), &source.target).await;
            ("FailedGetContainerResourceMetric", format!("{} container metric value", source.container), outcome)
        }
        "Pods" => {
            let source = spec.pods.as_ref().ok_or_else(|| invalid(spec))?;
            ("FailedGetPodsMetric", "pods metric value".to_owned(), pods_metric(&sources, scaled, source).await)
        }
        "Object" => {
            let source = spec.object.as_ref().ok_or_else(|| invalid(spec))?;
            let what = match source.target.value {
                Some(_) => "object metric value".to_owned(),
                None => format!("object metric value: failed to get {} object metric", source.metric.name),
            };
            ("FailedGetObjectMetric", what, object(&sources, scaled, source).await)
        }
        "External" => {
            let source = spec.external.as_ref().ok_or_else(|| invalid(spec))?;
            let name = &source.metric.name;
            let what = format!("{name} external metric value: failed to get {name} external metric");
            ("FailedGetExternalMetric", what, external(&sources, scaled, source).await)
        }
        _ => return Err(invalid(spec)),
    };
    outcome.map_err(|text| Unknown { reason, among_others: format!("failed to get {what}: {text}"), text })
}

fn invalid(spec: &MetricSpec) -> Unknown {
    let text = format!("unknown metric source type \"{}\"", spec.type_);
    Unknown { reason: "InvalidMetricSourceType", among_others: text.clone(), text }
}

async fn resource(sources: &Sources<'_>, scaled: &Scaled<'_>, name: &str, container: Option<&str>, target: &MetricTarget) -> Result<Proposal, String> {
    let aim = match (target.average_utilization, &target.average_value) {
        (_, Some(value)) => Target::Average(milli(value)),
        (Some(percent), None) => Target::Utilization(percent),
        (None, None) => return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into()),
    };
    let kind = if matches!(aim, Target::Average(_)) { "usage" } else { "utilization" };
    let failed = |text: String| format!("failed to get {name} {kind}: {text}");
    let samples = sources.usage(name, container, scaled.selector).await.map_err(failed)?;
    let requests = match aim {
        Target::Utilization(_) => requests(scaled.pods, name, container).map_err(failed)?,
        Target::Average(_) => BTreeMap::new(),
    };
    let metric = PodsMetric { pods: scaled.pods, samples: &samples, requests: &requests, target: aim, is_cpu: name == "cpu" };
    let outcome = replicas::by_pods(scaled.current, &metric, scaled.tolerance, scaled.now).map_err(failed)?;
    let current = MetricValueStatus {
        average_utilization: outcome.utilization,
        average_value: Some(quantity(outcome.average)),
        value: None,
    };
    let described = match (aim, container) {
        (Target::Average(_), _) => format!("{name} resource"),
        (Target::Utilization(_), None) => format!("{name} resource utilization (percentage of request)"),
        (Target::Utilization(_), Some(_)) => format!("{name} container resource utilization (percentage of request)"),
    };
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
    Ok(Proposal { replicas: outcome.replicas, name: described, status })
}

/// What each pod asks for. Of a whole pod that is what it asks for as such, if it does.
fn requests(pods: &[Arc<Pod>], name: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    let named = pods.iter().filter_map(|pod| Some((pod.metadata.name.clone()?, pod.spec.as_ref()?)));
    named
        .map(|(pod, spec)| {
            let of_pod = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()).filter(|_| container.is_none());
            let asked = match of_pod.map(|requests| requests.get(name)) {
                Some(Some(amount)) => milli(amount),
                Some(None) => match containers(spec, None).filter_map(|known| request_of(known, name)).reduce(|a, b| a + b) {
                    Some(sum) => sum,
                    None => return Err(format!("missing pod-level request for {name} in Pod {pod}")),
                },
                None => containers(spec, container)
                    .map(|known| request_of(known, name).ok_or_else(|| format!("missing request for {name} in container {} of Pod {pod}", known.name)))
                    .sum::<Result<i64, String>>()?,
            };
            Ok((pod, asked))
        })
        .collect()
}

/// Those that run all along, or one of them.
fn containers<'a>(spec: &'a PodSpec, name: Option<&'a str>) -> impl Iterator<Item = &'a Container> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars).filter(move |known| name.is_none_or(|name| known.name == name))
}

fn request_of(container: &Container, name: &str) -> Option<i64> {
    container.resources.as_ref()?.requests.as_ref()?.get(name).map(milli)
}

async fn pods_metric(sources: &Sources<'_>, scaled: &Scaled<'_>, source: &PodsMetricSource) -> Result<Proposal, String> {
    let samples = sources.of_pods(&source.metric, scaled.selector).await?;
    let target = source.target.average_value.as_ref().map(milli).ok_or("no average value target was set")?;
    let asked = PodsMetric { pods: scaled.pods, samples: &samples, requests: &BTreeMap::new(), target: Target::Average(target), is_cpu: false };
    let outcome = replicas::by_pods(scaled.current, &asked, scaled.tolerance, scaled.now)?;
    let current = MetricValueStatus { average_value: Some(quantity(outcome.average)), ..MetricValueStatus::default() };
    let status = MetricStatus {
        type_: "Pods".into(),
        pods: Some(PodsMetricStatus { current, metric: source.metric.clone() }),
        ..MetricStatus::default()
    };
    Ok(Proposal { replicas: outcome.replicas, name: format!("pods metric {}", source.metric.name), status })
}

async fn object(sources: &Sources<'_>, scaled: &Scaled<'_>, source: &ObjectMetricSource) -> Result<Proposal, String> {
    let (described, metric) = (&source.described_object, &source.metric);
    let group = group_of(described.api_version.as_deref().unwrap_or_default());
    let resource = resource_of(sources.rest, group, &described.kind).await?;
    let averaged = source.target.value.is_none();
    let value = sources.of_object(&resource, &described.name, metric).await?;
    let (replicas, current) = whole(scaled, value, &source.target, "object")?;
    let status = MetricStatus {
        type_: "Object".into(),
        object: Some(ObjectMetricStatus { current, described_object: described.clone(), metric: metric.clone() }),
        ..MetricStatus::default()
    };
    let name = match averaged {
        // So says the original.
        true => format!("external metric {}({})", metric.name, go_selector(metric.selector.as_ref())),
        false => format!("{} metric {}", described.kind, metric.name),
    };
    Ok(Proposal { replicas, name, status })
}

async fn external(sources: &Sources<'_>, scaled: &Scaled<'_>, source: &ExternalMetricSource) -> Result<Proposal, String> {
    let metric = &source.metric;
    let value = sources.external(metric).await?;
    let (replicas, current) = whole(scaled, value, &source.target, "external")?;
    let status = MetricStatus {
        type_: "External".into(),
        external: Some(ExternalMetricStatus { current, metric: metric.clone() }),
        ..MetricStatus::default()
    };
    Ok(Proposal { replicas, name: format!("external metric {}({})", metric.name, go_selector(metric.selector.as_ref())), status })
}

/// A number for the whole target, met as such or shared by the pods that there are.
fn whole(scaled: &Scaled<'_>, value: i64, target: &MetricTarget, kind: &str) -> Result<(i32, MetricValueStatus), String> {
    if let Some(aim) = &target.value {
        if scaled.current != 0 && scaled.pods.is_empty() {
            return Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".into());
        }
        let ready = replicas::ready_count(scaled.pods);
        let replicas = replicas::by_value(scaled.current, ready, value, milli(aim), scaled.tolerance);
        return Ok((replicas, MetricValueStatus { value: Some(quantity(value)), ..MetricValueStatus::default() }));
    }
    let aim = target.average_value.as_ref();
    let aim = aim.ok_or_else(|| format!("invalid {kind} metric source: neither a value target nor an average value target was set"))?;
    let existing = scaled.existing;
    let replicas = replicas::by_average(existing, value, milli(aim), scaled.tolerance);
    let average = if existing > 0 { (value as f64 / f64::from(existing)).ceil() as i64 } else { value };
    Ok((replicas, MetricValueStatus { average_value: Some(quantity(average)), ..MetricValueStatus::default() }))
}

fn milli(quantity: &QuantityText) -> i64 {
    Quantity::parse(&quantity.0).map_or(0, |quantity| quantity.milli_value())
}

fn quantity(milli: i64) -> QuantityText {
    QuantityText(Quantity::from_milli(milli).to_string())
}
