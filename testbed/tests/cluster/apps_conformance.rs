//! What runs pods for others (Deployments, sets, Jobs), with real pods, as the conformance tests of the original ask it.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use testbed::cluster::{NODE, for_test};
use testbed::session::{self, Session, condition, is_ready, is_true, name_of, script, waiting, with, with_main, with_volume};

const DEPLOYMENTS: &str = "apps/v1/deployments";
const REPLICA_SETS: &str = "apps/v1/replicasets";
const STATEFUL_SETS: &str = "apps/v1/statefulsets";
const DAEMON_SETS: &str = "apps/v1/daemonsets";
const REVISIONS: &str = "apps/v1/controllerrevisions";
const JOBS: &str = "batch/v1/jobs";
const BUDGETS: &str = "policy/v1/poddisruptionbudgets";
const SLOW: Duration = Duration::from_secs(90);

/// A pod as a template, labelled `app: <app>`.
fn template(pod: Value, app: &str) -> Value {
    with(pod, json!({"metadata": {"name": null, "labels": {"app": app}}}))
}

/// A set or Deployment of pods that wait, named and labelled alike.
fn workload(app: &str, replicas: u32) -> Value {
    json!({
        "metadata": {"name": app, "labels": {"app": app}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template(waiting("x"), app)},
    })
}

fn stateful(app: &str, replicas: u32) -> Value {
    with(workload(app, replicas), json!({"spec": {"serviceName": "test"}}))
}

fn daemon(app: &str) -> Value {
    with(workload(app, 0), json!({"spec": {"replicas": null}}))
}

fn controller(app: &str, replicas: u32) -> Value {
    with(workload(app, replicas), json!({"spec": {"selector": {"app": app, "matchLabels": null}}}))
}

fn pods_of(session: &Session, app: &str) -> Vec<Value> {
    let mut pods = session.items(&format!("pods?labelSelector=app={app}"));
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods.sort_by_key(name_of);
    pods
}

fn names(pods: &[Value]) -> Vec<String> {
    pods.iter().map(name_of).collect()
}

fn image(object: &Value) -> &str {
    let spec = if object["spec"]["template"].is_null() { &object["spec"] } else { &object["spec"]["template"]["spec"] };
    spec["containers"][0]["image"].as_str().unwrap_or_default()
}

/// The pods of the app, once `wanted` holds of them.
#[track_caller]
fn pods_when(session: &Session, app: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let end = Instant::now() + SLOW;
    loop {
        let pods = pods_of(session, app);
        if wanted(&pods) {
            return pods;
        }
        let states: Vec<String> = pods.iter().map(|pod| format!("{} {}", name_of(pod), pod["status"])).collect();
        assert!(Instant::now() < end, "pods of {app}: not as wanted: {states:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn ready(session: &Session, app: &str, count: usize) -> Vec<Value> {
    pods_when(session, app, |pods| pods.len() == count && pods.iter().all(is_ready))
}

fn ready_replicas(session: &Session, path: &str, count: i64) -> Value {
    session.eventually_within(path, SLOW, |it| it["status"]["readyReplicas"].as_i64().unwrap_or(0) == count && it["status"]["replicas"].as_i64().unwrap_or(0) == count)
}

/// Reads, updates and patches a status by its own door.
#[track_caller]
fn status_endpoints(session: &Session, path: &str) {
    let status = format!("{path}/status");
    let kind = session.get(&status)["kind"].clone();
    assert!(kind.is_string());
    let added = |reason: &str| json!({"type": "StatusUpdate", "status": "True", "reason": reason, "message": "Set from e2e test", "lastTransitionTime": "2026-01-01T00:00:00Z", "lastProbeTime": null});
    session.edit(&status, |object| {
        let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.push(added("E2E"));
        object["status"]["conditions"] = conditions.into();
        object["spec"]["replicas"] = object["spec"]["replicas"].clone();
    });
    // Visible to a read, unless the controller has written over it since.
    let seen = |reason: &str| session.ask(Method::GET, &status, "application/json", None).1["status"]["conditions"].as_array().into_iter().flatten().any(|it| it["reason"] == reason);
    assert!(seen("E2E"), "{}", session.get(&status));
    let patched = session.patch(&status, &json!({"status": {"conditions": [added("Patched")]}}));
    assert_eq!(condition(&patched, "StatusUpdate").map(|it| it["reason"].clone()), Some(json!("Patched")), "{patched}");
}

fn set_image(session: &Session, path: &str, image: &str) {
    session.strategic_patch(path, &json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}}));
}

