//! Keeps the Endpoints object of every Service with a selector, for clients that know no EndpointSlices.
//!
//! Invariant: an address is listed once per set of ports, ready or not ready; at most a thousand of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::Context;
use crate::failure::{Failure, error_text, is_namespace_terminating};
use crate::pods;
use crate::runner::{Controller, Next, Queue};

const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const ADDRESSES_MAX: usize = 1000;

pub(crate) struct LegacyEndpoints {
    context: Arc<Context>,
    recorder: EventRecorder,
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    endpoints: Arc<Informer<Endpoints>>,
}

impl LegacyEndpoints {
    pub fn new(context: &Arc<Context>) -> Self {
        LegacyEndpoints {
            context: context.clone(),
            recorder: context.recorder("endpoint-controller"),
            services: context.informer(),
            pods: context.informer(),
            endpoints: context.informer(),
        }
    }

    async fn remove(&self, key: &ObjectKey) -> Result<Next, Failure> {
        // Ours alone; by hand a user may keep Endpoints without Service.
        if let Some(held) = self.endpoints.get(key)
            && label(&held.metadata, MANAGED_BY_LABEL) == Some(MANAGED_BY)
        {
            self.context.delete::<Endpoints>(key, &client::DeleteOptions::default()).await?;
        }
        Ok(Next::Settled)
    }
}

#[async_trait]
impl Controller for LegacyEndpoints {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.services.subscribe(move |change: &Change<Service>| own.add(ObjectKey::of(&change.object().metadata)));
        super::watch_pods(&self.pods, &self.services, queue);
        let queue = queue.clone();
        self.endpoints.subscribe(move |change: &Change<Endpoints>| queue.add(ObjectKey::of(&change.object().metadata)));
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(service) = self.services.get(key) else { return self.remove(key).await };
        let Some(selector) = super::selector(&service) else { return Ok(Next::Settled) };
        let selected = super::selected_pods(&self.pods, &service, &selector);
        let held = self.endpoints.get(key);
        let Some(wanted) = decide(&service, &selected, held.as_deref()) else { return Ok(Next::Settled) };
        let outcome = match &held {
            Some(_) => self.context.update(&wanted).await,
            None => self.context.create(&wanted).await,
        };
        match outcome {
            Ok(_) => Ok(Next::Settled),
            Err(error) if is_namespace_terminating(&error) => Ok(Next::Settled),
            Err(error) => {
                let (reason, verb) = match &held {
                    Some(_) => ("FailedToUpdateEndpoint", "update"),
                    None => ("FailedToCreateEndpoint", "create"),
                };
                let text = format!("Failed to {verb} endpoint {key}: {}", error_text(&error));
                self.recorder.event(&client::object_ref(&*service), EventType::Warning, reason, text);
                Err(error.into())
            }
        }
    }
}

/// Pure. The object to write, or nothing when it stands as wanted.
fn decide(service: &Service, selected: &[Arc<Pod>], held: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = subsets(service, selected);
    let labels = super::labels(service, &[(MANAGED_BY_LABEL, MANAGED_BY)]);
    let mut wanted = held.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    wanted.metadata.labels = Some(labels);
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    wanted.metadata.annotations = wanted.metadata.annotations.filter(|annotations| !annotations.is_empty());
    (held != Some(&wanted)).then_some(wanted)
}

fn subsets(service: &Service, selected: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let family = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref()?.first().cloned());
    let family = family.unwrap_or_else(|| "IPv4".into());
    let publishes_unready = super::publishes_unready(service);
    let mut by_ports: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let mut count = 0;
    for pod in selected {
        let hidden = pods::is_finished(pod) || (pods::is_terminating(pod) && !publishes_unready);
        let Some(ip) = super::addresses(pod, &family).first().map(|ip| (*ip).to_owned()) else { continue };
        let ports = super::endpoint_ports(service, pod);
        if hidden || (ports.is_empty() && !(super::is_headless(service) && super::ports_of(service).is_empty())) {
            continue;
        }
        count += 1;
        if count > ADDRESSES_MAX {
            continue;
        }
        let address = EndpointAddress {
            ip,
            hostname: super::hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty()),
            target_ref: Some(super::target_ref(pod)),
        };
        let subset = by_ports.entry(super::spread::ports_key(&ports)).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then(|| ports.iter().map(legacy_port).collect()),
            ..EndpointSubset::default()
        });
        let list = match publishes_unready || pods::is_ready(pod) {
            true => &mut subset.addresses,
            false => &mut subset.not_ready_addresses,
        };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<EndpointSubset> = by_ports.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| ip_order(&a.ip).cmp(&ip_order(&b.ip)).then_with(|| target(a).cmp(&target(b))));
        }
        if let Some(ports) = &mut subset.ports {
            ports.sort_by(|a, b| (&a.name, a.port).cmp(&(&b.name, b.port)));
        }
    }
    (subsets, count > ADDRESSES_MAX)
}

fn ip_order(ip: &str) -> Option<std::net::IpAddr> {
    ip.parse().ok()
}

fn target(address: &EndpointAddress) -> Option<&String> {
    address.target_ref.as_ref().and_then(|target| target.uid.as_ref())
}

fn legacy_port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.port.unwrap_or(0),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    }
}

fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};

    #[track_caller]
    fn check(pods: &str, expected: &str) {
        let mut service = Service::default();
        service.metadata.name = Some("web".into());
        let port = ServicePort { port: 80, ..ServicePort::default() };
        service.spec = Some(ServiceSpec { ports: Some(vec![port]), ..ServiceSpec::default() });
        let wanted = decide(&service, &fixtures::pods(pods), None).unwrap();
        let ips = |list: &Option<Vec<EndpointAddress>>| {
            list.iter().flatten().map(|address| address.ip.as_str()).collect::<Vec<_>>().join(",")
        };
        let subsets: Vec<String> = wanted
            .subsets
            .iter()
            .flatten()
            .map(|subset| format!("{}|{}", ips(&subset.addresses), ips(&subset.not_ready_addresses)))
            .collect();
        assert_eq!(subsets.join(" "), expected);
        assert_eq!(decide(&service, &fixtures::pods(pods), Some(&wanted)), None);
    }

    #[test]
    fn lists_ready_and_unready_addresses() {
        check("", "");
        check("b:ip=10.0.0.10 a:ip=10.0.0.9", "10.0.0.9,10.0.0.10|");
        check("a:ip=10.0.0.1 b:ip=10.0.0.2,unready", "10.0.0.1|10.0.0.2");
        check("a:ip=10.0.0.1,deleting b:ip=10.0.0.2,failed c", "");
    }
}
