//! What happens when a machine is lost, cut off or emptied: pods come up elsewhere, names are never doubled, traffic
//! goes on; and when one of two servers is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testbed::cluster::missing;
use testbed::machines::{Machines, Plan};

use crate::machines::{SOON, machines, pods, web};

const GRACE: &str = "--node-monitor-grace-period 4s --node-lease-duration 4s";
const READY_REPLICAS: &str = "get deployment web -o jsonpath={.status.readyReplicas}";

/// Web servers with a name and a volume each, spread over the nodes.
const NAMED: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: named}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 3
  selector: {matchLabels: {app: named}}
  template:
    metadata: {labels: {app: named}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: named}}}
      containers:
      - name: main
        image: busybox:1.35
        command: [sh, -c, "hostname > /data/index.html; exec httpd -f -p 80 -h /data"]
        readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

#[test]
fn a_killed_worker_is_replaced_and_returns_clean() {
    let Some(mut machines) = machines(Plan::of(3).flags(GRACE)) else { return };
    machines.apply(&web(6));
    machines.kubectl("rollout status deployment/web --timeout=60s");
    let client = machines.requests(Duration::from_millis(50), 30080).expect("the client starts");
    let died = Instant::now();
    machines.cut_power(2);
    machines.eventually("get node machine-3 -o jsonpath={.status.conditions[?(@.type=='Ready')].status}", SOON, |text| text == "Unknown");
    let noticed = died.elapsed();
    machines.eventually(READY_REPLICAS, SOON, |text| text == "6");
    let replaced = died.elapsed();
    // Grace 4 s (since the last renewal, at most 1 s before), toleration 2 s, and the pods' start.
    eprintln!("noticed after {noticed:?}, replaced after {replaced:?}");
    let served = client.so_far();
    let failed = served.iter().filter(|request| request.machine != 2 && !request.ok);
    let window = failed.clone().map(|it| it.at).max().unwrap_or(0).saturating_sub(failed.map(|it| it.at).min().unwrap_or(0));
    eprintln!("requests at the others failed over {window} ms");
    assert!(Duration::from_millis(window) < noticed + Duration::from_secs(2), "endpoints are withdrawn once it is noticed");

    machines.boot(2).expect("boots");
    machines.wait_until_ready(2, SOON).expect("comes back");
    machines.eventually("get node machine-3 -o jsonpath={.spec.taints}", SOON, |text| text.is_empty());
    machines.eventually("get pods -o jsonpath={.items[*].metadata.deletionTimestamp}", SOON, |text| text.is_empty());
    let running = machines.machines[2].run("ps -e -o args=");
    let own = pods(&machines, "app=web").into_iter().filter(|(_, node, _)| node == "machine-3").count();
    assert_eq!(running.matches("internal-shim").count(), own, "what was deleted meanwhile is gone: {running}");
}

#[test]
fn traffic_never_stops_while_the_server_is_away() {
    let Some(mut machines) = machines(Plan::of(2).flags(GRACE)) else { return };
    machines.apply(&web(4));
    machines.kubectl("rollout status deployment/web --timeout=60s");
    let client = machines.requests(Duration::from_millis(50), 30080).expect("the client starts");
    std::thread::sleep(Duration::from_secs(1));
    machines.kill_coracle(0).expect("is killed");
    // Names are answered on the worker without the server.
    std::thread::sleep(Duration::from_secs(5));
    let resolved = machines.machines[1].run("busybox nslookup web.default.svc.cluster.local 10.43.0.10");
    assert!(resolved.contains("Address"), "{resolved}");
    machines.start_coracle(0).expect("starts");
    machines.wait_for_api(0).expect("answers");
    machines.wait_until_ready(1, SOON).expect("is Ready");
    std::thread::sleep(Duration::from_secs(2));
    let failed: Vec<_> = client.so_far().into_iter().filter(|request| !request.ok).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let restarts = machines.kubectl("get pods -o jsonpath={.items[*].status.containerStatuses[*].restartCount}");
    assert_eq!(restarts, "0 0 0 0");
}