// Conformance: [sig-apps] ReplicaSet Replicaset should have a working scale subresource
// Conformance: [sig-apps] ReplicaSet Replace and Patch tests
// Conformance: [sig-apps] ReplicaSet should list and delete a collection of ReplicaSets
// Conformance: [sig-apps] ReplicaSet should validate Replicaset Status endpoints
// Conformance: [sig-apps] Deployment Deployment should have a working scale subresource
// Conformance: [sig-apps] Deployment should validate Deployment Status endpoints
// Conformance: [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should have a working scale subresource
// Conformance: [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should list, patch and delete a collection of StatefulSets
// Conformance: [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should validate Statefulset Status endpoints
// Conformance: [sig-apps] ReplicationController should get and update a ReplicationController scale
// Conformance: [sig-apps] Daemon set should verify changes to a daemon set status
// Conformance: [sig-apps] Daemon set should list and delete a collection of DaemonSets
#[test]
fn scales_statuses_and_collections() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    for (plural, object) in [
        (DEPLOYMENTS, workload("deployment", 1)),
        (REPLICA_SETS, workload("replicaset", 1)),
        (STATEFUL_SETS, stateful("stateful", 1)),
        ("replicationcontrollers", controller("controller", 1)),
    ] {
        session.create(plural, &object);
        let app = name_of(&object);
        let path = format!("{plural}/{app}");
        ready(&session, &app, 1);
        let scale = session.get(&format!("{path}/scale"));
        assert_eq!((&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!("Scale"), &json!(1), &json!(1)), "{plural}");
        session.edit(&format!("{path}/scale"), |scale| scale["spec"]["replicas"] = 2.into());
        assert_eq!(session.get(&path)["spec"]["replicas"], 2);
        ready(&session, &app, 2);
        session.patch(&format!("{path}/scale"), &json!({"spec": {"replicas": 4}}));
        assert_eq!(session.get(&path)["spec"]["replicas"], 4);
        session.patch(&format!("{path}/scale"), &json!({"spec": {"replicas": 1}}));
        ready(&session, &app, 1);
    }
    // Replace and patch.
    session.edit(&format!("{REPLICA_SETS}/replicaset"), |set| set["spec"]["replicas"] = 2.into());
    ready_replicas(&session, &format!("{REPLICA_SETS}/replicaset"), 2);
    let patch = json!({"metadata": {"labels": {"test-rs": "patched"}}, "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "main", "image": "busybox:1.28"}]}}}});
    session.strategic_patch(&format!("{REPLICA_SETS}/replicaset"), &patch);
    let set = session.get(&format!("{REPLICA_SETS}/replicaset"));
    assert_eq!((&set["metadata"]["labels"]["test-rs"], image(&set)), (&json!("patched"), "busybox:1.28"));
    ready_replicas(&session, &format!("{REPLICA_SETS}/replicaset"), 3);
    session.strategic_patch(&format!("{STATEFUL_SETS}/stateful"), &json!({"metadata": {"labels": {"test-ss": "patched"}}, "spec": {"replicas": 2}}));
    ready(&session, "stateful", 2);

    session.create(DAEMON_SETS, &daemon("daemon"));
    ready(&session, "daemon", 1);
    for path in [format!("{DEPLOYMENTS}/deployment"), format!("{REPLICA_SETS}/replicaset"), format!("{STATEFUL_SETS}/stateful"), format!("{DAEMON_SETS}/daemon")] {
        status_endpoints(&session, &path);
    }
    for (plural, app) in [(REPLICA_SETS, "replicaset"), (STATEFUL_SETS, "stateful"), (DAEMON_SETS, "daemon")] {
        let selected = format!("{plural}?labelSelector=app={app}");
        assert_eq!(session.items(&selected).len(), 1, "{plural}");
        session.delete(&selected);
        session.eventually(&selected, |list| list["items"].as_array().is_some_and(Vec::is_empty));
        pods_when(&session, app, <[Value]>::is_empty);
    }
}

/// What a server of this machine's pods answers to a datagram.
fn udp(address: &str, port: u16) -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("binds");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
    socket.send_to(b"name", (address, port)).expect("sends");
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).expect("is answered");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

// Conformance: [sig-apps] ReplicaSet should adopt matching pods on creation and release no longer matching pods
// Conformance: [sig-apps] ReplicationController should adopt matching pods on creation
// Conformance: [sig-apps] ReplicationController should release no longer matching pods
// Conformance: [sig-apps] ReplicationController should test the lifecycle of a ReplicationController
// Conformance: [sig-apps] ReplicationController should surface a failure condition on a common issue like exceeded quota
// Conformance: [sig-apps] ReplicationController should serve a basic image on each replica with a public image
// Conformance: [sig-apps] ReplicaSet should serve a basic image on each replica with a public image
#[test]
fn replicas_are_adopted_released_counted_and_serve() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let owner = |pod: &str| session.get(&format!("pods/{pod}"))["metadata"]["ownerReferences"][0]["uid"].clone();
    for (plural, app, object) in [(REPLICA_SETS, "rs", workload("rs", 1)), ("replicationcontrollers", "rc", controller("rc", 1))] {
        let orphan = format!("{app}-orphan");
        session.create("pods", &with(waiting(&orphan), json!({"metadata": {"labels": {"app": app}}})));
        session.ready(&orphan);
        let uid = session.create(plural, &object)["metadata"]["uid"].clone();
        session.eventually(&format!("pods/{orphan}"), |pod| pod["metadata"]["ownerReferences"][0]["uid"] == uid);
        assert_eq!(names(&pods_of(&session, app)), [orphan.clone()]);
        session.patch(&format!("pods/{orphan}"), &json!({"metadata": {"labels": {"app": "released"}}}));
        session.eventually(&format!("pods/{orphan}"), |pod| pod["metadata"]["ownerReferences"].is_null());
        let instead = ready(&session, app, 1);
        assert_eq!(owner(&name_of(&instead[0])), uid);
        session.delete(&format!("pods/{orphan}"));
        session.delete(&format!("{plural}/{app}?propagationPolicy=Background"));
        pods_when(&session, app, <[Value]>::is_empty);
    }

    // A life: read, patched, its status too, scaled, listed, deleted; each seen by a watch.
    let selected = "replicationcontrollers?labelSelector=app=life";
    let since = session.get(selected)["metadata"]["resourceVersion"].as_str().expect("told").to_owned();
    session.create("replicationcontrollers", &controller("life", 1));
    ready_replicas(&session, "replicationcontrollers/life", 1);
    session.patch("replicationcontrollers/life", &json!({"metadata": {"labels": {"test-rc": "patched"}}}));
    session.patch("replicationcontrollers/life/status", &json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}));
    session.patch("replicationcontrollers/life/scale", &json!({"spec": {"replicas": 2}}));
    ready_replicas(&session, "replicationcontrollers/life", 2);
    assert_eq!(session.items("/api/v1/replicationcontrollers?labelSelector=test-rc=patched").len(), 1);
    session.delete(&format!("{selected}&propagationPolicy=Background"));
    session.gone("replicationcontrollers/life");
    let events = session.watched(selected, &since);
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert!(kinds.starts_with(&["ADDED"]) && kinds.ends_with(&["DELETED"]) && kinds.contains(&"MODIFIED"), "{kinds:?}");

    // More than the quota lets in.
    session.create("resourcequotas", &json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2"}}}));
    session.eventually("resourcequotas/q", |quota| quota["status"]["used"]["pods"] == "0");
    session.create("replicationcontrollers", &controller("much", 3));
    let failed = session.eventually("replicationcontrollers/much", |it| is_true(it, "ReplicaFailure"));
    let told = condition(&failed, "ReplicaFailure").expect("told");
    assert!(told["reason"] == "FailedCreate" && told["message"].as_str().is_some_and(|text| text.contains("exceeded quota: q")), "{told}");
    session.patch("replicationcontrollers/much/scale", &json!({"spec": {"replicas": 2}}));
    session.eventually("replicationcontrollers/much", |it| condition(it, "ReplicaFailure").is_none());
    session.delete("replicationcontrollers/much?propagationPolicy=Background");
    pods_when(&session, "much", <[Value]>::is_empty);
    session.delete("resourcequotas/q");

    // Each replica says its own name, over HTTP, TCP and UDP.
    let server = template(with_main(waiting("x"), json!({"image": "testserver", "command": null})), "server");
    for (plural, object) in [(REPLICA_SETS, workload("server", 2)), ("replicationcontrollers", controller("server", 2))] {
        session.create(plural, &with(object, json!({"spec": {"template": server}})));
        for pod in ready(&session, "server", 2) {
            let (name, address) = (name_of(&pod), pod["status"]["podIP"].as_str().expect("told").to_owned());
            let said = session.raw(Method::GET, &format!("pods/{name}:8080/proxy/hostname"), "", None).1;
            assert_eq!(said, name);
            let ask = format!("wget -qO- http://{address}:8080/; echo; nc {address} 8081 < /dev/null");
            session.say(&[(script("client", &ask), &format!("{name}\n{name}"))]);
            assert_eq!(udp(&address, 8081), name);
        }
        session.delete(&format!("{plural}/server?propagationPolicy=Background"));
        session.eventually("pods?labelSelector=app=server", |list| list["items"].as_array().is_some_and(Vec::is_empty));
    }
}

