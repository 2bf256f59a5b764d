//! What tables of decisions cannot show: that what is decided is carried out in the right order, and once.

use serde_json::{Value, json};
use sim::NodeConfig;

use crate::api::{Api, is_ready, scenario};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const NODES: &str = "/api/v1/nodes";
const TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// Pods run for so many milliseconds.
fn job(parallelism: u32, ends_after: u64) -> Value {
    json!({"metadata": {"name": "j"}, "spec": {"parallelism": parallelism, "completions": parallelism, "template": {
        "metadata": {"annotations": {"sim.coracle/ends-after-ms": ends_after.to_string()}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
    }}})
}

async fn status(api: &Api, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let found = api.until(&format!("{JOBS}/j"), what, |job| job.is_some_and(|job| wanted(&job["status"]))).await;
    found.expect("is there")["status"].clone()
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

#[test]
fn what_a_suspended_job_drops_has_not_failed() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("n"));
        api.create(JOBS, job(3, 20_000)).await;
        api.until_items(PODS, 3, is_ready).await;
        let first = status(&api, "runs", |status| status["active"] == 3).await;
        api.patch(&format!("{JOBS}/j"), json!({"spec": {"suspend": true}})).await;
        api.until_items(PODS, 0, |_| true).await;
        let suspended = status(&api, "is suspended", |status| status["active"].is_null() && status["terminating"] == 0).await;
        assert_eq!(suspended["failed"], Value::Null, "{suspended}");
        assert_eq!(suspended["startTime"], first["startTime"], "it has started once");
        assert_eq!(condition(&suspended, "Suspended").expect("is told")["reason"], "JobSuspended");
        api.seconds(5).await;
        api.patch(&format!("{JOBS}/j"), json!({"spec": {"suspend": false}})).await;
        let done = status(&api, "completes", |status| condition(status, "Complete").is_some()).await;
        assert_eq!((&done["succeeded"], &done["failed"]), (&json!(3), &Value::Null));
        assert_ne!(done["startTime"], first["startTime"], "it starts anew");
        // And none carries the finalizer any more.
        for pod in api.items(PODS).await {
            assert_eq!(pod["metadata"]["finalizers"], Value::Null, "{pod}");
        }
    });
}

#[test]
fn a_job_counts_what_it_adopts_and_lets_go_of_what_it_loses() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("n"));
        let made = api.create(JOBS, job(2, 60_000)).await;
        let labels = made["spec"]["selector"]["matchLabels"].clone();
        let pods = api.until_items(PODS, 2, is_ready).await;
        let path = |pod: &Value| format!("{PODS}/{}", pod["metadata"]["name"].as_str().expect("a name"));
        // Without its labels a pod is nobody's, and waits for nobody.
        let lost = path(&pods[0]);
        let nothing: serde_json::Map<String, Value> =
            pods[0]["metadata"]["labels"].as_object().expect("labels").keys().map(|name| (name.clone(), Value::Null)).collect();
        api.patch(&lost, json!({"metadata": {"labels": nothing}})).await;
        let freed = api.until(&lost, "is let go", |pod| pod.is_some_and(|pod| pod["metadata"]["ownerReferences"].is_null())).await;
        assert_eq!(freed.expect("is there")["metadata"]["finalizers"], Value::Null);
        // With them it is taken in again, instead of the one that was made in its place.
        api.until_items(PODS, 3, |_| true).await;
        api.patch(&lost, json!({"metadata": {"labels": labels}})).await;
        let adopted = api.until(&lost, "is adopted", |pod| {
            pod.is_some_and(|pod| !pod["metadata"]["ownerReferences"].is_null())
        });
        assert_eq!(adopted.await.expect("is there")["metadata"]["finalizers"], json!([TRACKING]));
        let done = status(&api, "completes", |status| condition(status, "Complete").is_some()).await;
        assert_eq!((&done["succeeded"], &done["failed"]), (&json!(2), &Value::Null), "the surplus has not failed: {done}");
    });
}

/// A pod that remembers how often its index has failed waits for one that takes its place. In a namespace that ends,
/// under a Job that makes none, it would wait for ever.
#[test]
fn a_namespace_ends_whatever_a_suspended_job_remembers() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("n"));
        api.create("/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
        let jobs = "/apis/batch/v1/namespaces/team/jobs";
        let mut failing = job(2, 1_000);
        failing["spec"]["completionMode"] = "Indexed".into();
        failing["spec"]["backoffLimitPerIndex"] = json!(20);
        failing["spec"]["template"]["metadata"]["annotations"]["sim.coracle/exit-code"] = "1".into();
        api.create(jobs, failing).await;
        let pods = "/api/v1/namespaces/team/pods";
        api.until_items(pods, 2, |pod| pod["status"]["phase"] == "Failed").await;
        api.patch(&format!("{jobs}/j"), json!({"spec": {"suspend": true}})).await;
        api.seconds(60).await;
        let kept = api.items(pods).await;
        assert!(kept.iter().any(|pod| pod["metadata"]["finalizers"] == json!([TRACKING])), "{kept:?}");
        api.delete("/api/v1/namespaces/team", None).await;
        api.until_gone("/api/v1/namespaces/team").await;
    });
}

