//! Several machines: nodes join, pods on all of them share one network, Services lead to them, `kubectl` reaches them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testbed::cluster::missing;
use testbed::machines::{Machines, Plan};

pub const SOON: Duration = Duration::from_secs(45);

/// Machines for a test, or None where the machine cannot run them (said by name).
pub fn machines(plan: Plan) -> Option<Machines> {
    match missing() {
        None => Some(Machines::start(plan).unwrap_or_else(|cause| panic!("the machines start: {cause}"))),
        Some(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    }
}

/// A Deployment with a Service, `replicas` pods spread over the nodes.
pub fn web(replicas: usize) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}}
      - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}}
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{matchLabels: {{app: web}}}}}}
      containers:
      - name: web
        image: nginx:1.16
        ports: [{{containerPort: 80}}]
        readinessProbe: {{httpGet: {{port: 80}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, nodePort: 30080}}]
"#
    )
}

/// One busybox on every node.
const TOOLS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: tools}
spec:
  selector: {matchLabels: {app: tools}}
  template:
    metadata: {labels: {app: tools}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "busybox:1.35", command: [sh, -c, "echo here; mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]}]
"#;

/// Name, node and address of the pods with a label.
pub fn pods(machines: &Machines, label: &str) -> Vec<(String, String, String)> {
    let columns = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP}{\"\\n\"}{end}";
    let text = machines.kubectl_words(&["get", "pods", "-l", label, "-o", columns]);
    text.lines()
        .filter_map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            Some((words.next()?, words.next()?, words.next()?))
        })
        .collect()
}

// Conformance: [sig-architecture] Conformance Tests should have at least two untainted nodes
#[test]
fn three_machines_are_one_cluster() {
    let Some(machines) = machines(Plan::of(3)) else { return };
    let nodes = machines.kubectl("get nodes -o wide");
    for (name, address) in [("machine-1", "192.0.2.11"), ("machine-2", "192.0.2.12"), ("machine-3", "192.0.2.13")] {
        let line = nodes.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {nodes}"));
        assert!(line.contains(" Ready ") && line.contains(address) && line.contains("v1.35"), "{line}");
    }
    assert_eq!(machines.kubectl("get nodes -o jsonpath={.items[*].spec.taints}"), "");
    let ranges = machines.kubectl("get nodes -o jsonpath={.items[*].spec.podCIDR}");
    assert_eq!(ranges.split(' ').collect::<std::collections::BTreeSet<_>>().len(), 3, "{ranges}");

    machines.apply(&(web(6) + "---" + TOOLS));
    machines.kubectl("rollout status deployment/web --timeout=60s");
    machines.kubectl("rollout status daemonset/tools --timeout=60s");
    let mut per_node = std::collections::BTreeMap::new();
    pods(&machines, "app=web").into_iter().for_each(|(_, node, _)| *per_node.entry(node).or_insert(0) += 1);
    assert_eq!(per_node.values().copied().collect::<Vec<i32>>(), [2, 2, 2], "{per_node:?}");

    every_pod_reaches_every_other(&machines);
    services_answer_everywhere(&machines);
    kubectl_reaches_pods_on_every_node(&machines);
    packets_of_full_size_pass(&machines);
}

fn every_pod_reaches_every_other(machines: &Machines) {
    let tools = pods(machines, "app=tools");
    assert_eq!(tools.len(), 3);
    for (from, _, _) in &tools {
        for (to, _, address) in &tools {
            machines.kubectl(&format!("exec {from} -- ping -c 1 -W 2 {address}"));
            let told = machines.kubectl(&format!("exec {from} -- wget -q -O - http://{address}:8080/"));
            assert_eq!(told, format!("{to}\n"), "from {from}");
        }
    }
    // Hosts reach pods of other hosts.
    for machine in &machines.machines {
        for (_, _, address) in &tools {
            machine.run(&format!("busybox ping -c 1 -W 2 {address}"));
        }
    }
}

fn services_answer_everywhere(machines: &Machines) {
    let address = machines.kubectl("get service web -o jsonpath={.spec.clusterIP}");
    for (pod, _, _) in pods(machines, "app=tools") {
        for target in [address.as_str(), "web", "web.default.svc.cluster.local"] {
            let page = machines.kubectl(&format!("exec {pod} -- wget -q -O - http://{target}/"));
            assert!(page.contains("1.16"), "{target} from {pod}: {page}");
        }
    }
    for machine in &machines.machines {
        assert!(machine.run(&format!("curl -sS --max-time 5 http://{address}/")).contains("1.16"), "{}", machine.name);
        assert!(machine.run("curl -sS --max-time 5 http://127.0.0.1:30080/").contains("1.16"), "{}", machine.name);
        let url = format!("http://{}:30080/", machine.address);
        let output = machines.outside("curl", &["-sS", "--max-time", "5", &url]).output().expect("curl runs");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1.16"), "{url} from outside: {output:?}");
    }
}