// Conformance: [sig-apps] Deployment RollingUpdateDeployment should delete old pods and create new ones
// Conformance: [sig-apps] Deployment RecreateDeployment should delete old pods and create new ones
// Conformance: [sig-apps] Deployment deployment should delete old replica sets
// Conformance: [sig-apps] Deployment deployment should support rollover
// Conformance: [sig-apps] Deployment deployment should support proportional scaling
// Conformance: [sig-apps] Deployment should run the lifecycle of a Deployment
#[test]
fn deployments_roll_over_scale_and_tidy_up() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let sets = |app: &str| session.items(&format!("{REPLICA_SETS}?labelSelector=app={app}"));
    let set_of = |app: &str, wanted: &str| sets(app).into_iter().find(|set| image(set) == wanted);
    let complete = |app: &str, replicas: i64| {
        session.eventually_within(&format!("{DEPLOYMENTS}/{app}"), SLOW, |it| {
            let status = &it["status"];
            status["observedGeneration"] == it["metadata"]["generation"] && status["updatedReplicas"] == replicas && status["availableReplicas"] == replicas && status["replicas"] == replicas
        })
    };

    // Rolling: a set that is there is adopted as the old revision, and emptied.
    let old = with(workload("rolling", 1), json!({"metadata": {"name": "rolling-old", "annotations": {"deployment.kubernetes.io/revision": "3546343826724305832"}}}));
    session.create(REPLICA_SETS, &old);
    ready(&session, "rolling", 1);
    let mut rolling = workload("rolling", 1);
    rolling["spec"]["template"]["spec"]["containers"][0]["image"] = "busybox:1.28".into();
    session.create(DEPLOYMENTS, &rolling);
    let rolled = complete("rolling", 1);
    assert_eq!(rolled["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3546343826724305833");
    let emptied = set_of("rolling", "busybox:1.35").expect("the old set stays");
    assert_eq!((&emptied["spec"]["replicas"], &emptied["metadata"]["ownerReferences"][0]["uid"]), (&json!(0), &rolled["metadata"]["uid"]));
    assert_eq!(set_of("rolling", "busybox:1.28").map(|set| set["status"]["readyReplicas"].clone()), Some(json!(1)));

    // Recreate: never both at once.
    session.create(DEPLOYMENTS, &with(workload("recreate", 1), json!({"spec": {"strategy": {"type": "Recreate"}}})));
    complete("recreate", 1);
    let since = session.get("pods")["metadata"]["resourceVersion"].as_str().expect("told").to_owned();
    set_image(&session, &format!("{DEPLOYMENTS}/recreate"), "busybox:1.28");
    complete("recreate", 1);
    let (mut old_is_there, mut new_seen) = (true, false);
    for (kind, pod) in session.watched("pods?labelSelector=app=recreate", &since) {
        match image(&pod) {
            "busybox:1.28" => {
                new_seen = true;
                assert!(!old_is_there, "a new pod beside the old one");
            }
            _ => old_is_there &= kind != "DELETED",
        }
    }
    assert!(new_seen);

    // No history.
    let clean = with(workload("clean", 1), json!({"metadata": {"name": "clean-old"}}));
    session.create(REPLICA_SETS, &clean);
    ready(&session, "clean", 1);
    let mut deployment = with(workload("clean", 1), json!({"spec": {"revisionHistoryLimit": 0}}));
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "busybox:1.28".into();
    session.create(DEPLOYMENTS, &deployment);
    complete("clean", 1);
    session.eventually(&format!("{REPLICA_SETS}?labelSelector=app=clean"), |list| list["items"].as_array().is_some_and(|sets| sets.len() == 1 && image(&sets[0]) == "busybox:1.28"));

    // Over a roll that cannot end.
    session.create(REPLICA_SETS, &with(workload("rollover", 1), json!({"metadata": {"name": "rollover-controller"}})));
    ready(&session, "rollover", 1);
    let mut deployment = with(workload("rollover", 1), json!({"spec": {"minReadySeconds": 2, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}}));
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "nonexistent:1".into();
    session.create(DEPLOYMENTS, &deployment);
    session.eventually(&format!("{REPLICA_SETS}?labelSelector=app=rollover"), |list| list["items"].as_array().is_some_and(|sets| sets.iter().any(|set| image(set) == "nonexistent:1" && set["status"]["replicas"] == 1)));
    set_image(&session, &format!("{DEPLOYMENTS}/rollover"), "busybox:1.28");
    complete("rollover", 1);
    for set in sets("rollover") {
        let expected = i64::from(image(&set) == "busybox:1.28");
        assert_eq!(set["spec"]["replicas"], expected, "{}", set["metadata"]["name"]);
    }

    // In proportion: 10 of which 8 old remain and 5 new wait; 30 are 20 and 13.
    let strategy = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2, "maxSurge": 3}}}});
    session.create(DEPLOYMENTS, &with(workload("wide", 10), strategy));
    complete("wide", 10);
    set_image(&session, &format!("{DEPLOYMENTS}/wide"), "nonexistent:1");
    let sizes = |old: i64, new: i64| {
        session.eventually_within(&format!("{REPLICA_SETS}?labelSelector=app=wide"), SLOW, |list| {
            let size = |wanted: &str| list["items"].as_array().into_iter().flatten().find(|set| image(set) == wanted).map(|set| set["spec"]["replicas"].clone());
            size("busybox:1.35") == Some(old.into()) && size("nonexistent:1") == Some(new.into())
        });
    };
    sizes(8, 5);
    session.eventually(&format!("{DEPLOYMENTS}/wide"), |it| it["status"]["availableReplicas"] == 8);
    session.patch(&format!("{DEPLOYMENTS}/wide/scale"), &json!({"spec": {"replicas": 30}}));
    sizes(20, 13);
    session.delete(&format!("{DEPLOYMENTS}/wide?propagationPolicy=Background"));

    // A life, seen by a watch.
    let selected = format!("{DEPLOYMENTS}?labelSelector=app=life");
    let since = session.get(&selected)["metadata"]["resourceVersion"].as_str().expect("told").to_owned();
    session.create(DEPLOYMENTS, &workload("life", 1));
    complete("life", 1);
    session.strategic_patch(&format!("{DEPLOYMENTS}/life"), &json!({"metadata": {"labels": {"test-deployment": "patched"}}, "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "main", "image": "busybox:1.28"}]}}}}));
    complete("life", 2);
    assert_eq!(session.items("/apis/apps/v1/deployments?labelSelector=test-deployment=patched").len(), 1);
    let patched = session.patch(&format!("{DEPLOYMENTS}/life/status"), &json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}));
    assert_eq!(patched["kind"], "Deployment");
    assert_eq!(session.get(&format!("{DEPLOYMENTS}/life/status"))["kind"], "Deployment");
    complete("life", 2);
    session.delete(&selected);
    session.gone(&format!("{DEPLOYMENTS}/life"));
    let events = session.watched(&selected, &since);
    assert!(events.first().is_some_and(|(kind, _)| kind == "ADDED") && events.last().is_some_and(|(kind, _)| kind == "DELETED"), "{events:?}");
}

