//! Real connections through real rules, in network namespaces made here. As root; skipped by name otherwise.

#![allow(clippy::print_stderr)] // Measurements, and which test was skipped.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use net::pod_network::{BridgeConfig, BridgeNetwork};
use net::route::RouteSocket;
use serde_json::{Value, json};

use super::*;

#[allow(dead_code)]
#[path = "../../../net/tests/node/machine.rs"]
mod machine;

mod measurements;

use machine::{Pod, TIMEOUT, default_route, fetch, neighbour, on_machine};

const TABLE: &str = "coracle";
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 43, 0, 7));

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A node with a pod network and service rules, and a machine beyond it.
struct TestNode {
    network: BridgeNetwork,
    outside: Pod,
    kernel: Kernel,
    objects: HashMap<ObjectKey, Seen>,
    _state: tempfile::TempDir,
}

fn config() -> ProxyConfig {
    ProxyConfig {
        table: TABLE.into(),
        node_name: "node-a".into(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        node_port_addresses: Vec::new(),
        skip_cluster_ips: Vec::new(),
    }
}

fn bridge(state: &Path) -> BridgeConfig {
    BridgeConfig {
        name: "coracle0".into(),
        pod_cidr: "10.42.0.0/24".parse().unwrap(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: Some("10.43.0.0/16".parse().unwrap()),
        mtu: None,
        encapsulation_bytes: 0,
        state_dir: state.to_path_buf(),
        masquerade: true,
        instance: TABLE.into(),
    }
}

impl TestNode {
    fn new() -> TestNode {
        let state = tempfile::tempdir().unwrap();
        let outside = neighbour("192.0.2.1/24", "192.0.2.2/24");
        outside.run(|| {
            let link = RouteSocket::open().unwrap().link("eth0").unwrap().unwrap().index;
            default_route(NODE, link);
        });
        let network = BridgeNetwork::ensure(bridge(state.path())).unwrap();
        let mut kernel = Kernel::new(&config()).unwrap();
        kernel.replace(HashSet::new(), |_| (None, Vec::new())).unwrap();
        TestNode { network, outside, kernel, objects: HashMap::new(), _state: state }
    }

    fn pod(&self, name: &str) -> (Pod, IpAddr) {
        let pod = Pod::new();
        let addresses = block_on(self.network.attach(pod.path(), name)).unwrap();
        (pod, addresses[0])
    }

    /// A pod that serves its name on 8080.
    fn server(&self, name: &str) -> (Pod, IpAddr) {
        let (pod, address) = self.pod(name);
        pod.serve(8080, name);
        (pod, address)
    }

    /// Makes this the Service `web`, and programs it.
    fn set(&mut self, spec: Value, status: Value, endpoints: Value) {
        let key = ObjectKey::new("default", "web");
        let mut spec = spec;
        let defaults = json!({
            "clusterIP": VIP.to_string(),
            "type": "ClusterIP",
            "ports": [{"port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP"}],
        });
        for (field, value) in defaults.as_object().unwrap() {
            spec.as_object_mut().unwrap().entry(field).or_insert(value.clone());
        }
        let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec, "status": status});
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "default"},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        });
        let seen = (
            Some(Arc::new(serde_json::from_value(service).unwrap())),
            vec![Arc::new(serde_json::from_value(slice).unwrap())],
        );
        self.objects.insert(key.clone(), seen);
        let objects = &self.objects;
        self.kernel.change(HashSet::from([key]), |key| objects[key].clone()).unwrap();
    }

    /// As a proxy that was killed and starts anew.
    fn restart(&mut self) {
        self.kernel = Kernel::new(&config()).unwrap();
        let objects = &self.objects;
        self.kernel.replace(objects.keys().cloned().collect(), |key| objects[key].clone()).unwrap();
    }
}

fn ready(addresses: &[IpAddr]) -> Value {
    on_node("node-a", addresses)
}

fn on_node(node: &str, addresses: &[IpAddr]) -> Value {
    let endpoint = |address: &IpAddr| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}});
    addresses.iter().map(endpoint).collect()
}

