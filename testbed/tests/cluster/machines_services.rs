//! Every type and option of a Service, asked from a pod on each node, from each host, and from outside of the cluster.
//!
//! A row of the table says what is asked and who is to answer. Everything that a place asks is asked at once, by the
//! client in the test image, and again until the whole table holds.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testbed::cluster::target;
use testbed::machines::{Machines, OUTSIDE, Plan};

use crate::machines::{SOON, machines, pods};

const TRIES: &str = "12";
const MACHINES: [(&str, &str, &str); 3] =
    [("machine-1", "192.0.2.11", "a"), ("machine-2", "192.0.2.12", "a"), ("machine-3", "192.0.2.13", "b")];
const POOL: &str = "192.0.2.240-192.0.2.249";

/// Where somebody asks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Pod(usize),
    Host(usize),
    Outside,
}

/// Who answers: names split by commas, `NAME@CLIENT` where the server must see that address, or one of these words.
///
/// `all` the three servers; `one` of them; `own`, the one on the place's node; `zone`, those of its zone; `refused`;
/// `silent`; nothing: is not asked there.
struct Row {
    urls: Vec<String>,
    pods: &'static str,
    hosts: &'static str,
    outside: String,
}

fn row(urls: &[&str], pods: &'static str, hosts: &'static str, outside: &str) -> Row {
    Row { urls: urls.iter().map(|url| (*url).to_owned()).collect(), pods, hosts, outside: outside.to_owned() }
}

fn meets(place: Place, wanted: &str, answers: &str) -> bool {
    let mut told: Vec<&str> = answers.split(',').collect();
    if !wanted.contains('@') {
        told = told.iter().map(|answer| answer.split('@').next().unwrap_or_default()).collect();
    }
    let (own, zone) = match place {
        Place::Pod(index) | Place::Host(index) => (format!("web-{}", index + 1), if index == 2 { "web-3" } else { "web-1,web-2" }),
        Place::Outside => (String::new(), ""),
    };
    let names = match wanted {
        "all" => "web-1,web-2,web-3",
        "one" => return matches!(told[..], ["web-1" | "web-2" | "web-3"]),
        "own" => own.as_str(),
        "zone" => zone,
        "refused" => "error: ConnectionRefused",
        "silent" => "error: TimedOut",
        names => names,
    };
    told == names.split(',').collect::<Vec<_>>()
}

fn ask(machines: &Machines, place: Place, urls: &[String]) -> BTreeMap<String, String> {
    ask_so_often(machines, place, TRIES, urls)
}