#[test]
fn names_are_never_doubled_when_a_node_is_cut_off() {
    let Some(machines) = machines(Plan::of(3).flags(GRACE)) else { return };
    machines.apply(NAMED);
    machines.kubectl("rollout status statefulset/web --timeout=90s");
    let of = |name: &str| pods(&machines, "app=named").into_iter().find(|(pod, _, _)| pod == name).expect("there");
    let nodes: BTreeSet<String> = pods(&machines, "app=named").into_iter().map(|(_, node, _)| node).collect();
    assert_eq!(nodes.len(), 3);
    for (pod, _, _) in pods(&machines, "app=named") {
        let page = machines.kubectl(&format!("exec {pod} -- wget -q -O - http://web-0.web.default.svc.cluster.local/"));
        assert_eq!(page, "web-0\n", "from {pod}");
    }
    an_update_goes_from_one_to_the_next(&machines);
    // One that is no server is cut off.
    let (victim, node, _) = ["web-1", "web-2"].map(of).into_iter().find(|(_, node, _)| node != "machine-1").expect("two of three");
    let index = node.trim_start_matches("machine-").parse::<usize>().expect("a number") - 1;
    let uid = format!("get pod {victim} -o jsonpath={{.metadata.uid}}");
    let before = machines.kubectl(&uid);
    machines.cut_network(index);
    machines.eventually(&format!("get pod {victim} -o jsonpath={{.metadata.deletionTimestamp}}"), SOON, |text| !text.is_empty());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(machines.kubectl(&uid), before, "no second {victim} while the first may still run");

    // Healed, it ends, and its successor starts there, where its volume is.
    machines.heal_network(index);
    machines.eventually(&uid, SOON, |text| text != before);
    machines.kubectl("rollout status statefulset/web --timeout=60s");
    assert_eq!(of(&victim).1, node);

    // Who declares a node out of service vouches that it is off: then the name is free at once.
    let before = machines.kubectl(&uid);
    machines.cut_network(index);
    machines.eventually(&format!("get pod {victim} -o jsonpath={{.metadata.deletionTimestamp}}"), SOON, |text| !text.is_empty());
    machines.kubectl(&format!("taint node {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"));
    machines.eventually("get pods -l app=named -o jsonpath={.items[*].metadata.uid}", SOON, |text| !text.contains(&before));
    machines.heal_network(index);
    machines.kubectl(&format!("taint node {node} node.kubernetes.io/out-of-service-"));
    machines.eventually("get statefulset web -o jsonpath={.status.readyReplicas}", SOON, |text| text == "3");

    // With a claim goes its volume, on whatever node it is, and with the volume its directory.
    let storage = machines.machines[0].data_dir.join("storage");
    let directories = || std::fs::read_dir(&storage).map_or(0, Iterator::count);
    assert_eq!(directories(), 3);
    machines.kubectl("delete statefulset web --cascade=foreground");
    machines.kubectl("delete persistentvolumeclaims --all");
    machines.eventually("get persistentvolumes -o name", SOON, str::is_empty);
    assert_eq!(directories(), 0);
}

/// From the last to the first, each Ready before the next goes, each on its node and with its volume again.
fn an_update_goes_from_one_to_the_next(machines: &Machines) {
    let named = || pods(machines, "app=named").into_iter().map(|(pod, node, _)| (pod, node)).collect::<Vec<_>>();
    let before = named();
    for (pod, _) in &before {
        machines.kubectl_words(&["exec", pod, "--", "sh", "-c", "echo of $(hostname) > /data/kept"]);
    }
    // Every change of a pod in a line, as the server tells them: which, whether it is ending, whether it is Ready.
    let columns = "jsonpath={.metadata.name} {.metadata.uid} ending:{.metadata.deletionTimestamp} ready:{.status.conditions[?(@.type=='Ready')].status}{\"\\n\"}";
    let mut watch = machines.kubectl_command(&["get", "pods", "-l", "app=named", "--watch", "--request-timeout=60s", "-o", columns]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let told = BufReader::new(watch.stdout.take().expect("is piped"));
    machines.kubectl("set image statefulset/web main=busybox:1.28");
    let mut ready: BTreeMap<String, bool> = BTreeMap::new();
    let (mut gone, mut uids) = (Vec::new(), BTreeSet::new());
    for line in told.lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, uid, ending, readiness] = words[..] else { panic!("{line}") };
        if ending != "ending:" && gone.last().is_none_or(|last| last != name) {
            let others: Vec<&String> = ready.iter().filter(|(other, ready)| *other != name && !**ready).map(|(other, _)| other).collect();
            assert!(others.is_empty(), "{name} goes while {others:?} is not Ready");
            gone.push(name.to_owned());
        }
        uids.insert(uid.to_owned());
        ready.insert(name.to_owned(), readiness == "ready:True" && ending == "ending:");
        if uids.len() == 6 && ready.values().all(|ready| *ready) {
            break;
        }
    }
    let _ = watch.kill();
    let _ = watch.wait();
    assert_eq!(gone, ["web-2", "web-1", "web-0"]);
    assert_eq!(named(), before);
    machines.kubectl("rollout status statefulset/web --timeout=60s");
    for (pod, _) in &before {
        assert_eq!(machines.kubectl(&format!("exec {pod} -- cat /data/kept")), format!("of {pod}\n"));
    }
}

const BUDGET: &str = r#"
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
"#;

