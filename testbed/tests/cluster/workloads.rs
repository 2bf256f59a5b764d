//! Workloads as users run them, with the real kubectl: volumes that outlive their pods, daemons, Jobs, scaling on real load.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testbed::cluster::{NODE, coracle};
use testbed::session::{self, name_of, script, with};

const SOON: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

const STATEFUL: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox:1.35
        command: [sh, -c, "echo $HOSTNAME >> /data/log; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
"#;

#[test]
fn a_stateful_sets_data_outlives_scaling_and_deletion() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    session.eventually("storage.k8s.io/v1/storageclasses", |classes| {
        classes["items"][0]["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    });
    cluster.apply(STATEFUL);
    cluster.kubectl("rollout status statefulset/web --timeout=60s");
    let claims = || {
        let mut claims: Vec<String> = session.items("persistentvolumeclaims").iter().map(|claim| format!("{} {}", name_of(claim), claim["status"]["phase"])).collect();
        claims.sort();
        claims
    };
    let log = |pod: &str| cluster.kubectl(&format!("exec {pod} -- cat /data/log"));
    assert_eq!(claims(), ["data-web-0 \"Bound\"", "data-web-1 \"Bound\""]);
    assert_eq!((log("web-0").as_str(), log("web-1").as_str()), ("web-0\n", "web-1\n"));
    let address = cluster.kubectl("get pod web-1 -o jsonpath={.status.podIP}");
    let found = cluster.kubectl("exec web-0 -- nslookup web-1.web.default.svc.cluster.local");
    assert!(found.contains(&format!("Address: {address}")), "{address} in {found}");

    cluster.kubectl("scale statefulset web --replicas=1");
    session.gone("pods/web-1");
    assert_eq!(claims().len(), 2);
    cluster.kubectl("scale statefulset web --replicas=2");
    session.ready("web-1");
    assert_eq!(log("web-1"), "web-1\nweb-1\n");
    cluster.kubectl("delete statefulset web");
    session.gone("pods/web-0");
    assert_eq!(claims().len(), 2);
    cluster.apply(STATEFUL);
    session.ready("web-0");
    assert_eq!(log("web-0"), "web-0\nweb-0\n");

    // Where it is asked for, claims go with the set.
    session.patch("apps/v1/statefulsets/web", &json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}}}));
    session.ready("web-1");
    cluster.kubectl("scale statefulset web --replicas=1");
    session.gone("persistentvolumeclaims/data-web-1");
    cluster.kubectl("delete statefulset web");
    session.gone("persistentvolumeclaims/data-web-0");
    session.eventually("persistentvolumes", |list| list["items"].as_array().is_some_and(Vec::is_empty));
}

