//! Services, names and the ways between pods, as the conformance tests of the original ask it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use testbed::cluster::NODE;
use testbed::session::{self, Session, name_of, waiting, with, with_main};

const SOON: Duration = Duration::from_secs(30);

/// A pod that says its name over HTTP at 8080, TCP and UDP at 8081. Names begin with the app's.
fn server(name: &str, app: &str) -> Value {
    let pod = with(waiting(name), json!({"metadata": {"labels": {"app": app}}}));
    with_main(pod, json!({
        "image": "testserver", "command": null, "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 8081, "name": "tcp"}, {"containerPort": 8081, "name": "udp", "protocol": "UDP"}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    }))
}

fn service(name: &str, spec: Value) -> Value {
    let port = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let plain = json!({"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": port}});
    with(plain, json!({"spec": spec}))
}

fn pod_ip(session: &Session, name: &str) -> String {
    text(&session.ready(name)["status"]["podIP"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn cluster_ip(service: &Value) -> String {
    text(&service["spec"]["clusterIP"])
}

fn node_ip(session: &Session) -> String {
    let node = session.get(&format!("nodes/{NODE}"));
    let internal = node["status"]["addresses"].as_array().into_iter().flatten().find(|it| it["type"] == "InternalIP");
    internal.map(|it| text(&it["address"])).expect("an internal address")
}

/// What an address answers to this host.
fn fetch(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().expect("an address"), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().last().unwrap_or_default().to_owned())
}

fn ask_udp(address: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect(address)?;
    socket.send(b"hostname")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// What `address` answers to the pod, a line for each of `tries`.
fn dial(session: &Session, pod: &str, protocol: &str, address: &str, tries: u32) -> Vec<String> {
    let (host, port) = address.rsplit_once(':').expect("host:port");
    let path = format!("pods/{pod}:8080/proxy/dial?protocol={protocol}&host={host}&port={port}&tries={tries}");
    let (code, answer) = session.raw(Method::GET, &path, "", None);
    assert_eq!(code, 200, "{answer}");
    answer.lines().map(str::to_owned).collect()
}

#[track_caller]
fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !wanted() {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `address:port` of every ready endpoint of the Service, from its slices.
fn endpoints(session: &Session, service: &str) -> BTreeSet<String> {
    let slices = session.items(&format!("discovery.k8s.io/v1/endpointslices?labelSelector=kubernetes.io/service-name={service}"));
    let mut found = BTreeSet::new();
    for slice in &slices {
        let ready = slice["endpoints"].as_array().into_iter().flatten().filter(|it| it["conditions"]["ready"] != false);
        let addresses: Vec<String> = ready.flat_map(|it| it["addresses"].as_array().into_iter().flatten().map(text)).collect();
        for port in slice["ports"].as_array().into_iter().flatten() {
            found.extend(addresses.iter().map(|address| format!("{address}:{}", port["port"])));
        }
    }
    found
}

#[track_caller]
fn endpoints_become(session: &Session, service: &str, wanted: &[String]) {
    let wanted: BTreeSet<String> = wanted.iter().cloned().collect();
    eventually(&format!("{service} has {wanted:?}"), || endpoints(session, service) == wanted);
    // The older kind tells the same.
    let of_subset = |subset: &Value| -> Vec<String> {
        let ports: Vec<String> = subset["ports"].as_array().into_iter().flatten().map(|it| it["port"].to_string()).collect();
        let addresses = subset["addresses"].as_array().into_iter().flatten().map(|it| text(&it["ip"]));
        addresses.flat_map(|ip| ports.iter().map(move |port| format!("{ip}:{port}")).collect::<Vec<_>>()).collect()
    };
    session.eventually(&format!("endpoints/{service}"), |object| {
        let told: BTreeSet<String> = object["subsets"].as_array().into_iter().flatten().flat_map(of_subset).collect();
        told == wanted
    });
}

// Conformance: [sig-network] Networking Granular Checks: Pods should function for intra-pod communication: http
// Conformance: [sig-network] Networking Granular Checks: Pods should function for intra-pod communication: udp
// Conformance: [sig-network] Networking Granular Checks: Pods should function for node-pod communication: http
// Conformance: [sig-network] Networking Granular Checks: Pods should function for node-pod communication: udp
// Conformance: [sig-network] Services should serve endpoints on same port and different protocols
#[test]
fn pods_and_node_reach_pods_over_tcp_and_udp() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    for name in ["net-a", "net-b"] {
        session.create("pods", &server(name, "net"));
    }
    for (from, to) in [("net-a", "net-b"), ("net-b", "net-a")] {
        session.ready(from);
        let ip = pod_ip(&session, to);
        assert_eq!(dial(&session, from, "http", &format!("{ip}:8080"), 1), [to]);
        assert_eq!(dial(&session, from, "udp", &format!("{ip}:8081"), 1), [to]);
        assert_eq!(fetch(&format!("{ip}:8080")).expect("answers"), to);
        assert_eq!(ask_udp(&format!("{ip}:8081")).expect("answers"), to);
    }

    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "port": 80, "targetPort": 8081, "protocol": protocol});
    let both = session.create("services", &service("net", json!({"ports": [port("TCP"), port("UDP")]})));
    let address = format!("{}:80", cluster_ip(&both));
    let names = BTreeSet::from(["net-a".to_owned(), "net-b".to_owned()]);
    let answers = |protocol: &str| -> BTreeSet<String> { dial(&session, "net-a", protocol, &address, 24).into_iter().collect() };
    let fails = |protocol: &str| dial(&session, "net-a", protocol, &address, 1)[0].starts_with("error");
    for protocol in ["tcp", "udp"] {
        eventually(protocol, || answers(protocol) == names);
    }
    session.edit("services/net", |it| it["spec"]["ports"] = json!([port("TCP")]));
    eventually("UDP is gone", || fails("udp"));
    assert_eq!(answers("tcp"), names);
    session.edit("services/net", |it| it["spec"]["ports"] = json!([port("UDP")]));
    eventually("TCP is gone", || fails("tcp"));
    eventually("UDP is back", || answers("udp") == names);
}

// Conformance: [sig-network] Services should serve a basic endpoint from pods
// Conformance: [sig-network] Services should serve multiport endpoints from pods
// Conformance: [sig-network] EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service
// Conformance: [sig-network] EndpointSlice should create and delete EndpointSlices for a Service with a selector that matches no pods
// Conformance: [sig-network] EndpointsController should create Endpoints for Pods matching a Service
// Conformance: [sig-network] EndpointsController should create and delete Endpoints for a Service with a selector that matches no pods
#[test]
fn endpoints_follow_pods() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    session.create("services", &service("web", json!({})));
    let slices = "discovery.k8s.io/v1/endpointslices?labelSelector=kubernetes.io/service-name=web";
    session.eventually(slices, |list| list["items"].as_array().is_some_and(|items| items.len() == 1));
    endpoints_become(&session, "web", &[]);
    for name in ["web-a", "web-b"] {
        session.create("pods", &server(name, "web"));
    }
    let at = |name: &str, port: u16| format!("{}:{port}", pod_ip(&session, name));
    endpoints_become(&session, "web", &[at("web-a", 8080), at("web-b", 8080)]);
    let slice = &session.items(slices)[0];
    assert_eq!((&slice["addressType"], &slice["ports"][0]["name"]), (&json!("IPv4"), &json!("http")));
    let target = &slice["endpoints"][0]["targetRef"];
    assert_eq!((&target["kind"], &slice["endpoints"][0]["nodeName"]), (&json!("Pod"), &json!(NODE)));
    let first = at("web-a", 8080);
    session.delete("pods/web-b");
    endpoints_become(&session, "web", &[first]);
    session.delete("pods/web-a");
    endpoints_become(&session, "web", &[]);
    session.delete("services/web");
    session.gone("endpoints/web");
    session.eventually(slices, |list| list["items"].as_array().is_some_and(Vec::is_empty));

    // Each port's endpoints are those pods that have it by name.
    let ports = json!([{"name": "p1", "port": 80, "targetPort": "one"}, {"name": "p2", "port": 81, "targetPort": "two"}]);
    session.create("services", &service("multi", json!({"ports": ports})));
    endpoints_become(&session, "multi", &[]);
    let only = |name: &str, port: &str, number: u16| {
        with_main(server(name, "multi"), json!({"ports": [{"name": port, "containerPort": number}]}))
    };
    session.create("pods", &only("multi-a", "one", 8080));
    let first = at("multi-a", 8080);
    endpoints_become(&session, "multi", &[first.clone()]);
    session.create("pods", &only("multi-b", "two", 8081));
    let second = at("multi-b", 8081);
    endpoints_become(&session, "multi", &[first, second.clone()]);
    session.delete("pods/multi-a");
    endpoints_become(&session, "multi", &[second]);
    session.delete("pods/multi-b");
    endpoints_become(&session, "multi", &[]);
}

// Conformance: [sig-network] EndpointSlice should support a Service with multiple ports specified in multiple EndpointSlices
// Conformance: [sig-network] EndpointSlice should support a Service with multiple endpoint IPs specified in multiple EndpointSlices
// Conformance: [sig-network] EndpointSliceMirroring should mirror a custom Endpoints resource through create update and delete
#[test]
fn endpoints_by_hand() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    for name in ["hand-a", "hand-b"] {
        session.create("pods", &server(name, "hand"));
    }
    let (a, b) = (pod_ip(&session, "hand-a"), pod_ip(&session, "hand-b"));
    let ports = json!([{"name": "one", "port": 80, "targetPort": 8080}, {"name": "two", "port": 81, "targetPort": 8081}]);
    let slice = |service: &str, name: &str, address: &str, port: &str, number: u16| {
        json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "by-hand"}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"name": port, "port": number, "protocol": "TCP"}],
        })
    };
    for (service_name, second) in [("same", &a), ("several", &b)] {
        let made = session.create("services", &service(service_name, json!({"selector": null, "ports": ports})));
        let ip = cluster_ip(&made);
        let plural = "discovery.k8s.io/v1/endpointslices";
        session.create(plural, &slice(service_name, &format!("{service_name}-1"), &a, "one", 8080));
        session.create(plural, &slice(service_name, &format!("{service_name}-2"), second, "two", 8081));
        eventually(service_name, || dial(&session, "hand-a", "http", &format!("{ip}:80"), 1) == ["hand-a"]);
        let wanted = if second == &a { "hand-a" } else { "hand-b" };
        eventually(service_name, || dial(&session, "hand-b", "tcp", &format!("{ip}:81"), 1) == [wanted]);
    }

    let subset = |ip: &str, port: u16| json!([{"addresses": [{"ip": ip}], "ports": [{"name": "http", "port": port}]}]);
    session.create("services", &service("mirrored", json!({"selector": null})));
    session.create("endpoints", &json!({"metadata": {"name": "mirrored"}, "subsets": subset(&a, 8080)}));
    let told = |wanted: &[String]| {
        let wanted: BTreeSet<String> = wanted.iter().cloned().collect();
        eventually(&format!("{wanted:?}"), || endpoints(&session, "mirrored") == wanted);
    };
    told(&[format!("{a}:8080")]);
    session.edit("endpoints/mirrored", |it| it["subsets"] = subset(&b, 8081));
    told(&[format!("{b}:8081")]);
    session.delete("endpoints/mirrored");
    told(&[]);
}

