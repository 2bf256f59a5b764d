//! Two servers over one etcd: they see each other's writes, hand nothing out twice, and one is enough.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tempfile::TempDir;
use testbed::cluster::{coracle, missing};

const WITHIN: Duration = Duration::from_secs(60);
/// Few enough that servers that do not agree would soon choose the same.
const NODE_PORTS: usize = 60;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// A process that ends with the value.
struct Process(Child);

impl Process {
    fn end(&mut self) {
        let _ = self.0.kill(); // It may have ended by itself.
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn start_etcd(directory: &Path, port: u16, peer_port: u16) -> Process {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let child = Command::new("etcd")
        .args(["--name", "test", "--logger", "zap", "--log-level", "error", "--data-dir"])
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd starts");
    Process(child)
}

struct Server {
    directory: PathBuf,
    process: Process,
}

impl Drop for Server {
    fn drop(&mut self) {
        // As a power cut would; what is left of it in the run directory goes the way users take.
        self.process.end();
        let down = Command::new(coracle()).args(["down", "--data-dir"]).arg(self.directory.join("data")).env("HOME", &self.directory).output();
        assert!(down.is_ok_and(|output| output.status.success()) || std::thread::panicking(), "coracle down");
    }
}

impl Server {
    fn start(directory: &Path, name: &str, flags: &[&str]) -> Server {
        let directory = directory.join(name);
        fs::create_dir_all(&directory).expect("a directory");
        let log = File::create(directory.join("log")).expect("a log");
        let child = Command::new(coracle())
            .args(["server", "--disable-agent", "-v", "4", "--node-name", name, "--bind-address", "127.0.0.1"])
            .args(["--service-cidr", "10.143.0.0/16", "--cluster-dns", "10.143.0.10", "--cluster-cidr", "10.142.0.0/16"])
            .args(["--https-listen-port", &free_port().to_string(), "--node-ip", "127.0.0.1"])
            .args(["--service-node-port-range", &format!("30000-{}", 30000 + NODE_PORTS - 1)])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(flags)
            .env("HOME", &directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        Server { directory, process: Process(child) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join("data/server").join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    async fn client(&self) -> Client {
        let end = Instant::now() + WITHIN;
        loop {
            if let Ok(client) = client::from_kubeconfig(self.file("admin.kubeconfig")).await
                && ready(&client).await.is_ok()
            {
                return client;
            }
            assert!(Instant::now() < end, "the server is not ready\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn ready(client: &Client) -> kube::Result<String> {
    client.request_text(http::Request::get("/readyz").body(Vec::new()).expect("a request")).await
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let end = Instant::now() + WITHIN;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": "v"}})).expect("a ConfigMap")
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]},
    }))
    .expect("a Service")
}

fn deployment(replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "x"}]}},
        },
    }))
    .expect("a Deployment")
}

async fn pods(client: &Client) -> usize {
    Api::<Pod>::namespaced(client.clone(), "default").list(&ListParams::default()).await.map_or(0, |pods| pods.items.len())
}