/// Who answers, without the address that it sees.
fn name(answer: Result<String, ErrorKind>) -> String {
    answer.unwrap().split_whitespace().next().unwrap().to_owned()
}

fn names(mut fetch: impl FnMut() -> Result<String, ErrorKind>) -> HashSet<String> {
    (0..40).map(|_| name(fetch())).collect()
}

fn both() -> HashSet<String> {
    ["a".to_owned(), "b".to_owned()].into()
}

#[test]
fn a_cluster_ip_leads_to_its_endpoints() {
    on_machine(|| {
        let mut node = TestNode::new();
        let ((a, a_address), (_b, b_address)) = (node.server("a"), node.server("b"));
        let (client, client_address) = node.pod("client");
        node.set(json!({}), json!({}), ready(&[a_address, b_address]));
        let service = SocketAddr::new(VIP, 80);
        assert_eq!(names(|| client.fetch(service)), both(), "from a pod");
        assert_eq!(names(|| fetch(service)), both(), "from the host");
        assert_eq!(names(|| node.outside.fetch(service)), both(), "from beyond");
        assert_eq!(names(|| a.fetch(service)), both(), "from an endpoint, also to itself");
        let answer = client.fetch(service).unwrap();
        assert!(answer.ends_with(&format!(" {client_address}")), "a pod is seen as itself: {answer}");
        let answer = node.outside.fetch(service).unwrap();
        assert!(answer.ends_with(&format!(" {}", node.network.gateway())), "others as the node: {answer}");

        assert_eq!(client.fetch((VIP, 81)), Err(ErrorKind::ConnectionRefused), "a port it does not have");
        assert_eq!(node.outside.fetch((VIP, 81)), Err(ErrorKind::ConnectionRefused), "from beyond");
        assert_eq!(fetch((VIP, 81).into()), Err(ErrorKind::ConnectionRefused), "from the host");

        node.set(json!({}), json!({}), ready(&[b_address]));
        assert_eq!(names(|| client.fetch(service)), HashSet::from(["b".to_owned()]));
        node.set(json!({}), json!({}), json!([]));
        for client in [&client, &node.outside] {
            assert_eq!(client.fetch(service), Err(ErrorKind::ConnectionRefused), "no endpoints");
        }
        assert_eq!(fetch(service), Err(ErrorKind::ConnectionRefused));

        Proxy::clean_up(TABLE).unwrap();
        let left = NftSocket::open().unwrap().tables().unwrap();
        assert!(left.iter().all(|table| table.name != TABLE), "{left:?}");
    });
}