/// Distinct names that a dozen requests of the pod, and of this host, are answered with.
fn answered(session: &Session, pod: &str, address: &str) -> BTreeSet<String> {
    dial(session, pod, "http", address, 16).into_iter().collect()
}

// Conformance: [sig-network] Services should have session affinity work for service with type clusterIP
// Conformance: [sig-network] Services should be able to switch session affinity for service with type clusterIP
// Conformance: [sig-network] Services should have session affinity work for NodePort service
// Conformance: [sig-network] Services should be able to switch session affinity for NodePort service
// Conformance: [sig-network] Services should be able to create a functioning NodePort service
#[test]
fn affinity_and_node_ports() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    let template = with(server("x", "web"), json!({"metadata": {"name": null}}));
    session.create("apps/v1/deployments", &json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }));
    session.create("pods", &server("visitor", "visitor"));
    session.ready("visitor");
    session.eventually("apps/v1/deployments/web", |it| it["status"]["readyReplicas"] == 3);
    let names: BTreeSet<String> = session.items("pods?labelSelector=app=web").iter().map(name_of).collect();
    let node = node_ip(&session);
    for kind in ["ClusterIP", "NodePort"] {
        let spec = json!({"type": kind, "selector": {"app": "web"}, "sessionAffinity": "ClientIP"});
        let name = kind.to_lowercase();
        let made = session.create("services", &service(&name, spec));
        let mut addresses = vec![format!("{}:80", cluster_ip(&made))];
        if kind == "NodePort" {
            addresses.push(format!("{node}:{}", made["spec"]["ports"][0]["nodePort"]));
        }
        eventually("endpoints are there", || endpoints(&session, &name).len() == 3);
        let sticks = |address: &str| {
            let seen = answered(&session, "visitor", address);
            seen.len() == 1 && seen.is_subset(&names)
        };
        for address in &addresses {
            eventually(&format!("{address} sticks"), || sticks(address));
        }
        session.patch(&format!("services/{name}"), &json!({"spec": {"sessionAffinity": "None"}}));
        for address in &addresses {
            eventually(&format!("{address} spreads"), || answered(&session, "visitor", address) == names);
            if kind == "NodePort" {
                assert!(names.contains(&fetch(address).expect("the host is answered")));
            }
        }
        session.patch(&format!("services/{name}"), &json!({"spec": {"sessionAffinity": "ClientIP"}}));
        for address in &addresses {
            eventually(&format!("{address} sticks again"), || sticks(address));
        }
    }
    // By name, from a pod with a resolver.
    session.create("pods", &waiting("shell"));
    session.ready("shell");
    let said = cluster.kubectl("exec shell -- wget -q -O - http://nodeport/");
    assert!(names.contains(said.trim()), "{said}");
}

