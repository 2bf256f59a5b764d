//! Where pods go, where they do not, and who makes room for whom.

use serde_json::{Value, json};
use sim::NodeConfig;

use crate::api::{Api, asking, is_ready, pod, scenario};

const PODS: &str = "/api/v1/namespaces/default/pods";
const PRIORITIES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

fn path(name: &str) -> String {
    format!("{PODS}/{name}")
}

fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

async fn nodes(api: &Api, count: usize) {
    for index in 0..count {
        api.cluster.add_node(NodeConfig::named(format!("node-{index}")));
    }
    let reports = |node: &Value| node["status"]["allocatable"].is_object() && node["spec"]["taints"].is_null();
    api.until_items("/api/v1/nodes", count, reports).await;
}

async fn until_ready(api: &Api, name: &str) -> Value {
    api.until(&path(name), "it must be ready", |found| found.is_some_and(is_ready)).await.expect("is there")
}

/// The sentence of its condition.
async fn until_unschedulable(api: &Api, name: &str) -> String {
    let unschedulable = |pod: &Value| {
        let condition = pod["status"]["conditions"].as_array()?.iter().find(|it| it["type"] == "PodScheduled")?;
        (condition["reason"] == "Unschedulable").then(|| condition["message"].as_str().unwrap_or_default().to_owned())
    };
    let found = api.until(&path(name), "it must wait", |found| found.and_then(unschedulable).is_some()).await;
    found.as_ref().and_then(unschedulable).expect("just seen")
}

async fn priority(api: &Api, name: &str, value: i32) {
    api.create(PRIORITIES, json!({"metadata": {"name": name}, "value": value})).await;
}

fn important(name: &str, class: &str, cpu: &str) -> Value {
    let mut spec = asking(json!({"cpu": cpu}));
    spec["priorityClassName"] = json!(class);
    pod(name, spec)
}

// Conformance: [sig-scheduling] SchedulerPredicates validates resource limits of pods that are allowed to run
#[test]
fn a_pod_that_asks_for_more_than_there_is_waits() {
    scenario(async |api| {
        nodes(&api, 2).await;
        for index in 0..2 {
            api.create(PODS, pod(&format!("filler-{index}"), asking(json!({"cpu": "2800m"})))).await;
            until_ready(&api, &format!("filler-{index}")).await;
        }
        api.create(PODS, pod("more", asking(json!({"cpu": "2"})))).await;
        let why = until_unschedulable(&api, "more").await;
        let expected = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        assert_eq!(why, expected);
        api.seconds(30).await;
        assert_eq!(node_of(&api.get(&path("more")).await.expect("is there")), "");
    });
}

// Conformance: [sig-scheduling] SchedulerPredicates validates that NodeSelector is respected if matching
#[test]
fn a_node_selector_leads_to_its_node() {
    scenario(async |api| {
        nodes(&api, 3).await;
        api.patch("/api/v1/nodes/node-1", json!({"metadata": {"labels": {"kubernetes.io/e2e": "42"}}})).await;
        api.create(PODS, pod("with-labels", json!({"nodeSelector": {"kubernetes.io/e2e": "42"}}))).await;
        assert_eq!(node_of(&until_ready(&api, "with-labels").await), "node-1");
    });
}

// Conformance: [sig-scheduling] SchedulerPredicates validates that NodeSelector is respected if not matching
#[test]
fn a_node_selector_without_its_node_waits() {
    scenario(async |api| {
        nodes(&api, 2).await;
        api.create(PODS, pod("restricted-pod", json!({"nodeSelector": {"label": "nonempty"}}))).await;
        let why = until_unschedulable(&api, "restricted-pod").await;
        let expected = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
        assert_eq!(why, expected);
        api.seconds(30).await;
        assert_eq!(node_of(&api.get(&path("restricted-pod")).await.expect("is there")), "");
    });
}