// Conformance: [sig-apps] Daemon set should run and stop simple daemon
// Conformance: [sig-apps] Daemon set should run and stop complex daemon
// Conformance: [sig-apps] Daemon set should retry creating failed daemon pods
// Conformance: [sig-apps] Daemon set should update pod when spec was updated and update strategy is RollingUpdate
// Conformance: [sig-apps] ControllerRevision should manage the lifecycle of a ControllerRevision
#[test]
fn daemons_run_where_they_should() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    session.create(DAEMON_SETS, &daemon("simple"));
    let first = ready(&session, "simple", 1);
    session.delete(&format!("pods/{}", name_of(&first[0])));
    let second = pods_when(&session, "simple", |pods| pods.len() == 1 && is_ready(&pods[0]) && name_of(&pods[0]) != name_of(&first[0]));

    // One that failed is replaced.
    let name = name_of(&second[0]);
    session.patch(&format!("pods/{name}/status"), &json!({"status": {"phase": "Failed"}}));
    session.gone(&format!("pods/{name}"));
    ready(&session, "simple", 1);

    // Changed: replaced, one revision later.
    let hash = |pods: &[Value]| pods[0]["metadata"]["labels"]["controller-revision-hash"].clone();
    let before = hash(&ready(&session, "simple", 1));
    let updates = json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}, "template": {"spec": {"containers": [{"name": "main", "image": "busybox:1.28"}]}}}});
    session.strategic_patch(&format!("{DAEMON_SETS}/simple"), &updates);
    let after = pods_when(&session, "simple", |pods| pods.len() == 1 && image(&pods[0]) == "busybox:1.28" && is_ready(&pods[0]));
    assert_ne!(hash(&after), before);
    session.eventually(&format!("{DAEMON_SETS}/simple"), |it| it["status"]["updatedNumberScheduled"] == 1 && it["status"]["numberAvailable"] == 1);

    // By a label of nodes.
    let label = |value: Value| session.patch(&format!("nodes/{NODE}"), &json!({"metadata": {"labels": {"daemonset-color": value}}}));
    session.create(DAEMON_SETS, &with(daemon("complex"), json!({"spec": {"template": {"spec": {"nodeSelector": {"daemonset-color": "blue"}}}}})));
    session.eventually(&format!("{DAEMON_SETS}/complex"), |it| it["status"]["observedGeneration"] == 1 && it["status"]["desiredNumberScheduled"] == 0);
    assert!(pods_of(&session, "complex").is_empty());
    label("blue".into());
    ready(&session, "complex", 1);
    label("green".into());
    pods_when(&session, "complex", <[Value]>::is_empty);
    session.patch(&format!("{DAEMON_SETS}/complex"), &json!({"spec": {"template": {"spec": {"nodeSelector": {"daemonset-color": "green"}}}, "updateStrategy": {"type": "RollingUpdate"}}}));
    ready(&session, "complex", 1);

    // Revisions.
    session.create(DAEMON_SETS, &daemon("revised"));
    ready(&session, "revised", 1);
    let selected = format!("{REVISIONS}?labelSelector=app=revised");
    let count = |count: usize| session.eventually(&selected, |list| list["items"].as_array().is_some_and(|list| list.len() == count))["items"].clone();
    let initial = count(1)[0].clone();
    let path = format!("{REVISIONS}/{}", name_of(&initial));
    session.patch(&path, &json!({"metadata": {"labels": {(name_of(&initial)): "patched"}}}));
    assert_eq!(session.get(&path)["metadata"]["labels"][name_of(&initial)], "patched");
    let owner = initial["metadata"]["ownerReferences"].clone();
    let made = json!({"metadata": {"name": "made", "labels": {"app": "revised", "made": "yes"}, "ownerReferences": owner}, "data": initial["data"], "revision": 2});
    session.create(REVISIONS, &made);
    count(2);
    session.delete(&path);
    count(1);
    session.edit(&format!("{REVISIONS}/made"), |it| it["metadata"]["labels"]["made"] = "updated".into());
    assert_eq!(session.get(&format!("{REVISIONS}/made"))["metadata"]["labels"]["made"], "updated");
    session.patch(&format!("{DAEMON_SETS}/revised"), &json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}, "updateStrategy": {"type": "RollingUpdate"}}}));
    count(2);
    session.delete(&format!("{REVISIONS}?labelSelector=made=updated"));
    let left = count(1);
    assert_eq!(left[0]["revision"], 3);
}

