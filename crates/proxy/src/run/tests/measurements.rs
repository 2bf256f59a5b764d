//! What rules cost: to load, to change, and to connect through. They print and assert nothing: machines differ.

use std::net::TcpListener;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::*;

/// What was measured of one piece of work.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall: Duration,
    /// Of the whole process: the kernel changes rules within the call that asks for it.
    cpu: Duration,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ms ({:.2} ms CPU)", self.wall.as_secs_f64() * 1e3, self.cpu.as_secs_f64() * 1e3)
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let spent = usage.user_time() + usage.system_time();
    Duration::from_micros(spent.num_microseconds() as u64)
}

fn cost(work: impl FnOnce()) -> Cost {
    let (begun, cpu_before) = (Instant::now(), cpu());
    work();
    Cost { wall: begun.elapsed(), cpu: cpu() - cpu_before }
}

fn key(number: u32) -> ObjectKey {
    ObjectKey::new("default", format!("s{number}"))
}

/// A Service with its own address and endpoints on another node.
fn object(number: u32, endpoints: u32) -> Seen {
    let at = |base: [u8; 4], offset: u32| IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + offset));
    let service = json!({
        "metadata": {"name": format!("s{number}"), "namespace": "default"},
        "spec": {"clusterIP": at([10, 43, 1, 0], number), "type": "ClusterIP", "ports": [{"port": 80}]},
    });
    let addresses: Vec<IpAddr> = (0..endpoints).map(|endpoint| at([10, 44, 0, 0], number * 4 + endpoint)).collect();
    let slice = json!({
        "metadata": {"name": "x", "namespace": "default"},
        "addressType": "IPv4",
        "endpoints": on_node("node-b", &addresses),
        "ports": [{"name": "", "port": 8080}],
    });
    (Some(Arc::new(serde_json::from_value(service).unwrap())), vec![Arc::new(serde_json::from_value(slice).unwrap())])
}

fn objects(count: u32) -> HashMap<ObjectKey, Seen> {
    (0..count).map(|number| (key(number), object(number, 2))).collect()
}

/// `cargo test --release -p proxy -- --ignored --nocapture many_services`
#[test]
#[ignore = "a measurement"]
fn many_services() {
    const ROUNDS: u32 = 250;
    on_machine(|| {
        for count in [5_000, 50_000] {
            let objects = objects(count);
            let load = || {
                let mut kernel = Kernel::new(&config()).unwrap();
                let spent = cost(|| drop(kernel.replace(objects.keys().cloned().collect(), |key| objects[key].clone()).unwrap()));
                (kernel, spent)
            };
            let (_, first) = load();
            let (mut kernel, again) = load();
            eprintln!("{count} Services: full load {first}, again over the same {again}");
            let mut changes = Vec::new();
            for round in 0..ROUNDS {
                let number = round * 97 % count;
                for endpoints in [3, 2] {
                    let changed = object(number, endpoints);
                    let spent = cost(|| drop(kernel.change(HashSet::from([key(number)]), |_| changed.clone()).unwrap()));
                    changes.push(spent);
                }
            }
            let sorted = |of: fn(&Cost) -> Duration| {
                let mut sorted: Vec<f64> = changes.iter().map(|cost| of(cost).as_secs_f64() * 1e3).collect();
                sorted.sort_by(f64::total_cmp);
                let at = |part: usize| sorted[sorted.len() * part / 100];
                format!("median {:.2}, 99th of 100 {:.2}, worst {:.2} ms", at(50), at(99), sorted[sorted.len() - 1])
            };
            eprintln!("{count} Services: one change {}; CPU {}", sorted(|cost| cost.wall), sorted(|cost| cost.cpu));
        }
    });
}

/// Direct and through a Service by turns, so that noise meets both; beside no other Service, and beside many.
#[test]
#[ignore = "a measurement"]
fn connections() {
    on_machine(|| {
        let mut node = TestNode::new();
        let ((server, here), (client, _)) = (node.pod("here"), node.pod("client"));
        // A pod of another node, behind a route.
        let there: IpAddr = [10, 42, 1, 2].into();
        let run = |arguments: &str| assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
        run("route add 10.42.1.0/24 via 192.0.2.2");
        node.outside.run(|| run("address add 10.42.1.2/32 dev lo"));
        let listen = |pod: &Pod| pod.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap());
        let servers = [("on this node", here, listen(&server)), ("on another node", there, listen(&node.outside))];
        for others in [0, 5_000] {
            let many = objects(others);
            node.kernel.change(many.keys().cloned().collect(), |key| many[key].clone()).unwrap();
            for (whither, endpoint, listener) in &servers {
                node.set(json!({}), json!({}), ready(&[*endpoint]));
                let measure = || measure([SocketAddr::new(*endpoint, 8080), SocketAddr::new(VIP, 80)], listener);
                for (whence, [direct, through]) in [("a pod", client.run(measure)), ("the host", measure())] {
                    let more = (through / direct - 1.0) * 100.0;
                    eprintln!("from {whence} to a pod {whither}, {others} other Services: direct {direct:.1} us, through a Service {through:.1} us, {more:+.1} %");
                }
            }
        }
    });
}

/// Medians of rounds' medians, in microseconds: what disturbs one round disturbs both alike. Nobody waits to accept, so
/// that nobody is woken: that costs more than all rules, and not always the same.
fn measure(addresses: [SocketAddr; 2], listener: &TcpListener) -> [f64; 2] {
    const ROUNDS: usize = 200;
    /// Fewer than may wait to be accepted.
    const CONNECTIONS: usize = 100;
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let mut taken = [Vec::new(), Vec::new()];
        let mut streams = Vec::new();
        for turn in 0..CONNECTIONS {
            // Neither comes always after the other.
            let which = (turn + turn / 2) % 2;
            let begun = Instant::now();
            let stream = TcpStream::connect(addresses[which]).unwrap();
            taken[which].push(begun.elapsed().as_secs_f64() * 1e6);
            streams.push(stream);
        }
        streams.iter().for_each(|_| drop(listener.accept().unwrap()));
        for (taken, rounds) in taken.into_iter().zip(&mut rounds) {
            rounds.push(median(taken));
        }
    }
    rounds.map(median)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