// Conformance: [sig-scheduling] SchedulerPredicates validates that there exists conflict between pods with same hostPort and protocol but one using 0.0.0.0 hostIP
#[test]
fn all_addresses_take_the_port_of_one() {
    scenario(async |api| {
        nodes(&api, 2).await;
        let with_port = |name: &str, ip: Value| {
            let port = json!({"containerPort": 8080, "hostPort": 54322, "hostIP": ip, "protocol": "TCP"});
            pod(name, json!({"nodeSelector": {"kubernetes.io/hostname": "node-0"}, "containers": [{"name": "c", "image": "i", "ports": [port]}]}))
        };
        api.create(PODS, with_port("pod4", json!("0.0.0.0"))).await;
        assert_eq!(node_of(&until_ready(&api, "pod4").await), "node-0");
        api.create(PODS, with_port("pod5", json!("10.0.0.7"))).await;
        let why = until_unschedulable(&api, "pod5").await;
        assert!(why.contains("1 node(s) didn't have free ports for the requested pod ports"), "{why}");
        api.seconds(30).await;
        assert_eq!(node_of(&api.get(&path("pod5")).await.expect("is there")), "");
    });
}

// Conformance: [sig-scheduling] SchedulerPreemption validates basic preemption works
#[test]
fn the_important_make_room() {
    scenario(async |api| {
        nodes(&api, 2).await;
        priority(&api, "low", 1).await;
        priority(&api, "medium", 100).await;
        priority(&api, "high", 1000).await;
        for (name, class) in [("low-0", "low"), ("medium-0", "medium"), ("medium-1", "medium"), ("medium-2", "medium")] {
            api.create(PODS, important(name, class, "2")).await;
            until_ready(&api, name).await;
        }
        api.create(PODS, important("preemptor", "high", "2")).await;
        until_ready(&api, "preemptor").await;
        assert!(api.get(&path("low-0")).await.is_none(), "the least important goes");
        for name in ["medium-0", "medium-1", "medium-2"] {
            let stays = api.get(&path(name)).await.expect("stays");
            assert!(stays["metadata"]["deletionTimestamp"].is_null(), "{name} stays");
        }
    });
}

// Conformance: [sig-scheduling] SchedulerPreemption validates lower priority pod preemption by critical pod
#[test]
fn critical_pods_make_room() {
    scenario(async |api| {
        nodes(&api, 1).await;
        priority(&api, "low", 1).await;
        priority(&api, "medium", 100).await;
        for (name, class) in [("low", "low"), ("medium", "medium")] {
            api.create(PODS, important(name, class, "2")).await;
            until_ready(&api, name).await;
        }
        let system = "/api/v1/namespaces/kube-system/pods";
        api.create(system, important("critical", "system-cluster-critical", "2")).await;
        api.until(&format!("{system}/critical"), "it must be ready", |found| found.is_some_and(is_ready)).await;
        assert!(api.get(&path("low")).await.is_none(), "the least important goes");
        assert!(api.get(&path("medium")).await.expect("stays")["metadata"]["deletionTimestamp"].is_null());
    });
}

// Conformance: [sig-scheduling] SchedulerPreemption validates pod disruption condition is added to the preempted pod
#[test]
fn the_victim_is_told_why() {
    scenario(async |api| {
        nodes(&api, 1).await;
        priority(&api, "low", 1).await;
        priority(&api, "high", 1000).await;
        let mut victim = important("victim", "low", "4");
        victim["metadata"]["finalizers"] = json!(["example.com/test-finalizer"]);
        api.create(PODS, victim).await;
        until_ready(&api, "victim").await;
        api.create(PODS, important("preemptor", "high", "4")).await;
        let found = api.until(&path("victim"), "it must be on its way out", |found| found.is_some_and(|pod| !pod["metadata"]["deletionTimestamp"].is_null())).await;
        let conditions = found.expect("is there")["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let told = conditions.iter().find(|it| it["type"] == "DisruptionTarget").expect("told");
        assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("PreemptionByScheduler")));
        api.patch(&path("victim"), json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/test-finalizer"]}})).await;
        until_ready(&api, "preemptor").await;
    });
}