fn kubectl_reaches_pods_on_every_node(machines: &Machines) {
    for (pod, node, _) in pods(machines, "app=tools") {
        assert_eq!(machines.kubectl(&format!("exec {pod} -- hostname")), format!("{pod}\n"));
        assert_eq!(machines.kubectl(&format!("logs {pod}")), "here\n", "{node}");
    }
    for (index, (pod, node, _)) in pods(machines, "app=web").into_iter().enumerate() {
        let port = 18080 + index;
        let mut forward = machines.kubectl_command(&["port-forward", &pod, &format!("{port}:80")]);
        let mut child = forward.stdout(Stdio::null()).spawn().expect("kubectl runs");
        let url = format!("http://127.0.0.1:{port}/");
        let arguments = ["-sS", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "--max-time", "20", &url];
        let page = machines.outside("curl", &arguments).stderr(Stdio::null()).output().expect("curl runs");
        let _ = child.kill();
        let _ = child.wait();
        assert!(String::from_utf8_lossy(&page.stdout).contains("1.16"), "{pod} on {node}: {page:?}");
    }
}

/// The pods' MTU leaves room for the encapsulation, found without anybody saying so.
fn packets_of_full_size_pass(machines: &Machines) {
    let tools = pods(machines, "app=tools");
    let mtu = machines.kubectl(&format!("exec {} -- cat /sys/class/net/eth0/mtu", tools[0].0));
    assert_eq!(mtu, "1450\n");
    for (_, _, address) in &tools[1..] {
        machines.kubectl(&format!("exec {} -- ping -c 1 -W 2 -s 1422 {address}", tools[0].0));
    }
}

#[test]
fn plain_routes_instead_of_encapsulation() {
    let Some(machines) = machines(Plan::of(2).server_flags("--network-backend host-gw")) else { return };
    machines.apply(TOOLS);
    machines.kubectl("rollout status daemonset/tools --timeout=60s");
    every_pod_reaches_every_other_of_two(&machines);
    let routes = machines.machines[1].run("ip route show");
    assert!(routes.contains("10.42.0.0/24 via 192.0.2.11 dev eth0"), "{routes}");
    let links = machines.machines[1].run("ip -brief link show type vxlan");
    assert_eq!(links, "");
    let mtu = machines.kubectl(&format!("exec {} -- cat /sys/class/net/eth0/mtu", pods(&machines, "app=tools")[0].0));
    assert_eq!(mtu, "1500\n");
}

/// As an administrator would write it, with a range for each machine; ways to the other one's are the administrator's too.
const PLUGINS: &str = r#"{"cniVersion": "1.0.0", "name": "test", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "RANGE"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni/ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}"#;

#[test]
fn plugins_make_the_network_of_several_machines() {
    let reason = missing().or_else(|| {
        let plugin = std::path::Path::new("/usr/lib/cni/bridge");
        (!plugin.exists()).then(|| "no CNI plugins (containernetworking-plugins)".to_owned())
    });
    if let Some(reason) = reason {
        eprintln!("skipped: {reason}");
        return;
    }
    let mut machines = Machines::bare(Plan::of(2).flags("--cni-conf-dir /run/cni/net.d")).expect("the machines are on");
    for (index, machine) in machines.machines.iter().enumerate() {
        let other = &machines.machines[1 - index];
        let text = PLUGINS.replace("RANGE", &format!("10.42.{}.0/24", 100 + index));
        let script = format!("mkdir -p /run/cni/net.d; echo '{text}' > /run/cni/net.d/10-test.conflist; ip route add 10.42.{}.0/24 via {}", 101 - index, other.address);
        let made = machine.command("bash", &["-c", &script]).status().expect("bash runs");
        assert!(made.success());
    }
    machines.boot_server(0).expect("the server starts");
    let token = machines.token().expect("a token");
    machines.join(1, &token).expect("starts");
    for index in 0..2 {
        machines.wait_until_ready(index, SOON).expect("is Ready");
    }
    machines.apply(&(web(4) + "---" + TOOLS));
    machines.kubectl("rollout status deployment/web --timeout=60s");
    machines.kubectl("rollout status daemonset/tools --timeout=60s");
    for (pod, node, address) in pods(&machines, "app=tools") {
        let range = if node == "machine-1" { "10.42.100." } else { "10.42.101." };
        assert!(address.starts_with(range), "{pod} on {node}: {address}");
    }
    every_pod_reaches_every_other_of_two(&machines);
    services_answer_everywhere(&machines);
    kubectl_reaches_pods_on_every_node(&machines);
    for machine in &machines.machines {
        assert_eq!(machine.run("ip -brief link show type vxlan"), "", "nothing of ours beside theirs");
    }
    let left = machines.machines[1].coracle_output(&["down", "--purge"]).expect("runs");
    assert!(left.status.success(), "{left:?}");
    let links = machines.machines[1].run("ip -brief link show");
    assert!(!links.contains("veth") && !links.contains("coracle"), "{links}");
    assert_eq!(machines.machines[1].run("find /run/cni/ipam/test -name 10.42.*"), "", "their addresses are given back");
}

