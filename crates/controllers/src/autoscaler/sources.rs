//! Where metrics come from: `metrics.k8s.io`, `custom.metrics.k8s.io` and `external.metrics.k8s.io`, whoever serves
//! them.
//!
//! Invariant: a number is read or there is a sentence that says why not, worded as the original's clients word it.
//! Deliberately absent: caches. A round asks for what it needs, and rounds are far apart.

use api::percent::encode;
use api::quantity::Quantity;
use api::selector::LabelSelector;
use client::{ErrorKind, Rest, error_kind};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::MetricIdentifier;
use serde_json::Value;

use super::replicas::{Sample, Samples};
use crate::discovery::Resource;
use crate::failure::{error_text, go_selector};

const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "external.metrics.k8s.io";
/// Their answers differ in what is not read here.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

pub(super) struct Sources<'a> {
    pub rest: &'a Rest,
    pub namespace: &'a str,
}

impl Sources<'_> {
    /// What pods use, by name; of one container where it is named.
    pub async fn usage(&self, name: &str, container: Option<&str>, selector: &str) -> Result<Samples, String> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods?labelSelector={}", self.namespace, encode(selector));
        let listed = self.rest.get_at::<Value>(path).await.map_err(|error| {
            format!("unable to get metrics for resource {name}: unable to fetch metrics from resource metrics API: {}", sentence(&error, "pods.metrics.k8s.io"))
        })?;
        let items = listed["items"].as_array().map_or(&[][..], Vec::as_slice);
        if items.is_empty() {
            return Err(format!("unable to get metrics for resource {name}: no metrics returned from resource metrics API"));
        }
        let samples = match container {
            None => items.iter().filter_map(|item| pod_usage(item, name)).collect(),
            Some(container) => container_usage(items, name, container)
                .map_err(|text| format!("unable to get metrics for resource {name}: failed to get container metrics: {text}"))?,
        };
        Ok(samples)
    }

    /// A metric of each pod, by the pods' names.
    pub async fn of_pods(&self, metric: &MetricIdentifier, selector: &str) -> Result<Samples, String> {
        let name = &metric.name;
        let unable = |text: String| format!("unable to get metric {name}: {text}");
        let path = format!("namespaces/{}/pods/*/{name}", self.namespace);
        let items = self.custom(&path, &format!("labelSelector={}", encode(selector)), metric).await.map_err(unable)?;
        let sample = |item: &Value| {
            let value = Quantity::parse(item["value"].as_str()?).ok()?.milli_value();
            Some((item["describedObject"]["name"].as_str()?.to_owned(), Sample { value, ..timing(item) }))
        };
        Ok(items.iter().filter_map(sample).collect())
    }

    /// A metric of one object, in thousandths.
    pub async fn of_object(&self, resource: &Resource, object: &str, metric: &MetricIdentifier) -> Result<i64, String> {
        let name = &metric.name;
        // Nobody may look beyond their own namespace.
        let path = match (resource.group.as_str(), resource.kind.as_str()) {
            ("", "Namespace") => format!("namespaces/{}/metrics/{name}", self.namespace),
            _ => format!("namespaces/{}/{}/{object}/{name}", self.namespace, resource.group_resource()),
        };
        // The original says it in this order.
        let unable = |text: String| format!("unable to get metric {name}: {} on {} {object}/{text}", resource.kind, self.namespace);
        let items = self.custom(&path, "", metric).await.map_err(unable)?;
        let value = items.first().and_then(|item| Quantity::parse(item["value"].as_str()?).ok());
        value.map(|value| value.milli_value()).ok_or_else(|| unable("no metrics returned from custom metrics API".into()))
    }

    /// A metric of nothing in the cluster: the sum of all its series, in thousandths.
    pub async fn external(&self, metric: &MetricIdentifier) -> Result<i64, String> {
        let name = &metric.name;
        let unable = |text: String| {
            format!("unable to get external metric {}/{name}/{}: {text}", self.namespace, go_selector(metric.selector.as_ref()))
        };
        let selector = selector_text(metric).map_err(&unable)?;
        let path = format!("/apis/{EXTERNAL}/v1beta1/namespaces/{}/{name}?labelSelector={}", self.namespace, encode(&selector));
        let listed = self.rest.get_at::<Value>(path).await;
        let listed = listed.map_err(|error| {
            unable(format!("unable to fetch metrics from external metrics API: {}", sentence(&error, &format!("{name}.{EXTERNAL}"))))
        })?;
        let items = listed["items"].as_array().map_or(&[][..], Vec::as_slice);
        if items.is_empty() {
            return Err(unable("no metrics returned from external metrics API".into()));
        }
        Ok(items.iter().filter_map(|item| Some(Quantity::parse(item["value"].as_str()?).ok()?.milli_value())).sum())
    }

    async fn custom(&self, path: &str, query: &str, metric: &MetricIdentifier) -> Result<Vec<Value>, String> {
        let unable = |text: String| format!("unable to fetch metrics from custom metrics API: {text}");
        let selector = selector_text(metric).map_err(unable)?;
        let mut query = query.to_owned();
        if !selector.is_empty() {
            query.push_str(&format!("&metricLabelSelector={}", encode(&selector)));
        }
        let version = self.custom_version().await.map_err(unable)?;
        let listed = self.rest.get_at::<Value>(format!("/apis/{CUSTOM}/{version}/{path}?{query}")).await;
        let mut listed = listed.map_err(|error| unable(sentence(&error, &format!("{}.{CUSTOM}", metric.name))))?;
        match listed["items"].take() {
            Value::Array(items) if !items.is_empty() => Ok(items),
            _ => Err("no metrics returned from custom metrics API".into()),
        }
    }

    /// The best version that is served: adapters differ.
    async fn custom_version(&self) -> Result<&'static str, String> {
        let group = match self.rest.get_at::<Value>(format!("/apis/{CUSTOM}")).await {
            Ok(group) => group,
            Err(error) if error_kind(&error) == ErrorKind::NotFound => return Err(format!("no custom metrics API ({CUSTOM}) registered")),
            Err(error) => return Err(error_text(&error)),
        };
        let served = |version: &&str| group["versions"].as_array().is_some_and(|all| all.iter().any(|known| known["version"] == **version));
        let found = CUSTOM_VERSIONS.iter().find(|version| served(version));
        found.copied().ok_or_else(|| format!("no known available versions for custom metrics API ({CUSTOM})"))
    }
}

