//! Cluster IPs as users see them: IPAddress objects beside Services, and ServiceCIDRs to give from.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use store::memory::MemoryStore;
use store::{Compare, KeyRange, RangeRequest, Transaction, Write};

use super::harness::{TestServer, config};

const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
}

fn range(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [cidr]}})
}

fn address(ip: &str, managed: bool, service: &str) -> Value {
    let labels = if managed {
        json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io", "ipaddress.kubernetes.io/ip-family": "IPv4"})
    } else {
        json!({})
    };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": ip, "labels": labels},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": service}},
    })
}

async fn names(server: &TestServer) -> Vec<String> {
    let list = server.get(ADDRESSES).await.expect(200);
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or("").to_owned();
    list["items"].as_array().into_iter().flatten().map(name).collect()
}

/// Waits for what the server does by itself, in its paused time.
async fn settled(server: &TestServer, expected: &[&str]) {
    for _ in 0..100 {
        if names(server).await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(names(server).await, expected);
}

#[tokio::test(start_paused = true)]
async fn each_cluster_ip_has_its_object() {
    let server = TestServer::start().await;
    assert_eq!(names(&server).await, ["10.43.0.1"]);
    let own = server.get(&format!("{RANGES}/kubernetes")).await.expect(200);
    assert_eq!(own["spec"], json!({"cidrs": ["10.43.0.0/16"]}));
    assert_eq!(own["status"]["conditions"][0]["type"], "Ready");
    assert_eq!(own["status"]["conditions"][0]["message"], "Kubernetes default Service CIDR is ready");

    server.post(SERVICES, service("web", "10.43.0.7")).await.expect(201);
    let made = server.get(&format!("{ADDRESSES}/10.43.0.7")).await.expect(200);
    assert_eq!(made["spec"], json!({"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}));
    assert_eq!(
        made["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    assert!(made["metadata"]["uid"].is_string());
    let table = server.send(&format!("GET {ADDRESSES}"), "accept: application/json;as=Table;v=v1;g=meta.k8s.io", "").await;
    assert_eq!(table.json()["rows"][1]["cells"][1], "services/default/web");

    // A dry run, headless Services and those without addresses leave none.
    server.post(&format!("{SERVICES}?dryRun=All"), service("dry", "10.43.0.8")).await.expect(201);
    server.post(SERVICES, service("headless", "None")).await.expect(201);
    assert_eq!(names(&server).await, ["10.43.0.1", "10.43.0.7"]);

    // What leaves its address gives the object back, by an update or a deletion.
    let mut external = service("web", "");
    external["spec"] = json!({"type": "ExternalName", "externalName": "example.org"});
    server.put(&format!("{SERVICES}/web"), external).await.expect(200);
    assert_eq!(names(&server).await, ["10.43.0.1"]);
    server.post(SERVICES, service("other", "10.43.0.9")).await.expect(201);
    server.delete(&format!("{SERVICES}/other")).await.expect(200);
    assert_eq!(names(&server).await, ["10.43.0.1"]);
}

#[tokio::test(start_paused = true)]
async fn an_address_of_somebody_else_is_not_given() {
    let server = TestServer::start().await;
    server.post(ADDRESSES, address("10.43.0.7", false, "gateway")).await.expect(201);
    assert_eq!(
        server.post(SERVICES, service("web", "10.43.0.7")).await.message(),
        "Service \"web\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.7\"]: failed to allocate IP 10.43.0.7: provided IP is already allocated"
    );
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(names(&server).await, ["10.43.0.1", "10.43.0.7"]);
}

#[tokio::test(start_paused = true)]
async fn what_other_hands_did_is_put_right() {
    let server = TestServer::start().await;
    server.post(SERVICES, service("web", "10.43.0.7")).await.expect(201);
    server.delete(&format!("{ADDRESSES}/10.43.0.7")).await.expect(200);
    settled(&server, &["10.43.0.1", "10.43.0.7"]).await;

    // One that claims to be ours and has no Service goes after a minute; one that lies about it goes at once.
    server.post(ADDRESSES, address("10.43.0.8", true, "nobody")).await.expect(201);
    server.post(ADDRESSES, address("10.43.0.9", true, "web")).await.expect(201);
    settled(&server, &["10.43.0.1", "10.43.0.7", "10.43.0.8"]).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    settled(&server, &["10.43.0.1", "10.43.0.7"]).await;

    // Without its labels it is made anew.
    let made = server.get(&format!("{ADDRESSES}/10.43.0.7")).await.expect(200);
    let bare = json!({"metadata": {"labels": null}});
    server.patch(&format!("{ADDRESSES}/10.43.0.7"), "merge", bare).await.expect(200);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = server.get(&format!("{ADDRESSES}/10.43.0.7")).await.expect(200);
    assert_eq!(again["metadata"]["labels"], made["metadata"]["labels"]);
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"]);

    // Each find is told of.
    let list = server.get("/apis/events.k8s.io/v1/namespaces/default/events").await.expect(200);
    let mut told: Vec<String> = list["items"].as_array().into_iter().flatten().map(|event| {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
        assert_eq!(text("/reportingController"), "ipallocator-repair-controller");
        let about = text("/regarding/kind");
        format!("{about} {} {} {}: {}", text("/type"), text("/reason"), text("/action"), text("/note"))
    }).collect();
    told.sort();
    assert_eq!(told, [
        "IPAddress Warning IPAddressNotAllocated IPAddressAllocation: IPAddress: 10.43.0.8 for Service default/nobody appears to have leaked: cleaning up",
        "IPAddress Warning IPAddressWrongReference IPAddressAllocation: IPAddress: 10.43.0.9 for Service default/web has a wrong reference; cleaning up",
        "Service Warning ClusterIPNotAllocated ClusterIPAllocation: Cluster IP [IPv4]: 10.43.0.7 is not allocated; repairing",
    ]);
}

#[tokio::test(start_paused = true)]
async fn services_of_old_get_their_objects_at_start() {
    let first = config();
    let store = first.store.clone();
    let server = TestServer::with(first).await;
    server.post(SERVICES, service("web", "10.43.0.7")).await.expect(201);
    let range = KeyRange::prefix("/registry/ipaddresses/");
    let keys = store.range(RangeRequest::newest(range)).await.expect("reads").kvs;
    let writes = keys.into_iter().map(|kv| Write::Delete { key: kv.key }).collect();
    drop(server);
    store.commit(Transaction { compares: Vec::<Compare>::new(), writes }).await.expect("deletes");
    let again = TestServer::with(apiserver::Config { store, ..config() }).await;
    assert_eq!(names(&again).await, ["10.43.0.1", "10.43.0.7"]);
}

#[tokio::test(start_paused = true)]
async fn further_ranges_widen_what_can_be_given() {
    let mut small = config();
    small.service_cidrs = vec!["10.43.0.0/30".parse().expect("a network")];
    let server = TestServer::with(small).await;
    let any = |name: &str| {
        let mut any = service(name, "");
        any["spec"].as_object_mut().expect("a map").remove("clusterIP");
        any
    };
    server.post(SERVICES, any("a")).await.expect(201);
    let full = server.post(SERVICES, any("b")).await;
    assert_eq!((full.code, full.message().as_str()), (500, "Internal error occurred: failed to allocate a serviceIP: range is full"));
    let outside = service("b", "10.44.0.2");
    assert!(server.post(SERVICES, outside.clone()).await.message().ends_with("the provided network does not match the current range"));
    server.post(RANGES, range("more", "10.44.0.0/30")).await.expect(201);
    server.post(SERVICES, outside).await.expect(201);
    assert_eq!(server.post(SERVICES, any("c")).await.expect(201)["spec"]["clusterIP"], "10.44.0.1");
    // One that goes gives nothing more.
    server.post(RANGES, range("last", "10.45.0.0/30")).await.expect(201);
    let hold = json!({"metadata": {"finalizers": ["example.org/hold"]}});
    server.patch(&format!("{RANGES}/last"), "merge", hold).await.expect(200);
    server.delete(&format!("{RANGES}/last")).await.expect(200);
    assert_eq!(server.post(SERVICES, any("d")).await.code, 500);
    // The default one comes back.
    server.delete(&format!("{RANGES}/kubernetes")).await.expect(200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.get(&format!("{RANGES}/kubernetes")).await.expect(200)["spec"]["cidrs"], json!(["10.43.0.0/30"]));
}

#[tokio::test(start_paused = true)]
async fn ranges_are_judged_as_upstream() {
    let server = TestServer::start().await;
    #[track_caller]
    fn check(message: String, expected: &str) {
        assert_eq!(message.split_once(" is invalid: ").map_or(message.as_str(), |(_, rest)| rest), expected);
    }
    let with = |cidrs: Value| {
        let mut object = range("r", "");
        object["spec"]["cidrs"] = cidrs;
        object
    };
    check(server.post(RANGES, with(json!([]))).await.message(), "spec.cidrs: Required value: at least one CIDR required");
    check(
        server.post(RANGES, with(json!(["10.0.0.0/24", "10.1.0.0/24"]))).await.message(),
        "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
    );
    check(
        server.post(RANGES, with(json!(["10.0.0.0/24", "fd00::/64", "fd01::/64"]))).await.message(),
        "spec.cidrs: Invalid value: {\"cidrs\":[\"10.0.0.0/24\",\"fd00::/64\",\"fd01::/64\"]}: may only hold up to 2 values",
    );
    server.post(RANGES, with(json!(["10.0.0.0/24"]))).await.expect(201);
    let path = format!("{RANGES}/r");
    check(
        server.put(&path, with(json!(["10.1.0.0/24"]))).await.message(),
        "spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable",
    );
    server.put(&path, with(json!(["10.0.0.0/24", "fd00::/64"]))).await.expect(200);
    check(
        server.put(&path, with(json!(["10.0.0.0/24"]))).await.message(),
        "spec.cidrs: Invalid value: [\"10.0.0.0/24\"]: field is immutable",
    );
}

#[tokio::test(start_paused = true)]
async fn two_servers_give_no_address_twice() {
    let store: store::SharedStore = Arc::new(MemoryStore::new());
    let mut servers = Vec::new();
    for seed in 1..=2 {
        let mut config = config();
        config.store = store.clone();
        config.seed = Some(seed);
        config.service_cidrs = vec!["10.43.0.0/27".parse().expect("a network")];
        servers.push(TestServer::with(config).await);
    }
    // All that there are, the first being taken.
    let creates = (0..29).map(|number| {
        let server = &servers[number % 2];
        let mut object = service(&format!("s{number}"), "");
        object["spec"].as_object_mut().expect("a map").remove("clusterIP");
        async move { server.post(SERVICES, object).await.expect(201)["spec"]["clusterIP"].clone() }
    });
    let mut given: Vec<String> = join_all(creates).await.iter().map(Value::to_string).collect();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 29);
    for server in &servers {
        assert_eq!(names(server).await.len(), 30);
    }
}