#[test]
fn two_servers_over_one_etcd() {
    let etcd_is_missing = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err();
    if let Some(reason) = missing().or_else(|| etcd_is_missing.then(|| "etcd is not installed (package etcd-server)".into())) {
        eprintln!("skipped: {reason}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    let directory = TempDir::new().expect("a directory");
    let (port, peer_port) = (free_port(), free_port());
    let etcd = start_etcd(directory.path(), port, peer_port);
    let endpoint = format!("http://127.0.0.1:{port}");
    let flags = ["--datastore-endpoint", endpoint.as_str()];
    let one = Server::start(directory.path(), "one", &flags);
    let first = one.client().await;
    let token = fs::read_to_string(one.file("token")).expect("the first server keeps a token");

    // Who does not know the token gets nothing.
    let stranger = Server::start(directory.path(), "stranger", &[&flags[..], &["--token", "guess"]].concat());
    eventually("the stranger ends", || async { stranger.log().contains("--token is not that of the servers").then_some(()) }).await;
    drop(stranger);

    let other = Server::start(directory.path(), "other", &[&flags[..], &["--token", token.trim()]].concat());
    let second = other.client().await;
    for name in ["tls/ca.crt", "tls/ca.key", "tls/sa.key"] {
        assert_eq!(fs::read(one.file(name)).expect("a file"), fs::read(other.file(name)).expect("a file"), "{name}");
    }

    see_each_other(&first, &second).await;
    hand_nothing_out_twice(&first, &second).await;
    work_by_turns(&first, &second).await;
    kill_one_under_load(one, &first, &second).await;
    etcd_goes_and_comes_back(etcd, &second, || start_etcd(directory.path(), port, peer_port)).await;
}

/// What one has acknowledged, the other answers at once.
async fn see_each_other(first: &Client, second: &Client) {
    let maps = |client: &Client| Api::<ConfigMap>::namespaced(client.clone(), "default");
    for round in 0..20 {
        let (writer, reader) = if round % 2 == 0 { (first, second) } else { (second, first) };
        let name = format!("seen-{round}");
        let made = maps(writer).create(&PostParams::default(), &map(&name)).await.expect("is created");
        let read = maps(reader).get(&name).await.expect("is seen");
        assert_eq!(read.metadata.resource_version, made.metadata.resource_version);
        let patch = json!({"metadata": {"resourceVersion": read.metadata.resource_version}, "data": {"k": "w"}});
        let changed = maps(reader).patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("is changed");
        assert_eq!(maps(writer).get(&name).await.expect("is seen"), changed);
        let listed = maps(writer).list(&ListParams::default().fields(&format!("metadata.name={name}"))).await.expect("lists");
        assert_eq!(listed.items, [changed]);
    }
}

async fn hand_nothing_out_twice(first: &Client, second: &Client) {
    let made = join_all((0..NODE_PORTS).map(|index| {
        let client = if index % 2 == 0 { first } else { second };
        let services = Api::<Service>::namespaced(client.clone(), "default");
        async move { services.create(&PostParams::default(), &service(&format!("svc-{index}"))).await.expect("is created") }
    }));
    let specs: Vec<_> = made.await.into_iter().filter_map(|service| service.spec).collect();
    let ips: BTreeSet<_> = specs.iter().filter_map(|spec| spec.cluster_ip.clone()).collect();
    let ports: BTreeSet<_> = specs.iter().flatten_ports().collect();
    assert_eq!((ips.len(), ports.len()), (NODE_PORTS, NODE_PORTS));
    let services = Api::<Service>::namespaced(second.clone(), "default");
    let full = services.create(&PostParams::default(), &service("too-many")).await.expect_err("none is left").to_string();
    assert!(full.contains("range is full"), "{full}");
    // What one gives back, the other may give out.
    Api::<Service>::namespaced(first.clone(), "default").delete("svc-7", &Default::default()).await.expect("is deleted");
    services.create(&PostParams::default(), &service("last")).await.expect("one is free again");
}

trait Ports {
    fn flatten_ports(self) -> impl Iterator<Item = i32>;
}

impl<'a, I: Iterator<Item = &'a k8s_openapi::api::core::v1::ServiceSpec>> Ports for I {
    fn flatten_ports(self) -> impl Iterator<Item = i32> {
        self.flat_map(|spec| spec.ports.iter().flatten().filter_map(|port| port.node_port))
    }
}

async fn work_by_turns(first: &Client, second: &Client) {
    Api::<Deployment>::namespaced(second.clone(), "default").create(&PostParams::default(), &deployment(4)).await.expect("is created");
    eventually("four pods", || async { (pods(first).await >= 4).then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // A second pair of controllers would go on.
    assert_eq!(pods(second).await, 4);
    let leases = Api::<Lease>::namespaced(first.clone(), "kube-system");
    for name in ["kube-controller-manager", "kube-scheduler"] {
        let holder = leases.get(name).await.expect("a lease").spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        assert!(holder.starts_with("one_"), "{name} is held by {holder:?}");
    }
}

/// Half of the writers write to the one that dies; the other notices nothing and takes its work over.
async fn kill_one_under_load(one: Server, first: &Client, second: &Client) {
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let client = if writer % 2 == 0 { first } else { second };
            tokio::spawn(write(Api::namespaced(client.clone(), "default"), format!("load-{writer}"), writer % 2 == 0))
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    drop(one);
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("the writer ends"));
    }
    let maps = Api::<ConfigMap>::namespaced(second.clone(), "default");
    let present = maps.list(&ListParams::default()).await.expect("lists").items;
    let present: BTreeSet<String> = present.into_iter().filter_map(|map| map.metadata.name).collect();
    let lost: Vec<_> = acknowledged.difference(&present).collect();
    assert!(lost.is_empty(), "of {} acknowledged writes are lost: {lost:?}", acknowledged.len());
    assert!(acknowledged.len() > 200, "only {} writes", acknowledged.len());

    let scale = Patch::Merge(json!({"spec": {"replicas": 6}}));
    Api::<Deployment>::namespaced(second.clone(), "default").patch("web", &PatchParams::default(), &scale).await.expect("is scaled");
    eventually("six pods", || async { (pods(second).await == 6).then_some(()) }).await;
}

async fn write(maps: Api<ConfigMap>, prefix: String, may_fail: bool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for index in 0..300 {
        let name = format!("{prefix}-{index}");
        match maps.create(&PostParams::default(), &map(&name)).await {
            Ok(_) => acknowledged.push(name),
            Err(_) if may_fail => break,
            Err(cause) => panic!("{name}: {cause}"),
        }
    }
    acknowledged
}

async fn etcd_goes_and_comes_back(etcd: Process, client: &Client, start: impl Fn() -> Process) {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "default");
    drop(etcd);
    let unready = eventually("readyz fails", || async { ready(client).await.err() }).await.to_string();
    let refused = maps.create(&PostParams::default(), &map("refused")).await.expect_err("nothing can be written").to_string();
    assert!(refused.contains("etcd: rpc error: code = Unavailable"), "{refused} ({unready})");
    let cached = maps.list(&ListParams { resource_version: Some("0".into()), ..ListParams::default() }).await;
    assert!(!cached.expect("what is known is answered").items.is_empty());

    let etcd = start();
    eventually("readyz holds", || async { ready(client).await.ok() }).await;
    eventually("writes are taken", || async { maps.create(&PostParams::default(), &map("again")).await.ok() }).await;
    assert_eq!(maps.get("again").await.expect("is read").metadata.name.as_deref(), Some("again"));
    drop(etcd);
}