// Conformance: [sig-network] Services should be able to change the type from ExternalName to ClusterIP
// Conformance: [sig-network] Services should be able to change the type from ExternalName to NodePort
// Conformance: [sig-network] Services should be able to change the type from ClusterIP to ExternalName
// Conformance: [sig-network] Services should be able to change the type from NodePort to ExternalName
// Conformance: [sig-network] DNS should provide DNS for ExternalName services
#[test]
fn a_service_changes_its_type() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    session.create("pods", &server("web", "web"));
    session.create("pods", &waiting("shell"));
    session.ready("web");
    session.ready("shell");
    session.create("services", &service("web", json!({})));
    let lookup = |name: &str| {
        let output = cluster.kubectl_output(&["exec", "shell", "--", "nslookup", "-type=a", &format!("{name}.default.svc.cluster.local")]);
        String::from_utf8_lossy(&output.expect("kubectl runs").stdout).into_owned()
    };
    let target = "web.default.svc.cluster.local";
    let other = "kubernetes.default.svc.cluster.local";
    let port = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    for kind in ["ClusterIP", "NodePort"] {
        let name = kind.to_lowercase();
        let path = format!("services/{name}");
        let external = json!({"metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": target}});
        let made = session.create("services", &external);
        assert_eq!(made["spec"]["clusterIP"], Value::Null, "{made}");
        eventually("a CNAME", || lookup(&name).contains(&format!("canonical name = {target}")));
        session.patch(&path, &json!({"spec": {"externalName": other}}));
        eventually("another CNAME", || lookup(&name).contains(&format!("canonical name = {other}")));

        let change = json!({"spec": {"type": kind, "externalName": null, "selector": {"app": "web"}, "ports": port}});
        let changed = session.patch(&path, &change);
        let ip = cluster_ip(&changed);
        assert!(!ip.is_empty(), "{changed}");
        eventually("an address", || lookup(&name).contains(&ip));
        eventually("it serves", || fetch(&format!("{ip}:80")).is_ok_and(|answer| answer == "web"));
        eventually("by name", || cluster.kubectl_output(&["exec", "shell", "--", "wget", "-q", "-O", "-", &format!("http://{name}/")]).is_ok_and(|it| it.stdout == b"web"));
        let node_port = changed["spec"]["ports"][0]["nodePort"].as_u64();
        assert_eq!(node_port.is_some(), kind == "NodePort", "{changed}");
        let at_node = node_port.map(|port| format!("{}:{port}", node_ip(&session)));
        if let Some(address) = &at_node {
            eventually("at the node", || fetch(address).is_ok_and(|answer| answer == "web"));
        }

        let back = json!({"spec": {"type": "ExternalName", "externalName": target, "selector": null, "ports": null, "clusterIP": null, "clusterIPs": null}});
        let changed = session.patch(&path, &back);
        assert_eq!(changed["spec"]["clusterIP"], Value::Null, "{changed}");
        assert_eq!(changed["spec"]["ports"], Value::Null, "{changed}");
        eventually("a CNAME again", || lookup(&name).contains(&format!("canonical name = {target}")));
        eventually("the address is free", || fetch(&format!("{ip}:80")).is_err());
        if let Some(address) = &at_node {
            eventually("the port is free", || fetch(address).is_err());
        }
    }
}

