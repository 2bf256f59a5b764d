//! Two machines, pods on both.

use std::net::IpAddr;
use std::path::Path;

use net::overlay::{Backend, Overlay, OverlayConfig, Peer, VXLAN_ENCAPSULATION_BYTES};
use net::pod_network::{BridgeConfig, BridgeNetwork};
use net::route::RouteSocket;

use crate::machine::{Pod, neighbour, on_machine};

struct Node {
    network: BridgeNetwork,
    overlay: Overlay,
}

/// Node number 0 is 192.0.2.1 with 10.42.0.0/24, number 1 the next.
fn peer(number: u8) -> Peer {
    Peer { address: [192, 0, 2, number + 1].into(), pod_cidr: format!("10.42.{number}.0/24").parse().unwrap() }
}

fn node(state: &Path, number: u8, backend: Backend) -> Node {
    let Peer { address, pod_cidr } = peer(number);
    let encapsulation_bytes = if backend == Backend::HostGateway { 0 } else { VXLAN_ENCAPSULATION_BYTES };
    let network = BridgeNetwork::ensure(BridgeConfig {
        name: "coracle0".into(),
        pod_cidr,
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: None,
        mtu: None,
        encapsulation_bytes,
        state_dir: state.join(number.to_string()),
        masquerade: true,
        instance: "coracle".into(),
    })
    .unwrap();
    let overlay = Overlay::ensure(OverlayConfig {
        backend,
        device: "coracle.vx".into(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        node_address: address,
        pod_cidr,
        mtu: network.mtu(),
    })
    .unwrap();
    overlay.set_peers(&[peer(0), peer(1)]).unwrap();
    Node { network, overlay }
}

fn attach(network: &BridgeNetwork, name: &str) -> (Pod, IpAddr) {
    let pod = Pod::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let addresses = runtime.block_on(network.attach(pod.path(), name)).unwrap();
    (pod, addresses[0])
}

#[track_caller]
fn check(backend: Backend) {
    on_machine(|| {
        let state = tempfile::tempdir().unwrap();
        let other = neighbour("192.0.2.1/24", "192.0.2.2/24");
        let first = node(state.path(), 0, backend);
        let second = other.run(|| node(state.path(), 1, backend));
        let (a, a_address) = attach(&first.network, "a");
        let (b, b_address) = attach(&second.network, "b");
        assert_eq!(b_address, IpAddr::from([10, 42, 1, 2]));
        assert!(a.ping(b_address) && b.ping(a_address), "pods of different nodes");
        assert!(crate::machine::ping(b_address), "a node and the other's pod");
        b.serve(80, "b");
        assert_eq!(a.fetch((b_address, 80)).unwrap(), format!("b {a_address}"), "not masqueraded");

        assert_eq!(first.overlay.set_peers(&[peer(0), peer(1)]).unwrap(), [], "nothing to do");
        assert!(!first.overlay.set_peers(&[peer(0)]).unwrap().is_empty());
        assert!(!a.ping(b_address), "the other node is gone");
        first.overlay.set_peers(&[peer(0), peer(1)]).unwrap();
        assert!(a.ping(b_address), "and back");

        // As after a restart.
        let again = node(state.path(), 0, backend);
        assert!(a.ping(b_address));
        again.overlay.clean_up().unwrap();
        again.overlay.clean_up().unwrap();
        let socket = RouteSocket::open().unwrap();
        assert_eq!(socket.link("coracle.vx").unwrap(), None);
        let pods: ipnet::IpNet = "10.42.1.0/24".parse().unwrap();
        assert!(socket.routes().unwrap().iter().all(|route| route.destination != pods));
    });
}

#[test]
fn vxlan() {
    check(Backend::Vxlan { id: 1, port: 8472 });
}

#[test]
fn host_gateway() {
    check(Backend::HostGateway);
}