fn every_pod_reaches_every_other_of_two(machines: &Machines) {
    let tools = pods(machines, "app=tools");
    for (from, _, _) in &tools {
        for (_, _, address) in &tools {
            machines.kubectl(&format!("exec {from} -- ping -c 1 -W 2 {address}"));
        }
    }
}

#[test]
fn joining_is_guarded_and_leaving_is_clean() {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let mut machines = Machines::bare(Plan::of(3)).expect("the machines are on");
    machines.boot_server(0).expect("the server starts");
    machines.wait_until_ready(0, SOON).expect("the server is Ready");
    let token = machines.token().expect("a token");
    let (hash, secret) = token.split_once("::").expect("two parts");

    let refused = |machines: &mut Machines, token: &str, expected: &str| {
        machines.join(1, token).expect("starts");
        let told = machines.ended(1, Duration::from_secs(20)).unwrap_or_else(|| panic!("{token} must be refused"));
        assert!(told.contains(expected), "{told}");
    };
    refused(&mut machines, secret, "the token lacks the hash of the cluster's CA");
    refused(&mut machines, &format!("{hash}::zzzzzz.zzzzzzzzzzzzzzzz"), "the token is not valid: it is unknown to the cluster, or it has expired");
    // A stranger is told nothing: the token never leaves.
    let foreign = format!("K10{}::{secret}", "ab".repeat(32));
    machines.machines[1].run(&format!("rm -rf {}", machines.machines[1].data_dir.display()));
    refused(&mut machines, &foreign, "does not belong to the cluster of the token");
    let output = machines.machines[0].coracle_output(&["token", "create", "--ttl", "1s", "--description", "short"]).expect("runs");
    let short = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let listed = String::from_utf8_lossy(&machines.machines[0].coracle_output(&["token", "list"]).expect("runs").stdout).into_owned();
    assert!(listed.contains(short.split("::").nth(1).expect("two parts")) && listed.contains("short"), "{listed}");
    std::thread::sleep(Duration::from_millis(1500));
    refused(&mut machines, &short, "it has expired");

    // Join to Ready, the speed of a user's second command.
    let started = Instant::now();
    machines.join(1, &token).expect("starts");
    machines.wait_until_ready(1, SOON).expect("is Ready");
    eprintln!("join to Ready: {:?}", started.elapsed());
    let requests = machines.kubectl("get csr");
    assert!(requests.contains("kubernetes.io/kube-apiserver-client-kubelet") && requests.contains("system:bootstrap:"), "{requests}");
    machines.eventually("get csr", SOON, |text| text.matches("Approved,Issued").count() == 2 && text.contains("kubelet-serving"));

    let status = machines.machines[1].coracle_output(&["status"]).expect("runs");
    let told = String::from_utf8_lossy(&status.stdout).into_owned();
    for wanted in ["agent     pid ", "servers   192.0.2.11:6443", "node      machine-2 Ready v1.35", "pods      0 of 0 running"] {
        assert!(told.contains(wanted), "{wanted} in {told}{}", String::from_utf8_lossy(&status.stderr));
    }

    // A namesake, and then the token taken back.
    machines.machines[2].name = "machine-2".into();
    machines.join(2, &token).expect("starts");
    let told = machines.ended(2, Duration::from_secs(20)).expect("a namesake must be refused");
    assert!(told.contains("a Node with name \"machine-2\" and status \"Ready\" already exists in the cluster"), "{told}");
    machines.machines[2].name = "machine-3".into();
    let deleted = machines.machines[0].coracle_output(&["token", "delete", &token]).expect("runs");
    assert!(deleted.status.success(), "{deleted:?}");
    machines.join(2, &token).expect("starts");
    let told = machines.ended(2, Duration::from_secs(20)).expect("a token taken back must be refused");
    assert!(told.contains("the token is not valid"), "{told}");

    // Joined once, a start needs no token; a deleted node stays away until then.
    machines.kubectl("delete node machine-2");
    std::thread::sleep(Duration::from_secs(3));
    let gone = machines.kubectl_command(&["get", "node", "machine-2"]).output().expect("kubectl runs");
    assert!(!gone.status.success(), "a deleted node stays deleted");
    machines.kill_coracle(1).expect("is killed");
    machines.start_coracle(1).expect("starts");
    machines.wait_until_ready(1, SOON).expect("comes back when it is started again");

    // And it leaves nothing.
    machines.apply(TOOLS);
    machines.kubectl("rollout status daemonset/tools --timeout=60s");
    let left = machines.machines[1].coracle_output(&["down", "--purge"]).expect("runs");
    assert!(left.status.success(), "{left:?}");
    let machine = &machines.machines[1];
    assert_eq!(machine.run("ip -brief link").lines().filter(|line| !line.starts_with("lo") && !line.starts_with("eth0")).count(), 0);
    assert_eq!(machine.run("ip route show").lines().count(), 2, "{}", machine.run("ip route show"));
    assert_eq!(machine.run("nft list ruleset"), "");
    assert!(!machine.data_dir.exists());
    let processes = machine.run("ps -e -o args=");
    assert!(!processes.contains("internal-shim"), "{processes}");

    // One that lives where pods of other nodes are to be is told so, and is Ready as soon as it does not.
    let machine = &machines.machines[2];
    machine.run("ip link add lan type bridge");
    machine.run("ip addr add 10.42.9.1/24 dev lan");
    let token = machines.token().expect("a token");
    machines.join(2, &token).expect("starts");
    let clash = "the cluster's pod range 10.42.0.0/16 overlaps with 10.42.9.1/24 of interface lan; choose another cluster CIDR";
    machines.eventually("describe node machine-3", SOON, |text| text.contains("KubeletNotReady") && text.contains(clash));
    machines.machines[2].run("ip link delete lan");
    machines.wait_until_ready(2, SOON).expect("is Ready");
}