// Conformance: [sig-network] DNS should provide DNS for the cluster
// Conformance: [sig-network] DNS should provide DNS for services
// Conformance: [sig-network] DNS should resolve DNS of partial qualified names for services
// Conformance: [sig-network] DNS should provide DNS for pods for Hostname
// Conformance: [sig-network] DNS should provide DNS for pods for Subdomain
// Conformance: [sig-network] DNS should provide /etc/hosts entries for the cluster
// Conformance: [sig-network] DNS should support configurable pod DNS nameservers
#[test]
fn names_in_the_cluster() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    let named = with(server("backend", "headless"), json!({"spec": {"hostname": "first", "subdomain": "headless"}}));
    session.create("pods", &named);
    let querying = with(waiting("shell"), json!({"spec": {"hostname": "shell-host", "subdomain": "headless"}}));
    session.create("pods", &querying);
    let dns = json!({"spec": {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["resolv.conf.local"]}}});
    session.create("pods", &with(waiting("own-dns"), dns));
    let ip = pod_ip(&session, "backend");
    session.ready("shell");
    session.create("services", &service("headless", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 8080}]})));
    let normal = session.create("services", &service("normal", json!({"selector": {"app": "headless"}})));
    let normal = cluster_ip(&normal);
    let kubernetes = cluster_ip(&session.get("services/kubernetes"));
    let ask = |kind: &str, name: &str| {
        let output = cluster.kubectl_output(&["exec", "shell", "--", "nslookup", &format!("-type={kind}"), name]);
        String::from_utf8_lossy(&output.expect("kubectl runs").stdout).into_owned()
    };
    let reversed = normal.rsplit('.').collect::<Vec<_>>().join(".");
    for (kind, name, wanted) in [
        ("a", "kubernetes.default.svc.cluster.local", kubernetes.as_str()),
        ("a", "headless.default.svc.cluster.local", &ip),
        ("a", "normal.default.svc.cluster.local", &normal),
        ("srv", "_http._tcp.headless.default.svc.cluster.local", "first.headless.default.svc.cluster.local"),
        ("srv", "_http._tcp.normal.default.svc.cluster.local", "0 100 80 normal.default.svc.cluster.local"),
        ("ptr", &format!("{reversed}.in-addr.arpa"), "name = normal.default.svc.cluster.local"),
        ("a", "first.headless.default.svc.cluster.local", &ip),
    ] {
        eventually(&format!("{kind} {name}: {wanted}; {}", ask(kind, name)), || ask(kind, name).contains(wanted));
    }
    // As a program resolves them, by the search path.
    for name in ["normal", "normal.default", "normal.default.svc", "first.headless", "first.headless.default.svc"] {
        let port = if name.starts_with("normal") { 80 } else { 8080 };
        eventually(name, || {
            let output = cluster.kubectl_output(&["exec", "shell", "--", "wget", "-q", "-O", "-", &format!("http://{name}:{port}/")]);
            output.is_ok_and(|output| output.stdout == b"first")
        });
    }
    let hosts = cluster.kubectl("exec shell -- cat /etc/hosts");
    let own = pod_ip(&session, "shell");
    assert!(hosts.contains(&format!("{own}\tshell-host.headless.default.svc.cluster.local\tshell-host")), "{hosts}");
    assert_eq!(cluster.kubectl("exec shell -- hostname").trim(), "shell-host");
    assert_eq!(cluster.kubectl("exec shell -- hostname -f").trim(), "shell-host.headless.default.svc.cluster.local");
    session.ready("own-dns");
    let resolver = cluster.kubectl("exec own-dns -- cat /etc/resolv.conf");
    assert!(resolver.contains("nameserver 1.1.1.1") && resolver.contains("search resolv.conf.local"), "{resolver}");
    assert_eq!(resolver.matches("nameserver").count(), 1, "{resolver}");
}

