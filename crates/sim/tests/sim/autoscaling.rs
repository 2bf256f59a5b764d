//! HorizontalPodAutoscalers by metrics that others serve: `custom.metrics.k8s.io` and `external.metrics.k8s.io`, and
//! what is told while nobody does.

use serde_json::{Value, json};
use sim::NodeConfig;

use crate::api::{Api, is_ready, scenario};

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const EVENTS: &str = "/api/v1/namespaces/default/events";

/// Two pods of 100m CPU each run.
async fn two_pods(api: &Api) {
    api.cluster.add_node(NodeConfig::named("n"));
    api.create(DEPLOYMENTS, json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]},
    }}})).await;
    api.until_items(PODS, 2, is_ready).await;
}

async fn scale_by(api: &Api, metrics: Value) {
    api.create(AUTOSCALERS, json!({"metadata": {"name": "web"}, "spec": {
        "minReplicas": 1, "maxReplicas": 10, "metrics": metrics,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
    }})).await;
}

fn pods_metric(average: &str) -> Value {
    json!({"type": "Pods", "pods": {"metric": {"name": "requests"}, "target": {"type": "AverageValue", "averageValue": average}}})
}

fn object_metric(target: Value) -> Value {
    json!({"type": "Object", "object": {"metric": {"name": "hits"}, "target": target,
        "describedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "front"}}})
}

fn external_metric(target: Value) -> Value {
    json!({"type": "External", "external": {"target": target,
        "metric": {"name": "queue", "selector": {"matchLabels": {"topic": "orders"}}}}})
}

/// As an adapter answers: pods have these requests, the Ingress these hits.
fn adapter(version: &'static str, requests: &'static str, hits: &'static str) -> impl Fn(&str) -> Option<Value> + Send + Sync {
    move |asked| {
        let item = |name: &str, value: &str| json!({"describedObject": {"name": name}, "metric": {"name": "m"}, "timestamp": "2026-01-01T00:00:00Z", "value": value});
        if asked == "/apis/custom.metrics.k8s.io" {
            return Some(json!({"kind": "APIGroup", "versions": [{"groupVersion": format!("custom.metrics.k8s.io/{version}"), "version": version}]}));
        }
        let (path, query) = asked.split_once('?')?;
        match path.strip_prefix(&format!("/apis/custom.metrics.k8s.io/{version}/namespaces/default/"))? {
            "pods/*/requests" if query == "labelSelector=app%3Dweb" => {
                // It knows the pods by heart: whatever their names.
                Some(json!({"items": POD_NAMES.lock().unwrap().iter().map(|name| item(name, requests)).collect::<Vec<_>>()}))
            }
            "ingresses.networking.k8s.io/front/hits" => Some(json!({"items": [item("front", hits)]})),
            _ => None,
        }
    }
}

static POD_NAMES: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

async fn settled_status(api: &Api) -> Value {
    api.seconds(40).await;
    api.get(&format!("{AUTOSCALERS}/web")).await.expect("is there")["status"].clone()
}

fn condition(status: &Value, kind: &str) -> String {
    let all = status["conditions"].as_array().into_iter().flatten();
    let found = all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_else(|| panic!("no {kind} in {status}"));
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    format!("{} {}: {}", text("status"), text("reason"), text("message"))
}

/// One metric of an API that nobody serves: what the condition and the events say.
#[track_caller]
fn check_missing(metric: Value, reason: &'static str, text: &'static str, among_others: &'static str) {
    scenario(async |api| {
        two_pods(&api).await;
        // Whoever serves this has nothing to tell yet.
        api.cluster.serve_group("metrics.k8s.io", |_| Some(json!({"items": []})));
        scale_by(&api, json!([metric])).await;
        let status = settled_status(&api).await;
        assert_eq!(condition(&status, "ScalingActive"), format!("False {reason}: the HPA was unable to compute the replica count: {text}"));
        let events: Vec<(String, String)> = api.items(EVENTS).await.iter().filter(|event| event["involvedObject"]["kind"] == "HorizontalPodAutoscaler").map(|event| {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            (text("reason"), text("message"))
        }).collect();
        assert!(events.contains(&(reason.into(), text.into())), "{events:?}");
        let all = format!("invalid metrics (1 invalid out of 1), first error is: {among_others}");
        assert!(events.contains(&("FailedComputeMetricsReplicas".into(), all.clone())), "{all}\n{events:?}");
        assert_eq!(api.items(PODS).await.len(), 2, "nothing is done on a guess");
    });
}

const EXTERNAL_AMONG_OTHERS: &str = "failed to get queue external metric value: failed to get queue external metric: unable to get external metric default/queue/&LabelSelector{MatchLabels:map[string]string{topic: orders,},MatchExpressions:[]LabelSelectorRequirement{},}: unable to fetch metrics from external metrics API: the server could not find the requested resource (get queue.external.metrics.k8s.io)";

#[test]
fn what_nobody_serves_is_told() {
    check_missing(
        pods_metric("10"),
        "FailedGetPodsMetric",
        "unable to get metric requests: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered",
        "failed to get pods metric value: unable to get metric requests: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered",
    );
    check_missing(
        object_metric(json!({"type": "Value", "value": "10"})),
        "FailedGetObjectMetric",
        "unable to get metric hits: Ingress on default front/unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered",
        "failed to get object metric value: unable to get metric hits: Ingress on default front/unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered",
    );
    const EXTERNAL: &str = "unable to get external metric default/queue/&LabelSelector{MatchLabels:map[string]string{topic: orders,},MatchExpressions:[]LabelSelectorRequirement{},}: unable to fetch metrics from external metrics API: the server could not find the requested resource (get queue.external.metrics.k8s.io)";
    check_missing(
        external_metric(json!({"type": "Value", "value": "10"})),
        "FailedGetExternalMetric",
        EXTERNAL,
        EXTERNAL_AMONG_OTHERS,
    );
    check_missing(
        json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}),
        "FailedGetResourceMetric",
        "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API",
        "failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API",
    );
}

/// Served metrics: the wanted size, what the status tells of them, and why.
#[track_caller]
fn check_served(metrics: Value, expected: i64, current: Value, why: &'static str) {
    for version in ["v1beta1", "v1beta2"] {
        let (metrics, current) = (metrics.clone(), current.clone());
        scenario(async move |api| {
            two_pods(&api).await;
            let names = api.items(PODS).await.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect();
            *POD_NAMES.lock().unwrap() = names;
            api.cluster.serve_group("custom.metrics.k8s.io", adapter(version, "25", "70"));
            api.cluster.serve_group("external.metrics.k8s.io", |asked| {
                let expected = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue?labelSelector=topic%3Dorders";
                (asked == expected).then(|| json!({"items": [{"metricName": "queue", "value": "30"}, {"metricName": "queue", "value": "60"}]}))
            });
            scale_by(&api, metrics.clone()).await;
            api.until_items(PODS, expected as usize, is_ready).await;
            let path = format!("{AUTOSCALERS}/web");
            let told = api.until(&path, "is told", |found| {
                found.is_some_and(|found| !found["status"]["lastScaleTime"].is_null())
            });
            let status = told.await.expect("is there")["status"].clone();
            assert_eq!(status["desiredReplicas"], expected);
            assert_eq!(condition(&status, "AbleToScale"), format!("True SucceededRescale: the HPA controller was able to update the target scale to {expected}"));
            assert_eq!(status["currentMetrics"][0], current);
            let size = format!("New size: {expected}; reason: {why}");
            let events = api.items(EVENTS).await;
            assert!(events.iter().any(|event| event["reason"] == "SuccessfulRescale" && event["message"] == size), "{size}: {events:#?}");
        });
    }
}

#[test]
fn a_deployment_follows_what_others_measure() {
    // 25 for each of two pods, and 13 are wanted: twice as many, as many as it may be at once.
    check_served(
        json!([pods_metric("13")]), 4,
        json!({"type": "Pods", "pods": {"current": {"averageValue": "25"}, "metric": {"name": "requests"}}}),
        "pods metric requests above target",
    );
    // 70 for two pods, and 40 are wanted: twice as many, nearly.
    let front = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "front"});
    check_served(
        json!([object_metric(json!({"type": "Value", "value": "40"}))]), 4,
        json!({"type": "Object", "object": {"current": {"value": "70"}, "describedObject": front, "metric": {"name": "hits"}}}),
        "Ingress metric hits above target",
    );
    check_served(
        json!([object_metric(json!({"type": "AverageValue", "averageValue": "20"}))]), 4,
        json!({"type": "Object", "object": {"current": {"averageValue": "35"}, "describedObject": front, "metric": {"name": "hits"}}}),
        "external metric hits(nil) above target",
    );
    let metric = json!({"name": "queue", "selector": {"matchLabels": {"topic": "orders"}}});
    let orders = "external metric queue(&LabelSelector{MatchLabels:map[string]string{topic: orders,},MatchExpressions:[]LabelSelectorRequirement{},}) above target";
    check_served(
        json!([external_metric(json!({"type": "AverageValue", "averageValue": "30"}))]), 3,
        json!({"type": "External", "external": {"current": {"averageValue": "45"}, "metric": metric}}),
        orders,
    );
    check_served(
        json!([external_metric(json!({"type": "Value", "value": "45"}))]), 4,
        json!({"type": "External", "external": {"current": {"value": "90"}, "metric": metric}}),
        orders,
    );
    // Of several the one that asks for most decides.
    check_served(
        json!([external_metric(json!({"type": "Value", "value": "60"})), pods_metric("13")]), 4,
        json!({"type": "External", "external": {"current": {"value": "90"}, "metric": metric}}),
        "pods metric requests above target",
    );
}

/// One that is not known holds back who would make the target smaller, and not who would make it larger.
#[test]
fn one_unknown_metric_stops_shrinking_alone() {
    let check = |average: &'static str, expected: usize| {
        scenario(async move |api| {
            two_pods(&api).await;
            api.cluster.serve_group("external.metrics.k8s.io", |_| Some(json!({"items": [{"metricName": "queue", "value": "90"}]})));
            scale_by(&api, json!([pods_metric("10"), external_metric(json!({"type": "AverageValue", "averageValue": average}))])).await;
            api.seconds(400).await;
            assert_eq!(api.items(PODS).await.len(), expected);
        });
    };
    check("30", 3);
    check("90", 2);
}