// Conformance: [sig-scheduling] SchedulerPreemption PreemptionExecutionPath runs ReplicaSets to verify preemption running path
#[test]
fn sets_of_four_priorities_share_a_node() {
    scenario(async |api| {
        nodes(&api, 1).await;
        let set = |name: &str, replicas: u32, cpu: &str| {
            let mut spec = asking(json!({"cpu": cpu}));
            spec["priorityClassName"] = json!(name);
            json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": spec}}})
        };
        const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
        let ready = |wanted: u32| move |found: Option<&Value>| found.is_some_and(|set| set["status"]["readyReplicas"].as_u64().unwrap_or(0) == u64::from(wanted));
        for (name, value) in [("p1", 1), ("p2", 2), ("p3", 3), ("p4", 4)] {
            priority(&api, name, value).await;
        }
        // 5 x 200m, 4 x 300m, 4 x 450m fill the four cores of the node.
        for (name, replicas, cpu) in [("p1", 5, "200m"), ("p2", 4, "300m"), ("p3", 4, "450m")] {
            api.create(SETS, set(name, replicas, cpu)).await;
            api.until(&format!("{SETS}/{name}"), "all of them run", ready(replicas)).await;
        }
        api.create(SETS, set("p4", 1, "500m")).await;
        api.until(&format!("{SETS}/p4"), "the most important runs", ready(1)).await;
        api.seconds(20).await;
        let running = async |name: &str| api.get(&format!("{SETS}/{name}")).await.expect("is there")["status"]["readyReplicas"].as_u64().unwrap_or(0);
        assert_eq!((running("p1").await, running("p2").await, running("p3").await, running("p4").await), (2, 4, 4, 1));
    });
}

// Conformance: [sig-scheduling] SchedulerPreemption PriorityClass endpoints verify PriorityClass endpoints can be operated with different HTTP methods
#[test]
fn priority_classes_keep_their_value() {
    scenario(async |api| {
        priority(&api, "p1", 1).await;
        priority(&api, "p2", 2).await;
        let names: Vec<_> = api.items(PRIORITIES).await.iter().map(|it| it["metadata"]["name"].clone()).collect();
        assert!(names.contains(&json!("p1")) && names.contains(&json!("p2")), "{names:?}");
        let p1 = format!("{PRIORITIES}/p1");
        assert_eq!(api.patch(&p1, json!({"description": "patched"})).await["description"], "patched");
        let mut found = api.get(&p1).await.expect("is there");
        found["description"] = json!("updated");
        assert_eq!(api.put(&p1, found.clone()).await["description"], "updated");
        let rest = &api.cluster.rest;
        let change = client::Patch::Merge(json!({"value": 12}));
        assert!(rest.patch_at::<Value>(p1.clone(), &change).await.is_err(), "the value stands");
        found["value"] = json!(12);
        found["metadata"]["resourceVersion"] = Value::Null;
        assert!(rest.put_at::<Value>(p1.clone(), &found).await.is_err(), "the value stands");
        assert_eq!(api.get(&p1).await.expect("is there")["value"], 1);
    });
}