/// A pod counts only when all its containers are known.
fn pod_usage(item: &Value, name: &str) -> Option<(String, Sample)> {
    let containers = item["containers"].as_array().filter(|containers| !containers.is_empty())?;
    let amounts: Option<Vec<i64>> = containers.iter().map(|container| amount(container, name)).collect();
    Some((item["metadata"]["name"].as_str()?.to_owned(), Sample { value: amounts?.iter().sum(), ..timing(item) }))
}

fn container_usage(items: &[Value], name: &str, container: &str) -> Result<Samples, String> {
    let mut samples = Samples::new();
    for item in items {
        let pod = item["metadata"]["name"].as_str().unwrap_or_default();
        let Some(known) = item["containers"].as_array().into_iter().flatten().find(|known| known["name"] == container) else {
            let namespace = item["metadata"]["namespace"].as_str().unwrap_or_default();
            return Err(format!("container {container} not present in metrics for pod {namespace}/{pod}"));
        };
        if let Some(value) = amount(known, name) {
            samples.insert(pod.to_owned(), Sample { value, ..timing(item) });
        }
    }
    Ok(samples)
}

fn amount(container: &Value, name: &str) -> Option<i64> {
    Some(Quantity::parse(container["usage"][name].as_str()?).ok()?.milli_value())
}

fn timing(item: &Value) -> Sample {
    let at = item["timestamp"].as_str().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    let window = item["window"].as_str().and_then(|text| text.trim_end_matches('s').parse::<f64>().ok());
    let seconds = item["windowSeconds"].as_f64().or(window).unwrap_or(60.0);
    Sample { value: 0, at, window_seconds: seconds as i64 }
}

/// The original's client says itself what is not there at all.
fn sentence(error: &kube::Error, resource: &str) -> String {
    let text = error_text(error);
    match text.as_str() {
        "the server could not find the requested resource" => format!("{text} (get {resource})"),
        _ => text,
    }
}

fn selector_text(metric: &MetricIdentifier) -> Result<String, String> {
    match &metric.selector {
        None => Ok(String::new()),
        Some(selector) => LabelSelector::from_typed(selector).map(|selector| selector.to_string()).map_err(|error| error.to_string()),
    }
}
