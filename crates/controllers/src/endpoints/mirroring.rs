//! Mirrors Endpoints that somebody keeps by hand, for a Service without selector, into EndpointSlices.
//!
//! Invariant: Endpoints of Services with a selector, and those labelled `skip-mirror`, are never mirrored.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, DeleteOptions, EventRecorder, EventType, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::slices::{BY_SERVICE, MANAGED_BY_LABEL, SERVICE_NAME_LABEL, fill, index_by_service, managed_by, watch_slices};
use super::spread::{Changes, Group, ports_key, spread};
use crate::context::Context;
use crate::failure::{Failure, is_namespace_terminating};
use crate::owners;
use crate::runner::{Controller, Next, Queue};

const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses mirrored of each subset, and in a slice.
const PER_SUBSET_MAX: usize = 1000;

pub(crate) struct EndpointSliceMirroring {
    context: Arc<Context>,
    recorder: EventRecorder,
    services: Arc<Informer<Service>>,
    endpoints: Arc<Informer<Endpoints>>,
    slices: Arc<Informer<EndpointSlice>>,
}

impl EndpointSliceMirroring {
    pub fn new(context: &Arc<Context>) -> Self {
        let slices = context.informer::<EndpointSlice>();
        index_by_service(&slices);
        EndpointSliceMirroring {
            context: context.clone(),
            recorder: context.recorder("endpoint-slice-mirroring-controller"),
            services: context.informer(),
            endpoints: context.informer(),
            slices,
        }
    }

    async fn act(&self, endpoints: &Endpoints, family: &str, changes: Changes) -> Result<(), kube::Error> {
        for group in changes.create {
            let mut slice = EndpointSlice {
                address_type: family.to_owned(),
                metadata: ObjectMeta {
                    generate_name: Some(format!("{}-", endpoints.metadata.name.as_deref().unwrap_or_default())),
                    namespace: endpoints.metadata.namespace.clone(),
                    labels: Some(labels(endpoints)),
                    annotations: annotations(endpoints),
                    owner_references: Some(vec![owners::controller_reference(endpoints)]),
                    ..ObjectMeta::default()
                },
                ..EndpointSlice::default()
            };
            fill(&mut slice, group);
            match self.context.create(&slice).await {
                Err(error) if is_namespace_terminating(&error) => return Ok(()),
                outcome => outcome?,
            };
        }
        for (slice, group) in changes.update {
            let mut updated = (*slice).clone();
            updated.metadata.labels = Some(labels(endpoints));
            updated.metadata.annotations = annotations(endpoints);
            fill(&mut updated, group);
            self.context.update(&updated).await?;
        }
        self.delete(changes.delete).await
    }

    async fn delete(&self, slices: Vec<Arc<EndpointSlice>>) -> Result<(), kube::Error> {
        for slice in slices {
            let uid = slice.metadata.uid.clone().unwrap_or_default();
            self.context.delete::<EndpointSlice>(&ObjectKey::of(&slice.metadata), &DeleteOptions::uid(uid)).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Controller for EndpointSliceMirroring {
    fn name(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.endpoints.subscribe(move |change: &Change<Endpoints>| own.add(ObjectKey::of(&change.object().metadata)));
        let own = queue.clone();
        self.services.subscribe(move |change: &Change<Service>| own.add(ObjectKey::of(&change.object().metadata)));
        watch_slices(&self.slices, MANAGED_BY, queue);
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let mut slices = self.slices.indexed(BY_SERVICE, &key.to_string());
        slices.retain(|slice| managed_by(slice) == Some(MANAGED_BY));
        let endpoints = self.endpoints.get(key).filter(|endpoints| is_mirrored(endpoints));
        let service = self.services.get(key).filter(|service| super::selector(service).is_none());
        let (Some(endpoints), Some(_)) = (endpoints, service) else {
            self.delete(slices).await?;
            return Ok(Next::Settled);
        };
        let decided = decide(&endpoints, &slices);
        let skipped = skipped(&endpoints);
        if skipped > 0 {
            let text = format!(
                "A max of {PER_SUBSET_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
            );
            self.recorder.event(&client::object_ref(&*endpoints), EventType::Warning, "TooManyAddressesToMirror", text);
        }
        for (family, changes) in decided {
            self.act(&endpoints, family, changes).await?;
        }
        Ok(Next::Settled)
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skips = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(SKIP_MIRROR)).is_some_and(|value| value == "true");
    let leads = endpoints.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER_ANNOTATION));
    !skips && !leads && endpoints.metadata.deletion_timestamp.is_none()
}

/// Pure. Families without any address lose their slices.
fn decide(endpoints: &Endpoints, slices: &[Arc<EndpointSlice>]) -> Vec<(&'static str, Changes)> {
    let wanted_labels = labels(endpoints);
    let wanted_annotations = annotations(endpoints);
    let refresh = |slice: &EndpointSlice| {
        slice.metadata.labels.as_ref() != Some(&wanted_labels) || slice.metadata.annotations != wanted_annotations
    };
    let mut decided = Vec::new();
    for family in ["IPv4", "IPv6"] {
        let existing: Vec<_> = slices.iter().filter(|slice| slice.address_type == family).cloned().collect();
        let groups = groups(endpoints, family);
        if groups.iter().all(|group| group.endpoints.is_empty()) {
            decided.push((family, Changes { delete: existing, ..Changes::default() }));
        } else {
            decided.push((family, spread(groups, &existing, PER_SUBSET_MAX, refresh)));
        }
    }
    decided
}

fn groups(endpoints: &Endpoints, family: &str) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let group = groups.entry(ports_key(&ports)).or_insert_with(|| Group { ports, endpoints: Vec::new() });
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mirrored = ready.chain(unready).take(PER_SUBSET_MAX);
        let of_family = mirrored.filter(|(address, _)| super::family_of(&address.ip) == family);
        group.endpoints.extend(of_family.map(|(address, ready)| endpoint(address, ready)));
    }
    groups.into_values().collect()
}