#[test]
fn a_node_is_emptied_and_taken_back() {
    let Some(machines) = machines(Plan::of(2)) else { return };
    machines.apply(&(web(4) + "---" + BUDGET));
    machines.kubectl("rollout status deployment/web --timeout=60s");
    machines.eventually("get pdb web -o jsonpath={.status.disruptionsAllowed}", SOON, |text| text == "1");
    machines.kubectl("cordon machine-2");
    assert!(machines.kubectl("get node machine-2").contains("SchedulingDisabled"));
    let client = machines.requests(Duration::from_millis(50), 30080).expect("the client starts");
    machines.kubectl("drain machine-2 --ignore-daemonsets --timeout=60s");
    assert!(pods(&machines, "app=web").iter().all(|(_, node, _)| node == "machine-1"));
    machines.kubectl("rollout status deployment/web --timeout=60s");
    let served = client.so_far();
    let failed = served.iter().filter(|request| !request.ok).count();
    // Endpoints have 300 ms to be withdrawn everywhere; a machine that runs other tests besides may take longer once.
    assert!(failed * 100 <= served.len(), "a drain loses no requests: {failed} of {}", served.len());
    machines.kubectl("uncordon machine-2");
    machines.kubectl("taint node machine-1 dedicated=db:NoExecute");
    machines.eventually("get pods -l app=web -o jsonpath={.items[*].spec.nodeName}", SOON, |text| {
        text.split(' ').count() == 4 && text.split(' ').all(|node| node == "machine-2")
    });
    machines.kubectl("taint node machine-1 dedicated-");
    machines.kubectl("rollout status deployment/web --timeout=60s");
}

/// etcd in the namespace outside.
struct Etcd(Child);

impl Etcd {
    fn start(machines: &Machines, directory: &std::path::Path) -> Etcd {
        let url = "http://192.0.2.200:2379";
        let directory = directory.display().to_string();
        let arguments = ["--data-dir", &directory, "--listen-client-urls", url, "--advertise-client-urls", url];
        let child = machines.outside_process("etcd", &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("etcd starts");
        Etcd(child)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn either_of_two_servers_may_be_lost() {
    let reason = missing().or_else(|| Command::new("etcd").arg("--version").output().err().map(|cause| format!("etcd: {cause}")));
    if let Some(reason) = reason {
        eprintln!("skipped: {reason}");
        return;
    }
    let shared = "--datastore-endpoint http://192.0.2.200:2379 --token shared-secret";
    let mut machines = Machines::bare(Plan::of(3).flags(GRACE).server_flags(shared)).expect("the machines are on");
    let directory = tempfile::tempdir().expect("a directory");
    let _etcd = Etcd::start(&machines, directory.path());
    std::thread::sleep(Duration::from_secs(1));
    for index in [0, 1] {
        machines.boot_server(index).unwrap_or_else(|cause| panic!("server {index}: {cause}"));
    }
    let token = machines.token().expect("a token");
    machines.join(2, &token).expect("starts");
    for index in 0..3 {
        machines.wait_until_ready(index, SOON).unwrap_or_else(|cause| panic!("machine {index}: {cause}"));
    }
    let servers = "get endpointslice kubernetes -o jsonpath={.endpoints[*].addresses[*]}";
    machines.eventually(servers, SOON, |text| text == "192.0.2.11 192.0.2.12");
    machines.apply(&web(3));
    machines.kubectl("rollout status deployment/web --timeout=60s");
    let restarts = "get pods -o jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    for (lost, other) in [(0, 1), (1, 0)] {
        machines.kill_coracle(lost).expect("is killed");
        let scaled = Instant::now();
        // Through the other, with controllers that lead there now, and an agent that has found it.
        let replicas = if lost == 0 { "5" } else { "3" };
        let output = machines.kubectl_at(other, &["scale", "deployment/web", "--replicas", replicas]).output().expect("kubectl runs");
        assert!(output.status.success(), "{output:?}\n{}", machines.logs());
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let words: Vec<&str> = READY_REPLICAS.split(' ').collect();
            let output = machines.kubectl_at(other, &words).output().expect("kubectl runs");
            if output.stdout == replicas.as_bytes() {
                break;
            }
            assert!(Instant::now() < end, "leadership must move: {output:?}\n{}", machines.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("server {} lost; scaled by the other after {:?}", lost + 1, scaled.elapsed());
        machines.start_coracle(lost).expect("starts");
        machines.wait_for_api(lost).expect("answers");
        for index in 0..3 {
            machines.wait_until_ready(index, SOON).expect("is Ready");
        }
        machines.eventually(servers, SOON, |text| text == "192.0.2.11 192.0.2.12");
    }
    assert!(machines.kubectl(restarts).split(' ').all(|count| count == "0"), "no pod restarts");
}