fn ask_so_often(machines: &Machines, place: Place, tries: &str, urls: &[String]) -> BTreeMap<String, String> {
    let server = target().join("debug/testserver").display().to_string();
    let mut words = vec!["ask", tries];
    words.extend(urls.iter().map(String::as_str));
    let mut command: Command = match place {
        Place::Pod(index) => {
            let pod = format!("ask-{}", index + 1);
            let exec = ["exec", &pod, "--", "testserver"];
            machines.kubectl_command(&[&exec[..], &words].concat())
        }
        Place::Host(index) => machines.machines[index].command(&server, &words),
        Place::Outside => machines.outside(&server, &words),
    };
    let output = command.output().expect("runs");
    assert!(output.status.success(), "{place:?}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split_once(' ')).map(|(url, answer)| (url.to_owned(), answer.to_owned())).collect()
}

#[track_caller]
fn check(machines: &Machines, rows: &[Row]) {
    let places = (0..3).map(Place::Pod).chain((0..3).map(Place::Host)).chain([Place::Outside]);
    let mut left: Vec<(Place, String, &str)> = Vec::new();
    for place in places {
        for row in rows {
            let wanted = match place {
                Place::Pod(_) => row.pods,
                Place::Host(_) => row.hosts,
                Place::Outside => &row.outside,
            };
            let asked = row.urls.iter().filter(|_| !wanted.is_empty());
            left.extend(asked.map(|url| (place, url.clone(), wanted)));
        }
    }
    let end = Instant::now() + SOON;
    loop {
        let mut by_place: BTreeMap<Place, Vec<String>> = BTreeMap::new();
        left.iter().for_each(|(place, url, _)| by_place.entry(*place).or_default().push(url.clone()));
        let answers: BTreeMap<Place, BTreeMap<String, String>> = std::thread::scope(|scope| {
            let asked: Vec<_> = by_place.iter().map(|(place, urls)| (*place, scope.spawn(|| ask(machines, *place, urls)))).collect();
            asked.into_iter().map(|(place, thread)| (place, thread.join().expect("asks"))).collect()
        });
        let answer = |place: Place, url: &str| answers[&place].get(url).map_or("nothing", String::as_str);
        left.retain(|(place, url, wanted)| !meets(*place, wanted, answer(*place, url)));
        if left.is_empty() {
            return;
        }
        let told = |(place, url, wanted): &(Place, String, &str)| format!("{place:?} {url}: {wanted}, got {}", answer(*place, url));
        let told: Vec<String> = left.iter().map(told).collect();
        assert!(Instant::now() < end, "not answered as wanted:\n{}\n{}", told.join("\n"), machines.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A server and one who asks on each machine, and servers with manners of their own.
fn make_pods(machines: &Machines) {
    let server = |name: &str, node: &str, app: &str, more: &str, in_container: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}, name: {name}}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  terminationGracePeriodSeconds: 0
  {more}
  containers:
  - name: main
    image: testserver
    imagePullPolicy: IfNotPresent
    {in_container}
"#
        )
    };
    let mut text = Vec::new();
    let ready = "readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}";
    for (number, (node, _, _)) in (1..).zip(MACHINES) {
        let ports = format!("ports: [{{name: http, containerPort: 8080, hostPort: 18080}}]\n    {ready}");
        let more = format!("hostname: web-{number}\n  subdomain: headless");
        text.push(server(&format!("web-{number}"), node, "web", &more, &ports));
        text.push(server(&format!("ask-{number}"), node, "ask", "", ready));
    }
    text.push(server("unready", "machine-2", "unready", "", "readinessProbe: {exec: {command: [sh, -c, exit 1]}}"));
    let lingering = format!("lifecycle: {{preStop: {{sleep: {{seconds: 60}}}}}}\n    {ready}");
    text.push(server("ending", "machine-3", "ending", "", &lingering).replace("PeriodSeconds: 0", "PeriodSeconds: 90"));
    machines.apply(&text.join("---"));
    machines.kubectl("wait --for=condition=Ready pod -l app!=unready --timeout=60s");
}

