//! A pod's life through the API, as the conformance tests of the original try it: changes, generations, taints, streams,
//! resources in place.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testbed::cluster::{Cluster, NODE};
use testbed::session::{self, condition, is_ready, is_true, script, waiting, with, with_main};

const SOON: Duration = Duration::from_secs(30);

// Conformance: [sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead
// Conformance: [sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead
// Conformance: [sig-node] Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests and limits for memory and cpu
// Conformance: [sig-node] Pods should get a host IP
// Conformance: [sig-node] Pods should be submitted and removed
// Conformance: [sig-node] Pods should be updated
// Conformance: [sig-node] Pods should allow activeDeadlineSeconds to be updated
// Conformance: [sig-node] Pods should delete a collection of pods
// Conformance: [sig-node] Pods should patch a pod status
// Conformance: [sig-node] Pods should run through the lifecycle of Pods and PodStatus
// Conformance: [sig-node] Pods should contain environment variables for services
#[test]
fn pods_are_submitted_changed_and_removed() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let labelled = |name: &str, label: &str| with(waiting(name), json!({"metadata": {"labels": {"test": label}}}));
    let since = session.get("pods")["metadata"]["resourceVersion"].as_str().expect("told").to_owned();

    // Submitted, seen, removed.
    session.create("pods", &with(labelled("submitted", "submit"), json!({"spec": {"terminationGracePeriodSeconds": 30}})));
    assert_eq!(session.items("pods?labelSelector=test=submit").len(), 1);
    let pod = session.ready("submitted");
    let host = pod["status"]["hostIP"].as_str().expect("told");
    assert!(host.parse::<std::net::IpAddr>().is_ok() && pod["status"]["hostIPs"][0]["ip"] == host, "{host}");
    let deleted = session.delete("pods/submitted");
    assert!(deleted["metadata"]["deletionTimestamp"].is_string(), "{deleted}");
    assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 30);
    session.gone("pods/submitted");
    assert!(session.items("pods?labelSelector=test=submit").is_empty());
    let events = session.watched("pods?labelSelector=test=submit", &since);
    assert_eq!(events.last().map(|(kind, _)| kind.as_str()), Some("DELETED"), "{events:?}");
    assert!(events.iter().any(|(kind, pod)| kind == "MODIFIED" && is_ready(pod)));

    // Updated: labels, and a deadline, by which it ends.
    session.create("pods", &labelled("updated", "before"));
    session.ready("updated");
    session.edit("pods/updated", |pod| pod["metadata"]["labels"]["test"] = "after".into());
    assert_eq!(session.items("pods?labelSelector=test=after").len(), 1);
    session.edit("pods/updated", |pod| pod["spec"]["activeDeadlineSeconds"] = 2.into());
    let pod = session.phase("updated", "Failed");
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");

    // A collection.
    for name in ["a", "b", "c"] {
        session.create("pods", &labelled(&format!("set-{name}"), "set"));
    }
    assert_eq!(session.items("pods?labelSelector=test=set").len(), 3);
    session.delete("pods?labelSelector=test=set");
    session.eventually("pods?labelSelector=test=set", |list| list["items"].as_array().is_some_and(Vec::is_empty));

    // The status belongs to whoever may write it.
    session.create("pods", &labelled("status", "static"));
    session.ready("status");
    let patched = session.strategic_patch("pods/status/status", &json!({"status": {"message": "Patched by e2e test", "reason": "E2E"}}));
    assert_eq!((&patched["status"]["message"], &patched["status"]["reason"]), (&json!("Patched by e2e test"), &json!("E2E")));
    session.strategic_patch("pods/status", &json!({"metadata": {"labels": {"test": "patched"}}, "spec": {"containers": [{"name": "main", "image": "busybox:1.28"}]}}));
    let pod = session.get("pods/status");
    assert_eq!((&pod["metadata"]["labels"]["test"], &pod["spec"]["containers"][0]["image"]), (&json!("patched"), &json!("busybox:1.28")));
    let replaced = session.edit("pods/status/status", |pod| {
        for condition in pod["status"]["conditions"].as_array_mut().expect("a list") {
            if condition["type"] == "Ready" {
                condition["status"] = "False".into();
            }
        }
    });
    assert!(!is_ready(&replaced), "{replaced}");
    session.delete("pods?labelSelector=test=patched");
    session.gone("pods/status");

    // Classes.
    session.create("node.k8s.io/v1/runtimeclasses", &json!({"metadata": {"name": "plain"}, "handler": "runc"}));
    session.create("node.k8s.io/v1/runtimeclasses", &json!({"metadata": {"name": "heavy"}, "handler": "runc", "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}}}));
    for (name, overhead) in [("plain", Value::Null), ("heavy", json!({"cpu": "10m", "memory": "1Mi"}))] {
        let created = session.create("pods", &with(waiting(name), json!({"spec": {"runtimeClassName": name}})));
        assert_eq!(created["spec"]["overhead"], overhead);
        session.eventually(&format!("pods/{name}"), |pod| is_true(pod, "PodScheduled"));
        session.delete(&format!("pods/{name}"));
    }
    let resources = json!({"resources": {"limits": {"cpu": "100m", "memory": "100Mi"}, "requests": {"cpu": "100m", "memory": "100Mi"}}});
    let created = session.create("pods", &with_main(script("sure", "true"), resources));
    assert_eq!(created["status"]["qosClass"], "Guaranteed");
    session.phase("sure", "Succeeded");

    // Services that are there when a pod starts.
    session.create("services", &json!({"metadata": {"name": "fooservice"}, "spec": {"selector": {"name": "server"}, "ports": [{"port": 8765, "targetPort": 8080}]}}));
    let address = session.get("services/fooservice")["spec"]["clusterIP"].as_str().expect("told").to_owned();
    let expected = format!(
        "FOOSERVICE_PORT=tcp://{address}:8765\nFOOSERVICE_PORT_8765_TCP=tcp://{address}:8765\nFOOSERVICE_PORT_8765_TCP_ADDR={address}\nFOOSERVICE_PORT_8765_TCP_PORT=8765\nFOOSERVICE_PORT_8765_TCP_PROTO=tcp\nFOOSERVICE_SERVICE_HOST={address}\nFOOSERVICE_SERVICE_PORT=8765"
    );
    session.say(&[(script("client", "env | grep ^FOOSERVICE | sort"), &expected)]);
}

// Conformance: [sig-node] Pods Extended (pod generation) Pod Generation pod generation should start at 1 and increment per update
// Conformance: [sig-node] Pods Extended (pod generation) Pod Generation custom-set generation on new pods and graceful delete
// Conformance: [sig-node] Pods Extended (pod generation) Pod Generation issue 500 podspec updates and verify generation and observedGeneration eventually converge
#[test]
fn generations_count_changes_and_are_observed() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let observed = |name: &str, generation: i64| {
        session.eventually(&format!("pods/{name}"), |pod| pod["metadata"]["generation"] == generation && pod["status"]["observedGeneration"] == generation);
    };
    session.create("pods", &with(with_main(waiting("counted"), json!({"resources": {"requests": {"cpu": "5m"}}})), json!({"spec": {"activeDeadlineSeconds": 5000, "terminationGracePeriodSeconds": 10}})));
    observed("counted", 1);
    session.ready("counted");
    session.patch("pods/counted", &json!({"metadata": {"labels": {"no": "change"}}}));
    session.edit("pods/counted", |pod| pod["spec"]["tolerations"].as_array_mut().expect("a list").push(json!({"key": "k", "operator": "Exists"})));
    observed("counted", 2);
    session.edit("pods/counted", |pod| pod["spec"]["containers"][0]["image"] = "busybox:1.28".into());
    observed("counted", 3);
    session.patch("pods/counted/resize", &json!({"spec": {"containers": [with(session.get("pods/counted")["spec"]["containers"][0].clone(), json!({"resources": {"requests": {"cpu": "10m"}}}))]}}));
    observed("counted", 4);
    session.strategic_patch("pods/counted/ephemeralcontainers", &json!({"spec": {"ephemeralContainers": [{"name": "guest", "image": "busybox:1.35", "command": ["true"]}]}}));
    observed("counted", 5);

    let created = session.create("pods", &with(waiting("own"), json!({"metadata": {"generation": 100, "finalizers": ["e2e.example/hold"]}, "spec": {"terminationGracePeriodSeconds": 5}})));
    assert_eq!(created["metadata"]["generation"], 1);
    session.ready("own");
    assert_eq!(session.delete("pods/own")["metadata"]["generation"], 2);
    observed("own", 2);
    session.patch("pods/own", &json!({"metadata": {"finalizers": null}}));

    session.create("pods", &with(waiting("busy"), json!({"spec": {"activeDeadlineSeconds": 100_000}})));
    session.ready("busy");
    for round in 1..500 {
        session.patch("pods/busy", &json!({"spec": {"activeDeadlineSeconds": 100_000 - round}}));
    }
    observed("busy", 500);
}

// Conformance: [sig-node] NoExecuteTaintManager Single Pod removing taint cancels eviction
// Conformance: [sig-node] NoExecuteTaintManager Multiple Pods evicts pods with minTolerationSeconds
#[test]
fn taints_evict_after_their_time_and_not_when_removed() {
    let Some((_cluster, session)) = session::for_test(&[]) else { return };
    let tolerant = |name: &str, seconds: u32| {
        let toleration = json!([{"key": "evict", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        session.create("pods", &with(waiting(name), json!({"spec": {"tolerations": toleration}})));
    };
    let taint = |on: bool| {
        let taints = if on { json!([{"key": "evict", "value": "yes", "effect": "NoExecute"}]) } else { json!([]) };
        session.patch(&format!("nodes/{NODE}"), &json!({"spec": {"taints": taints}}));
    };
    tolerant("single", 4);
    session.ready("single");
    taint(true);
    std::thread::sleep(Duration::from_secs(2));
    taint(false);
    std::thread::sleep(Duration::from_secs(4));
    assert!(session.get("pods/single")["metadata"]["deletionTimestamp"].is_null(), "its taint went in time");
    session.delete("pods/single");

    tolerant("short", 2);
    tolerant("long", 7);
    session.ready("short");
    session.ready("long");
    let tainted = Instant::now();
    taint(true);
    session.gone("pods/short");
    assert!(tainted.elapsed() >= Duration::from_secs(2) && tainted.elapsed() < Duration::from_secs(6), "{:?}", tainted.elapsed());
    assert!(session.get("pods/long")["metadata"]["deletionTimestamp"].is_null());
    session.gone("pods/long");
    assert!(tainted.elapsed() >= Duration::from_secs(7), "{:?}", tainted.elapsed());
}

/// `kubectl proxy` with everything allowed, for clients that speak plain HTTP.
struct Proxy {
    child: Child,
    port: u16,
}

impl Proxy {
    fn start(cluster: &Cluster) -> Proxy {
        let mut child = cluster.kubectl_command(&["proxy", "--port=0", "--reject-paths=^$"]).stdout(Stdio::piped()).spawn().expect("kubectl runs");
        let mut stdout = child.stdout.take().expect("has output");
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with('\n') && stdout.read(&mut byte).is_ok_and(|count| count == 1) {
            text.push(byte[0] as char);
        }
        let port = text.trim().rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("a port in {text}"));
        Proxy { child, port }
    }

    /// The messages that a WebSocket brings until it is closed.
    fn messages(&self, path: &str, protocol: &str) -> Vec<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connects");
        stream.set_read_timeout(Some(SOON)).expect("sets");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("asks");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.to_lowercase().contains(&format!("sec-websocket-protocol: {protocol}")), "{head}");
        let mut messages = Vec::new();
        loop {
            let mut start = [0; 2];
            if stream.read_exact(&mut start).is_err() {
                return messages;
            }
            let length = match start[1] & 0x7f {
                126 => {
                    let mut long = [0; 2];
                    stream.read_exact(&mut long).expect("a length");
                    usize::from(u16::from_be_bytes(long))
                }
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).expect("a payload");
            match start[0] & 0xf {
                8 => return messages,
                0..=2 => messages.push(payload),
                _ => {}
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// Conformance: [sig-node] Pods should support remote command execution over websockets
// Conformance: [sig-node] Pods should support retrieving logs from the container over websockets
#[test]
fn plain_websockets_carry_commands_and_logs() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    let mut pod = waiting("talker");
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", "echo container is alive; sleep 3600"]);
    session.create("pods", &pod);
    session.ready("talker");
    let proxy = Proxy::start(&cluster);
    let root = "/api/v1/namespaces/default/pods/talker";
    let messages = proxy.messages(&format!("{root}/exec?stdout=1&stderr=1&container=main&command=echo&command=remote%20execution%20test"), "channel.k8s.io");
    let said: Vec<u8> = messages.iter().filter(|message| message.first() == Some(&1)).flat_map(|message| message[1..].to_vec()).collect();
    assert_eq!(String::from_utf8_lossy(&said), "remote execution test\n", "{messages:?}");
    let messages = proxy.messages(&format!("{root}/log?container=main"), "binary.k8s.io");
    assert_eq!(String::from_utf8_lossy(&messages.concat()), "container is alive\n");
}

/// Requests and limits of one container: `cpu request, cpu limit, memory request, memory limit`; empty is none.
fn resources([cpu_request, cpu_limit, memory_request, memory_limit]: [&str; 4]) -> Value {
    let list = |cpu: &str, memory: &str| {
        let mut list = json!({});
        for (name, value) in [("cpu", cpu), ("memory", memory)] {
            if !value.is_empty() {
                list[name] = value.into();
            }
        }
        list
    };
    let mut resources = json!({});
    for (name, list) in [("requests", list(cpu_request, memory_request)), ("limits", list(cpu_limit, memory_limit))] {
        if list.as_object().is_some_and(|list| !list.is_empty()) {
            resources[name] = list;
        }
    }
    resources
}

/// What the kernel grants a container: microseconds of CPU in each tenth of a second and bytes of memory; -1 is no limit.
fn granted(cluster: &Cluster, pod: &str, container: &str) -> (i64, i64) {
    let files = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max; cat /sys/fs/cgroup/memory.max 2>/dev/null; true";
    let text = cluster.kubectl_words(&["exec", pod, "-c", container, "--", "sh", "-c", files]);
    let mut numbers = text.lines().map(|line| line.trim().parse::<i64>().unwrap_or(-1));
    let (cpu, memory) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (cpu, if memory > 1 << 50 { -1 } else { memory })
}

/// What the limits of a container should grant it.
fn wanted(resources: &Value) -> (i64, i64) {
    let limit = |name: &str| resources["limits"][name].as_str().map(|text| api::quantity::Quantity::parse(text).expect("a quantity"));
    // The kernel counts in no less than a millisecond in each period.
    (limit("cpu").map_or(-1, |cpu| (cpu.milli_value() * 100).max(1000)), limit("memory").map_or(-1, |memory| memory.value()))
}

// Conformance: [sig-node] Pod InPlace Resize Container guaranteed pods with multiple containers 3 containers - increase cpu & mem on c1, c2, decrease cpu & mem on c3 - net increase
// Conformance: [sig-node] Pod InPlace Resize Container guaranteed pods with multiple containers 3 containers - increase cpu & mem on c1, decrease cpu & mem on c2, c3 - net decrease
// Conformance: [sig-node] Pod InPlace Resize Container guaranteed pods with multiple containers 3 containers - increase: CPU (c1,c3), memory (c2, c3) ; decrease: CPU (c2)
// Conformance: [sig-node] Pod InPlace Resize Container burstable pods - extended 6 containers - various operations performed (including adding limits and requests)
// Conformance: [sig-node] Pod InPlace Resize Container burstable pods - extended resize with equivalents
// Conformance: [sig-node] Pod InPlace Resize Container resize pod via the replace endpoint
#[test]
fn resources_change_while_containers_run() {
    let Some((cluster, session)) = session::for_test(&[]) else { return };
    fn same(cpu: &'static str, memory: &'static str) -> [&'static str; 4] {
        [cpu, cpu, memory, memory]
    }
    type Sizes = Vec<[&'static str; 4]>;
    let table: [(&str, Sizes, Sizes); 6] = [
        ("net-increase", vec![same("20m", "20Mi"), same("30m", "30Mi"), same("40m", "40Mi")], vec![same("40m", "35Mi"), same("45m", "45Mi"), same("20m", "25Mi")]),
        ("net-decrease", vec![same("20m", "20Mi"), same("40m", "40Mi"), same("50m", "50Mi")], vec![same("25m", "25Mi"), same("20m", "25Mi"), same("20m", "25Mi")]),
        ("crosswise", vec![same("20m", "30Mi"), same("40m", "30Mi"), same("30m", "30Mi")], vec![same("40m", "30Mi"), same("20m", "45Mi"), same("45m", "45Mi")]),
        (
            "six",
            vec![["", "", "", ""], ["10m", "", "", ""], ["10m", "20m", "20Mi", "30Mi"], ["10m", "20m", "20Mi", "30Mi"], ["20m", "40m", "", ""], ["", "", "20Mi", "30Mi"]],
            vec![["10m", "20m", "", ""], ["15m", "30m", "20Mi", "40Mi"], ["20m", "40m", "30Mi", "45Mi"], ["10m", "20m", "20Mi", "30Mi"], ["10m", "30m", "", ""], ["10m", "30m", "25Mi", "40Mi"]],
        ),
        // Shares and quotas have a least: the status tells the numbers all the same.
        ("equivalents", vec![["2m", "10m", "", ""]], vec![["1m", "5m", "", ""]]),
        ("replaced", vec![["10m", "20m", "20Mi", "30Mi"]], vec![["20m", "30m", "25Mi", "40Mi"]]),
    ];
    for (name, before, _) in &table {
        let mut pod = waiting(name);
        let main = pod["spec"]["containers"][0].clone();
        pod["spec"]["containers"] = before.iter().enumerate().map(|(index, sizes)| with(main.clone(), json!({"name": format!("c{}", index + 1), "resources": resources(*sizes)}))).collect();
        session.create("pods", &pod);
    }
    for (name, before, after) in &table {
        session.ready(name);
        for (index, sizes) in before.iter().enumerate() {
            assert_eq!(granted(&cluster, name, &format!("c{}", index + 1)), wanted(&resources(*sizes)), "{name} c{} before", index + 1);
        }
        let containers: Vec<Value> = after.iter().enumerate().map(|(index, sizes)| json!({"name": format!("c{}", index + 1), "resources": resources(*sizes)})).collect();
        if *name == "replaced" {
            session.edit(&format!("pods/{name}/resize"), |pod| pod["spec"]["containers"][0]["resources"] = resources(after[0]));
        } else {
            session.strategic_patch(&format!("pods/{name}/resize"), &json!({"spec": {"containers": containers}}));
        }
        let pod = session.eventually(&format!("pods/{name}"), |pod| {
            let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            after.iter().enumerate().all(|(index, sizes)| {
                let status = statuses.iter().find(|status| status["name"] == format!("c{}", index + 1));
                let told = status.map(|status| status["resources"].clone()).unwrap_or_default();
                let wanted = resources(*sizes);
                ["requests", "limits"].iter().all(|list| wanted[list].is_null() || told[list] == wanted[list])
            }) && condition(pod, "PodResizeInProgress").is_none() && condition(pod, "PodResizePending").is_none()
        });
        for status in pod["status"]["containerStatuses"].as_array().expect("a list") {
            assert_eq!(status["restartCount"], 0, "{pod}");
        }
        for (index, sizes) in after.iter().enumerate() {
            let container = format!("c{}", index + 1);
            assert_eq!(pod["spec"]["containers"][index]["resources"]["requests"], if resources(*sizes)["requests"].is_null() { Value::Null } else { resources(*sizes)["requests"].clone() });
            assert_eq!(granted(&cluster, name, &container), wanted(&resources(*sizes)), "{name} {container} after");
        }
    }
    assert_eq!(session.get("pods/replaced/resize"), session.get("pods/replaced"));
}