#[test]
fn node_ports_answer_on_every_address() {
    on_machine(|| {
        let mut node = TestNode::new();
        let ((_a, a_address), (client, _)) = (node.server("a"), node.pod("client"));
        node.set(json!({"type": "NodePort"}), json!({}), ready(&[a_address]));
        let gateway = node.network.gateway();
        assert_eq!(node.outside.fetch((NODE, 30080)).unwrap(), format!("a {gateway}"), "as the node");
        assert_eq!(name(client.fetch((NODE, 30080))), "a", "from a pod");
        assert_eq!(name(client.fetch((gateway, 30080))), "a", "from a pod, at the bridge");
        assert_eq!(name(fetch((NODE, 30080).into())), "a", "from the host");
        assert_eq!(name(fetch(([127, 0, 0, 1], 30080).into())), "a", "at the host's loopback");
        assert_eq!(name(node.outside.fetch((VIP, 80))), "a");

        node.set(json!({"type": "ClusterIP"}), json!({}), ready(&[a_address]));
        assert!(node.outside.fetch((NODE, 30080)).is_err(), "no longer a NodePort");
        node.set(json!({"type": "NodePort"}), json!({}), json!([]));
        assert_eq!(node.outside.fetch((NODE, 30080)), Err(ErrorKind::ConnectionRefused));
        assert_eq!(fetch(([127, 0, 0, 1], 30080).into()), Err(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn policy_local_keeps_the_client_s_address() {
    on_machine(|| {
        let mut node = TestNode::new();
        let ((_a, a_address), (client, _)) = (node.server("a"), node.pod("client"));
        let local = || json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
        node.set(local(), json!({}), ready(&[a_address]));
        assert_eq!(node.outside.fetch((NODE, 30080)).unwrap(), "a 192.0.2.2");

        // The endpoint is elsewhere: not for those from beyond, but for pods and this node.
        node.set(local(), json!({}), on_node("node-b", &[a_address]));
        assert_eq!(node.outside.fetch((NODE, 30080)), Err(ErrorKind::TimedOut));
        assert_eq!(name(client.fetch((NODE, 30080))), "a");
        assert_eq!(name(fetch((NODE, 30080).into())), "a");

        node.set(json!({"internalTrafficPolicy": "Local"}), json!({}), on_node("node-b", &[a_address]));
        assert_eq!(client.fetch((VIP, 80)), Err(ErrorKind::TimedOut));
    });
}

#[test]
fn affinity_sticks() {
    on_machine(|| {
        let mut node = TestNode::new();
        let servers = [node.server("a"), node.server("b"), node.server("c")];
        let addresses: Vec<IpAddr> = servers.iter().map(|(_, address)| *address).collect();
        let clients: Vec<Pod> = (0..6).map(|number| node.pod(&format!("client-{number}")).0).collect();
        let spec = || json!({"type": "NodePort", "sessionAffinity": "ClientIP"});
        node.set(spec(), json!({}), ready(&addresses));
        let of = |client: &Pod, at: SocketAddr| names(|| client.fetch(at));
        let service = SocketAddr::new(VIP, 80);
        let first: Vec<HashSet<String>> = clients.iter().map(|client| of(client, service)).collect();
        assert!(first.iter().all(|seen| seen.len() == 1), "each stays where it is: {first:?}");
        assert_eq!(of(&node.outside, (NODE, 30080).into()).len(), 1);

        node.restart();
        let again: Vec<HashSet<String>> = clients.iter().map(|client| of(client, service)).collect();
        assert_eq!(again, first, "a restart changes nothing");

        // The endpoint of the first client goes; only its clients move, and then stay.
        let gone = first[0].iter().next().unwrap().clone();
        let left: Vec<IpAddr> =
            ["a", "b", "c"].iter().zip(&addresses).filter(|(name, _)| **name != gone).map(|(_, a)| *a).collect();
        node.set(spec(), json!({}), ready(&left));
        for (client, before) in clients.iter().zip(&first) {
            let now = of(client, service);
            assert_eq!(now.len(), 1);
            assert_eq!(now == *before, !before.contains(&gone), "{before:?} -> {now:?}");
        }
        node.set(json!({"type": "NodePort"}), json!({}), ready(&left));
        assert_eq!(of(&clients[0], service).len(), 2, "without affinity, spread again");
    });
}

#[test]
fn balanced_addresses_are_open_to_some() {
    on_machine(|| {
        let mut node = TestNode::new();
        let ((_a, a_address), (client, _)) = (node.server("a"), node.pod("client"));
        let status = || json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}});
        let spec = |ranges: Value| json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
        let address = SocketAddr::from(([203, 0, 113, 9], 80));
        node.set(spec(json!([])), status(), ready(&[a_address]));
        assert_eq!(name(node.outside.fetch(address)), "a");
        assert_eq!(name(client.fetch(address)), "a");
        node.set(spec(json!(["10.42.0.0/16"])), status(), ready(&[a_address]));
        assert_eq!(node.outside.fetch(address), Err(ErrorKind::TimedOut));
        assert_eq!(name(client.fetch(address)), "a");
        node.set(spec(json!(["192.0.2.2/32", "198.51.100.0/24"])), status(), ready(&[a_address]));
        assert_eq!(name(node.outside.fetch(address)), "a");
        node.set(json!({"externalIPs": ["203.0.113.9"]}), json!({}), ready(&[a_address]));
        assert_eq!(name(client.fetch(address)), "a", "an external IP");
    });
}

#[test]
fn connections_outlive_the_withdrawal_of_their_endpoint() {
    on_machine(|| {
        let mut node = TestNode::new();
        let ((a, a_address), (_b, b_address)) = (node.pod("a"), node.server("b"));
        let listener = a.run(|| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
        let (client, _) = node.pod("client");
        node.set(json!({}), json!({}), ready(&[a_address]));
        let service = SocketAddr::new(VIP, 80);
        let mut stream = client.run(|| TcpStream::connect_timeout(&service, TIMEOUT).unwrap());
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut echo = |byte: u8| {
            stream.write_all(&[byte]).unwrap();
            let mut answer = [0];
            stream.read_exact(&mut answer).map(|()| answer[0]).unwrap()
        };
        assert_eq!(echo(1), 1);

        let terminating = |address: IpAddr| {
            let conditions = json!({"ready": false, "serving": true, "terminating": true});
            json!({"addresses": [address], "nodeName": "node-a", "conditions": conditions})
        };
        let rolled = json!([terminating(a_address), ready(&[b_address])[0]]);
        node.set(json!({}), json!({}), rolled);
        assert_eq!(names(|| client.fetch(service)), HashSet::from(["b".to_owned()]), "new ones go elsewhere");
        assert_eq!(echo(2), 2, "the old one goes on");
        node.restart();
        assert_eq!(echo(3), 3, "also through a restart");
        node.set(json!({}), json!({}), json!([]));
        assert_eq!(echo(4), 4, "and when the Service has nobody");
    });
}

#[test]
fn udp_flows_follow_the_endpoints() {
    on_machine(|| {
        let mut node = TestNode::new();
        let serve = |pod: &Pod, name: &'static str| {
            let socket = pod.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)).unwrap());
            std::thread::spawn(move || {
                let mut bytes = [0; 16];
                while let Ok((_, peer)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(name.as_bytes(), peer);
                }
            });
        };
        let ((a, a_address), (b, b_address)) = (node.pod("a"), node.pod("b"));
        serve(&a, "a");
        serve(&b, "b");
        node.set(json!({"type": "NodePort"}), json!({}), ready(&[a_address]));
        let (client, _) = node.pod("client");
        let pods = client.run(|| machine::udp(SocketAddr::from(([0, 0, 0, 0], 4000))));
        let outsiders = node.outside.run(|| machine::udp(SocketAddr::from(([0, 0, 0, 0], 4000))));
        let ask = |socket: &UdpSocket, at: SocketAddr| {
            let mut bytes = [0; 16];
            socket.send_to(b"?", at)?;
            let (length, _) = socket.recv_from(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes[..length]).into_owned())
        };
        let (service, node_port) = (SocketAddr::new(VIP, 53), SocketAddr::new(NODE, 30053));
        assert_eq!(ask(&pods, service).unwrap(), "a");
        assert_eq!(ask(&outsiders, node_port).unwrap(), "a");
        // The same sockets: to the kernel, the same flows.
        node.set(json!({"type": "NodePort"}), json!({}), ready(&[b_address]));
        assert_eq!(ask(&pods, service).unwrap(), "b");
        assert_eq!(ask(&outsiders, node_port).unwrap(), "b");
        node.set(json!({"type": "NodePort"}), json!({}), json!([]));
        assert!(ask(&pods, service).is_err());
        node.set(json!({"type": "NodePort"}), json!({}), ready(&[a_address]));
        assert_eq!(ask(&pods, service).unwrap(), "a");
    });
}

