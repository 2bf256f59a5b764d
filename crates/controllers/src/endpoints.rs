//! Where a Service's pods can be reached: EndpointSlices, the older Endpoints, and slices for Endpoints that
//! somebody wrote by hand.
//!
//! What all three share stands here: which pods a Service selects, and what is told of each.

mod capacity;
pub(crate) mod legacy;
pub(crate) mod mirroring;
pub(crate) mod slices;
mod spread;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use client::{Change, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::owners;
use crate::pods;
use crate::runner::Queue;

const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// `None` for a Service without selector: its endpoints are somebody else's business.
fn selector(service: &Service) -> Option<LabelSelector> {
    let spec = service.spec.as_ref()?;
    let labels = spec.selector.as_ref().filter(|labels| !labels.is_empty())?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    Some(LabelSelector::from_labels(labels))
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

fn selected_pods(pods: &Informer<Pod>, service: &Service, selector: &LabelSelector) -> Vec<Arc<Pod>> {
    let mut selected = pods.list_namespace(service.metadata.namespace.as_deref().unwrap_or_default());
    selected.retain(|pod| owners::matches(selector, &pod.metadata));
    selected
}

/// The pod's addresses of one family.
fn addresses<'a>(pod: &'a Pod, family: &str) -> Vec<&'a str> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let first = status.pod_ip.as_deref();
    let mut found: Vec<&str> = listed.chain(first).filter(|ip| family_of(ip) == family).collect();
    found.dedup();
    found.truncate(1);
    found
}

fn family_of(ip: &str) -> &'static str {
    if ip.contains(':') { "IPv6" } else { "IPv4" }
}

fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The name under which headless DNS knows the pod.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain == service.metadata.name).then_some(hostname)
}

fn ports_of(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The number behind a Service's port on this pod. A name that no container has yields nothing.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            // Sidecars are init containers that go on running.
            let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let containers = spec.containers.iter().chain(sidecars);
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            let found = ports.find(|candidate| {
                candidate.name.as_deref() == Some(name) && candidate.protocol.as_deref().unwrap_or("TCP") == protocol(port)
            })?;
            Some(found.container_port)
        }
    }
}

/// The ports at which this pod serves, in the Service's order.
fn endpoint_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let resolve = |port: &ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(pod, port)?),
            protocol: Some(protocol(port).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports_of(service).iter().filter_map(resolve).collect()
}

/// Queues the Services that select a pod, before or after its change.
fn watch_pods(pods: &Informer<Pod>, services: &Arc<Informer<Service>>, queue: &Queue) {
    let (services, queue) = (services.clone(), queue.clone());
    pods.subscribe(move |change: &Change<Pod>| {
        let pod = change.object();
        if let Some(old) = change.old()
            && facts(old) == facts(pod)
        {
            return;
        }
        match change.old() {
            Some(old) => queue_services(&services, &[old, pod], &queue),
            None => queue_services(&services, &[pod], &queue),
        }
    });
}

/// Queues the Services that select one of the states of a pod.
fn queue_services(services: &Informer<Service>, states: &[&Arc<Pod>], queue: &Queue) {
    let namespace = states.first().and_then(|pod| pod.metadata.namespace.as_deref()).unwrap_or_default();
    for service in services.list_namespace(namespace) {
        let Some(selector) = selector(&service) else { continue };
        if states.iter().any(|pod| owners::matches(&selector, &pod.metadata)) {
            queue.add(ObjectKey::of(&service.metadata));
        }
    }
}

/// All of a pod that its endpoints depend on.
fn facts(pod: &Pod) -> impl PartialEq + '_ {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    (
        (pods::is_ready(pod), pods::is_terminating(pod), pods::is_finished(pod)),
        status.map(|status| (&status.pod_ip, &status.pod_ips)),
        spec.map(|spec| (&spec.node_name, &spec.hostname, &spec.subdomain)),
        (&pod.metadata.labels, &pod.metadata.uid),
    )
}

/// Labels of the Service, then the controller's own.
fn labels(service: &Service, own: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.extend(own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    labels
}
