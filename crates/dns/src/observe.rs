//! From API objects to what the zone holds.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::zone::{Endpoint, Port, Service, ServiceKey, Slice};

pub fn service(object: &core::Service) -> Service {
    let Some(spec) = &object.spec else { return Service::default() };
    let ips = spec.cluster_ips.clone().filter(|ips| !ips.is_empty());
    let ips = ips.unwrap_or_else(|| spec.cluster_ip.clone().into_iter().collect());
    let port = |port: &core::ServicePort| Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol(port.protocol.as_deref()),
        number: u16::try_from(port.port).unwrap_or(0),
    };
    let external = spec.type_.as_deref() == Some("ExternalName");
    Service {
        // `None`, the mark of a headless Service, is no address.
        cluster_ips: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        external_name: spec.external_name.clone().filter(|_| external),
        ports: spec.ports.iter().flatten().map(port).collect(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
    }
}

/// The Service that the slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some((slice.metadata.namespace.clone()?, name.clone()))
}

pub fn slice(object: &EndpointSlice) -> Slice {
    let endpoints = object.endpoints.iter().map(|endpoint| Endpoint {
        addresses: endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()).collect(),
        hostname: endpoint.hostname.clone().filter(|hostname| !hostname.is_empty()),
        // Not told means ready.
        ready: endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true),
    });
    let ports = object.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref()),
            number: u16::try_from(port.port?).ok()?,
        })
    });
    Slice { endpoints: endpoints.collect(), ports: ports.collect() }
}

fn protocol(name: Option<&str>) -> String {
    name.unwrap_or("TCP").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_services() {
        let read = |spec: serde_json::Value| service(&serde_json::from_value(json!({"spec": spec})).unwrap());
        assert_eq!(read(json!({"clusterIP": "10.0.0.1"})).cluster_ips, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(read(json!({"clusterIP": "None", "clusterIPs": ["None"]})), Service::default());
        let external = read(json!({"type": "ExternalName", "externalName": "example.com"}));
        assert_eq!(external.external_name.as_deref(), Some("example.com"));
    }

    #[test]
    fn reads_slices() {
        let object: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-x", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "hostname": "a"},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}
            ],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]
        }))
        .unwrap();
        assert_eq!(service_of(&object), Some(("ns".into(), "web".into())));
        let read = slice(&object);
        assert_eq!(read.endpoints.iter().map(|endpoint| endpoint.ready).collect::<Vec<_>>(), [true, false]);
        assert_eq!(read.ports, [Port { name: "http".into(), protocol: "tcp".into(), number: 80 }]);
    }
}
