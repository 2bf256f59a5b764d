//! Services and slices as JSON, entries as text.

use serde_json::{Value, json};
use std::sync::Arc;

use super::*;

const US: &str = "node-a";

fn surroundings() -> Surroundings {
    Surroundings {
        place: Place { node: US.into(), zone: "z1".into() },
        skip_cluster_ips: vec!["10.43.0.10".parse().unwrap()],
        ipv4: true,
        ipv6: false,
    }
}

/// Endpoints as `address[@node][!]`; `!` is not ready.
fn slice(endpoints: &str) -> Arc<EndpointSlice> {
    let endpoints: Vec<Value> = endpoints
        .split_whitespace()
        .map(|text| {
            let ready = !text.ends_with('!');
            let (address, node) = text.trim_end_matches('!').split_once('@').unwrap_or((text, "node-b"));
            json!({"addresses": [address], "nodeName": node, "conditions": {"ready": ready}})
        })
        .collect();
    let slice = json!({
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    });
    Arc::new(serde_json::from_value(slice).unwrap())
}

fn decided(spec: Value, status: Value, endpoints: &str) -> Decision {
    let mut spec = spec;
    let defaults = json!({
        "clusterIP": "10.43.0.7",
        "type": "ClusterIP",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    });
    for (key, value) in defaults.as_object().unwrap() {
        spec.as_object_mut().unwrap().entry(key).or_insert(value.clone());
    }
    let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec, "status": status});
    let service = serde_json::from_value(service).unwrap();
    decide(&service, &[slice(endpoints)], &surroundings(), &|_, _| Vec::new())
}

#[track_caller]
fn check_with_status(spec: Value, status: Value, endpoints: &str, expected: &str) {
    let decision = decided(spec, status, endpoints);
    let text: Vec<String> = decision.entries.iter().map(|(key, value)| format!("{key}{value}")).collect();
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(text, expected, "\n{}", text.join("\n"));
}

#[track_caller]
fn check(spec: Value, endpoints: &str, expected: &str) {
    check_with_status(spec, json!({}), endpoints, expected);
}

#[test]
fn cluster_ip() {
    check(
        json!({}),
        "10.42.0.2@node-a 10.42.1.2 10.42.1.3!",
        "tcp 10.43.0.7:80 -> cluster-2
         tcp 10.43.0.7:80 #0 = 10.42.0.2:8080
         tcp 10.43.0.7:80 #1 = 10.42.1.2:8080
         cluster ip 10.43.0.7
         hairpin 10.42.0.2",
    );
    check(json!({}), "", "tcp 10.43.0.7:80 -> reject\ncluster ip 10.43.0.7");
    // Headless, external names, other proxies and the cluster's DNS are not ours.
    check(json!({"clusterIP": "None"}), "10.42.0.2", "");
    check(json!({"clusterIP": ""}), "10.42.0.2", "");
    check(json!({"type": "ExternalName"}), "10.42.0.2", "");
    check(json!({"clusterIP": "10.43.0.10"}), "10.42.0.2", "");
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let ports = json!([
        {"name": "http", "port": 80, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns", "port": 53, "protocol": "TCP"},
    ]);
    check(
        json!({"ports": ports}),
        "10.42.1.2",
        "tcp 10.43.0.7:53 -> reject
         tcp 10.43.0.7:80 -> cluster-1
         udp 10.43.0.7:53 -> cluster-1
         tcp 10.43.0.7:80 #0 = 10.42.1.2:8080
         udp 10.43.0.7:53 #0 = 10.42.1.2:53
         cluster ip 10.43.0.7",
    );
}

#[test]
fn node_ports_and_external_addresses() {
    check(
        json!({"type": "NodePort", "externalIPs": ["203.0.113.1", "2001:db8::1"]}),
        "10.42.1.2",
        "tcp 10.43.0.7:80 -> cluster-1
         tcp 203.0.113.1:80 -> external-1
         tcp node:30080 -> external-node-port-1
         tcp 10.43.0.7:80 #0 = 10.42.1.2:8080
         tcp 203.0.113.1:80 #0 = 10.42.1.2:8080
         tcp node:30080 #0 = 10.42.1.2:8080
         cluster ip 10.43.0.7",
    );
    check_with_status(
        json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/25", "192.0.2.128/25", " 198.51.100.0/24"],
               "ports": [{"name": "http", "port": 80}]}),
        json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}, {"ip": "203.0.113.10", "ipMode": "Proxy"}]}}),
        "",
        "tcp 10.43.0.7:80 -> reject
         tcp 203.0.113.9:80 -> reject
         cluster ip 10.43.0.7
         tcp 203.0.113.9:80 restricted
         tcp 203.0.113.9:80 from 192.0.2.0/24
         tcp 203.0.113.9:80 from 198.51.100.0/24",
    );
    // Left in status from when it was a LoadBalancer.
    check_with_status(
        json!({}),
        json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}),
        "",
        "tcp 10.43.0.7:80 -> reject\ncluster ip 10.43.0.7",
    );
}