#[test]
fn both_address_families_are_programmed() {
    on_machine(|| {
        let cidrs = ["10.42.0.0/16", "fd00:42::/56"].map(|cidr| cidr.parse().unwrap()).to_vec();
        let mut kernel = Kernel::new(&ProxyConfig { cluster_cidrs: cidrs, ..config() }).unwrap();
        let spec = json!({
            "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7", "fd00:43::7"], "type": "LoadBalancer",
            "ports": [{"port": 80, "nodePort": 30080}], "externalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"],
        });
        let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}, {"ip": "2001:db8::9"}]}});
        let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec, "status": status});
        let slice = |kind: &str, address: &str| {
            let endpoints = on_node("node-a", &[address.parse().unwrap()]);
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": kind}, "addressType": kind, "endpoints": endpoints,
                    "ports": [{"name": "", "port": 8080}],
                }))
                .unwrap(),
            )
        };
        let slices = vec![slice("IPv4", "10.42.0.2"), slice("IPv6", "fd00:42::2")];
        let seen: Seen = (Some(Arc::new(serde_json::from_value(service).unwrap())), slices);
        let key = ObjectKey::new("default", "web");
        kernel.change(HashSet::new(), |_| (None, Vec::new())).unwrap();
        kernel.replace(HashSet::from([key.clone()]), |_| seen.clone()).unwrap();
        let nft = NftSocket::open().unwrap();
        for (family, set, count) in [
            (Family::Ipv4, "endpoints", 3),
            (Family::Ipv6, "endpoints", 3),
            (Family::Ipv6, "node-port-endpoints", 2),
            (Family::Ipv6, "services", 2),
            (Family::Ipv6, "allowed-sources", 1),
            (Family::Ipv6, "hairpins", 1),
        ] {
            assert_eq!(nft.elements(&Table::new(family, TABLE), set).unwrap().len(), count, "{family:?} {set}");
        }
        if let Ok(output) = Command::new("nft").args(["list", "ruleset"]).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        kernel.change(HashSet::from([key]), |_| (None, Vec::new())).unwrap();
        assert_eq!(nft.elements(&Table::new(Family::Ipv6, TABLE), "services").unwrap(), []);
    });
}

