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
                let (reason, what) = match &held {
                    Some(_) => ("FailedToUpdateEndpoint", "update endpoint"),
                    None => ("FailedToCreateEndpoint", "create endpoint for service"),
                };
                let text = format!("Failed to {what} {key}: {}", error_text(&error));
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
    for pod in selected {
        let hidden = pods::is_finished(pod) || (pods::is_terminating(pod) && !publishes_unready);
        let Some(ip) = super::addresses(pod, &family).first().map(|ip| (*ip).to_owned()) else { continue };
        let ports = super::endpoint_ports(service, pod);
        if hidden || (ports.is_empty() && !(super::is_headless(service) && super::ports_of(service).is_empty())) {
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
    let truncated = truncate(&mut subsets, ADDRESSES_MAX);
    (subsets, truncated)
}

/// Ready addresses are worth more than others; of either sort each subset keeps its share, rounded up while there is room.
fn truncate(subsets: &mut [EndpointSubset], max: usize) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let unready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
    if ready + unready <= max {
        return false;
    }
    let (room, total) = if ready > max { (max, ready) } else { (max - ready, unready) };
    let mut left = room;
    for subset in subsets {
        let list = if ready > max {
            subset.not_ready_addresses = None;
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        let share = (count(list) * room).div_ceil(total).min(left);
        left -= share;
        if let Some(addresses) = list {
            addresses.truncate(share);
        }
        if share == 0 {
            *list = None;
        }
    }
    true
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
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    /// `[headless] [noports] [publish] [v6]`; ports are 80, and `named` for a named one that no container has.
    fn service(text: &str) -> Service {
        let mut service = Service::default();
        service.metadata.name = Some("web".into());
        let mut spec = ServiceSpec { ports: Some(vec![ServicePort { port: 80, ..ServicePort::default() }]), ..ServiceSpec::default() };
        for word in text.split_whitespace() {
            match word {
                "headless" => spec.cluster_ip = Some("None".into()),
                "noports" => spec.ports = None,
                "publish" => spec.publish_not_ready_addresses = Some(true),
                "v6" => spec.ip_families = Some(vec!["IPv6".into()]),
                "named" => spec.ports.as_mut().unwrap()[0].target_port = Some(IntOrString::String("nope".into())),
                other => panic!("{other}"),
            }
        }
        service.spec = Some(spec);
        service
    }

    #[track_caller]
    fn check(spec: &str, pods: &str, expected: &str) {
        let service = service(spec);
        let wanted = decide(&service, &fixtures::pods(pods), None).unwrap();
        let ips = |list: &Option<Vec<EndpointAddress>>| {
            list.iter().flatten().map(|address| address.ip.as_str()).collect::<Vec<_>>().join(",")
        };
        let subsets: Vec<String> = wanted
            .subsets
            .iter()
            .flatten()
            .map(|subset| {
                let ports: Vec<String> = subset.ports.iter().flatten().map(|port| port.port.to_string()).collect();
                format!("{}|{}@{}", ips(&subset.addresses), ips(&subset.not_ready_addresses), ports.join(","))
            })
            .collect();
        assert_eq!(subsets.join(" "), expected);
        assert_eq!(decide(&service, &fixtures::pods(pods), Some(&wanted)), None); // And then it stands.
    }

    #[test]
    fn lists_ready_and_unready_addresses() {
        check("", "", "");
        check("", "b:ip=10.0.0.10 a:ip=10.0.0.9", "10.0.0.9,10.0.0.10|@80");
        check("", "a:ip=10.0.0.1 b:ip=10.0.0.2,unready", "10.0.0.1|10.0.0.2@80");
        check("", "a:ip=10.0.0.1,pending", "|10.0.0.1@80");
        check("", "a:ip=10.0.0.1,deleting b:ip=10.0.0.2,failed c d:ip=10.0.0.3,succeeded", "");
        check("publish", "a:ip=10.0.0.1,unready", "10.0.0.1|@80");
        check("publish", "a:ip=10.0.0.1,deleting", "10.0.0.1|@80");
        check("publish", "a:ip=10.0.0.1,failed", "");
        check("headless noports", "a:ip=10.0.0.1", "10.0.0.1|@");
        check("noports", "a:ip=10.0.0.1", "");
        check("named", "a:ip=10.0.0.1", "");
        check("v6", "a:ip=10.0.0.1 b:ip=fd00::1", "fd00::1|@80");
    }

    #[test]
    fn there_are_a_thousand_addresses_at_most() {
        /// Subsets are `ready/unready` counts.
        #[track_caller]
        fn check(text: &str, max: usize, expected: &str) {
            let list = |count: &str| {
                let count: usize = count.parse().unwrap();
                (count > 0).then(|| vec![EndpointAddress::default(); count])
            };
            let subset = |word: &str| {
                let (ready, unready) = word.split_once('/').unwrap();
                EndpointSubset { addresses: list(ready), not_ready_addresses: list(unready), ports: None }
            };
            let mut subsets: Vec<EndpointSubset> = text.split_whitespace().map(subset).collect();
            let truncated = truncate(&mut subsets, max);
            let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
            let told = subsets.iter().map(|subset| format!("{}/{}", count(&subset.addresses), count(&subset.not_ready_addresses)));
            let mark = if truncated { "truncated " } else { "" };
            assert_eq!(format!("{mark}{}", told.collect::<Vec<_>>().join(" ")), expected);
        }
        check("10/10", 20, "10/10");
        check("30/10", 20, "truncated 20/0"); // The unready ones go first,
        check("10/30", 20, "truncated 10/10");
        check("20/30", 20, "truncated 20/0");
        check("30/5 10/5", 20, "truncated 15/0 5/0"); // in proportion.
        check("30/0 29/0 29/0", 20, "truncated 7/0 7/0 6/0");
        check("5/10 5/30", 20, "truncated 5/3 5/7");
        let mut held = decide(&service(""), &[], None).unwrap();
        held.metadata.annotations = Some([(OVER_CAPACITY.to_owned(), "truncated".to_owned())].into());
        let mended = decide(&service(""), &[], Some(&held)).unwrap();
        assert_eq!(mended.metadata.annotations, None);
        let many: String = (0..1001).map(|n| format!("p{n}:ip=10.0.{}.{} ", n / 256, n % 256)).collect();
        let full = decide(&service(""), &fixtures::pods(&many), None).unwrap();
        assert_eq!(full.metadata.annotations.unwrap()[OVER_CAPACITY], "truncated");
    }

    #[test]
    fn labels_are_those_of_the_service() {
        let mut service = service("headless");
        service.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
        let labels = decide(&service, &[], None).unwrap().metadata.labels.unwrap();
        let told: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(told, ["app=web", "endpoints.kubernetes.io/managed-by=endpoint-controller", "service.kubernetes.io/headless="]);
    }
}