// Conformance: [sig-scheduling] LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied.
#[test]
fn a_limit_range_fills_in_and_refuses() {
    scenario(async |api| {
        const RANGES: &str = "/api/v1/namespaces/default/limitranges";
        let amounts = |cpu: &str, memory: &str, storage: &str| json!({"cpu": cpu, "memory": memory, "ephemeral-storage": storage});
        let limit = json!({"type": "Container",
            "min": amounts("50m", "100Mi", "100Gi"), "max": amounts("500m", "500Mi", "500Gi"),
            "default": amounts("500m", "500Mi", "500Gi"), "defaultRequest": amounts("100m", "200Mi", "200Gi"),
            "maxLimitRequestRatio": {}});
        let made = api.create(RANGES, json!({"metadata": {"name": "limits"}, "spec": {"limits": [limit]}})).await;
        assert_eq!(made["spec"]["limits"][0]["max"], amounts("500m", "500Mi", "500Gi"));
        let plain = api.create(PODS, pod("plain", json!({}))).await;
        let resources = &plain["spec"]["containers"][0]["resources"];
        assert_eq!((&resources["requests"], &resources["limits"]), (&amounts("100m", "200Mi", "200Gi"), &amounts("500m", "500Mi", "500Gi")));
        let partial = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "300m", "memory": "100Mi", "ephemeral-storage": "150Gi"}, "limits": {"cpu": "300m"}}}]});
        let partial = api.create(PODS, pod("partial", partial)).await;
        let resources = &partial["spec"]["containers"][0]["resources"];
        assert_eq!(resources["requests"], amounts("300m", "100Mi", "150Gi"));
        assert_eq!(resources["limits"], amounts("300m", "500Mi", "500Gi"));
        let with = |requests: Value, limits: Value| json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": requests, "limits": limits}}]});
        assert_eq!(api.refused(PODS, pod("small", with(json!({"cpu": "10m", "memory": "50Mi", "ephemeral-storage": "50Gi"}), json!({})))).await, 403);
        assert_eq!(api.refused(PODS, pod("large", with(json!({}), json!({"cpu": "600m", "memory": "600Mi", "ephemeral-storage": "600Gi"})))).await, 403);
        let range = format!("{RANGES}/limits");
        let mut found = api.get(&range).await.expect("is there");
        found["spec"]["limits"][0]["min"] = amounts("9m", "49Mi", "49Gi");
        found["spec"]["limits"][0]["max"] = amounts("900m", "900Mi", "900Gi");
        api.put(&range, found).await;
        api.create(PODS, pod("small-now", with(json!({"cpu": "10m", "memory": "50Mi", "ephemeral-storage": "50Gi"}), json!({})))).await;
        assert_eq!(api.refused(PODS, pod("too-large", with(json!({}), json!({"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Ti"})))).await, 403);
        api.delete(&range, None).await;
        api.until_gone(&range).await;
        api.create(PODS, pod("large-now", with(json!({}), json!({"cpu": "600m", "memory": "600Mi", "ephemeral-storage": "600Gi"})))).await;
    });
}

// Conformance: [sig-scheduling] LimitRange should list, patch and delete a LimitRange by collection
#[test]
fn limit_ranges_go_by_label_and_namespace() {
    scenario(async |api| {
        api.create("/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
        let range = json!({"metadata": {"name": "limits", "labels": {"e2e": "one"}}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}}]}});
        for namespace in ["default", "team"] {
            api.create(&format!("/api/v1/namespaces/{namespace}/limitranges"), range.clone()).await;
        }
        assert_eq!(api.items("/api/v1/limitranges?labelSelector=e2e%3Done").await.len(), 2);
        let path = "/api/v1/namespaces/default/limitranges/limits";
        let change = json!({"metadata": {"labels": {"limits": "patched"}}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "600m"}}]}});
        let patched = api.patch(path, change).await;
        assert_eq!(patched["metadata"]["labels"]["limits"], "patched");
        assert_eq!(patched["spec"]["limits"][0]["default"]["cpu"], "600m");
        let collection = "/api/v1/namespaces/default/limitranges?labelSelector=limits%3Dpatched";
        api.cluster.rest.delete_at(collection.to_owned(), &Default::default()).await.expect("deletes");
        let left = api.items("/api/v1/limitranges?labelSelector=e2e%3Done").await;
        assert_eq!(left.len(), 1);
        assert_eq!(left[0]["metadata"]["namespace"], "team");
    });
}
