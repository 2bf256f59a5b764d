//! Names as `dig` and `nslookup` are told them, beside what the Kubernetes DNS specification 1.1.0 says; also of other
//! zones, by way of other servers, and while the API server is away.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use testbed::cluster::target;
use testbed::machines::{Machines, OUTSIDE, Plan};

use crate::machines::{SOON, machines};

const SERVER: &str = "@10.43.0.10";

const OBJECTS: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.43.7.7, selector: {app: db}, ports: [{name: http, port: 80, targetPort: 5432}, {name: dns, port: 53, protocol: UDP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: early}, spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: early}, ports: [{name: sql, port: 5432}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: late}, spec: {clusterIP: None, selector: {app: early}, ports: [{name: sql, port: 5432}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: by-hand}, spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand-1, labels: {kubernetes.io/service-name: by-hand}}
addressType: IPv4
endpoints: [{addresses: [10.99.0.1], hostname: named}, {addresses: [10.99.0.2]}, {addresses: [10.99.0.3], conditions: {ready: false}}]
ports: [{name: sql, port: 15432}]
---
{apiVersion: v1, kind: Service, metadata: {name: alias}, spec: {type: ExternalName, externalName: web.default.svc.cluster.local}}
---
{apiVersion: v1, kind: Service, metadata: {name: outward}, spec: {type: ExternalName, externalName: www.example.test}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: early, labels: {app: early}}
spec:
  terminationGracePeriodSeconds: 0
  hostname: early
  subdomain: early
  containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"], readinessProbe: {exec: {command: ["false"]}}}]
"#;

/// A name server in the namespace outside, which knows these names.
struct NameServer(Child);

