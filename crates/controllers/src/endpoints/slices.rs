//! Keeps the EndpointSlices of every Service with a selector.
//!
//! Invariant: a pod is `ready` in a slice only while it is ready and not terminating (or the Service
//! publishes unready addresses); a terminating pod that still serves says so, for connections to drain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, DeleteOptions, EventRecorder, EventType, Informer, ObjectKey};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointSlice, ForNode, ForZone};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

use super::capacity::{self, Capacity};
use super::spread::{Changes, Group, PER_SLICE_MAX, spread};
use crate::context::Context;
use crate::failure::{Failure, error_text, is_namespace_terminating};
use crate::node::{BY_NODE, index_by_node};
use crate::owners;
use crate::pods;
use crate::runner::{Controller, Next, Queue};

pub(super) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

pub(crate) struct EndpointSlices {
    context: Arc<Context>,
    recorder: EventRecorder,
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    slices: Arc<Informer<EndpointSlice>>,
    /// Services that have hints by capacity, to tell when they begin and cease to.
    hinted: Mutex<BTreeSet<ObjectKey>>,
}

struct Observed<'a> {
    service: &'a Service,
    pods: Vec<Arc<Pod>>,
    /// The nodes that are there, with their zone, if they have one.
    zones: BTreeMap<String, Option<String>>,
    /// Of the zones; asked for only when the Service's hints go by it.
    capacity: Option<Capacity>,
    slices: Vec<Arc<EndpointSlice>>,
}

/// What becomes of the slices of one address family.
#[derive(Debug)]
struct Decided {
    /// Empty for families that the Service no longer has.
    family: String,
    changes: Changes,
    /// Where hints go by capacity: whether there are any, or why not.
    hinted: Option<Result<(), String>>,
}

impl EndpointSlices {
    pub fn new(context: &Arc<Context>) -> Self {
        let slices = context.informer::<EndpointSlice>();
        index_by_service(&slices);
        let pods = context.informer::<Pod>();
        index_by_node(&pods);
        EndpointSlices {
            context: context.clone(),
            recorder: context.recorder("endpoint-slice-controller"),
            services: context.informer(),
            pods,
            nodes: context.informer(),
            slices,
            hinted: Mutex::new(BTreeSet::new()),
        }
    }

    fn capacity(nodes: &Informer<Node>) -> Option<Capacity> {
        Capacity::of(nodes.list().iter().map(|node| &**node))
    }

    /// Tells of hints by capacity that begin, cease, or cannot be.
    fn tell_of_hints(&self, service: &Service, key: &ObjectKey, family: &str, hinted: Option<Result<(), String>>) {
        let about = client::object_ref(service);
        let tell = |kind, reason: &str, text: &str| self.recorder.event(&about, kind, reason, format!("{text}, addressType: {family}"));
        let had = match &hinted {
            Some(Ok(())) => !self.hinted.lock().insert(key.clone()),
            _ => self.hinted.lock().remove(key),
        };
        match hinted {
            Some(Ok(())) if !had => tell(EventType::Normal, "TopologyAwareHintsEnabled", "Topology Aware Hints has been enabled"),
            Some(Ok(())) => {}
            Some(Err(why)) => tell(EventType::Warning, "TopologyAwareHintsDisabled", &why),
            None if had => tell(EventType::Warning, "TopologyAwareHintsDisabled", "Topology Aware Hints has been disabled"),
            None => {}
        }
    }