// Conformance: [sig-network] Proxy version v1 A set of valid responses are returned for both pod and service Proxy
// Conformance: [sig-network] Proxy version v1 A set of valid responses are returned for both pod and service ProxyWithPath
// Conformance: [sig-network] Proxy version v1 should proxy through a service and a pod
// Conformance: [sig-network] API Server should provide secure master service
#[test]
fn the_server_passes_requests_on() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    session.create("pods", &server("web", "web"));
    session.ready("web");
    session.create("services", &service("web", json!({})));
    eventually("endpoints", || endpoints(&session, "web").len() == 1);
    for target in ["pods/web:8080/proxy", "pods/http:web:8080/proxy", "services/web:80/proxy", "services/web:http/proxy", "services/http:web:http/proxy"] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let body = (method != Method::GET).then(|| "said".to_owned());
            let (code, answer) = session.raw(method.clone(), &format!("{target}/"), "text/plain", body.clone());
            assert_eq!((code, answer.as_str()), (200, "web"), "{method} {target}");
            let (code, answer) = session.raw(method.clone(), &format!("{target}/echo?msg=heard-"), "text/plain", body.clone());
            let wanted = format!("heard-{}", body.unwrap_or_default());
            assert_eq!((code, answer), (200, wanted), "{method} {target}");
        }
        let (code, answer) = session.raw(Method::GET, &format!("{target}/nowhere"), "", None);
        assert_eq!((code, answer.as_str()), (404, "no /nowhere"), "{target}");
    }
    let kubernetes = session.get("services/kubernetes");
    let port = &kubernetes["spec"]["ports"][0];
    assert_eq!((&port["name"], &port["port"], &port["protocol"]), (&json!("https"), &json!(443), &json!("TCP")));
}