/// Addresses that no slice will have.
fn skipped(endpoints: &Endpoints) -> usize {
    let addresses = |subset: &EndpointSubset| {
        let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
        count(&subset.addresses) + count(&subset.not_ready_addresses)
    };
    endpoints.subsets.iter().flatten().map(|subset| addresses(subset).saturating_sub(PER_SUBSET_MAX)).sum()
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let convert = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(convert).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.into(), endpoints.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    labels
}

fn annotations(endpoints: &Endpoints) -> Option<BTreeMap<String, String>> {
    let mut annotations = endpoints.metadata.annotations.clone()?;
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations.remove("endpoints.kubernetes.io/last-change-trigger-time");
    (!annotations.is_empty()).then_some(annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Subsets separated by `;`: ready addresses, `|`, unready ones, `@`, ports.
    fn endpoints(text: &str) -> Endpoints {
        let list = |text: &str| {
            let addresses: Vec<EndpointAddress> =
                text.split_whitespace().map(|ip| EndpointAddress { ip: ip.into(), ..EndpointAddress::default() }).collect();
            (!addresses.is_empty()).then_some(addresses)
        };
        let subset = |text: &str| {
            let (addresses, ports) = text.split_once('@').unwrap_or((text, ""));
            let (ready, unready) = addresses.split_once('|').unwrap_or((addresses, ""));
            let port = |port: &str| k8s_openapi::api::core::v1::EndpointPort { port: port.parse().unwrap(), ..Default::default() };
            EndpointSubset {
                addresses: list(ready),
                not_ready_addresses: list(unready),
                ports: Some(ports.split_whitespace().map(port).collect()),
            }
        };
        let subsets = text.split(';').filter(|text| !text.trim().is_empty()).map(subset).collect();
        Endpoints { subsets: Some(subsets), ..Endpoints::default() }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let told: Vec<String> = decide(&endpoints(text), &[])
            .iter()
            .flat_map(|(family, changes)| {
                changes.create.iter().map(move |group| {
                    let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true);
                    let mark = |endpoint: &Endpoint| if ready(endpoint) { "+" } else { "-" };
                    let list: Vec<String> = group.endpoints.iter().map(|endpoint| format!("{}{}", mark(endpoint), endpoint.addresses[0])).collect();
                    let ports: Vec<String> = group.ports.iter().map(|port| port.port.unwrap().to_string()).collect();
                    format!("{family}:{} {}", ports.join(","), list.join(" "))
                })
            })
            .collect();
        assert_eq!(told.join("; "), expected);
    }

    #[test]
    fn mirrors_by_family_and_ports() {
        check("", "");
        check("10.0.0.1", "IPv4: +10.0.0.1");
        check("10.0.0.1 fd00::1 | 10.0.0.2 @80", "IPv4:80 +10.0.0.1 -10.0.0.2; IPv6:80 +fd00::1");
        check("10.0.0.1@80; 10.0.0.2@80", "IPv4:80 +10.0.0.1 +10.0.0.2");
        check("10.0.0.1@80; 10.0.0.2@81", "IPv4:80 +10.0.0.1; IPv4:81 +10.0.0.2");
        check("10.0.0.1@80 443", "IPv4:80,443 +10.0.0.1");
        check("@80", "");
    }

    #[test]
    fn a_subset_fits_one_slice_and_no_more_is_mirrored() {
        let many = |from: usize, to: usize| (from..to).map(|n| format!("10.0.{}.{} ", n / 256, n % 256)).collect::<String>();
        let sizes = |text: &str| {
            let decided = decide(&endpoints(text), &[]);
            decided.iter().flat_map(|(_, changes)| changes.create.iter().map(|group| group.endpoints.len())).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&many(0, 250)), [250]);
        assert_eq!(sizes(&format!("{}|{}", many(0, 900), many(900, 1100))), [1000]); // The ready ones first.
        assert_eq!(skipped(&endpoints(&format!("{}|{}", many(0, 900), many(900, 1100)))), 100);
        assert_eq!(skipped(&endpoints(&many(0, 1000))), 0);
    }

    #[test]
    fn what_is_not_mirrored() {
        let with = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| {
            let map = |list: &[(&str, &str)]| Some(list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
            let mut endpoints = Endpoints::default();
            endpoints.metadata.labels = map(labels);
            endpoints.metadata.annotations = map(annotations);
            is_mirrored(&endpoints)
        };
        assert!(with(&[], &[]));
        assert!(with(&[(SKIP_MIRROR, "false")], &[]));
        assert!(!with(&[(SKIP_MIRROR, "true")], &[]));
        assert!(!with(&[], &[(LEADER_ANNOTATION, "{}")]));
    }

    #[test]
    fn slices_carry_what_the_endpoints_carry() {
        let mut endpoints = Endpoints::default();
        endpoints.metadata.name = Some("web".into());
        endpoints.metadata.labels = Some([("a".into(), "b".into()), (MANAGED_BY_LABEL.into(), "me".into())].into());
        let own = [("kubectl.kubernetes.io/last-applied-configuration".to_owned(), "{}".to_owned()), ("x".to_owned(), "y".to_owned())];
        endpoints.metadata.annotations = Some(own.into());
        let labels = labels(&endpoints);
        assert_eq!((labels["a"].as_str(), labels[SERVICE_NAME_LABEL].as_str(), labels[MANAGED_BY_LABEL].as_str()), ("b", "web", MANAGED_BY));
        assert_eq!(annotations(&endpoints), Some([("x".to_owned(), "y".to_owned())].into()));
    }
}