    async fn act(&self, service: &Service, family: &str, changes: Changes) -> Result<(), kube::Error> {
        for group in changes.create {
            let slice = new_slice(service, family, group);
            match self.context.create(&slice).await {
                Err(error) if is_namespace_terminating(&error) => return Ok(()),
                outcome => outcome?,
            };
        }
        for (slice, group) in changes.update {
            let mut updated = (*slice).clone();
            updated.metadata.labels = Some(slice_labels(service));
            fill(&mut updated, group);
            self.context.update(&updated).await?;
        }
        for slice in changes.delete {
            let uid = slice.metadata.uid.clone().unwrap_or_default();
            self.context.delete::<EndpointSlice>(&ObjectKey::of(&slice.metadata), &DeleteOptions::uid(uid)).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.services.subscribe(move |change: &Change<Service>| own.add(ObjectKey::of(&change.object().metadata)));
        super::watch_pods(&self.pods, &self.services, queue);
        watch_slices(&self.slices, MANAGED_BY, queue);
        // A pod may be known before its node is, and a node may be said to stand elsewhere.
        let (pods, services, slices, nodes) = (self.pods.clone(), self.services.clone(), self.slices.clone(), self.nodes.clone());
        let queue = queue.clone();
        self.nodes.subscribe(move |change: &Change<Node>| {
            let node = change.object();
            let goes = matches!(change, Change::Deleted(_));
            if goes || change.old().is_none_or(|old| capacity::facts(old) != capacity::facts(node)) {
                queue_overloaded(&services, &slices, &nodes, &queue);
            }
            if goes || change.old().is_some_and(|old| zone(old) == zone(node)) {
                return;
            }
            for pod in pods.indexed(BY_NODE, node.metadata.name.as_deref().unwrap_or_default()) {
                super::queue_services(&services, &[&pod], &queue);
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(service) = self.services.get(key) else {
            self.hinted.lock().remove(key);
            return Ok(Next::Settled); // Its slices are garbage.
        };
        let Some(selector) = super::selector(&service) else { return Ok(Next::Settled) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Settled);
        }
        let mut slices = self.slices.indexed(BY_SERVICE, &key.to_string());
        slices.retain(|slice| managed_by(slice) == Some(MANAGED_BY) && slice.metadata.deletion_timestamp.is_none());
        let pods = super::selected_pods(&self.pods, &service, &selector);
        let zones = pods.iter().filter_map(|pod| zone_of(&self.nodes, pod)).collect();
        let capacity = if capacity::is_auto(&service) { Self::capacity(&self.nodes) } else { None };
        let observed = Observed { service: &service, pods, zones, capacity, slices };
        for Decided { family, changes, hinted } in decide(&observed) {
            if !family.is_empty() {
                self.tell_of_hints(&service, key, &family, hinted);
            }
            if let Err(error) = self.act(&service, &family, changes).await {
                if client::error_kind(&error) != client::ErrorKind::Conflict {
                    let text = format!("Error updating Endpoint Slices for Service {key}: {}", error_text(&error));
                    let about = client::object_ref(&*service);
                    self.recorder.event(&about, EventType::Warning, "FailedToUpdateEndpointSlices", text);
                }
                return Err(error.into());
            }
        }
        Ok(Next::Settled)
    }
}

/// Pure. Changes by address family; slices of families that the Service no longer has go away.
fn decide(observed: &Observed<'_>) -> Vec<Decided> {
    let families = families(observed.service);
    let mut decided = Vec::new();
    for family in &families {
        let existing: Vec<Arc<EndpointSlice>> =
            observed.slices.iter().filter(|slice| slice.address_type == *family).cloned().collect();
        let labels = slice_labels(observed.service);
        let refresh = |slice: &EndpointSlice| slice.metadata.labels.as_ref() != Some(&labels);
        let mut groups = groups(observed, family);
        let hinted = capacity::is_auto(observed.service).then(|| {
            let mut endpoints: Vec<_> = groups.iter_mut().flat_map(|group| &mut group.endpoints).collect();
            capacity::give_hints(&mut endpoints, observed.capacity.as_ref())
        });
        let changes = spread(groups, &existing, PER_SLICE_MAX, refresh);
        decided.push(Decided { family: family.clone(), changes, hinted });
    }
    let stray = observed.slices.iter().filter(|slice| !families.contains(&slice.address_type));
    let delete: Vec<_> = stray.cloned().collect();
    if !delete.is_empty() {
        let changes = Changes { delete, ..Changes::default() };
        decided.push(Decided { family: String::new(), changes, hinted: None });
    }
    decided
}

fn families(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if families.is_empty() { vec!["IPv4".into()] } else { families }
}

fn groups(observed: &Observed<'_>, family: &str) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| !pods::is_finished(pod)) {
        let addresses = super::addresses(pod, family);
        if addresses.is_empty() {
            continue;
        }
        // Of a node that is gone nothing is known; its pods will follow it.
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        if node.is_some_and(|node| !observed.zones.contains_key(node)) && !super::publishes_unready(observed.service) {
            continue;
        }
        let ports = super::endpoint_ports(observed.service, pod);
        let key = super::spread::ports_key(&ports);
        let group = groups.entry(key).or_insert_with(|| Group { ports, endpoints: Vec::new() });
        group.endpoints.push(endpoint(observed, pod, &addresses));
    }
    groups.into_values().collect()
}

fn endpoint(observed: &Observed<'_>, pod: &Pod, addresses: &[&str]) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let ready = super::publishes_unready(observed.service) || (serving && !terminating);
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
    let zone = node_name.as_ref().and_then(|node| observed.zones.get(node)).cloned().flatten();
    Endpoint {
        addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }),
        hints: if ready { hints(observed.service, node_name.as_deref(), zone.as_deref()) } else { None },
        hostname: super::hostname(observed.service, pod),
        node_name,
        target_ref: Some(super::target_ref(pod)),
        zone,
        deprecated_topology: None,
    }
}

fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    if capacity::is_auto(service) {
        return None; // They are given when all endpoints are known.
    }
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    match distribution {
        "PreferClose" | "PreferSameZone" => {
            for_zones.map(|for_zones| EndpointHints { for_zones: Some(for_zones), for_nodes: None })
        }
        "PreferSameNode" => Some(EndpointHints { for_zones, for_nodes: Some(vec![ForNode { name: node?.to_owned() }]) }),
        _ => None,
    }
}

/// Services whose hints no longer fit what their zones can bear.
fn queue_overloaded(services: &Informer<Service>, slices: &Informer<EndpointSlice>, nodes: &Informer<Node>, queue: &Queue) {
    let mut hinted = services.list();
    hinted.retain(|service| capacity::is_auto(service));
    if hinted.is_empty() {
        return;
    }
    let capacity = EndpointSlices::capacity(nodes);
    for service in hinted {
        let key = ObjectKey::of(&service.metadata);
        let held = slices.indexed(BY_SERVICE, &key.to_string());
        if capacity::is_overloaded(held.iter().map(|slice| &**slice), capacity.as_ref()) {
            queue.add(key);
        }
    }
}

fn zone_of(nodes: &Informer<Node>, pod: &Pod) -> Option<(String, Option<String>)> {
    let name = pod.spec.as_ref()?.node_name.as_deref()?;
    let node = nodes.get(&ObjectKey::cluster(name))?;
    Some((name.to_owned(), zone(&node).cloned()))
}

fn zone(node: &Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone")
}

fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    super::labels(service, &[(SERVICE_NAME_LABEL, name), (MANAGED_BY_LABEL, MANAGED_BY)])
}

fn new_slice(service: &Service, family: &str, group: Group) -> EndpointSlice {
    let mut slice = EndpointSlice {
        address_type: family.to_owned(),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or_default())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(slice_labels(service)),
            owner_references: Some(vec![owners::controller_reference(service)]),
            ..ObjectMeta::default()
        },
        ..EndpointSlice::default()
    };
    fill(&mut slice, group);
    slice
}

pub(super) fn fill(slice: &mut EndpointSlice, group: Group) {
    slice.endpoints = group.endpoints;
    slice.ports = (!group.ports.is_empty()).then_some(group.ports);
}

/// The index of slices by `namespace/service`.
pub(crate) const BY_SERVICE: &str = "service";

pub(crate) fn index_by_service(slices: &Informer<EndpointSlice>) {
    slices.index_by(BY_SERVICE, |slice: &EndpointSlice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
}

pub(crate) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

pub(super) fn managed_by(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(MANAGED_BY_LABEL).map(String::as_str)
}

/// Slices that somebody else changed or deleted are put right.
pub(super) fn watch_slices(slices: &Informer<EndpointSlice>, managed: &'static str, queue: &Queue) {
    let queue = queue.clone();
    slices.subscribe(move |change: &Change<EndpointSlice>| {
        for slice in change.old().into_iter().chain([change.object()]) {
            if managed_by(slice) == Some(managed)
                && let Some(key) = service_of(slice)
            {
                queue.add(key);
            }
        }
    });
}

#[cfg(test)]
mod tests;