// Conformance: [sig-network] Service endpoints latency should not be very high
// Conformance: [sig-network] HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol
#[test]
fn endpoints_come_quickly_and_host_ports_do_not_clash() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    session.create("pods", &server("web", "web"));
    session.ready("web");
    let mut taken: Vec<Duration> = (0..100)
        .map(|number| {
            let name = format!("latency-{number}");
            let started = Instant::now();
            session.create("services", &service(&name, json!({"selector": {"app": "web"}})));
            session.eventually(&format!("endpoints/{name}"), |it| it["subsets"][0]["addresses"][0]["ip"].is_string());
            started.elapsed()
        })
        .collect();
    taken.sort();
    assert!(taken[50] < Duration::from_secs(1) && taken[99] < Duration::from_secs(10), "{:?} {:?}", taken[50], taken[99]);

    // The same port of the host, told apart by address or protocol.
    let node = node_ip(&session);
    let pods = [("one", "127.0.0.1", "TCP", 8080), ("two", node.as_str(), "TCP", 8080), ("three", node.as_str(), "UDP", 8081)];
    for (name, host_ip, protocol, port) in pods {
        let ports = json!([{"containerPort": port, "hostPort": 54323, "hostIP": host_ip, "protocol": protocol}]);
        session.create("pods", &with_main(server(name, "hosts"), json!({"ports": ports})));
    }
    for (name, ..) in pods {
        session.ready(name);
    }
    eventually("by loopback", || fetch("127.0.0.1:54323").is_ok_and(|it| it == "one"));
    eventually("by the node's address", || fetch(&format!("{node}:54323")).is_ok_and(|it| it == "two"));
    eventually("over UDP", || ask_udp(&format!("{node}:54323")).is_ok_and(|it| it == "three"));
}