#[test]
fn the_rules_read_well() {
    on_machine(|| {
        let mut node = TestNode::new();
        let addresses: Vec<IpAddr> = vec![[10, 42, 0, 2].into(), [10, 42, 0, 3].into()];
        let spec = json!({"type": "NodePort", "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local"});
        node.set(spec, json!({}), ready(&addresses));
        let Ok(output) = Command::new("nft").args(["-t", "list", "table", "ip", TABLE]).output() else {
            eprintln!("skipped: nft is not installed");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/run/rules.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        // Other versions of nft word things otherwise; that they can read the rules at all is checked above.
        let version = Command::new("nft").arg("--version").output().unwrap().stdout;
        if String::from_utf8_lossy(&version).contains("v1.0.6") {
            assert_eq!(text, std::fs::read_to_string(golden).unwrap());
        }
    });
}

/// LIST and WATCH of whole collections, by path.
#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<FakeState>>);

#[derive(Default)]
struct FakeState {
    version: u64,
    objects: BTreeMap<String, Value>,
    watchers: Vec<(String, tokio::sync::mpsc::UnboundedSender<bytes::Bytes>)>,
}

impl FakeApi {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        client::in_process(tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let response = api.answer(request.uri().path(), request.uri().query().unwrap_or_default());
            async move { Ok::<_, std::convert::Infallible>(response) }
        }))
    }

    fn answer(
        &self,
        path: &str,
        query: &str,
    ) -> http::Response<http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, std::convert::Infallible>> {
        use http_body_util::BodyExt;
        let mut state = self.0.lock();
        if query.contains("watch=true") {
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            state.watchers.push((path.to_owned(), sender));
            let stream = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
            let frames = futures::StreamExt::map(stream, |line| Ok(hyper::body::Frame::data(line)));
            return http::Response::new(http_body_util::StreamBody::new(frames).boxed_unsync());
        }
        let prefix = format!("{path}/");
        let items: Vec<&Value> =
            state.objects.iter().filter(|(path, _)| path.starts_with(&prefix)).map(|(_, object)| object).collect();
        let list = json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items});
        http::Response::new(http_body_util::Full::new(bytes::Bytes::from(list.to_string())).boxed_unsync())
    }

    fn put(&self, collection: &str, mut object: Value) {
        let mut state = self.0.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        object["metadata"]["uid"] = object["metadata"]["name"].clone();
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        let is_new = state.objects.insert(path, object.clone()).is_none();
        let event = json!({"type": if is_new { "ADDED" } else { "MODIFIED" }, "object": object});
        let line = bytes::Bytes::from(format!("{event}\n"));
        state.watchers.retain(|(path, watcher)| path != collection || watcher.send(line.clone()).is_ok());
    }

    fn put_service(&self, spec: Value) {
        self.put("/api/v1/services", json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}));
    }

    fn put_slice(&self, endpoints: Value) {
        let labels = json!({SERVICE_NAME_LABEL: "web"});
        self.put(
            "/apis/discovery.k8s.io/v1/endpointslices",
            json!({
                "metadata": {"name": "web-1", "namespace": "default", "labels": labels},
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{"name": "", "port": 8080}],
            }),
        );
    }
}

