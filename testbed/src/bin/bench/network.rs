//! Services and names: what a connection through a Service costs, and a question to the cluster's DNS.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use futures::stream::{StreamExt, TryStreamExt};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use testbed::cluster::Cluster;
use testbed::session::waiting;

use crate::measure::{Outcome, row, table, usage};

const SERVICES: usize = 5_000;
const CONNECTIONS: usize = 4_000;
const QUESTIONS: usize = 20_000;
const AT_ONCE: usize = 32;

pub fn run(runtime: &tokio::runtime::Runtime) -> Outcome<()> {
    table("Services and names on one node");
    let cluster = Cluster::start()?;
    let session = cluster.session();
    let mut pod = waiting("server");
    pod["metadata"]["labels"] = json!({"app": "server"});
    pod["spec"]["containers"][0] = json!({"name": "main", "image": "testserver", "imagePullPolicy": "IfNotPresent"});
    session.create("pods", &pod);
    let ip = session.ready("server")["status"]["podIP"].as_str().unwrap_or_default().to_owned();
    let made = session.create("services", &service("server", json!({"app": "server"})));
    let virtual_ip = made["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let (direct, through): (SocketAddr, SocketAddr) = (format!("{ip}:8080").parse()?, format!("{virtual_ip}:80").parse()?);
    answers(through)?;
    connections(direct, through, "one Service")?;
    names(&cluster)?;

    runtime.block_on(async {
        let client = client::from_kubeconfig(&cluster.kubeconfig()).await?;
        many(&client).await
    })?;
    connections(direct, through, "5,000 Services of 2 endpoints")?;
    let mut taken = Vec::new();
    for index in 0..20 {
        let started = Instant::now();
        let made = session.create("services", &service(&format!("late-{index}"), json!({"app": "server"})));
        answers(format!("{}:80", made["spec"]["clusterIP"].as_str().unwrap_or_default()).parse()?)?;
        taken.push(started.elapsed().as_secs_f64() * 1e3);
    }
    taken.sort_by(f64::total_cmp);
    row("one more Service: from create to its first answer (median of 20)", &format!("{:.1} ms", taken[10]), "about 1 s (rules are written once a second)");
    Ok(())
}

fn service(name: &str, selector: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]}})
}

/// Waits until somebody answers.
fn answers(address: SocketAddr) -> Outcome<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect_timeout(&address, Duration::from_millis(5)).is_err() {
        if Instant::now() > end {
            return Err(format!("nobody answers at {address}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// One after another, direct and through the Service by turns, so that noise meets both.
fn connections(direct: SocketAddr, through: SocketAddr, beside: &str) -> Outcome<()> {
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for number in 0..CONNECTIONS {
        for (address, taken) in [(direct, &mut one), (through, &mut other)] {
            let started = Instant::now();
            let connected = TcpStream::connect(address);
            drop(connected.map_err(|cause| format!("connection {number} to {address}: {cause}"))?);
            taken.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    one.sort_by(f64::total_cmp);
    other.sort_by(f64::total_cmp);
    let (direct, through) = (one[CONNECTIONS / 2], other[CONNECTIONS / 2]);
    let text = format!("{through:.0} us, direct {direct:.0} us: {:+.1} %", (through / direct - 1.0) * 100.0);
    row(&format!("connection through a cluster IP, beside {beside}"), &text, "-");
    Ok(())
}

fn names(cluster: &Cluster) -> Outcome<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(format!("{}.0.10:53", cluster.service_network()))?;
    let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["server", "default", "svc", "cluster", "local"] {
        question.push(u8::try_from(label.len())?);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let before = usage(cluster);
    let started = Instant::now();
    let mut buffer = [0; 512];
    // A window of questions on their way, so that the server need not wait for us.
    for sent in 0..QUESTIONS + AT_ONCE {
        if sent < QUESTIONS {
            socket.send(&question)?;
        }
        if sent >= AT_ONCE {
            socket.recv(&mut buffer)?;
        }
    }
    let rate = QUESTIONS as f64 / started.elapsed().as_secs_f64();
    let cpu = (usage(cluster).cpu - before.cpu).as_secs_f64() * 1e6 / QUESTIONS as f64;
    let text = format!("{rate:.0}/s; {cpu:.1} us CPU each, {:.0} per second of CPU", 1e6 / cpu);
    row("DNS: the address of a Service", &text, "-");
    Ok(())
}

async fn many(client: &Client) -> Outcome<()> {
    let of = |group: &str, kind: &str, plural: &str| -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(group, "v1", kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        Api::namespaced_with(client.clone(), "default", &resource)
    };
    let (services, slices) = (of("", "Service", "services"), of("discovery.k8s.io", "EndpointSlice", "endpointslices"));
    let create = |index: usize| {
        let (services, slices) = (&services, &slices);
        async move {
            let name = format!("many-{index}");
            let endpoint = |last: usize| json!({"addresses": [format!("10.200.{}.{}", index / 120, index % 120 * 2 + last)]});
            let slice = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
                "endpoints": [endpoint(0), endpoint(1)], "ports": [{"port": 8080}],
            });
            let parameters = PostParams::default();
            let service = serde_json::from_value(service(&name, Value::Null)).map_err(kube::Error::SerdeError)?;
            services.create(&parameters, &service).await?;
            slices.create(&parameters, &serde_json::from_value(slice).map_err(kube::Error::SerdeError)?).await?;
            Ok::<(), kube::Error>(())
        }
    };
    futures::stream::iter(0..SERVICES).map(create).buffer_unordered(AT_ONCE).try_for_each(|()| async { Ok(()) }).await?;
    Ok(())
}