/// A StatefulSet whose pods are ready unless `/tmp/broken` is there.
fn breakable(app: &str, replicas: u32) -> Value {
    let probe = json!({"readinessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/broken"]}, "periodSeconds": 1, "failureThreshold": 1}});
    with(stateful(app, replicas), json!({"spec": {"template": template(with_main(waiting("x"), probe), app)}}))
}

// Conformance: [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform rolling updates and roll backs of template modifications
// Conformance: [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform canary updates and phased rolling updates of template modifications
// Conformance: [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Scaling should happen in predictable order and halt if any stateful pod is unhealthy
// Conformance: [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Burst scaling should run to completion even with unhealthy pods
// Conformance: [sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Should recreate evicted statefulset
#[test]
fn stateful_sets_keep_their_order() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    session.create("services", &json!({"metadata": {"name": "test"}, "spec": {"clusterIP": "None", "selector": {"x": "y"}}}));
    let breaks = |pod: &str| drop(cluster.kubectl(&format!("exec {pod} -- touch /tmp/broken")));
    let mends = |pod: &str| drop(cluster.kubectl(&format!("exec {pod} -- rm -f /tmp/broken")));
    let unready = |pod: &str| drop(session.eventually(&format!("pods/{pod}"), |pod| !is_ready(pod)));
    let scale = |app: &str, replicas: u32| drop(session.patch(&format!("{STATEFUL_SETS}/{app}/scale"), &json!({"spec": {"replicas": replicas}})));
    let images = |app: &str| -> Vec<String> { pods_of(&session, app).iter().map(|pod| image(pod).trim_start_matches("busybox:").to_owned()).collect() };
    let at_image = |app: &str, wanted: &[&str]| {
        pods_when(&session, app, |pods| pods.len() == wanted.len() && pods.iter().all(is_ready) && pods.iter().zip(wanted).all(|(pod, wanted)| image(pod).ends_with(wanted)))
    };
    let deletions = |app: &str, since: &str| -> Vec<String> {
        let events = session.watched(&format!("pods?labelSelector=app={app}"), since);
        events.iter().filter(|(kind, _)| kind == "DELETED").map(|(_, pod)| name_of(pod)).collect()
    };
    let now = || session.get("pods")["metadata"]["resourceVersion"].as_str().expect("told").to_owned();

    // Rolled and rolled back, last first, to a revision that is known.
    session.create(STATEFUL_SETS, &stateful("roll", 3));
    at_image("roll", &["1.35", "1.35", "1.35"]);
    let settled = || session.eventually_within(&format!("{STATEFUL_SETS}/roll"), SLOW, |it| it["status"]["currentRevision"] == it["status"]["updateRevision"] && it["status"]["updatedReplicas"] == 3 && it["status"]["observedGeneration"] == it["metadata"]["generation"]);
    let first = session.get(&format!("{STATEFUL_SETS}/roll"))["status"]["currentRevision"].clone();
    let since = now();
    set_image(&session, &format!("{STATEFUL_SETS}/roll"), "busybox:1.28");
    let rolling = session.eventually(&format!("{STATEFUL_SETS}/roll"), |it| it["status"]["updateRevision"] != first);
    assert_eq!(rolling["status"]["currentRevision"], first);
    at_image("roll", &["1.28", "1.28", "1.28"]);
    assert_eq!(deletions("roll", &since), ["roll-2", "roll-1", "roll-0"]);
    settled();
    set_image(&session, &format!("{STATEFUL_SETS}/roll"), "busybox:1.35");
    at_image("roll", &["1.35", "1.35", "1.35"]);
    assert_eq!(settled()["status"]["currentRevision"], first, "a rollback makes no new revision");
    assert_eq!(session.items(&format!("{REVISIONS}?labelSelector=app=roll")).len(), 2);

    // A canary, then phases, each guarded by the partition.
    let partition = |partition: u32| drop(session.patch(&format!("{STATEFUL_SETS}/roll"), &json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}}})));
    partition(3);
    set_image(&session, &format!("{STATEFUL_SETS}/roll"), "busybox:1.28");
    session.eventually(&format!("{STATEFUL_SETS}/roll"), |it| it["status"]["updateRevision"] != it["status"]["currentRevision"] && it["status"]["observedGeneration"] == it["metadata"]["generation"]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(images("roll"), ["1.35", "1.35", "1.35"]);
    partition(2);
    at_image("roll", &["1.35", "1.35", "1.28"]);
    for pod in ["roll-0", "roll-2"] {
        let uid = session.get(&format!("pods/{pod}"))["metadata"]["uid"].clone();
        session.delete(&format!("pods/{pod}"));
        session.eventually(&format!("pods/{pod}"), |pod| pod["metadata"]["uid"].is_string() && pod["metadata"]["uid"] != uid && is_ready(pod));
    }
    at_image("roll", &["1.35", "1.35", "1.28"]);
    partition(1);
    at_image("roll", &["1.35", "1.28", "1.28"]);
    partition(0);
    at_image("roll", &["1.28", "1.28", "1.28"]);

    // In order, and no further while one is unwell.
    let since = now();
    session.create(STATEFUL_SETS, &breakable("order", 1));
    ready(&session, "order", 1);
    breaks("order-0");
    unready("order-0");
    scale("order", 3);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(names(&pods_of(&session, "order")), ["order-0"]);
    mends("order-0");
    ready(&session, "order", 3);
    let added: Vec<String> = session.watched("pods?labelSelector=app=order", &since).iter().filter(|(kind, _)| kind == "ADDED").map(|(_, pod)| name_of(pod)).collect();
    assert_eq!(added, ["order-0", "order-1", "order-2"]);
    for pod in ["order-0", "order-1", "order-2"] {
        breaks(pod);
        unready(pod);
    }
    let since = now();
    scale("order", 0);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(pods_of(&session, "order").len(), 3, "it waits for those that are unwell");
    for pod in ["order-2", "order-1", "order-0"] {
        mends(pod);
    }
    pods_when(&session, "order", <[Value]>::is_empty);
    session.eventually("pods?labelSelector=app=order", |list| list["items"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(deletions("order", &since), ["order-2", "order-1", "order-0"]);

    // All at once, well or not.
    session.create(STATEFUL_SETS, &with(breakable("burst", 1), json!({"spec": {"podManagementPolicy": "Parallel"}})));
    ready(&session, "burst", 1);
    breaks("burst-0");
    unready("burst-0");
    scale("burst", 3);
    pods_when(&session, "burst", |pods| pods.len() == 3 && pods[1..].iter().all(is_ready));
    breaks("burst-1");
    unready("burst-1");
    scale("burst", 0);
    pods_when(&session, "burst", <[Value]>::is_empty);

    // One that its node refuses is made again until it fits.
    let port = json!({"ports": [{"containerPort": 21017, "hostPort": 21017}]});
    session.create("pods", &with(with_main(waiting("holder"), port.clone()), json!({"spec": {"nodeName": NODE}})));
    session.ready("holder");
    let since = now();
    let refused = with(with_main(waiting("x"), port), json!({"spec": {"nodeName": NODE}}));
    session.create(STATEFUL_SETS, &with(stateful("evicted", 1), json!({"spec": {"template": template(refused, "evicted")}})));
    let end = Instant::now() + Duration::from_secs(30);
    while deletions("evicted", &since).is_empty() {
        assert!(Instant::now() < end, "it is refused, and made again");
    }
    session.delete("pods/holder");
    ready(&session, "evicted", 1);
}

fn job(name: &str, pod: Value, spec: Value) -> Value {
    let object = json!({"metadata": {"name": name}, "spec": {"template": with(pod, json!({"metadata": {"name": null}}))}});
    with(object, json!({"spec": spec}))
}

/// Fails unless its completion index is in the list.
fn succeeds_for(indexes: &str) -> Value {
    script("x", &format!("case $JOB_COMPLETION_INDEX in {indexes}) exit 0;; *) exit 1;; esac"))
}

#[track_caller]
fn ended(session: &Session, name: &str, condition: &str) -> Value {
    session.eventually_within(&format!("{JOBS}/{name}"), SLOW, |job| is_true(job, condition))
}

fn pods_of_job(session: &Session, name: &str) -> Vec<Value> {
    session.items(&format!("pods?labelSelector=batch.kubernetes.io/job-name={name}"))
}

// Conformance: [sig-apps] Job should run a job to completion when tasks sometimes fail and are locally restarted
// Conformance: [sig-apps] Job should create pods for an Indexed job with completion indexes and specified hostname
// Conformance: [sig-apps] Job should allow to use the pod failure policy on exit code to fail the job early
// Conformance: [sig-apps] Job should allow to use a pod failure policy to ignore failure matching on DisruptionTarget condition
// Conformance: [sig-apps] Job should execute all indexes despite some failing when using backoffLimitPerIndex
// Conformance: [sig-apps] Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy
// Conformance: [sig-apps] Job should terminate job execution when the number of failed indexes exceeds maxFailedIndexes
// Conformance: [sig-apps] Job with successPolicy should succeeded when all indexes succeeded
// Conformance: [sig-apps] Job with successPolicy succeededIndexes rule should succeeded even when some indexes remain pending
// Conformance: [sig-apps] Job with successPolicy succeededCount rule should succeeded even when some indexes remain pending
// Conformance: [sig-apps] Job should adopt matching orphans and release non-matching pods
// Conformance: [sig-apps] Job should delete a job
// Conformance: [sig-apps] Job should apply changes to a job status
// Conformance: [sig-apps] Job should manage the lifecycle of a job
#[test]
fn jobs_end_as_their_policies_say() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let indexed = |spec: Value| with(json!({"completionMode": "Indexed", "parallelism": 2}), spec);
    let reason = |job: &Value, kind: &str| condition(job, kind).map_or(Value::Null, |it| it["reason"].clone());
    let start = |object: Value| drop(session.create(JOBS, &object));

    let once = with(with_volume(script("x", "[ -e /v/f ] && exit 0; touch /v/f; exit 1"), json!({"emptyDir": {}})), json!({"spec": {"restartPolicy": "OnFailure"}}));
    start(job("locally", once, json!({"parallelism": 2, "completions": 4})));
    start(job("indexes", script("x", "echo $JOB_COMPLETION_INDEX $(hostname)"), indexed(json!({"completions": 4}))));
    let policy = json!({"rules": [{"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [1]}}]});
    start(job("exit-code", succeeds_for("1"), indexed(json!({"completions": 2, "backoffLimit": 6, "podFailurePolicy": policy}))));
    start(job("per-index", succeeds_for("0|2"), indexed(json!({"completions": 4, "backoffLimitPerIndex": 1}))));
    let policy = json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}]});
    start(job("fail-index", succeeds_for("0|2"), indexed(json!({"completions": 4, "backoffLimitPerIndex": 1, "podFailurePolicy": policy}))));
    start(job("max-failed", succeeds_for("none"), indexed(json!({"completions": 10, "parallelism": 3, "backoffLimitPerIndex": 0, "maxFailedIndexes": 4}))));
    let success = |rule: Value| json!({"completions": 2, "backoffLimit": 6, "successPolicy": {"rules": [rule]}});
    let first_only = script("x", "[ $JOB_COMPLETION_INDEX = 0 ] && exit 0; sleep 3600");
    start(job("all", script("x", "exit 0"), indexed(with(success(json!({"succeededIndexes": "0-1"})), json!({})))));
    start(job("some-indexes", first_only.clone(), indexed(success(json!({"succeededIndexes": "0"})))));
    start(job("some-count", first_only, indexed(success(json!({"succeededCount": 1})))));

    let done = ended(&session, "locally", "Complete");
    assert_eq!((&done["status"]["succeeded"], &done["status"]["failed"]), (&json!(4), &Value::Null));
    let done = ended(&session, "indexes", "Complete");
    assert_eq!(done["status"]["completedIndexes"], "0-3");
    let mut found: Vec<String> = pods_of_job(&session, "indexes").iter().map(|pod| {
        let annotation = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap_or_default().to_owned();
        format!("{annotation} = {}", session.logs(&name_of(pod), "main").trim_end())
    }).collect();
    found.sort();
    assert_eq!(found, ["0 = 0 indexes-0", "1 = 1 indexes-1", "2 = 2 indexes-2", "3 = 3 indexes-3"]);
    let failed = ended(&session, "exit-code", "Failed");
    assert_eq!(reason(&failed, "Failed"), "PodFailurePolicy", "{}", failed["status"]);
    let failed = ended(&session, "fail-index", "Failed");
    assert_eq!((&failed["status"]["failedIndexes"], &failed["status"]["completedIndexes"], &failed["status"]["failed"], reason(&failed, "Failed")), (&json!("1,3"), &json!("0,2"), &json!(2), json!("FailedIndexes")));
    let failed = ended(&session, "max-failed", "Failed");
    assert_eq!(reason(&failed, "Failed"), "MaxFailedIndexesExceeded");
    assert!(pods_of_job(&session, "max-failed").len() < 10, "it ended early");
    for (name, indexes) in [("all", "0,1"), ("some-indexes", "0"), ("some-count", "0")] {
        let done = ended(&session, name, "Complete");
        assert_eq!((reason(&done, "SuccessCriteriaMet"), is_true(&done, "SuccessCriteriaMet")), (json!("SuccessPolicy"), true), "{name}");
        assert_eq!(done["status"]["completedIndexes"], indexes, "{name}");
    }

    // Evicted pods do not count.
    let marks = std::env::temp_dir().join(format!("coracle-test-job-{}", std::process::id()));
    std::fs::create_dir_all(&marks).expect("a directory");
    let pod = with_volume(script("x", "[ -e /v/$JOB_COMPLETION_INDEX ] && exit 0; touch /v/$JOB_COMPLETION_INDEX; exec sleep 3600"), json!({"hostPath": {"path": marks}}));
    let policy = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
    start(job("disrupted", pod, indexed(json!({"completions": 2, "backoffLimit": 0, "podFailurePolicy": policy}))));
    session.eventually(&format!("{JOBS}/disrupted"), |job| job["status"]["ready"] == 2);
    for pod in pods_of_job(&session, "disrupted") {
        let name = name_of(&pod);
        session.create(&format!("pods/{name}/eviction"), &json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}));
    }
    let done = ended(&session, "disrupted", "Complete");
    assert_eq!((&done["status"]["succeeded"], done["status"]["failed"].as_i64().unwrap_or(0)), (&json!(2), 0), "{}", done["status"]);
    let _ = std::fs::remove_dir_all(marks);

    // Orphans come home, the mislabelled leave.
    start(job("family", waiting_once(), json!({"parallelism": 2, "completions": 4, "backoffLimit": 6})));
    session.eventually(&format!("{JOBS}/family"), |job| job["status"]["ready"] == 2);
    let name = name_of(&pods_of_job(&session, "family")[0]);
    session.patch(&format!("pods/{name}"), &json!({"metadata": {"ownerReferences": null}}));
    session.eventually(&format!("pods/{name}"), |pod| pod["metadata"]["ownerReferences"][0]["name"] == "family");
    session.patch(&format!("pods/{name}"), &json!({"metadata": {"labels": null}}));
    session.eventually(&format!("pods/{name}"), |pod| pod["metadata"]["ownerReferences"].is_null());
    session.eventually(&format!("{JOBS}/family"), |job| job["status"]["ready"] == 2 && job["status"]["active"] == 2);
    assert_eq!(pods_of_job(&session, "family").len(), 2);

    status_endpoints(&session, &format!("{JOBS}/family"));
    session.patch(&format!("{JOBS}/family/status"), &json!({"metadata": {"annotations": {"patchedstatus": "true"}}}));
    assert_eq!(session.get(&format!("{JOBS}/family"))["metadata"]["annotations"]["patchedstatus"], "true");
    session.delete(&format!("{JOBS}/family?propagationPolicy=Foreground"));
    session.gone(&format!("{JOBS}/family"));
    assert!(pods_of_job(&session, "family").is_empty());

    start(with(job("suspended", waiting_once(), json!({"suspend": true, "parallelism": 2})), json!({"metadata": {"labels": {"e2e-job": "suspended"}}})));
    session.patch(&format!("{JOBS}/suspended"), &json!({"metadata": {"labels": {"suspended": "patched"}}}));
    session.eventually(&format!("{JOBS}/suspended"), |job| is_true(job, "Suspended"));
    session.edit(&format!("{JOBS}/suspended"), |job| {
        job["metadata"]["annotations"]["updated"] = "true".into();
        job["spec"]["suspend"] = false.into();
    });
    session.eventually(&format!("{JOBS}/suspended"), |job| job["status"]["ready"] == 2);
    let listed = session.items("/apis/batch/v1/jobs?labelSelector=suspended=patched");
    assert_eq!((listed.len(), &listed[0]["metadata"]["annotations"]["updated"]), (1, &json!("true")));
    session.delete(&format!("{JOBS}?labelSelector=suspended=patched&propagationPolicy=Background"));
    session.gone(&format!("{JOBS}/suspended"));

    // Last, since the second try of an index waits ten seconds.
    let failed = ended(&session, "per-index", "Failed");
    assert_eq!((&failed["status"]["failedIndexes"], &failed["status"]["completedIndexes"], &failed["status"]["failed"]), (&json!("1,3"), &json!("0,2"), &json!(4)));
}