#[test]
fn a_load_balancer_gets_the_nodes_addresses_and_a_pool_its_own() {
    let pool = "10.99.0.10-10.99.0.11";
    for flags in [vec![], vec!["--load-balancer-pool", pool]] {
        let Some((_cluster, session)) = session::for_test(&flags) else { return };
        session.create("pods", &server("web", "web"));
        session.ready("web");
        let balanced = json!({"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 8099, "targetPort": 8080}]});
        session.create("services", &service("one", balanced.clone()));
        let ingress = |it: &Value| text(&it["status"]["loadBalancer"]["ingress"][0]["ip"]);
        let first = session.eventually("services/one", |it| !ingress(it).is_empty());
        let address = ingress(&first);
        let wanted = if flags.is_empty() { node_ip(&session) } else { "10.99.0.10".into() };
        assert_eq!(address, wanted);
        eventually("it answers this host", || fetch(&format!("{address}:8099")).is_ok_and(|it| it == "web"));
        assert_eq!(dial(&session, "web", "http", &format!("{address}:8099"), 1), ["web"]);
        let reasons = |name: &str| -> Vec<String> {
            let events = session.items(&format!("events?fieldSelector=involvedObject.name={name}"));
            events.iter().map(|event| format!("{}: {}", text(&event["reason"]), text(&event["message"]))).collect()
        };
        for wanted in ["EnsuringLoadBalancer: Ensuring load balancer", "EnsuredLoadBalancer: Ensured load balancer"] {
            eventually(wanted, || reasons("one").iter().any(|it| it == wanted));
        }

        // The same port again: a pool has another address, the nodes have not.
        session.create("services", &service("two", balanced));
        if flags.is_empty() {
            let refusal = "SyncLoadBalancerFailed: Error syncing load balancer: failed to ensure load balancer: port 8099/TCP of the nodes is taken by Service default/one";
            eventually(refusal, || reasons("two").iter().any(|it| it == refusal));
            assert_eq!(ingress(&session.get("services/two")), "");
        } else {
            session.eventually("services/two", |it| ingress(it) == "10.99.0.11");
        }
        session.delete("services/one");
        session.gone("services/one");
        session.eventually("services/two", |it| !ingress(it).is_empty());
        // Another type gives the address back.
        let two = session.get("services/two");
        session.patch("services/two", &json!({"spec": {"type": "ClusterIP"}}));
        session.eventually("services/two", |it| ingress(it).is_empty() && it["metadata"]["finalizers"].is_null());
        let address = ingress(&two);
        if flags.is_empty() {
            eventually("nobody answers", || fetch(&format!("{address}:8099")).is_err());
        } else {
            // Nobody has it any more, so asking for it would leave this machine.
            let held = || std::process::Command::new("ip").args(["-br", "addr"]).output().expect("ip runs").stdout;
            eventually("the node lets it go", || !String::from_utf8_lossy(&held()).contains(&format!("{address}/32")));
        }
    }
}

#[test]
fn policies_let_in_and_out_what_they_name() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    for (name, app) in [("web", "web"), ("friend", "friend"), ("stranger", "stranger")] {
        session.create("pods", &server(name, app));
    }
    let web = pod_ip(&session, "web");
    let stranger = pod_ip(&session, "stranger");
    session.ready("friend");
    let reaches = |from: &str, protocol: &str, address: &str| !dial(&session, from, protocol, address, 1)[0].starts_with("error");
    let (http, tcp) = (format!("{web}:8080"), format!("{web}:8081"));
    for from in ["friend", "stranger"] {
        assert!(reaches(from, "http", &http) && reaches(from, "tcp", &tcp));
    }
    let policies = "networking.k8s.io/v1/networkpolicies";
    let policy = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let select = |app: &str| json!({"matchLabels": {"app": app}});

    session.create(policies, &policy("deny", json!({"podSelector": select("web")})));
    eventually("nobody gets in", || !reaches("friend", "http", &http) && !reaches("stranger", "http", &http));
    assert!(reaches("web", "http", &http), "a pod reaches itself");
    assert!(fetch(&http).is_ok(), "the node reaches its pods");
    assert!(reaches("web", "http", &format!("{stranger}:8080")), "and out is open");

    let from_friend = json!({"podSelector": select("web"), "ingress": [{"from": [{"podSelector": select("friend")}], "ports": [{"port": "http"}]}]});
    session.create(policies, &policy("friend", from_friend));
    eventually("the friend gets in", || reaches("friend", "http", &http));
    assert!(!reaches("friend", "tcp", &tcp), "at that port alone");
    assert!(!reaches("stranger", "http", &http));

    // One more friend: a set changes, no rule.
    session.patch("pods/stranger", &json!({"metadata": {"labels": {"app": "friend"}}}));
    eventually("a new friend gets in", || reaches("stranger", "http", &http));
    session.patch("pods/stranger", &json!({"metadata": {"labels": {"app": "stranger"}}}));
    eventually("and is none again", || !reaches("stranger", "http", &http));

    let out = json!({"podSelector": select("friend"), "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": format!("{web}/32")}}]}]});
    session.create(policies, &policy("out", out));
    eventually("the friend's way out is shut", || !reaches("friend", "http", &format!("{stranger}:8080")));
    assert!(reaches("friend", "http", &http));
    let server = format!("{}:443", cluster_ip(&session.get("services/kubernetes")));
    let silent = |from: &str| dial(&session, from, "http", &server, 1) == ["error: TimedOut"];
    assert!(silent("friend") && !silent("stranger"), "the API server is out as well");

    session.delete(policies);
    eventually("all is open again", || reaches("stranger", "tcp", &tcp) && reaches("friend", "http", &format!("{stranger}:8080")));
}