/// As after another lease from the router: nobody is asked, nothing is restarted by hand, and pods do not notice.
#[test]
fn a_node_gets_another_address() {
    let Some(machines) = machines(Plan::of(2)) else { return };
    machines.apply(TOOLS);
    machines.kubectl("rollout status daemonset/tools --timeout=60s");
    let machine = &machines.machines[1];
    for line in ["ip addr del 192.0.2.12/24 dev eth0", "ip addr add 192.0.2.77/24 dev eth0", "ip route add default via 192.0.2.1"] {
        machine.run(line);
    }
    let address = "get node machine-2 -o jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
    machines.eventually(address, SOON, |text| text == "192.0.2.77");
    machines.eventually("get node machine-2 -o jsonpath={.status.conditions[?(@.type=='Ready')].status}", SOON, |text| text == "True");
    let moved = pods(&machines, "app=tools").into_iter().find(|(_, node, _)| node == "machine-2").expect("one on each");
    machines.eventually(&format!("exec {} -- hostname", moved.0), SOON, |text| text.trim() == moved.0);
    let restarts = machines.kubectl(&format!("get pod {} -o jsonpath={{.status.containerStatuses[0].restartCount}}", moved.0));
    assert_eq!(restarts, "0");
    let way = |machine: usize, route: &str| {
        let end = Instant::now() + SOON;
        while !machines.machines[machine].run("ip route show").contains(route) && !machines.machines[machine].run("bridge fdb show").contains(route) {
            assert!(Instant::now() < end, "{route} on machine {}\n{}", machine + 1, machines.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    way(0, "192.0.2.77");
    every_pod_reaches_every_other_of_two(&machines);
}

#[test]
fn certificates_are_renewed_in_use() {
    let plan = Plan::of(2).server_flags("--cluster-signing-duration 12s");
    let Some(machines) = machines(plan) else { return };
    machines.apply(TOOLS);
    machines.kubectl("rollout status daemonset/tools --timeout=60s");
    let pod = pods(&machines, "app=tools").into_iter().find(|(_, node, _)| node == "machine-2").expect("one on each").0;
    let serial = || {
        let pki = machines.machines[1].data_dir.join("agent/pki");
        let read = |name: &str| {
            let output = Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(pki.join(name)).output().expect("openssl runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        (read("kubelet-client-current.pem"), read("kubelet-server-current.pem"))
    };
    let first = serial();
    // Two lives of a certificate, and at every moment the node is reached and reaches the servers.
    let end = Instant::now() + Duration::from_secs(25);
    while Instant::now() < end {
        assert_eq!(machines.kubectl(&format!("exec {pod} -- echo alive")), "alive\n");
        std::thread::sleep(Duration::from_millis(500));
    }
    let last = serial();
    assert!(first.0 != last.0 && first.1 != last.1, "{first:?} {last:?}");
    let log = std::fs::read_to_string(machines.machines[1].data_dir.with_extension("log")).expect("a log");
    assert!(!log.contains("certificate expired"), "{log}");
    machines.kubectl("label node machine-2 still=here");
    machines.eventually("get node machine-2 -o jsonpath={.status.conditions[?(@.type=='Ready')].status}", SOON, |text| text == "True");
}