#[track_caller]
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(5), "not within five seconds: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    eprintln!("{what}: after {:?}", start.elapsed());
}

#[test]
fn a_running_proxy_follows_the_api() {
    on_machine(|| {
        let node = TestNode::new();
        let ((_a, a_address), (_b, b_address)) = (node.server("a"), node.server("b"));
        let api = FakeApi::default();
        api.put_service(json!({"clusterIP": VIP, "ports": [{"port": 80}]}));
        api.put_slice(ready(&[a_address]));
        // Its threads are made by this one, so they are on this machine too.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let cancel = CancellationToken::new();
        let _entered = runtime.enter();
        let informers = Informers::new(api.client(), cancel.clone());
        let proxy = Proxy::new(config(), informers).unwrap();
        let running = runtime.spawn(proxy.run(cancel.clone()));
        let answers = |expected: &str| fetch((VIP, 80).into()).is_ok_and(|answer| answer.starts_with(expected));
        soon("the first endpoint answers", || answers("a "));
        api.put_slice(ready(&[b_address]));
        soon("the second endpoint answers", || answers("b "));

        Command::new("nft").args(["flush", "ruleset"]).status().unwrap();
        soon("flushed rules are back", || answers("b "));
        assert_eq!(fetch(([127, 0, 0, 1], 31234).into()), Err(ErrorKind::ConnectionRefused));

        let local = json!({"clusterIP": VIP, "type": "LoadBalancer", "externalTrafficPolicy": "Local",
                           "healthCheckNodePort": 31234, "ports": [{"port": 80}]});
        api.put_service(local.clone());
        let health = || {
            let mut stream = TcpStream::connect(("127.0.0.1", 31234)).ok()?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.split_whitespace().nth(1).map(str::to_owned)
        };
        soon("the health check says yes", || health().as_deref() == Some("200"));
        api.put_slice(on_node("node-b", &[b_address]));
        soon("the health check says no", || health().as_deref() == Some("503"));
        api.put_service(json!({"clusterIP": VIP, "ports": [{"port": 80}]}));
        soon("the health check is closed", || health().is_none());

        cancel.cancel();
        runtime.block_on(running).unwrap();
        assert!(answers("b "), "rules outlive the proxy");
    });
}

/// What a change is in [`killed_in_the_middle`]: Services come, change their endpoints and types, and go.
fn churned(round: u32) -> HashMap<ObjectKey, Seen> {
    let services = (0..40).filter(|number| (number * 7 + round) % 5 != 0);
    let object = |number: u32| -> (ObjectKey, Seen) {
        let count = (number + round) % 4;
        let addresses: Vec<IpAddr> = (0..count).map(|last| Ipv4Addr::new(10, 42, number as u8, last as u8 + 1).into()).collect();
        let type_ = if (number + round) % 3 == 0 { "NodePort" } else { "ClusterIP" };
        let affinity = if number % 4 == 0 { "ClientIP" } else { "None" };
        let service = json!({
            "metadata": {"name": format!("s{number}"), "namespace": "default"},
            "spec": {"clusterIP": Ipv4Addr::new(10, 43, 1, number as u8), "type": type_, "sessionAffinity": affinity,
                     "ports": [{"port": 80, "nodePort": 30000 + number}]},
        });
        let slice = json!({"metadata": {"name": "x", "namespace": "default"}, "addressType": "IPv4",
                           "endpoints": ready(&addresses), "ports": [{"name": "", "port": 8080}]});
        let seen = (Some(Arc::new(serde_json::from_value(service).unwrap())), vec![Arc::new(serde_json::from_value(slice).unwrap())]);
        (ObjectKey::new("default", format!("s{number}")), seen)
    };
    services.map(object).collect()
}