#[test]
fn local_policies() {
    let external = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    check(
        external.clone(),
        "10.42.0.2@node-a 10.42.1.2",
        "tcp 10.43.0.7:80 -> cluster-2
         tcp node:30080 -> local-node-port-1-of-2
         tcp 10.43.0.7:80 #0 = 10.42.0.2:8080
         tcp 10.43.0.7:80 #1 = 10.42.1.2:8080
         tcp node:30080 #0 = 10.42.0.2:8080
         tcp node:30080 #0 internal = 10.42.0.2:8080
         tcp node:30080 #1 internal = 10.42.1.2:8080
         cluster ip 10.43.0.7
         hairpin 10.42.0.2",
    );
    check(
        external,
        "10.42.1.2",
        "tcp 10.43.0.7:80 -> cluster-1
         tcp node:30080 -> local-node-port-0-of-1
         tcp 10.43.0.7:80 #0 = 10.42.1.2:8080
         tcp node:30080 #0 internal = 10.42.1.2:8080
         cluster ip 10.43.0.7",
    );
    let internal = json!({"internalTrafficPolicy": "Local"});
    check(internal.clone(), "10.42.1.2", "tcp 10.43.0.7:80 -> drop\ncluster ip 10.43.0.7");
    check(internal.clone(), "", "tcp 10.43.0.7:80 -> reject\ncluster ip 10.43.0.7");
    check(
        internal,
        "10.42.0.2@node-a 10.42.1.2",
        "tcp 10.43.0.7:80 -> cluster-1
         tcp 10.43.0.7:80 #0 = 10.42.0.2:8080
         cluster ip 10.43.0.7
         hairpin 10.42.0.2",
    );
}

#[test]
fn affinity() {
    let affine = |config: Value| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
    let expected = |seconds: u32| {
        format!(
            "tcp 10.43.0.7:80 -> cluster-1-affinity-{seconds}s
             tcp 10.43.0.7:80 #0 = 10.42.1.2:8080
             cluster ip 10.43.0.7"
        )
    };
    check(affine(json!({"clientIP": {"timeoutSeconds": 60}})), "10.42.1.2", &expected(60));
    check(affine(json!(null)), "10.42.1.2", &expected(10800));
}

#[test]
fn health_checks() {
    let spec = |policy: &str| {
        json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "healthCheckNodePort": 31234,
               "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]})
    };
    let check = |policy, endpoints| decided(spec(policy), json!({}), endpoints).health_check;
    assert_eq!(
        check("Local", "10.42.0.2@node-a 10.42.0.3@node-a! 10.42.1.2"),
        Some(HealthCheck { port: 31234, local_endpoints: 1 })
    );
    assert_eq!(check("Local", "10.42.1.2"), Some(HealthCheck { port: 31234, local_endpoints: 0 }));
    assert_eq!(check("Cluster", "10.42.0.2@node-a"), None);
}
