//! A machine: a thread in a network namespace of its own, and pods, which are further namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use net::NetError;
use net::netlink::Batch;
use net::netns::NetworkNamespace;
use net::route::{Route, RouteSocket, VethPair};

pub const TIMEOUT: Duration = Duration::from_secs(3);

pub fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

/// Runs the test inside a fresh namespace with loopback up.
pub fn on_machine(test: impl FnOnce() + Send) {
    if !is_root() {
        return;
    }
    let machine = NetworkNamespace::create().unwrap();
    machine
        .run(|| {
            let mut batch = Batch::new();
            batch.set_up(1);
            RouteSocket::open().unwrap().send(&batch).unwrap();
            test();
            Ok(())
        })
        .unwrap();
}

/// A namespace with a path, as a container runtime hands it over: held open by a thread that sleeps in it.
pub struct Pod {
    pub namespace: NetworkNamespace,
}

impl Pod {
    pub fn new() -> Pod {
        Pod { namespace: NetworkNamespace::create().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        use std::os::fd::{AsFd, AsRawFd};
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_fd().as_raw_fd()))
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(|| Ok::<T, NetError>(work())).unwrap()
    }

    /// A TCP server that answers each connection with `name` and the address it sees.
    pub fn serve(&self, port: u16, name: &str) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        serve(listener, name);
    }
    pub fn ping(&self, address: IpAddr) -> bool {
        self.run(|| ping(address))
    }

    pub fn fetch(&self, address: impl Into<SocketAddr> + Send) -> Result<String, std::io::ErrorKind> {
        let address = address.into();
        self.run(move || fetch(address))
    }
}

pub fn serve(listener: TcpListener, name: &str) {
    let name = name.to_owned();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let Ok(peer) = connection.peer_addr() else { continue };
            let _ = write!(connection, "{name} {}", peer.ip());
        }
    });
}

pub fn fetch(address: SocketAddr) -> Result<String, std::io::ErrorKind> {
    let fetch = || {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    fetch().map_err(|error: std::io::Error| error.kind())
}

/// One echo request; whether its answer comes.
pub fn ping(address: IpAddr) -> bool {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
        sockopt,
    };
    use std::os::fd::AsRawFd;
    let IpAddr::V4(address) = address else { panic!("only IPv4") };
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Icmp).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(2, 0)).unwrap();
    // Echo request: type 8, code 0, checksum, identifier, sequence.
    let mut request = [8, 0, 0, 0, 0xc0, 0x7a, 0, 1];
    let sum: u32 = request.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    request[2..4].copy_from_slice(&checksum.to_be_bytes());
    let destination = SockaddrIn::from(std::net::SocketAddrV4::new(address, 0));
    if sendto(socket.as_raw_fd(), &request, &destination, MsgFlags::empty()).is_err() {
        return false;
    }
    let mut answer = [0; 128];
    while let Ok(length) = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()) {
        // After an IP header of 20 bytes: type 0 is an echo reply, 3 an unreachable.
        if length >= 28 && answer[12..16] == address.octets() && answer[20] == 0 {
            return true;
        }
        if length >= 28 && answer[20] == 3 {
            return false;
        }
    }
    false
}

/// Another machine on a cable: its namespace, and our end's interface `cable`.
pub fn neighbour(ours: &str, theirs: &str) -> Pod {
    let other = Pod::new();
    let bridge = RouteSocket::open().unwrap();
    let mut batch = Batch::new();
    batch.add_bridge("cable", 1500, [2, 0, 0, 0, 0, 1]);
    bridge.send(&batch).unwrap();
    let index = bridge.link("cable").unwrap().unwrap().index;
    let mut batch = Batch::new();
    use std::os::fd::AsFd;
    batch.add_veth(&VethPair {
        name: "cable0",
        bridge: index,
        mtu: 1500,
        peer_name: "eth0",
        peer_namespace: other.namespace.as_fd(),
        peer_hardware_address: [2, 0, 0, 0, 0, 2],
    });
    batch.set_up(index);
    batch.add_address(index, ours.parse().unwrap(), None);
    bridge.send(&batch).unwrap();
    other.run(|| {
        let socket = RouteSocket::open().unwrap();
        let index = socket.link("eth0").unwrap().unwrap().index;
        let mut batch = Batch::new();
        batch.set_up(1);
        batch.add_address(index, theirs.parse().unwrap(), None);
        batch.set_up(index);
        socket.send(&batch).unwrap();
    });
    other
}

#[allow(dead_code)]
pub fn default_route(gateway: IpAddr, link: u32) {
    let mut batch = Batch::new();
    batch.add_route(&Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        gateway: Some(gateway),
        link: Some(link),
        source: None,
        metric: 0,
        protocol: 3,
    });
    RouteSocket::open().unwrap().send(&batch).unwrap();
}

#[allow(dead_code)]
pub fn udp(bind: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}