/// As an administrator would write it, but for its own device and range.
const CNI: &str = r#"{"cniVersion": "1.0.0", "name": "test", "plugins": [
  {"type": "bridge", "bridge": "cortest0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.98.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}"#;

#[test]
fn cni_plugins_make_pods_networks_where_they_are_configured() {
    if !["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"].iter().any(|path| std::path::Path::new(path).exists()) {
        eprintln!("skipped: no CNI plugins (containernetworking-plugins)");
        return;
    }
    let directory = std::env::temp_dir().join(format!("coracle-test-cni-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("makes it");
    let place = directory.display().to_string();
    std::fs::write(directory.join("10-test.conflist"), CNI.replace("DIR", &place)).expect("writes it");
    struct Cleanup(std::path::PathBuf);
    impl Drop for Cleanup {
        fn drop(&mut self) {
            // The plugin leaves its bridge to whoever comes next.
            let _ = std::process::Command::new("ip").args(["link", "delete", "cortest0"]).output();
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
    let _cleanup = Cleanup(directory.clone());
    let Some((mut cluster, session)) = session::for_test(&["--cni-conf-dir", &place]) else { return };
    for name in ["net-a", "net-b"] {
        session.create("pods", &server(name, "net"));
    }
    session.create("pods", &waiting("shell"));
    let (a, b) = (pod_ip(&session, "net-a"), pod_ip(&session, "net-b"));
    assert!(a.starts_with("10.98.0.") && b.starts_with("10.98.0."), "{a} {b}");
    assert_eq!(dial(&session, "net-a", "http", &format!("{b}:8080"), 1), ["net-b"]);
    let made = session.create("services", &service("net", json!({})));
    let address = format!("{}:80", cluster_ip(&made));
    let both = BTreeSet::from(["net-a".to_owned(), "net-b".to_owned()]);
    eventually("a Service", || answered(&session, "net-a", &address) == both);
    assert!(both.contains(&fetch(&address).expect("the host is answered")));
    session.ready("shell");
    let said = cluster.kubectl("exec shell -- wget -q -O - http://net.default.svc.cluster.local/");
    assert!(both.contains(said.trim()), "{said}");
    let policy = json!({"metadata": {"name": "deny"}, "spec": {"podSelector": {"matchLabels": {"app": "net"}}}});
    session.create("networking.k8s.io/v1/networkpolicies", &policy);
    let shut = || dial(&session, "net-a", "http", &format!("{b}:8080"), 1)[0].starts_with("error");
    eventually("policies hold", shut);
    session.delete("networking.k8s.io/v1/networkpolicies/deny");
    eventually("and go", || !shut());

    // A deleted pod's address is given back; what the server's death leaves is removed by `coracle down`.
    let held = || std::fs::read_dir(directory.join("ipam/test")).map_or(0, |found| found.flatten().filter(|it| it.file_name().to_string_lossy().starts_with("10.")).count());
    assert_eq!(held(), 3);
    session.delete("pods/net-b");
    eventually("its address is free", || held() == 2);
    cluster.kill_server().expect("kills it");
    let output = cluster.down().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(held(), 0);
}