fn waiting_once() -> Value {
    with(waiting("x"), json!({"spec": {"restartPolicy": "Never"}}))
}

// Conformance: [sig-apps] DisruptionController should create a PodDisruptionBudget
// Conformance: [sig-apps] DisruptionController should observe PodDisruptionBudget status updated
// Conformance: [sig-apps] DisruptionController should update/patch PodDisruptionBudget status
// Conformance: [sig-apps] DisruptionController should block an eviction until the PDB is updated to allow it
// Conformance: [sig-apps] DisruptionController Listing PodDisruptionBudgets for all namespaces should list and delete a collection of PodDisruptionBudgets
#[test]
fn budgets_guard_pods() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let budget = |name: &str, least: u32| json!({"metadata": {"name": name, "labels": {"set": "one"}}, "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "guarded"}}}});
    session.lives(BUDGETS, &json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"no": "body"}}}}));
    session.create(DEPLOYMENTS, &workload("guarded", 3));
    let pods = names(&ready(&session, "guarded", 3));
    session.create(BUDGETS, &budget("pdb", 2));
    let path = format!("{BUDGETS}/pdb");
    session.eventually(&path, |pdb| pdb["status"]["disruptionsAllowed"] == 1 && pdb["status"]["currentHealthy"] == 3 && pdb["status"]["desiredHealthy"] == 2);

    // Its status by its own door; who has disrupted a pod is remembered there.
    let disrupted = |key: &str| json!({"status": {"disruptedPods": {key: "2099-01-01T00:00:00Z"}}});
    assert!(session.patch(&format!("{path}/status"), &disrupted("nobody"))["status"]["disruptedPods"]["nobody"].is_string());
    session.edit(&format!("{path}/status"), |pdb| pdb["status"]["disruptedPods"] = json!({"someone": "2099-01-01T00:00:00Z"}));

    session.patch(&path, &json!({"spec": {"minAvailable": 3}}));
    session.eventually(&path, |pdb| pdb["status"]["disruptionsAllowed"] == 0 && pdb["status"]["observedGeneration"] == pdb["metadata"]["generation"]);
    let evict = |pod: &str| session.ask(Method::POST, &format!("pods/{pod}/eviction"), "application/json", Some(&json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}})));
    let (code, status) = evict(&pods[0]);
    assert_eq!((code, status["message"].as_str()), (429, Some("Cannot evict pod as it would violate the pod's disruption budget.")), "{status}");
    assert!(session.exists(&format!("pods/{}", pods[0])));
    session.edit(&path, |pdb| pdb["spec"]["minAvailable"] = 2.into());
    session.eventually(&path, |pdb| pdb["status"]["disruptionsAllowed"] == 1);
    assert_eq!(evict(&pods[0]).0, 201);
    session.gone(&format!("pods/{}", pods[0]));
    session.delete(&path);
    session.gone(&path);

    // In all namespaces, and a collection in one.
    session.create("/api/v1/namespaces", &json!({"metadata": {"name": "other"}}));
    session.create(&format!("/apis/policy/v1/namespaces/other/{}", "poddisruptionbudgets"), &budget("c", 1));
    for name in ["a", "b"] {
        session.create(BUDGETS, &budget(name, 1));
    }
    let everywhere = "/apis/policy/v1/poddisruptionbudgets?labelSelector=set=one";
    assert_eq!(session.items(everywhere).len(), 3);
    session.delete(&format!("{BUDGETS}?labelSelector=set=one"));
    session.eventually(everywhere, |list| list["items"].as_array().map(Vec::len) == Some(1));
}

// Conformance: [sig-apps] CronJob should support CronJob API operations
#[test]
fn cron_jobs_live_in_the_api() {
    let Some(cluster) = for_test(&["--disable-agent"]) else { return };
    let session = cluster.session();
    session.discovered("batch", "v1", &["cronjobs", "cronjobs/status"]);
    const CRON_JOBS: &str = "batch/v1/cronjobs";
    let spec = json!({"spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template(waiting_once(), "cron")}}}});
    session.lives(CRON_JOBS, &spec);
    session.create(CRON_JOBS, &with(spec, json!({"metadata": {"name": "yearly"}})));
    assert_eq!(session.items("/apis/batch/v1/cronjobs").len(), 1);
    let status = format!("{CRON_JOBS}/yearly/status");
    let patched = session.patch(&status, &json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}}));
    assert_eq!((&patched["status"]["lastScheduleTime"], &patched["metadata"]["annotations"]["patchedstatus"]), (&json!("2026-01-01T00:00:00Z"), &json!("true")));
    session.edit(&status, |cron| cron["status"]["lastScheduleTime"] = "2026-02-01T00:00:00Z".into());
    assert_eq!(session.get(&status)["status"]["lastScheduleTime"], "2026-02-01T00:00:00Z");
}