#[test]
fn what_was_announced_and_did_not_happen_is_taken_back() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("n"));
        api.create(PODS, crate::api::pod("p", json!({}))).await;
        api.until_items(PODS, 1, is_ready).await;
        let now = api.get(&format!("{PODS}/p")).await.expect("is there")["status"]["startTime"].clone();
        let target = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "m", "lastTransitionTime": now});
        api.patch(&format!("{PODS}/p/status"), json!({"status": {"conditions": [target]}})).await;
        let told = |pod: &Value| condition(&pod["status"], "DisruptionTarget").cloned().unwrap_or_default();
        api.seconds(100).await;
        assert_eq!(told(&api.get(&format!("{PODS}/p")).await.expect("is there"))["status"], "True");
        let pod = api.until(&format!("{PODS}/p"), "is taken back", |pod| pod.is_some_and(|pod| told(pod)["status"] == "False")).await;
        let condition = told(&pod.expect("is there"));
        assert_eq!((&condition["reason"], &condition["message"]), (&Value::Null, &Value::Null));
    });
}

/// The taint that drives pods away.
fn is_given_up(node: &Value) -> bool {
    let taints = node["spec"]["taints"].as_array();
    taints.is_some_and(|taints| taints.iter().any(|taint| taint["effect"] == "NoExecute"))
}

#[test]
fn when_everything_is_silent_nobody_is_given_up() {
    scenario(async |api| {
        let nodes: Vec<_> = ["a", "b", "c"].map(|name| api.cluster.add_node(NodeConfig::named(name))).into();
        let unknown = |node: &Value| condition(&node["status"], "Ready").is_some_and(|ready| ready["status"] == "Unknown");
        api.until_items(NODES, 3, |node| condition(&node["status"], "Ready").is_some()).await;
        nodes[0].crash();
        api.until(&format!("{NODES}/a"), "is given up", |node| node.is_some_and(is_given_up)).await;
        nodes[1].crash();
        nodes[2].crash();
        // The fault may be ours: what was begun is taken back.
        api.until_items(NODES, 3, |node| unknown(node) && !is_given_up(node)).await;
        api.seconds(60).await;
        assert!(!api.items(NODES).await.iter().any(is_given_up));
        // One is heard again: the others are really gone.
        nodes[1].boot();
        api.until(&format!("{NODES}/a"), "is given up", |node| node.is_some_and(is_given_up)).await;
        api.until(&format!("{NODES}/c"), "is given up", |node| node.is_some_and(is_given_up)).await;
        let back = api.until(&format!("{NODES}/b"), "is back", |node| node.is_some_and(|node| !unknown(node) && !is_given_up(node))).await;
        assert_eq!(back.expect("is there")["spec"]["taints"], Value::Null);
    });
}

#[test]
fn hints_follow_the_capacity_of_zones() {
    scenario(async |api| {
        let node = |name: &str, zone: &str| NodeConfig::named(name).label("topology.kubernetes.io/zone", zone);
        api.cluster.add_node(node("a", "za"));
        api.until_items(NODES, 1, |_| true).await;
        for number in 0..4 {
            api.create(PODS, json!({"metadata": {"name": format!("p{number}"), "labels": {"app": "web"}},
                "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}})).await;
        }
        api.until_items(PODS, 4, is_ready).await;
        api.create(SERVICES, json!({"metadata": {"name": "web", "annotations": {"service.kubernetes.io/topology-mode": "Auto"}},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})).await;
        let hints = |slice: &Value| -> Vec<String> {
            let mut zones: Vec<String> = slice["endpoints"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|endpoint| endpoint["hints"]["forZones"][0]["name"].as_str().map(str::to_owned))
                .collect();
            zones.sort();
            zones
        };
        let of_web = |slice: &Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web";
        let told = async |wanted: &[&str]| {
            api.until(SLICES, "hints", |list| {
                let slice = list.and_then(|list| list["items"].as_array()?.iter().find(|slice| of_web(slice)));
                slice.is_some_and(|slice| slice["endpoints"].as_array().map_or(0, Vec::len) == 4 && hints(slice) == wanted)
            })
            .await
        };
        told(&[]).await; // One zone: there is nothing to choose.
        api.cluster.add_node(node("b", "zb"));
        api.until_items(NODES, 2, |node| condition(&node["status"], "Ready").is_some_and(|ready| ready["status"] == "True")).await;
        api.patch(&format!("{PODS}/p0"), json!({"metadata": {"labels": {"changed": "yes"}}})).await;
        told(&["za", "za", "zb", "zb"]).await;
        let events = api.items("/api/v1/namespaces/default/events").await;
        assert!(events.iter().any(|event| event["message"] == "Topology Aware Hints has been enabled, addressType: IPv4"));
        api.patch(&format!("{SERVICES}/web"), json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": null}}})).await;
        told(&[]).await;
    });
}