/// What all sets and chains hold. Not which endpoint is in which slot, nor which number a pick has: an earlier proxy's
/// are kept, and its picks stay a while.
fn told() -> BTreeMap<String, Vec<String>> {
    let (nft, table) = (NftSocket::open().unwrap(), Table::new(Family::Ipv4, TABLE));
    let services = Kernel::new(&config()).unwrap().tables.remove(0);
    let mut told = BTreeMap::new();
    for set in ["services", "node-ports", "endpoints", "node-port-endpoints", "rejected", "dropped", "rejected-node-ports", "dropped-node-ports", "cluster-ips", "hairpins", "restricted", "allowed-sources"] {
        let elements = nft.elements(&table, set).unwrap();
        let show = |element: &Element| match services.parse_slot(set, element) {
            Some((frontend, _, endpoint)) if set.ends_with("endpoints") => format!("{frontend} {endpoint}"),
            _ => format!("{:?}", element.key),
        };
        let mut shown: Vec<String> = elements.iter().map(show).collect();
        shown.sort();
        told.insert(set.to_owned(), shown);
    }
    for chain in nft.chains(&table).unwrap().into_iter().filter(|it| !it.name.starts_with("cluster-") && !it.name.starts_with("external-")) {
        let rules = nft.rules(&table, &chain.name).unwrap().len();
        told.insert(format!("chain {}", chain.name), vec![format!("{:?} {rules}", chain.drops)]);
    }
    told
}

/// The part that is killed: it changes Services for ever.
#[test]
#[ignore = "run by killed_in_the_middle"]
fn changes_for_ever() {
    if std::env::var_os("CORACLE_KILLED_PROXY").is_none() {
        return;
    }
    let mut kernel = Kernel::new(&config()).unwrap();
    let mut held = churned(0);
    kernel.replace(held.keys().cloned().collect(), |key| held[key].clone()).unwrap();
    println!("changing");
    for round in 1.. {
        let wanted = churned(round);
        let keys = held.keys().chain(wanted.keys()).cloned().collect();
        kernel.change(keys, |key| wanted.get(key).cloned().unwrap_or((None, Vec::new()))).unwrap();
        held = wanted;
        if round % 50 == 0 {
            kernel.replace(held.keys().cloned().collect(), |key| held[key].clone()).unwrap();
        }
    }
}

/// Whenever the proxy is killed, the next one leaves exactly what it would have made on an empty machine.
#[test]
fn killed_in_the_middle() {
    on_machine(|| {
        let wanted = churned(3);
        let start = || {
            let mut kernel = Kernel::new(&config()).unwrap();
            kernel.replace(wanted.keys().cloned().collect(), |key| wanted[key].clone()).unwrap();
            told()
        };
        let exactly = start();
        assert!(exactly["endpoints"].len() > 20 && !exactly["rejected"].is_empty(), "{exactly:?}");
        for round in 0..25 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "run::tests::changes_for_ever", "--ignored", "--nocapture"])
                .env("CORACLE_KILLED_PROXY", "1")
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut heard = String::new();
            let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
            while !heard.contains("changing") {
                assert!(std::io::BufRead::read_line(&mut output, &mut heard).unwrap() > 0, "{heard}");
            }
            // Anywhere within some changes.
            std::thread::sleep(Duration::from_micros(137 * round * round));
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(start(), exactly, "killed in round {round}");
        }
    });
}
