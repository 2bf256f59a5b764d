//! Pods on a bridge: reach, addresses, masquerade, host ports, leftovers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use net::NetError;
use net::host_ports::HostPort;
use net::nft::{Chain, ChainKind, Family, Hook, NftSocket, Table, Transaction};
use net::pod_network::{BridgeConfig, BridgeNetwork};
use net::route::RouteSocket;

use crate::machine::{Pod, fetch, neighbour, on_machine, ping, udp};

fn config(state: &Path) -> BridgeConfig {
    BridgeConfig {
        name: "coracle0".into(),
        pod_cidr: "10.42.0.0/24".parse().unwrap(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: Some("10.43.0.0/16".parse().unwrap()),
        mtu: None,
        encapsulation_bytes: 0,
        state_dir: state.to_path_buf(),
        masquerade: true,
        instance: "coracle".into(),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn attach(network: &BridgeNetwork, name: &str) -> (Pod, IpAddr) {
    let pod = Pod::new();
    let addresses = block_on(network.attach(pod.path(), name)).unwrap();
    (pod, addresses[0])
}

#[test]
fn pods_reach_one_another_the_host_and_beyond() {
    on_machine(|| {
        let state = tempfile::tempdir().unwrap();
        let outside = neighbour("192.0.2.1/24", "192.0.2.2/24");
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();
        let (a, a_address) = attach(&network, "a");
        let (b, b_address) = attach(&network, "b");
        assert_eq!(a_address, IpAddr::from([10, 42, 0, 2]));
        assert!(a.ping(b_address), "pod to pod");
        assert!(b.ping(a_address), "and back");
        assert!(a.ping(network.gateway()), "pod to its host");
        assert!(a.ping([192, 0, 2, 1].into()), "pod to its host's other address");
        assert!(ping(a_address), "host to pod");

        // The neighbour has no route to pods: it answers because it sees the node's address.
        outside.serve(80, "outside");
        let answer = a.fetch(([192, 0, 2, 2], 80)).unwrap();
        assert_eq!(answer, "outside 192.0.2.1");
        b.serve(80, "b");
        assert_eq!(a.fetch(SocketAddr::new(b_address, 80)).unwrap(), format!("b {a_address}"), "not masqueraded");

        network.add_local_address([10, 43, 0, 10].into()).unwrap();
        network.add_local_address([10, 43, 0, 10].into()).unwrap();
        assert!(a.ping([10, 43, 0, 10].into()), "the cluster DNS address");
        network.remove_local_address([10, 43, 0, 10].into()).unwrap();
        network.remove_local_address([10, 43, 0, 10].into()).unwrap();
        assert!(!a.ping([10, 43, 0, 10].into()));
    });
}

#[test]
fn attaching_and_detaching_can_be_repeated() {
    on_machine(|| {
        let state = tempfile::tempdir().unwrap();
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();
        let (a, address) = attach(&network, "a");
        // As after a crash: the same sandbox, and a new process that knows nothing.
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();
        assert_eq!(network.address_of("a"), Some(address));
        assert!(a.ping(network.gateway()), "a pod survives the network's being ensured anew");

        let again = Pod::new();
        assert_eq!(block_on(network.attach(again.path(), "a")).unwrap(), [address]);
        assert!(again.ping(network.gateway()));
        block_on(network.detach("a")).unwrap();
        block_on(network.detach("a")).unwrap();
        block_on(network.detach("never-seen")).unwrap();
        assert_eq!(network.address_of("a"), None);

        let missing = block_on(network.attach("/nowhere", "c")).unwrap_err();
        assert!(missing.to_string().starts_with("opening network namespace /nowhere: No such file"), "{missing}");
        assert_eq!(network.address_of("c"), None, "a failed attach holds no address");
    });
}

#[test]
fn garbage_is_collected() {
    on_machine(|| {
        let state = tempfile::tempdir().unwrap();
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();
        let (_a, _) = attach(&network, "a");
        let (_b, b_address) = attach(&network, "b");
        // A device without a record: the record was lost.
        let (_c, c_address) = attach(&network, "c");
        std::fs::remove_file(state.path().join("addresses").join(c_address.to_string())).unwrap();
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();

        block_on(network.collect_garbage(["b".to_owned()])).unwrap();
        let ports = pod_devices();
        assert_eq!(ports.len(), 1, "{ports:?}");
        assert_eq!(network.address_of("b"), Some(b_address));
        assert_eq!(network.address_of("a"), None);

        network.clean_up().unwrap();
        network.clean_up().unwrap();
        assert_eq!(RouteSocket::open().unwrap().link("coracle0").unwrap(), None);
        assert_eq!(net::nft::NftSocket::open().unwrap().tables().unwrap(), []);
        assert!(!state.path().join("addresses").exists());
    });
}

fn pod_devices() -> Vec<String> {
    let links = RouteSocket::open().unwrap().links().unwrap();
    links.into_iter().map(|link| link.name).filter(|name| name.starts_with("veth")).collect()
}

#[test]
fn host_ports_lead_to_pods() {
    on_machine(|| {
        let state = tempfile::tempdir().unwrap();
        let outside = neighbour("192.0.2.1/24", "192.0.2.2/24");
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();
        let (a, a_address) = attach(&network, "a");
        let (b, _) = attach(&network, "b");
        a.serve(8080, "a");
        let port = |host_ip: Option<[u8; 4]>, host_port| HostPort {
            host_ip: host_ip.map(Ipv4Addr::from),
            host_port,
            container_port: 8080,
            protocol: 6,
        };
        let ports = vec![port(None, 80), port(Some([192, 0, 2, 1]), 81)];
        block_on(network.set_host_ports("a", ports.clone())).unwrap();
        block_on(network.set_host_ports("a", ports)).unwrap();

        assert_eq!(outside.fetch(([192, 0, 2, 1], 80)).unwrap(), "a 192.0.2.2");
        assert_eq!(outside.fetch(([192, 0, 2, 1], 81)).unwrap(), "a 192.0.2.2");
        assert!(fetch(([192, 0, 2, 1], 80).into()).unwrap().starts_with("a "), "from the host");
        assert!(fetch(([127, 0, 0, 1], 80).into()).unwrap().starts_with("a "), "from the host's loopback");
        assert!(fetch(([127, 0, 0, 1], 81).into()).is_err(), "bound to another address");
        assert!(b.fetch(([192, 0, 2, 1], 80)).unwrap().starts_with("a "), "from another pod");
        assert!(a.fetch(([192, 0, 2, 1], 80)).unwrap().starts_with("a "), "from itself");

        // A new process knows them from the kernel, and puts them back when somebody flushes the rules.
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();
        block_on(async {
            let keeping = network.keep_rules();
            let flushing = async {
                // After the first poll of the other future, which begins to listen.
                tokio::task::yield_now().await;
                let mut transaction = Transaction::new();
                transaction.delete_table(&Table::new(Family::Ipv4, "coracle-net"));
                transaction.commit(&NftSocket::open().unwrap()).unwrap();
                tokio::time::sleep(Duration::from_millis(500)).await;
            };
            tokio::select! {
                biased;
                outcome = keeping => panic!("{outcome:?}"),
                () = flushing => {}
            }
        });
        assert_eq!(outside.fetch(([192, 0, 2, 1], 80)).unwrap(), "a 192.0.2.2");
        assert_eq!(outside.fetch(([192, 0, 2, 1], 81)).unwrap(), "a 192.0.2.2");

        let clash = block_on(network.set_host_ports("b", vec![port(None, 80)])).unwrap_err();
        assert!(matches!(clash, NetError::AddressTaken { address, .. } if address == a_address), "{clash}");
        block_on(network.detach("a")).unwrap();
        assert!(outside.fetch(([192, 0, 2, 1], 80)).is_err());
        block_on(network.set_host_ports("b", vec![port(None, 80)])).unwrap();
    });
}

#[test]
fn a_table_of_an_older_version_is_taken_over() {
    on_machine(|| {
        let nft = NftSocket::open().unwrap();
        let table = Table::new(Family::Ipv4, "coracle-net");
        let mut older = Transaction::new();
        older.add_table(&table);
        for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output), ("postrouting", Hook::Postrouting)] {
            older.add_chain(&table, &Chain::base(name, ChainKind::Nat, hook, 42));
        }
        older.commit(&nft).unwrap();
        let state = tempfile::tempdir().unwrap();
        let outside = neighbour("192.0.2.1/24", "192.0.2.2/24");
        // Twice: the second finds its own.
        for name in ["a", "b"] {
            let network = BridgeNetwork::ensure(config(state.path())).unwrap();
            let (pod, _) = attach(&network, name);
            pod.serve(8080, name);
            let port = HostPort { host_ip: None, host_port: 80, container_port: 8080, protocol: 6 };
            block_on(network.set_host_ports(name, vec![port])).unwrap();
            assert_eq!(outside.fetch(([192, 0, 2, 1], 80)).unwrap(), format!("{name} 192.0.2.2"));
            block_on(network.detach(name)).unwrap();
        }
    });
}

#[test]
fn udp_clients_follow_host_ports() {
    on_machine(|| {
        let state = tempfile::tempdir().unwrap();
        let outside = neighbour("192.0.2.1/24", "192.0.2.2/24");
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();
        let client = outside.run(|| udp(([0, 0, 0, 0], 4000).into()));
        client.connect(SocketAddr::from(([192, 0, 2, 1], 53))).unwrap();
        let ask = || {
            let mut bytes = [0; 8];
            // The first may only fetch the news that an earlier one was refused.
            (0..2).find_map(|_| {
                client.send(b"?").ok()?;
                let length = client.recv(&mut bytes).ok()?;
                Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
            })
        };
        assert_eq!(ask(), None);
        let port = HostPort { host_ip: None, host_port: 53, container_port: 5353, protocol: 17 };
        for name in ["a", "b"] {
            let (pod, _) = attach(&network, name);
            let server = pod.run(|| std::net::UdpSocket::bind(("0.0.0.0", 5353)).unwrap());
            std::thread::spawn(move || {
                let mut bytes = [0; 8];
                while let Ok((_, peer)) = server.recv_from(&mut bytes) {
                    let _ = server.send_to(name.as_bytes(), peer);
                }
            });
            block_on(network.set_host_ports(name, vec![port])).unwrap();
            assert_eq!(ask().as_deref(), Some(name));
            block_on(network.set_host_ports(name, Vec::new())).unwrap();
        }
    });
}

/// As Docker sets it up.
#[test]
fn a_dropping_firewall_lets_pods_through() {
    on_machine(|| {
        let nft = |command: &str| std::process::Command::new("nft").args(command.split(' ')).status();
        if nft("add table ip filter").is_err() {
            eprintln!("skipped: nft is not installed");
            return;
        }
        nft("add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }").unwrap();
        let state = tempfile::tempdir().unwrap();
        let outside = neighbour("192.0.2.1/24", "192.0.2.2/24");
        outside.serve(80, "outside");
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();
        let network_again = BridgeNetwork::ensure(config(state.path())).unwrap();
        let (a, _) = attach(&network, "a");
        assert_eq!(a.fetch(([192, 0, 2, 2], 80)).unwrap(), "outside 192.0.2.1");
        let filter = Table::new(Family::Ipv4, "filter");
        let ours = || NftSocket::open().unwrap().rules(&filter, "FORWARD").unwrap().len();
        assert_eq!(ours(), 2, "once, however often it is ensured");
        network_again.clean_up().unwrap();
        assert_eq!(ours(), 0);
    });
}

#[track_caller]
fn check_clash(address: &str, expected: Option<&str>) {
    on_machine(|| {
        let state = tempfile::tempdir().unwrap();
        let _outside = neighbour(address, "192.0.2.2/24");
        let outcome = BridgeNetwork::ensure(config(state.path())).map(drop).map_err(|refused| refused.to_string());
        assert_eq!(outcome.err().as_deref(), expected, "{address}");
        let half = RouteSocket::open().unwrap().link("coracle0").unwrap();
        assert_eq!(half.is_some(), expected.is_none(), "nothing is half done");
    });
}

#[test]
fn a_range_that_the_host_lives_in_is_refused() {
    let pods = |net: &str| format!("the cluster's pod range 10.42.0.0/16 overlaps with {net} of interface cable; choose another cluster CIDR");
    let services = |net: &str| format!("the range of Services 10.43.0.0/16 overlaps with {net} of interface cable; choose another service CIDR");
    check_clash("10.42.0.9/16", Some(&pods("10.42.0.9/16")));
    // The range of a node to come, a host on the pods' very net, a net around them.
    check_clash("10.42.7.1/24", Some(&pods("10.42.7.1/24")));
    check_clash("10.42.0.1/32", Some(&pods("10.42.0.1/32")));
    check_clash("10.0.0.5/8", Some(&pods("10.0.0.5/8")));
    check_clash("10.43.0.5/24", Some(&services("10.43.0.5/24")));
    check_clash("10.41.0.5/16", None);
    check_clash("10.44.255.5/16", None);
}

/// Prints; what is asserted is an order of magnitude, since machines differ.
#[test]
fn attaching_is_quick() {
    on_machine(|| {
        let state = tempfile::tempdir().unwrap();
        let network = BridgeNetwork::ensure(config(state.path())).unwrap();
        let pods: Vec<Pod> = (0..20).map(|_| Pod::new()).collect();
        let start = Instant::now();
        for (index, pod) in pods.iter().enumerate() {
            block_on(network.attach(pod.path(), &format!("pod-{index}"))).unwrap();
        }
        let each = start.elapsed() / 20;
        let start = Instant::now();
        for index in 0..20 {
            block_on(network.detach(&format!("pod-{index}"))).unwrap();
        }
        eprintln!("attach {each:?}, detach {:?}", start.elapsed() / 20);
        assert!(each < Duration::from_millis(500));
    });
}