impl NameServer {
    fn start(machines: &Machines, port: u16, names: &[&str]) -> NameServer {
        let server = target().join("debug/testserver").display().to_string();
        let listen = format!("{OUTSIDE}:{port}");
        let mut command = machines.outside(&server, &["names", &listen]);
        NameServer(command.args(names).spawn().expect("the server runs"))
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `STATUS TYPE DATA, ...`, sorted; no answers and a start of authority are `NODATA`.
fn dig(machines: &Machines, machine: usize, question: &str) -> String {
    let mut words = vec![SERVER, "+noall", "+comments", "+answer", "+authority", "+tries=1", "+time=5"];
    words.extend(question.split(' '));
    let output = machines.machines[machine].command("dig", &words).output().expect("dig runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("no answer").to_owned();
    let records = text.lines().filter(|line| !line.is_empty() && !line.starts_with(';'));
    let mut answers: Vec<String> = records
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(3);
            Some(format!("{} {}", words.next()?, words.collect::<Vec<_>>().join(" ")))
        })
        .collect();
    answers.sort();
    let authority = answers.iter().position(|answer| answer.starts_with("SOA ")).map(|at| answers.remove(at)).is_some();
    match (status.as_str(), answers.is_empty(), authority) {
        ("NOERROR", true, true) => "NODATA".to_owned(),
        ("NXDOMAIN", true, true) | (_, true, false) => status,
        ("NOERROR", false, _) => answers.join(", "),
        _ => format!("{status} {}", answers.join(", ")),
    }
}

#[track_caller]
fn check(machines: &Machines, machine: usize, question: &str, expected: &str) {
    let end = Instant::now() + SOON;
    loop {
        let told = dig(machines, machine, question);
        if told == expected {
            return;
        }
        assert!(Instant::now() < end, "dig {question} on machine {}: {expected}, got {told}", machine + 1);
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn names_are_what_the_specification_says() {
    if let Err(cause) = Command::new("dig").arg("-v").output() {
        eprintln!("skipped: dig: {cause}");
        return;
    }
    let stub = "--dns-stub-domain corp.test=192.0.2.200:5353";
    let Some(mut machines) = machines(Plan::of(2).server_flags(stub)) else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = NameServer::start(&machines, 53, &["www.example.test=198.51.100.1", "printer.second.office.test=198.51.100.2"]);
    let _stub = NameServer::start(&machines, 5353, &["git.corp.test=198.51.100.3"]);
    let resolv_conf = directory.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 192.0.2.200\nsearch office.test\n").expect("writes");
    for machine in &machines.machines {
        machine.run(&format!("mount --bind {} /etc/resolv.conf", resolv_conf.display()));
    }
    machines.apply(OBJECTS);
    machines.kubectl("rollout status statefulset/db --timeout=60s");
    machines.eventually("get pod early -o jsonpath={.status.podIP}", SOON, |text| !text.is_empty());
    let ip = |pod: &str| machines.kubectl(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"));
    let (first, second, early) = (ip("db-0"), ip("db-1"), ip("early"));
    let mut sorted = [format!("A {first}"), format!("A {second}")];
    sorted.sort();
    let both = sorted.join(", ");
    let backwards = |ip: &str| format!("{}.in-addr.arpa PTR", ip.rsplit('.').collect::<Vec<_>>().join("."));
    let of_pod = |ip: &str| format!("{}.default.pod.cluster.local", ip.replace('.', "-"));
    let srv = "SRV 0 100 5432 db-0.db.default.svc.cluster.local., SRV 0 100 5432 db-1.db.default.svc.cluster.local.";
    let cluster: Vec<(String, String)> = [
        // 2.2: the version.
        ("dns-version.cluster.local TXT", "TXT \"1.1.0\""),
        // 2.3: a Service with a cluster IP.
        ("web.default.svc.cluster.local A", "A 10.43.7.7"),
        ("WEB.default.SVC.cluster.local A", "A 10.43.7.7"),
        ("web.default.svc.cluster.local AAAA", "NODATA"),
        ("web.default.svc.cluster.local MX", "NODATA"),
        ("web.default.svc.cluster.local A +tcp", "A 10.43.7.7"),
        ("_http._tcp.web.default.svc.cluster.local SRV", "SRV 0 100 80 web.default.svc.cluster.local."),
        ("_dns._udp.web.default.svc.cluster.local SRV", "SRV 0 100 53 web.default.svc.cluster.local."),
        ("_dns._tcp.web.default.svc.cluster.local SRV", "NXDOMAIN"),
        ("_http._tcp.web.default.svc.cluster.local A", "NODATA"),
        ("7.7.43.10.in-addr.arpa PTR", "PTR web.default.svc.cluster.local."),
        ("kubernetes.default.svc.cluster.local A", "A 10.43.0.1"),
        ("_https._tcp.kubernetes.default.svc.cluster.local SRV", "SRV 0 100 443 kubernetes.default.svc.cluster.local."),
        ("nosuch.default.svc.cluster.local A", "NXDOMAIN"),
        ("web.kube-system.svc.cluster.local A", "NXDOMAIN"),
        ("web.nosuch.svc.cluster.local A", "NXDOMAIN"),
        ("default.svc.cluster.local A", "NODATA"),
        // 2.4: a headless one, with and without a selector.
        ("db.default.svc.cluster.local A", &both),
        ("db.default.svc.cluster.local AAAA", "NODATA"),
        ("db-0.db.default.svc.cluster.local A", &format!("A {first}")),
        ("db-2.db.default.svc.cluster.local A", "NXDOMAIN"),
        ("_sql._tcp.db.default.svc.cluster.local SRV", srv),
        (&backwards(&second), "PTR db-1.db.default.svc.cluster.local."),
        ("by-hand.default.svc.cluster.local A", "A 10.99.0.1, A 10.99.0.2"),
        ("named.by-hand.default.svc.cluster.local A", "A 10.99.0.1"),
        ("10-99-0-2.by-hand.default.svc.cluster.local A", "A 10.99.0.2"),
        (
            "_sql._tcp.by-hand.default.svc.cluster.local SRV",
            "SRV 0 100 15432 10-99-0-2.by-hand.default.svc.cluster.local., SRV 0 100 15432 named.by-hand.default.svc.cluster.local.",
        ),
        ("early.default.svc.cluster.local A", &format!("A {early}")),
        ("early.early.default.svc.cluster.local A", &format!("A {early}")),
        ("late.default.svc.cluster.local A", "NODATA"),
        // 2.5: external names.
        ("alias.default.svc.cluster.local CNAME", "CNAME web.default.svc.cluster.local."),
        ("alias.default.svc.cluster.local A", "A 10.43.7.7, CNAME web.default.svc.cluster.local."),
        // Pods, as the original's server knows them.
        (&format!("{} A", of_pod(&first)), &format!("A {first}")),
        (&format!("{} AAAA", of_pod(&first)), "NODATA"),
        ("10-1-2-3.nosuch.pod.cluster.local A", "NXDOMAIN"),
        // What `web.kube-system` and `web.default` stand for in another namespace's search path, at once.
        ("web.default.kube-system.svc.cluster.local A", "A 10.43.7.7, CNAME web.default.svc.cluster.local."),
        ("web.default.svc.cluster.local.default.svc.cluster.local A", "A 10.43.7.7, CNAME web.default.svc.cluster.local."),
    ]
    .iter()
    .map(|(question, expected)| ((*question).to_owned(), (*expected).to_owned()))
    .collect();
    let elsewhere = [
        ("www.example.test A", "A 198.51.100.1"),
        ("outward.default.svc.cluster.local A", "A 198.51.100.1, CNAME www.example.test."),
        ("git.corp.test A", "A 198.51.100.3"),
        ("www.example.test.default.svc.cluster.local A", "A 198.51.100.1, CNAME www.example.test."),
        ("git.corp.test.default.svc.cluster.local A", "A 198.51.100.3, CNAME git.corp.test."),
        ("printer.second.default.svc.cluster.local A", "A 198.51.100.2, CNAME printer.second.office.test."),
        ("nosuch.example.test.default.svc.cluster.local A", "NXDOMAIN"),
    ];
    for machine in [0, 1] {
        for (question, expected) in &cluster {
            check(&machines, machine, question, expected);
        }
        for (question, expected) in elsewhere {
            check(&machines, machine, question, expected);
        }
    }
    by_nslookup(&machines);

    // Nobody needs the API server for what is known, nor another name server for what it has just said.
    machines.kill_coracle(0).expect("is killed");
    check(&machines, 1, elsewhere[0].0, elsewhere[0].1);
    drop(upstream);
    assert_eq!(dig(&machines, 1, elsewhere[0].0), elsewhere[0].1);
    for (question, expected) in &cluster {
        assert_eq!(&dig(&machines, 1, question), expected, "{question}, without the API server");
    }
    machines.start_coracle(0).expect("starts");
    machines.wait_for_api(0).expect("answers");
    machines.kubectl("delete service web");
    check(&machines, 1, "web.default.svc.cluster.local A", "NXDOMAIN");
}

/// From a pod. This nslookup searches for names without a dot only.
fn by_nslookup(machines: &Machines) {
    for (name, expected) in [
        ("web", "Address: 10.43.7.7"),
        ("web.default.svc.cluster.local", "Address: 10.43.7.7"),
        ("alias", "canonical name = web.default.svc.cluster.local"),
        ("www.example.test", "Address: 198.51.100.1"),
        ("git.corp.test", "Address: 198.51.100.3"),
        ("db-1.db.default.svc.cluster.local", "Name:\tdb-1.db.default.svc.cluster.local"),
        ("10.43.7.7", "name = web.default.svc.cluster.local"),
    ] {
        for pod in ["db-0", "db-1"] {
            let output = machines.kubectl_command(&["exec", pod, "--", "nslookup", name]).output().expect("kubectl runs");
            let told = String::from_utf8_lossy(&output.stdout);
            assert!(told.contains(expected), "nslookup {name} in {pod}: {expected}, got {told}");
        }
    }
}