const DAEMONS_AND_JOBS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "nginx:1.14.2"}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: plain}
spec:
  completions: 3
  parallelism: 2
  template: {spec: {restartPolicy: Never, containers: [{name: main, image: "busybox:1.35", command: [echo, done]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: failing}
spec:
  backoffLimit: 1
  template: {spec: {restartPolicy: Never, containers: [{name: main, image: "busybox:1.35", command: [sh, -c, "echo no luck; exit 3"]}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: minutely}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template: {spec: {restartPolicy: OnFailure, containers: [{name: main, image: "busybox:1.35", command: [sh, -c, "date; echo Hello from the cluster"]}]}}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: classic}
spec:
  replicas: 2
  selector: {app: classic}
  template:
    metadata: {labels: {app: classic}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "nginx:1.16"}]
"#;

#[test]
fn daemons_jobs_cron_jobs_and_controllers_run() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    cluster.apply(DAEMONS_AND_JOBS);
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    cluster.kubectl("set image daemonset/agent main=nginx:1.16");
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    let table = cluster.kubectl("get daemonset agent --no-headers");
    assert_eq!(table.split_whitespace().take(6).collect::<Vec<_>>(), ["agent", "1", "1", "1", "1", "1"]);
    cluster.kubectl("rollout undo daemonset/agent");
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    assert!(cluster.kubectl("get daemonset agent -o wide").contains("nginx:1.14.2"));

    cluster.kubectl("wait --for=condition=complete job/plain --timeout=60s");
    assert!(cluster.kubectl("get job plain --no-headers").contains("3/3"));
    assert_eq!(cluster.kubectl("logs -l job-name=plain").matches("done").count(), 3);
    cluster.eventually("get rc classic --no-headers", SOON, |text| text.split_whitespace().take(4).eq(["classic", "2", "2", "2"]));
    cluster.kubectl("scale rc classic --replicas=1");
    cluster.eventually("get pods -l app=classic --no-headers", SOON, |text| text.lines().count() == 1);

    cluster.kubectl("wait --for=condition=failed job/failing --timeout=60s");
    let text = cluster.kubectl("describe job failing");
    assert!(text.contains("BackoffLimitExceeded") && text.contains("Job has reached the specified backoff limit"), "{text}");
    assert_eq!(cluster.kubectl("get pods -l job-name=failing --no-headers").lines().count(), 2);

    // The minute's turn brings a Job; one by hand works at any time.
    cluster.kubectl("create job by-hand --from=cronjob/minutely");
    cluster.kubectl("wait --for=condition=complete job/by-hand --timeout=30s");
    let jobs = session.eventually_within("batch/v1/jobs", Duration::from_secs(65), |list| {
        let scheduled = |job: &&Value| name_of(job).starts_with("minutely-") && job["status"]["succeeded"] == 1;
        list["items"].as_array().is_some_and(|jobs| jobs.iter().any(|job| scheduled(&job)))
    });
    let name = jobs["items"].as_array().into_iter().flatten().map(name_of).find(|name| name.starts_with("minutely-")).expect("it ran");
    assert!(cluster.kubectl(&format!("logs job/{name}")).contains("Hello from the cluster"));
    cluster.kubectl_words(&["patch", "cronjob", "minutely", "-p", r#"{"spec":{"suspend":true}}"#]);
    let table = cluster.kubectl("get cronjob minutely --no-headers");
    assert!(table.contains("* * * * *") && table.contains("True"), "{table}");
}

const LOAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  replicas: 1
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      volumes: [{name: switch, hostPath: {path: SWITCH, type: DirectoryOrCreate}}]
      containers:
      - name: main
        image: busybox:1.35
        command: [sh, -c, "while :; do [ -e /switch/on ] || sleep 0.2; done"]
        resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {cpu: 60m}}
        volumeMounts: [{name: switch, mountPath: /switch}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  minReplicas: 1
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
  behavior:
    scaleUp: {stabilizationWindowSeconds: 0}
    scaleDown: {stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 10, periodSeconds: 15}]}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: unknown}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  minReplicas: 1
  maxReplicas: 3
  metrics: [{type: Pods, pods: {metric: {name: packets}, target: {type: AverageValue, averageValue: 1k}}}]
"#;

#[test]
fn real_load_shows_in_top_and_scales_up_and_down() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    let switch = std::env::temp_dir().join(format!("coracle-test-switch-{}", std::process::id()));
    std::fs::create_dir_all(&switch).expect("a directory");
    std::fs::write(switch.join("on"), "").expect("writes");
    cluster.apply(&LOAD.replace("SWITCH", &switch.display().to_string()));
    cluster.kubectl("rollout status deployment/busy --timeout=60s");

    // The original's client and ours, as soon as somebody asks.
    let busy = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("busy-")).map(str::to_owned).unwrap_or_default();
        let cpu = line.split_whitespace().nth(1).and_then(|cpu| cpu.trim_end_matches('m').parse::<u64>().ok());
        cpu.is_some_and(|cpu| (20..=120).contains(&cpu)) && line.contains("Mi")
    };
    cluster.eventually("top pods", SOON, busy);
    assert!(cluster.kubectl("top pods --containers").contains("main"));
    let node = cluster.kubectl("top nodes --no-headers");
    let columns: Vec<&str> = node.split_whitespace().collect();
    assert!(columns.len() == 5 && columns[0] == NODE && columns[1].ends_with('m') && columns[2].ends_with('%') && columns[3].ends_with("Mi"), "{node}");
    for what in ["pods", "nodes"] {
        let ours = cluster.kubectl_command_of(&coracle(), &["kubectl", "top", what]).output().expect("runs");
        let text = String::from_utf8_lossy(&ours.stdout).into_owned();
        assert!(ours.status.success() && text.contains("CPU(cores)"), "{ours:?}");
    }
    let listed = session.get("/apis/metrics.k8s.io/v1beta1/pods?labelSelector=app=busy");
    assert_eq!((&listed["kind"], &listed["items"][0]["metadata"]["labels"]["app"]), (&json!("PodMetricsList"), &json!("busy")), "{listed}");
    assert!(listed["items"][0]["containers"][0]["usage"]["cpu"].as_str().is_some_and(|cpu| cpu.ends_with('n')), "{listed}");
    assert_eq!(session.get("/apis/metrics.k8s.io/v1beta1/nodes")["items"][0]["metadata"]["name"], NODE);
    assert!(cluster.kubectl("get pods.metrics.k8s.io").starts_with("NAME "), "a table");
    assert!(cluster.kubectl("get nodes.metrics.k8s.io").contains(" WINDOW"));
    let none = cluster.kubectl_fails("top pod nobody");
    assert!(none.contains("pods \"nobody\" not found") || none.contains("podmetrics.metrics.k8s.io \"default/nobody\" not found"), "{none}");
    assert!(cluster.kubectl("api-resources --api-group=metrics.k8s.io").contains("PodMetrics"));
    assert!(cluster.kubectl("api-versions").contains("metrics.k8s.io/v1beta1"));

    // Up on load, and down without it.
    session.eventually_within("apps/v1/deployments/busy", MINUTE, |it| it["spec"]["replicas"].as_i64() >= Some(2));
    let text = cluster.kubectl("describe hpa busy");
    assert!(text.contains("SuccessfulRescale") && text.contains("cpu resource utilization (percentage of request) above target"), "{text}");
    std::fs::remove_file(switch.join("on")).expect("switches off");
    let told = session.get("autoscaling/v2/horizontalpodautoscalers/unknown");
    let active = testbed::session::condition(&told, "ScalingActive").cloned().unwrap_or_default();
    assert_eq!((&active["status"], &active["reason"]), (&json!("False"), &json!("FailedGetPodsMetric")), "{told}");
    cluster.kubectl("delete hpa unknown");
    session.eventually_within("apps/v1/deployments/busy", Duration::from_secs(90), |it| it["spec"]["replicas"] == 1);
    let _ = std::fs::remove_dir_all(switch);
}