const SERVICES: &str = r#"
{name: plain, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}, {name: tcp, port: 81, targetPort: 8081}, {name: both-tcp, port: 53, targetPort: 8081}, {name: both-udp, port: 53, targetPort: 8081, protocol: UDP}, {name: talk, port: 83, targetPort: 8082}]}}
{name: node, spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30081}, {name: tcp, port: 53, targetPort: 8081, nodePort: 30082}, {name: udp, port: 53, targetPort: 8081, nodePort: 30082, protocol: UDP}, {name: talk, port: 83, targetPort: 8082, nodePort: 30089}]}}
{name: node-local, spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30083}]}}
{name: first-local, spec: {type: NodePort, externalTrafficPolicy: Local, selector: {name: web-1}, ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30084}, {name: tcp, port: 81, targetPort: 8081, nodePort: 30085}]}}
{name: balanced, spec: {type: LoadBalancer, selector: {app: web}, ports: [{name: http, port: 8085, targetPort: 8080}, {name: udp, port: 8085, targetPort: 8081, protocol: UDP}]}}
{name: balanced-local, spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30086, selector: {name: web-1}, ports: [{port: 8086, targetPort: 8080}]}}
{name: restricted, spec: {type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.200/32], selector: {app: web}, ports: [{port: 8087, targetPort: 8080}]}}
{name: sticky, spec: {type: NodePort, sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30088}]}}
{name: inside-local, spec: {internalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
{name: external, spec: {externalIPs: [10.77.0.1], selector: {app: web}, ports: [{port: 8090, targetPort: 8080}]}}
{name: same-zone, spec: {trafficDistribution: PreferSameZone, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
{name: close, spec: {trafficDistribution: PreferClose, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
{name: same-node, spec: {trafficDistribution: PreferSameNode, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
{name: alias, spec: {type: ExternalName, externalName: plain.default.svc.cluster.local}}
{name: headless, spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080}]}}
{name: by-hand, spec: {ports: [{port: 80, targetPort: 8080}]}}
{name: headless-by-hand, spec: {clusterIP: None, ports: [{port: 8080}]}}
{name: nobody, spec: {type: NodePort, selector: {app: nobody}, ports: [{port: 80, nodePort: 30091}]}}
{name: unready, spec: {selector: {app: unready}, ports: [{port: 80, targetPort: 8080}]}}
{name: unready-published, spec: {publishNotReadyAddresses: true, selector: {app: unready}, ports: [{port: 80, targetPort: 8080}]}}
{name: ending, spec: {type: NodePort, selector: {app: ending}, ports: [{port: 80, targetPort: 8080, nodePort: 30092}]}}
{name: shifting, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
"#;

fn make_services(machines: &Machines) {
    let addresses: Vec<String> = pods(machines, "app=web").into_iter().map(|(_, _, address)| address).collect();
    let mut objects: Vec<String> = SERVICES
        .lines()
        .filter_map(|line| line.strip_prefix("{name: ")?.split_once(", "))
        .map(|(name, rest)| format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, {rest}\n"))
        .collect();
    for name in ["by-hand", "headless-by-hand"] {
        objects.push(format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}, \
             addressType: IPv4, endpoints: [{{addresses: [{}]}}], ports: [{{port: 8080}}]}}\n",
            addresses[1]
        ));
    }
    machines.apply(&objects.join("---\n"));
}

fn cluster_ip(machines: &Machines, service: &str) -> String {
    machines.kubectl(&format!("get service {service} -o jsonpath={{.spec.clusterIP}}"))
}

#[test]
fn every_kind_of_service_answers_everywhere() {
    let Some(mut machines) = machines(Plan::of(3)) else { return };
    for (name, _, zone) in MACHINES {
        machines.kubectl(&format!("label node {name} topology.kubernetes.io/zone={zone}"));
    }
    let outside_route = machines.outside("ip", &["route", "add", "10.77.0.1", "via", MACHINES[1].1]).status();
    assert!(outside_route.is_ok_and(|status| status.success()));
    make_pods(&machines);
    make_services(&machines);
    machines.eventually("get service balanced -o jsonpath={.status.loadBalancer.ingress[*].ip}", SOON, |text| text.split(' ').count() == 3);
    machines.eventually("get service balanced-local -o jsonpath={.status.loadBalancer.ingress[*].ip}", SOON, |text| text == "192.0.2.11");

    let mut rows = Vec::new();
    let at = |service: &str, rest: &str| rest.replace("HOST", &cluster_ip(&machines, service));
    // By address, from pods and hosts; and by name, which hosts do not know.
    for (service, url, wanted) in [
        ("plain", "http://HOST:80", "all"),
        ("plain", "tcp://HOST:81", "all"),
        ("plain", "tcp://HOST:53", "all"),
        ("plain", "udp://HOST:53", "all"),
        ("node", "http://HOST:80", "all"),
        ("balanced", "http://HOST:8085", "all"),
        ("sticky", "http://HOST:80", "one"),
        ("inside-local", "http://HOST:80", "own"),
        ("same-zone", "http://HOST:80", "zone"),
        ("close", "http://HOST:80", "zone"),
        ("same-node", "http://HOST:80", "own"),
        ("by-hand", "http://HOST:80", "web-2"),
        ("nobody", "http://HOST:80", "refused"),
        ("unready", "http://HOST:80", "refused"),
        ("unready-published", "http://HOST:80", "unready"),
        // A port that the Service does not have.
        ("plain", "http://HOST:82", "refused"),
    ] {
        rows.push(row(&[&at(service, url)], wanted, wanted, ""));
        rows.push(row(&[&url.replace("HOST", &format!("{service}.default.svc.cluster.local"))], wanted, "", ""));
    }
    rows.push(row(&["http://alias:80", "udp://alias:53"], "all", "", ""));
    rows.push(row(&["http://headless:8080"], "one", "", ""));
    rows.push(row(&["http://web-3.headless:8080"], "web-3", "", ""));
    rows.push(row(&["http://headless-by-hand:8080"], "web-2", "", ""));
    rows.push(row(&["http://10.77.0.1:8090"], "all", "all", "all"));
    rows.push(row(&["http://127.0.0.1:30081"], "", "all", ""));
    for (index, (_, address, _)) in MACHINES.iter().enumerate() {
        let url = |port: u16| format!("http://{address}:{port}");
        let (node, balanced) = (url(30081), url(8085));
        let (tcp, udp) = (format!("tcp://{address}:30082"), format!("udp://{address}:30082"));
        rows.push(row(&[&node, &balanced, &tcp, &udp, &format!("udp://{address}:8085")], "all", "all", "all"));
        rows.push(row(&[&url(30088)], "one", "one", "one"));
        rows.push(row(&[&url(30091)], "refused", "refused", "refused"));
        let own = ["web-1", "web-2", "web-3"][index];
        rows.push(row(&[&url(18080)], own, own, own));
        // Local: what comes from outside stays on the node and keeps its address; what is of the cluster goes anywhere.
        rows.push(row(&[&url(30083)], "", "", &format!("{own}@{OUTSIDE}")));
        let only_first = if index == 0 { format!("web-1@{OUTSIDE}") } else { "silent".to_owned() };
        rows.push(row(&[&url(30084)], "", "", &only_first));
        rows.push(row(&[&url(8087)], "silent", "silent", "all"));
    }
    // At a pod's own node the node port is the cluster's business, as is the address of a balancer anywhere.
    rows.push(row(&["http://192.0.2.11:8086"], "web-1", "web-1", &format!("web-1@{OUTSIDE}")));
    check(&machines, &rows);
    let inside = ask(&machines, Place::Pod(0), &["http://192.0.2.11:30083".to_owned()]);
    assert_eq!(inside.values().map(String::as_str).filter(|answer| meets(Place::Pod(0), "all", answer)).count(), 1, "{inside:?}");

    pods_are_seen_as_themselves(&machines);
    beyond_the_cluster_pods_are_seen_as_their_nodes(&machines);
    policies_hold_between_machines(&machines);
    conversations_go_on_beside_changes(&mut machines);
    health_checks_tell_who_has_endpoints(&machines);
    affinity_holds_for_a_client(&machines);
    the_last_ones_serve_while_they_end(&machines);
    a_service_changes_its_type(&machines);
    a_pool_instead_of_the_nodes(&mut machines);
}

fn pods_are_seen_as_themselves(machines: &Machines) {
    let address = pods(machines, "app=ask").into_iter().find(|(name, _, _)| name == "ask-1").expect("is there").2;
    let url = format!("http://{}:80", cluster_ip(machines, "plain"));
    let told = ask(machines, Place::Pod(0), std::slice::from_ref(&url));
    assert_eq!(told[&url], format!("web-1@{address},web-2@{address},web-3@{address}"));
    // An endpoint reaches itself through its Service.
    let output = machines.kubectl(&format!("exec web-1 -- testserver ask {TRIES} {url}"));
    assert!(output.contains("web-1@") && output.contains("web-2@"), "{output}");
}

fn beyond_the_cluster_pods_are_seen_as_their_nodes(machines: &Machines) {
    let server = target().join("debug/testserver").display().to_string();
    let mut serving = machines.outside_process(&server, &["serve", "8070"]).spawn().expect("the server runs");
    let url = format!("http://{OUTSIDE}:8070");
    for (index, (_, address, _)) in MACHINES.iter().enumerate() {
        soon(machines, Place::Pod(index), &url, |answer| answer.ends_with(&format!("@{address}")));
    }
    let _ = serving.kill();
    let _ = serving.wait();
}

#[track_caller]
fn soon(machines: &Machines, place: Place, url: &str, wanted: impl Fn(&str) -> bool) {
    let end = Instant::now() + SOON;
    loop {
        let told = ask_so_often(machines, place, "1", &[url.to_owned()]);
        let answer = told.get(url).map_or("nothing", String::as_str);
        if wanted(answer) {
            return;
        }
        assert!(Instant::now() < end, "{place:?} {url}: {answer}\n{}", machines.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

const POLICIES: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: into-web-1}
spec:
  podSelector: {matchLabels: {name: web-1}}
  ingress:
  - {from: [{podSelector: {matchLabels: {app: ask}}}], ports: [{port: http}]}
  - {from: [{ipBlock: {cidr: OUTSIDE/32}}], ports: [{port: 8081, endPort: 8082}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out-of-ask-3}
spec:
  podSelector: {matchLabels: {name: ask-3}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {name: web-1}}}, {podSelector: {matchLabels: {name: web-2}}}], ports: [{port: 8080}]}]
"#;

/// Whom a policy names it finds on whatever node they are, and whom it does not is kept out from wherever.
fn policies_hold_between_machines(machines: &Machines) {
    let addresses: Vec<String> = pods(machines, "app=web").into_iter().map(|(_, _, address)| address).collect();
    let at = |index: usize, rest: &str| rest.replace("HOST", &addresses[index]);
    let (http, tcp) = (at(0, "http://HOST:8080"), at(0, "tcp://HOST:8081"));
    let node_port = "http://192.0.2.11:30084".to_owned();
    machines.apply(&POLICIES.replace("OUTSIDE", &OUTSIDE.to_string()));
    let is = |wanted: &'static str| move |answer: &str| answer.split('@').next() == Some(wanted);
    let silent = |answer: &str| answer == "error: TimedOut";
    for index in 0..3 {
        soon(machines, Place::Pod(index), &tcp, silent);
        soon(machines, Place::Pod(index), &http, is("web-1"));
    }
    for index in [1, 2] {
        soon(machines, Place::Host(index), &http, silent);
    }
    // Its own node reaches a pod always: its probes come from there.
    soon(machines, Place::Host(0), &tcp, is("web-1"));
    // Outside is let in at other ports only.
    soon(machines, Place::Outside, &node_port, silent);
    soon(machines, Place::Outside, "tcp://192.0.2.11:30085", is("web-1"));
    let other = machines.kubectl_command(&["exec", "web-2", "--", "testserver", "ask", "1", &http]).output().expect("kubectl runs");
    assert_eq!(String::from_utf8_lossy(&other.stdout), format!("{http} error: TimedOut\n"));
    // Out: to two of them, through a Service as well, and nowhere else.
    soon(machines, Place::Pod(2), &at(1, "http://HOST:8080"), is("web-2"));
    soon(machines, Place::Pod(2), &at(2, "http://HOST:8080"), silent);
    soon(machines, Place::Pod(2), &format!("http://{}:80", cluster_ip(machines, "by-hand")), is("web-2"));
    soon(machines, Place::Pod(0), &at(2, "http://HOST:8080"), is("web-3"));
    machines.kubectl("delete networkpolicies --all");
    soon(machines, Place::Pod(2), &at(2, "http://HOST:8080"), is("web-3"));
    soon(machines, Place::Outside, &node_port, is("web-1"));
}

/// Twenty Services come, change and go, five times over; so do endpoints of the very Service that is talked through, and
/// the program that writes the rules. A conversation notices nothing of it.
fn conversations_go_on_beside_changes(machines: &mut Machines) {
    let server = target().join("debug/testserver").display().to_string();
    let address = cluster_ip(machines, "plain");
    let inside = [format!("tcp://{address}:83"), format!("udp://{address}:53"), "tcp://192.0.2.13:30089".to_owned()];
    let outside: Vec<String> = MACHINES.iter().flat_map(|(_, node, _)| [format!("tcp://{node}:30089"), format!("udp://{node}:30082")]).collect();
    let talks: Vec<(Place, Child)> = (0..3)
        .map(Place::Host)
        // What is said in a pod of the third comes by way of the program that is killed.
        .chain([Place::Pod(0), Place::Pod(1), Place::Outside])
        .map(|place| {
            let urls = if place == Place::Outside { &outside[..] } else { &inside[..] };
            let words: Vec<&str> = ["talk"].into_iter().chain(urls.iter().map(String::as_str)).collect();
            let mut command = match place {
                Place::Pod(index) => {
                    let exec = ["exec", "-i", &format!("ask-{}", index + 1), "--", "testserver"];
                    machines.kubectl_command(&[&exec[..], &words].concat())
                }
                Place::Host(index) => machines.machines[index].command(&server, &words),
                Place::Outside => machines.outside(&server, &words),
            };
            (place, command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("talks"))
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    for round in 0..5 {
        let other = |number: usize| {
            let kind = ["ClusterIP", "NodePort", "LoadBalancer"][(number + round) % 3];
            let app = ["web", "ask", "nobody"][(number + 2 * round) % 3];
            let port = 9000 + number;
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: other-{number}, labels: {{other: \"yes\"}}}}, spec: {{type: {kind}, selector: {{app: {app}}}, ports: [{{port: {port}, targetPort: 8082}}]}}}}\n")
        };
        machines.apply(&(0..20).map(other).collect::<Vec<_>>().join("---\n"));
        let app = if round % 2 == 0 { "web" } else { "ending" };
        machines.kubectl(&format!("label pod ending app={app} --overwrite"));
        if round == 2 {
            machines.kubectl("delete services -l other=yes --wait=false");
        }
        if round == 3 {
            machines.kill_coracle(2).expect("is killed");
            machines.start_coracle(2).expect("starts");
        }
    }
    machines.kubectl("delete services -l other=yes");
    machines.kubectl("label pod ending app=ending --overwrite");
    machines.wait_until_ready(2, SOON).expect("is Ready");
    for (place, mut talk) in talks {
        drop(talk.stdin.take());
        let output = talk.wait_with_output().expect("ends");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(told.lines().count(), if place == Place::Outside { 6 } else { 3 }, "{place:?}: {told}");
        for line in told.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (name, answers) = (words[1], words[2].parse::<u32>().expect("a number"));
            assert!(matches!(name, "web-1" | "web-2" | "web-3") && answers > 50, "{place:?}: {line}");
        }
    }
}

fn health_checks_tell_who_has_endpoints(machines: &Machines) {
    for (name, address, _) in MACHINES {
        let url = format!("http://{address}:30086/healthz");
        let output = machines.outside("curl", &["-sS", "--max-time", "5", "-w", "%{http_code}", &url]).output().expect("curl runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let wanted = if name == "machine-1" { ("200", "\"localEndpoints\": 1") } else { ("503", "\"localEndpoints\": 0") };
        assert!(told.ends_with(wanted.0) && told.contains(wanted.1), "{name}: {told}");
    }
}

fn affinity_holds_for_a_client(machines: &Machines) {
    let url = "http://192.0.2.12:30088".to_owned();
    let first = ask(machines, Place::Outside, std::slice::from_ref(&url));
    for _ in 0..5 {
        assert_eq!(ask(machines, Place::Outside, std::slice::from_ref(&url)), first);
    }
}

fn the_last_ones_serve_while_they_end(machines: &Machines) {
    let url = format!("http://{}:80", cluster_ip(machines, "ending"));
    let urls = [url.as_str(), "http://192.0.2.11:30092"];
    let rows = |wanted: &'static str| [row(&urls, wanted, wanted, ""), row(&urls[1..], "", "", wanted)];
    check(machines, &rows("ending"));
    machines.kubectl("delete pod ending --wait=false");
    let conditions = "get endpointslices -l kubernetes.io/service-name=ending -o jsonpath={.items[*].endpoints[*].conditions}";
    machines.eventually(conditions, SOON, |text| text.contains("\"terminating\":true") && text.contains("\"ready\":false"));
    check(machines, &rows("ending"));
    machines.kubectl("label pod web-2 app=ending --overwrite");
    check(machines, &rows("web-2"));
    machines.kubectl("label pod web-2 app=web --overwrite");
    check(machines, &rows("ending"));
    machines.kubectl("delete pod ending --grace-period=0 --force");
    check(machines, &rows("refused"));
}

fn a_service_changes_its_type(machines: &Machines) {
    let patch = |spec: &str| machines.kubectl_words(&["patch", "service", "shifting", "-p", &format!("{{\"spec\": {spec}}}")]);
    let address = cluster_ip(machines, "shifting");
    let inside = format!("http://{address}:80");
    let node_port = "http://192.0.2.12:30093";
    let both = [row(&[&inside], "all", "all", ""), row(&[node_port], "all", "all", "all")];
    let one = [row(&[&inside], "all", "all", ""), row(&[node_port], "", "refused", "refused")];
    check(machines, &one);
    patch(r#"{"type": "NodePort", "ports": [{"port": 80, "nodePort": 30093}]}"#);
    check(machines, &both);
    patch(r#"{"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30093}]}"#);
    check(machines, &both);
    patch(r#"{"type": "ClusterIP", "ports": [{"port": 80, "nodePort": null}]}"#);
    check(machines, &one);
    patch(r#"{"type": "ExternalName", "externalName": "plain.default.svc.cluster.local", "clusterIP": null, "clusterIPs": null}"#);
    check(machines, &[row(&["tcp://shifting:81"], "all", "", "")]);
    patch(r#"{"type": "ClusterIP", "externalName": null}"#);
    check(machines, &[row(&["http://shifting:80"], "all", "", "")]);
}

/// With a pool the same Services get addresses of it, which a node announces to its neighbours.
fn a_pool_instead_of_the_nodes(machines: &mut Machines) {
    machines.restart_with(0, &["--load-balancer-pool", POOL]).expect("starts");
    machines.wait_for_api(0).expect("answers");
    let ingress = |machines: &Machines, service: &str| {
        let line = format!("get service {service} -o jsonpath={{.status.loadBalancer.ingress[*].ip}}");
        machines.eventually(&line, SOON, |text| text.starts_with("192.0.2.24") && !text.contains(' '))
    };
    let [balanced, local, restricted] = ["balanced", "balanced-local", "restricted"].map(|service| ingress(machines, service));
    let (http, udp) = (format!("http://{balanced}:8085"), format!("udp://{balanced}:8085"));
    let rows = [
        row(&[&http, &udp], "all", "all", "all"),
        row(&[&format!("http://{local}:8086")], "web-1", "web-1", &format!("web-1@{OUTSIDE}")),
        row(&[&format!("http://{restricted}:8087")], "silent", "silent", "all"),
        // The nodes' addresses are free again.
        row(&["http://192.0.2.12:8085"], "", "refused", "refused"),
    ];
    check(machines, &rows);
}
