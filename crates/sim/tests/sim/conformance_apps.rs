//! What takes minutes or several nodes: CronJobs by their policies, and a DaemonSet that rolls back.

use serde_json::{Value, json};
use sim::NodeConfig;

use crate::api::{Api, is_ready, scenario};

const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Each minute, a pod that runs for so many milliseconds, or for ever.
fn cron_job(policy: &str, ends_after: Option<u64>) -> Value {
    let annotations = ends_after.map_or(json!({}), |millis| json!({"sim.coracle/ends-after-ms": millis.to_string()}));
    json!({"metadata": {"name": "cron"}, "spec": {
        "schedule": "*/1 * * * *", "concurrencyPolicy": policy, "jobTemplate": {"spec": {"template": {
            "metadata": {"annotations": annotations},
            "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]},
        }}},
    }})
}

fn is_active(job: &Value) -> bool {
    job["status"]["completionTime"].is_null() && job["metadata"]["deletionTimestamp"].is_null()
}

async fn active_jobs(api: &Api) -> Vec<String> {
    let jobs = api.items(JOBS).await;
    let mut names: Vec<String> = jobs.iter().filter(|job| is_active(job)).map(name).collect();
    names.sort();
    names
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

async fn active_of_status(api: &Api) -> Vec<String> {
    let cron = api.get(&format!("{CRON_JOBS}/cron")).await.expect("is there");
    let mut names: Vec<String> = cron["status"]["active"].as_array().into_iter().flatten().map(|job| job["name"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    names
}

// Conformance: [sig-apps] CronJob should schedule multiple jobs concurrently
#[test]
fn allowed_jobs_run_beside_one_another() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("n"));
        api.create(CRON_JOBS, cron_job("Allow", None)).await;
        api.seconds(125).await;
        let jobs = active_jobs(&api).await;
        assert!(jobs.len() >= 2, "{jobs:?}");
        assert_eq!(active_of_status(&api).await, jobs);
        api.delete(&format!("{CRON_JOBS}/cron"), Some(client::Propagation::Background)).await;
    });
}

// Conformance: [sig-apps] CronJob should not schedule jobs when suspended
#[test]
fn suspended_ones_start_nothing() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("n"));
        let mut cron = cron_job("Allow", Some(1000));
        cron["spec"]["suspend"] = true.into();
        api.create(CRON_JOBS, cron).await;
        api.seconds(300).await;
        assert!(api.items(JOBS).await.is_empty());
        assert!(active_of_status(&api).await.is_empty());
        // And start again where they are let go.
        api.patch(&format!("{CRON_JOBS}/cron"), json!({"spec": {"suspend": false}})).await;
        api.until(JOBS, "a job", |list| list.is_some_and(|list| list["items"].as_array().is_some_and(|items| !items.is_empty()))).await;
    });
}

// Conformance: [sig-apps] CronJob should not schedule new jobs when ForbidConcurrent
#[test]
fn forbidden_ones_wait_for_the_one_before() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("n"));
        api.create(CRON_JOBS, cron_job("Forbid", None)).await;
        api.seconds(65).await;
        let first = active_jobs(&api).await;
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(active_of_status(&api).await, first);
        api.seconds(300).await;
        assert_eq!(active_jobs(&api).await, first, "no further one while it runs");
        assert_eq!(api.items(JOBS).await.len(), 1);
    });
}

// Conformance: [sig-apps] CronJob should replace jobs when ReplaceConcurrent
#[test]
fn replacing_ones_end_the_one_before() {
    scenario(async |api| {
        api.cluster.add_node(NodeConfig::named("n"));
        api.create(CRON_JOBS, cron_job("Replace", None)).await;
        api.seconds(65).await;
        let first = active_jobs(&api).await;
        assert_eq!(first.len(), 1, "{first:?}");
        api.seconds(60).await;
        let second = active_jobs(&api).await;
        assert_eq!(second.len(), 1, "{second:?}");
        assert_ne!(second, first);
        api.until_gone(&format!("{JOBS}/{}", first[0])).await;
        assert_eq!(active_of_status(&api).await, second);
    });
}

// Conformance: [sig-apps] Daemon set should rollback without unnecessary restarts
#[test]
fn a_daemon_set_rolls_back_what_it_had_rolled_and_no_more() {
    scenario(async |api| {
        for node in ["a", "b", "c"] {
            api.cluster.add_node(NodeConfig::named(node));
        }
        // The new ones never become ready.
        let template = |image: &str, ready: &str| json!({
            "metadata": {"labels": {"app": "d"}, "annotations": {"sim.coracle/ready-after-ms": ready}},
            "spec": {"containers": [{"name": "c", "image": image}]},
        });
        let old = template("good", "200");
        api.create(DAEMON_SETS, json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": old}})).await;
        let before = api.until_items(PODS, 3, is_ready).await;
        let uids = |pods: &[Value]| -> Vec<(String, String)> {
            let mut all: Vec<(String, String)> = pods.iter().map(|pod| (name(pod), pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned())).collect();
            all.sort();
            all
        };
        api.patch(&format!("{DAEMON_SETS}/d"), json!({"spec": {"template": template("foo:non-existent", "86400000")}})).await;
        api.seconds(60).await;
        let rolling = api.items(PODS).await;
        let new = rolling.iter().filter(|pod| pod["spec"]["containers"][0]["image"] == "foo:non-existent").count();
        assert_eq!(new, 1, "one at a time, and the first never becomes ready");
        let kept: Vec<_> = uids(&rolling).into_iter().filter(|pod| uids(&before).contains(pod)).collect();
        assert_eq!(kept.len(), 2);
        api.patch(&format!("{DAEMON_SETS}/d"), json!({"spec": {"template": old}})).await;
        let after = api.until_items(PODS, 3, |pod| is_ready(pod) && pod["spec"]["containers"][0]["image"] == "good").await;
        for pod in kept {
            assert!(uids(&after).contains(&pod), "{pod:?} was well and had to stay");
        }
        for pod in &after {
            assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(0), 0, "{pod}");
        }
    });
}