#[test]
fn autoscale_keeps_at_least_its_minimum() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    cluster.kubectl("create deployment nginx-deployment --image=nginx:1.14.2 --replicas=3");
    cluster.kubectl("rollout status deployment/nginx-deployment --timeout=60s");
    let said = cluster.kubectl("autoscale deployment nginx-deployment --min=10 --max=15 --cpu-percent=80");
    assert!(said.contains("horizontalpodautoscaler.autoscaling/nginx-deployment autoscaled"), "{said}");
    let started = Instant::now();
    session.eventually("apps/v1/deployments/nginx-deployment", |it| it["spec"]["replicas"] == 10);
    cluster.kubectl("rollout status deployment/nginx-deployment --timeout=60s");
    eprintln!("10 replicas ready after {:?}", started.elapsed());
    let table = cluster.kubectl("get hpa nginx-deployment --no-headers");
    assert!(table.contains("Deployment/nginx-deployment") && table.contains("/80%") && table.contains(" 10 ") && table.contains(" 15 "), "{table}");
}

/// Everything that a kubelet tells scrapers of metrics, through the API server's proxy.
#[test]
fn kubelets_tell_what_is_used() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    session.create("pods", &with(script("used", "dd if=/dev/zero of=/tmp/f bs=1M count=4; while :; do :; done"), json!({"spec": {"containers": [{"name": "main", "image": "busybox:1.35", "command": ["sh", "-c", "dd if=/dev/zero of=/tmp/f bs=1M count=4; while :; do :; done"], "resources": {"limits": {"cpu": "100m"}}}]}})));
    session.ready("used");
    let proxied = |path: &str| session.raw(http::Method::GET, &format!("/api/v1/nodes/{NODE}/proxy/{path}"), "", None).1;
    let summary = || -> Value { serde_json::from_str(&proxied("stats/summary")).expect("JSON") };
    summary();
    std::thread::sleep(Duration::from_secs(2));
    let second = summary();
    let node = &second["node"];
    assert!(node["cpu"]["usageNanoCores"].as_u64() > Some(1_000_000) && node["memory"]["workingSetBytes"].as_u64() > Some(1 << 20), "{node}");
    assert!(node["fs"]["capacityBytes"].as_u64() > Some(1 << 20), "{node}");
    let pod = second["pods"].as_array().expect("a list").iter().find(|pod| pod["podRef"]["name"] == "used").expect("is told").clone();
    for told in [&pod["cpu"], &pod["containers"][0]["cpu"]] {
        let cores = told["usageNanoCores"].as_u64().unwrap_or(0);
        assert!((50_000_000..=150_000_000).contains(&cores), "{pod}");
    }
    assert!(pod["containers"][0]["rootfs"]["usedBytes"].as_u64() >= Some(4 << 20), "{pod}");
    let resource = proxied("metrics/resource");
    for wanted in ["container_cpu_usage_seconds_total{container=\"main\",namespace=\"default\",pod=\"used\"} ", "pod_memory_working_set_bytes{namespace=\"default\",pod=\"used\"} ", "node_cpu_usage_seconds_total ", "resource_scrape_error 0"] {
        assert!(resource.contains(wanted), "{wanted} in {resource}");
    }
    let cadvisor = proxied("metrics/cadvisor");
    for wanted in ["container_cpu_usage_seconds_total{", "container_memory_working_set_bytes{", "machine_cpu_cores", "pod=\"used\"", "image=\"docker.io/library/busybox:1.35\""] {
        assert!(cadvisor.contains(wanted), "{wanted} in {cadvisor}");
    }
    assert!(proxied("metrics").contains("kubelet_running_pods"));
    cluster.kubectl("delete pod used");
}
