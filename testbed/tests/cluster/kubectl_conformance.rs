//! What every Kubernetes lets a kubectl do, done with ours.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use testbed::cluster::{Cluster, NODE, missing};

use crate::ours::Ours;

const SOON: Duration = Duration::from_secs(60);

/// A cluster with our kubectl, or None where the machine cannot run one (said by name).
fn with_cluster(test: impl FnOnce(&Ours)) {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let cluster = Cluster::start().expect("the cluster starts");
    let home = tempfile::tempdir().expect("a scratch directory");
    test(&Ours { cluster: &cluster, home: home.path() });
}

const REDIS: &str = r#"
apiVersion: v1
kind: ReplicationController
metadata: {name: redis-primary, labels: {app: redis, role: primary}}
spec:
  replicas: 1
  selector: {app: redis, role: primary}
  template:
    metadata: {labels: {app: redis, role: primary}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: redis, image: "redis:7", ports: [{name: redis-server, containerPort: 6379}]}]
---
apiVersion: v1
kind: Service
metadata: {name: redis-primary, labels: {app: redis}}
spec: {selector: {app: redis, role: primary}, ports: [{port: 6379, targetPort: redis-server}]}
"#;

const GUESTBOOK: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: primary}
spec:
  replicas: 1
  selector: {matchLabels: {app: guestbook, role: primary}}
  template:
    metadata: {labels: {app: guestbook, role: primary}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: primary, image: "redis:7", ports: [{containerPort: 6379}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: primary}
spec: {selector: {app: guestbook, role: primary}, ports: [{port: 6379}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: replica}
spec:
  replicas: 2
  selector: {matchLabels: {app: guestbook, role: replica}}
  template:
    metadata: {labels: {app: guestbook, role: replica}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: replica, image: "redis:7", args: [--protected-mode, "no", --save, "", --replicaof, primary, "6379"], ports: [{containerPort: 6379}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: replica}
spec: {selector: {app: guestbook, role: replica}, ports: [{port: 6379}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: frontend}
data:
  guestbook: |
    #!/bin/sh
    # Entries are written to the primary and read from the replicas.
    printf 'Content-Type: text/plain\r\n\r\n'
    case "$QUERY_STRING" in
    set=*) printf 'RPUSH entries %s\r\nQUIT\r\n' "${QUERY_STRING#set=}" | nc primary 6379 ;;
    *) printf 'LRANGE entries 0 -1\r\nQUIT\r\n' | nc replica 6379 ;;
    esac
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: frontend}
spec:
  replicas: 3
  selector: {matchLabels: {app: guestbook, tier: frontend}}
  template:
    metadata: {labels: {app: guestbook, tier: frontend}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: frontend
        image: busybox:1.35
        command: [httpd, -f, -p, "80", -h, /www]
        ports: [{containerPort: 80}]
        readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
        volumeMounts: [{name: www, mountPath: /www/cgi-bin}]
      volumes: [{name: www, configMap: {name: frontend, defaultMode: 0755}}]
---
apiVersion: v1
kind: Service
metadata: {name: frontend}
spec: {selector: {app: guestbook, tier: frontend}, ports: [{port: 80}]}
"#;

// Conformance: [sig-cli] Kubectl client Guestbook application should create and stop a working application
#[test]
fn a_guestbook_keeps_what_is_written() {
    with_cluster(|ours| {
        ours.apply(GUESTBOOK);
        for deployment in ["primary", "replica", "frontend"] {
            ours.run(&format!("kubectl rollout status deployment/{deployment} --timeout=90s"));
        }
        ours.run("kubectl run visitor --image=busybox:1.35 --restart=Never -- sleep 3600");
        ours.run("kubectl wait --for=condition=Ready pod/visitor --timeout=30s");
        let page = |query: &str| format!("kubectl exec visitor -- wget -q -O - 'http://frontend/cgi-bin/guestbook?{query}'");
        ours.eventually(&page("set=TestEntry"), &[":1"], SOON);
        ours.eventually(&page("get"), &["TestEntry"], SOON);
        ours.run("kubectl delete -f manifest.yaml --timeout=60s");
        ours.eventually("kubectl get all -l app=guestbook 2>&1", &["No resources found"], SOON);
    });
}

// Conformance: [sig-cli] Kubectl client Kubectl api-versions should check if v1 is in available api versions
// Conformance: [sig-cli] Kubectl client Kubectl cluster-info should check if Kubernetes control plane services is included in cluster-info
// Conformance: [sig-cli] Kubectl client Kubectl version should check is all data is printed
// Conformance: [sig-cli] Kubectl client Proxy server should support proxy with --port 0
// Conformance: [sig-cli] Kubectl client Proxy server should support --unix-socket=/path
#[test]
fn a_cluster_says_what_it_is() {
    with_cluster(|ours| {
        let versions = ours.run("kubectl api-versions");
        assert!(versions.lines().any(|line| line == "v1"), "{versions}");
        let about = ours.run("kubectl cluster-info");
        assert!(about.contains("Kubernetes control plane") && about.contains("is running at") && about.contains("https://127.0.0.1:"), "{about}");
        let version: serde_json::Value = serde_json::from_str(&ours.run("kubectl version -o json")).expect("JSON");
        for side in ["clientVersion", "serverVersion"] {
            for field in ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "platform"] {
                // A build from no checkout knows no commit.
                let said = version[side][field].as_str();
                assert!(said.is_some_and(|value| !value.is_empty() || field == "gitCommit"), "{field} of {side} in {version}");
            }
        }
        let short = ours.run("kubectl version");
        assert!(short.contains("Client Version: v1.") && short.contains("Server Version: v1."), "{short}");

        let proxy = Proxy::start(ours, "--port=0 --disable-filter=true");
        let port = proxy.said.rsplit(':').next().unwrap_or_default().trim().to_owned();
        let answer = http_get(TcpStream::connect(format!("127.0.0.1:{port}")).expect("the proxy listens"), "/api/");
        assert!(answer.contains("\"versions\"") && answer.contains("\"v1\""), "{answer}");
        drop(proxy);

        let socket = ours.home.join("proxy.sock");
        let proxy = Proxy::start(ours, &format!("--unix-socket={}", socket.display()));
        let answer = http_get(UnixStream::connect(&socket).expect("the proxy listens"), "/api/");
        assert!(answer.contains("\"versions\"") && answer.contains("\"v1\""), "{answer}");
        drop(proxy);
    });
}

/// `kubectl proxy`, ended with the value.
struct Proxy {
    child: Child,
    said: String,
}

impl Proxy {
    fn start(ours: &Ours, flags: &str) -> Proxy {
        let mut child = ours.command(&format!("exec \"$CORACLE\" kubectl proxy {flags}")).stdout(Stdio::piped()).spawn().expect("starts");
        let mut said = String::new();
        let mut byte = [0];
        let out = child.stdout.as_mut().expect("piped");
        while !said.ends_with('\n') && out.read(&mut byte).is_ok_and(|count| count == 1) {
            said.push(char::from(byte[0]));
        }
        assert!(said.starts_with("Starting to serve on"), "{said}");
        Proxy { child, said }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It serves until it is told to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn http_get(mut stream: impl Read + Write, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    answer
}

// Conformance: [sig-cli] Kubectl client Kubectl describe should check if kubectl describe prints relevant information for rc and pods
// Conformance: [sig-cli] Kubectl client Kubectl expose should create services for rc
// Conformance: [sig-cli] Kubectl client Kubectl patch should add annotations for pods in rc
#[test]
fn a_replication_controller_is_described_exposed_and_patched() {
    with_cluster(|ours| {
        ours.apply(REDIS);
        ours.eventually("kubectl get rc redis-primary -o jsonpath='{.status.readyReplicas}'", &["1"], SOON);
        let pod = ours.run("kubectl get pods -l app=redis,role=primary -o jsonpath='{.items[0].metadata.name}'");
        let describes = |what: &str, words: &[&str]| {
            let text = ours.run(&format!("kubectl describe {what}"));
            for word in words {
                assert!(text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").contains(word)), "{word} in {text}");
            }
        };
        describes(&format!("pod {pod}"), &["Name: redis-primary-", "Namespace: default", &format!("Node: {NODE}"), "Labels: app=redis", "role=primary", "Annotations:", "Status: Running", "IP:", "Controlled By: ReplicationController/redis-primary", "Image: redis:7", "State: Running", "QoS Class: BestEffort"]);
        describes("rc redis-primary", &["Name: redis-primary", "Namespace: default", "Selector: app=redis,role=primary", "Labels: app=redis", "role=primary", "Annotations:", "Replicas: 1 current / 1 desired", "Pods Status: 1 Running / 0 Waiting / 0 Succeeded / 0 Failed", "Pod Template:", "Image: redis:7", "Events:"]);
        describes("service redis-primary", &["Name: redis-primary", "Namespace: default", "Labels: app=redis", "Annotations:", "Selector: app=redis,role=primary", "Type: ClusterIP", "IP:", "Port: <unset> 6379/TCP", "Endpoints:", "Session Affinity: None"]);
        describes(&format!("node {NODE}"), &[&format!("Name: {NODE}"), "Labels:", "Annotations:", "CreationTimestamp:", "Conditions:", "Type Status LastHeartbeatTime LastTransitionTime Reason Message", "Addresses:", "Capacity:", "Kubelet Version:", "Kube-Proxy Version:", "Non-terminated Pods:"]);
        describes("namespace default", &["Name: default", "Labels:", "Annotations:", "Status: Active"]);

        ours.run("kubectl expose rc redis-primary --name=rm2 --port=1234 --target-port=6379");
        ours.run("kubectl expose service rm2 --name=rm3 --port=2345 --target-port=6379");
        for (service, port) in [("rm2", "1234"), ("rm3", "2345")] {
            let ports = ours.run(&format!("kubectl get service {service} -o jsonpath='{{.spec.ports[0].port}} {{.spec.ports[0].targetPort}}'"));
            assert_eq!(ports, format!("{port} 6379"));
            ours.eventually(&format!("kubectl get endpoints {service} -o jsonpath='{{.subsets[0].ports[0].port}}' 2>/dev/null"), &["6379"], SOON);
            let said = format!("kubectl exec {pod} -- redis-cli -h {service} -p {port} ping");
            ours.eventually(&said, &["PONG"], SOON);
        }

        for pod in ours.run("kubectl get pods -l app=redis -o name").lines() {
            ours.run(&format!("kubectl patch {pod} -p '{{\"metadata\":{{\"annotations\":{{\"x\":\"y\"}}}}}}'"));
            assert_eq!(ours.run(&format!("kubectl get {pod} -o jsonpath='{{.metadata.annotations.x}}'")), "y");
        }
    });
}

// Conformance: [sig-cli] Kubectl client Kubectl diff should check if kubectl diff finds a difference for Deployments
// Conformance: [sig-cli] Kubectl client Kubectl label should update the label on a resource
// Conformance: [sig-cli] Kubectl client Kubectl replace should update a single-container pod's image
// Conformance: [sig-cli] Kubectl client Kubectl run pod should create a pod from an image when restart is Never
// Conformance: [sig-cli] Kubectl client Kubectl server-side dry-run should check if kubectl can dry-run update Pods
#[test]
fn pods_and_deployments_are_changed() {
    with_cluster(|ours| {
        ours.run("kubectl create deployment web --image=nginx:1.16 --dry-run=client -o yaml > web.yaml; kubectl create -f web.yaml");
        let output = ours.output("sed s/nginx:1.16/busybox:1.35/ web.yaml | kubectl diff -f -");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("-      - image: nginx:1.16") && text.contains("+      - image: busybox:1.35"), "{text}");

        ours.run("kubectl run pause --image=busybox:1.35 -- sleep 3600");
        ours.run("kubectl wait --for=condition=Ready pod/pause --timeout=60s");
        ours.run("kubectl label pods pause testing-label=testing-label-value");
        let labelled = "kubectl get pod pause -L testing-label";
        assert!(ours.run(labelled).contains("testing-label-value"));
        assert!(ours.run("kubectl get pod -l testing-label=testing-label-value").contains("pause"));
        ours.run("kubectl label pods pause testing-label-");
        assert!(!ours.run(labelled).contains("testing-label-value"));
        assert_eq!(ours.run("kubectl get pod -l testing-label -o name"), "");

        ours.run("kubectl run once --image=nginx:1.16 --restart=Never");
        let once = ours.run("kubectl get pod once -o jsonpath='{.spec.containers[*].image} {.spec.restartPolicy}'");
        assert_eq!(once, "nginx:1.16 Never");

        let image = || ours.run("kubectl get pod once -o jsonpath='{.spec.containers[0].image}'");
        let patched = ours.run("kubectl patch pod once -p '{\"spec\":{\"containers\":[{\"name\":\"once\",\"image\":\"busybox:1.35\"}]}}' --dry-run=server");
        assert_eq!(patched, "pod/once patched (server dry run)\n");
        assert_eq!(image(), "nginx:1.16");

        ours.run("kubectl wait --for=condition=Ready pod/once --timeout=60s");
        ours.run("kubectl get pod once -o yaml | sed 's/nginx:1.16/nginx:1.27/' | kubectl replace -f -");
        assert_eq!(image(), "nginx:1.27");
        ours.run("kubectl get pod once -o yaml | sed 's/nginx:1.27/busybox:1.35/' > once.yaml; kubectl replace --force -f once.yaml");
        assert_eq!(image(), "busybox:1.35");
    });
}

// Conformance: [sig-cli] Kubectl client Update Demo should create and stop a replication controller
// Conformance: [sig-cli] Kubectl client Update Demo should scale a replication controller
// Conformance: [sig-cli] Kubectl logs logs should be able to retrieve and filter logs
#[test]
fn a_replication_controller_scales_and_its_logs_are_filtered() {
    with_cluster(|ours| {
        ours.apply(
            "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: demo}\nspec:\n  replicas: 2\n  selector: {name: demo}\n  template:\n    \
             metadata: {labels: {name: demo}}\n    spec: {terminationGracePeriodSeconds: 0, containers: [{name: demo, image: \"nginx:1.16\"}]}\n",
        );
        let running = |wanted: usize| {
            let end = Instant::now() + SOON;
            loop {
                let states = ours.run("kubectl get pods -l name=demo -o go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{range .status.containerStatuses}}{{if .state.running}}x{{end}}{{end}}{{end}}{{end}}'");
                let pods = ours.run("kubectl get pods -l name=demo -o name").lines().count();
                if states.len() == wanted && pods == wanted {
                    return;
                }
                assert!(Instant::now() < end, "{states} of {wanted}");
                std::thread::sleep(Duration::from_millis(200));
            }
        };
        running(2);
        for replicas in [1, 2] {
            ours.run(&format!("kubectl scale rc demo --replicas={replicas} --timeout=5m"));
            running(replicas);
        }
        ours.run("kubectl delete rc demo --timeout=60s");
        running(0);

        ours.run("kubectl run logs-generator --image=busybox:1.35 --restart=Never -- sh -c 'for n in 1 2 3 4 5 6 7 8 9; do echo line number $n; done; sleep 3; echo last line; sleep 3600'");
        ours.eventually("kubectl logs logs-generator logs-generator", &["line number 9"], SOON);
        let recent = ours.run("kubectl logs logs-generator --since=24h");
        assert!(recent.lines().count() >= 9, "{recent}");
        ours.eventually("kubectl logs logs-generator", &["last line"], SOON);
        assert_eq!(ours.run("kubectl logs logs-generator logs-generator --tail=1"), "last line\n");
        assert_eq!(ours.run("kubectl logs logs-generator logs-generator --limit-bytes=1").len(), 1);
        let stamped = ours.run("kubectl logs logs-generator logs-generator --tail=1 --timestamps");
        let (time, rest) = stamped.split_once(' ').expect("a time and a line");
        assert_eq!((time.as_bytes().get(10), time.ends_with('Z') || time.contains('+'), rest), (Some(&b'T'), true, "last line\n"), "{stamped}");
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(ours.run("kubectl logs logs-generator logs-generator --since=1s"), "");
    });
}
