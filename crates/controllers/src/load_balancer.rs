//! Services of type LoadBalancer without a cloud: the nodes' own addresses, or one of a pool.
//!
//! Invariant: no two Services answer at the same address, protocol and port. What a Service was given stays its own
//! until it goes or asks for something else. A Service of somebody else's `loadBalancerClass` is not touched.
//!
//! Deliberately absent: the data path (`proxy` leads the addresses to endpoints), and making a node answer for an
//! address of the pool (the node itself does, told by an annotation).

mod decide;
mod pool;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, Patch, object_ref};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::context::Context;
use crate::endpoints::slices::{BY_SERVICE, index_by_service, service_of};
use crate::failure::{Failure, ignore_not_found};
use crate::runner::{Controller, Next, Queue};
use decide::{Balanced, decide, entrance, taken};
pub use decide::{ANNOUNCER, ingress};
pub use pool::AddressPool;

const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// The class by which a Service may ask for this controller.
const CLASS: &str = "coracle.io/load-balancer";

pub(crate) struct LoadBalancers {
    context: Arc<Context>,
    services: Arc<Informer<Service>>,
    nodes: Arc<Informer<Node>>,
    slices: Arc<Informer<EndpointSlice>>,
    recorder: EventRecorder,
}

impl LoadBalancers {
    pub fn new(context: &Arc<Context>) -> Self {
        let slices = context.informer();
        index_by_service(&slices);
        LoadBalancers {
            context: context.clone(),
            services: context.informer(),
            nodes: context.informer(),
            slices,
            recorder: context.recorder("service-controller"),
        }
    }

    fn decide(&self, key: &ObjectKey, service: &Service) -> Result<Balanced, String> {
        let mut entrances: Vec<_> = self.nodes.list().iter().filter_map(|node| entrance(node)).collect();
        entrances.sort_by(|one, other| one.node.cmp(&other.node));
        let services = self.services.list();
        let balanced = services.iter().map(AsRef::as_ref).filter(|service| is_ours(service));
        let settings = &self.context.settings.load_balancers;
        let taken = taken(balanced, key);
        decide(service, &entrances, &self.with_endpoints(key), &taken, settings.pool.as_ref(), &settings.reserved_ports)
    }

    fn with_endpoints(&self, key: &ObjectKey) -> BTreeSet<String> {
        let slices = self.slices.indexed(BY_SERVICE, &key.to_string());
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter());
        let ready = endpoints.filter(|it| it.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true));
        ready.filter_map(|endpoint| endpoint.node_name.clone()).collect()
    }

    /// Gives everything back. The object itself may be about to go.
    async fn release(&self, key: &ObjectKey, service: &Service) -> Result<(), Failure> {
        let about = object_ref(service);
        self.recorder.event(&about, EventType::Normal, "DeletingLoadBalancer", "Deleting load balancer");
        if service.metadata.deletion_timestamp.is_none() {
            let empty = Patch::Merge(json!({"status": {"loadBalancer": null}}));
            ignore_not_found(self.context.patch_status::<Service>(key, &empty).await)?;
        }
        let others: Vec<&String> = service.metadata.finalizers.iter().flatten().filter(|held| *held != FINALIZER).collect();
        let patch = json!({"metadata": {
            "finalizers": others, "annotations": {ANNOUNCER: null}, "uid": service.metadata.uid,
        }});
        ignore_not_found(self.context.rest.patch::<Service>(key, &Patch::Merge(patch), "").await)?;
        self.recorder.event(&about, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }

    async fn ensure(&self, key: &ObjectKey, service: &Service, wanted: &Balanced) -> Result<(), Failure> {
        let about = object_ref(service);
        let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        let announcer = service.metadata.annotations.as_ref().and_then(|all| all.get(ANNOUNCER));
        let is_marked = finalizers.iter().any(|held| held == FINALIZER);
        if !is_marked || announcer != wanted.announcer.as_ref() {
            if !is_marked {
                finalizers.push(FINALIZER.to_owned());
            }
            let metadata = json!({
                "finalizers": finalizers, "annotations": {ANNOUNCER: wanted.announcer},
                "resourceVersion": service.metadata.resource_version, "uid": service.metadata.uid,
            });
            self.context.patch::<Service>(key, &Patch::Merge(json!({"metadata": metadata}))).await?;
        }
        let held = ingress(service);
        if held == wanted.ingress {
            return Ok(());
        }
        let is_first = held.is_empty();
        if is_first {
            self.recorder.event(&about, EventType::Normal, "EnsuringLoadBalancer", "Ensuring load balancer");
        }
        self.write_ingress(key, wanted).await?;
        let (reason, message) = match is_first {
            true => ("EnsuredLoadBalancer", "Ensured load balancer"),
            false => ("UpdatedLoadBalancer", "Updated load balancer with new hosts"),
        };
        self.recorder.event(&about, EventType::Normal, reason, message);
        Ok(())
    }

    async fn write_ingress(&self, key: &ObjectKey, wanted: &Balanced) -> Result<(), Failure> {
        let ingress: Vec<_> = wanted.ingress.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        ignore_not_found(self.context.patch_status::<Service>(key, &patch).await)?;
        Ok(())
    }
}

fn is_balanced(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
}

fn is_ours(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    is_balanced(service) && class.is_none_or(|class| class == CLASS)
}

fn is_marked(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|held| held == FINALIZER)
}

#[async_trait]
impl Controller for LoadBalancers {
    fn name(&self) -> &'static str {
        "service-lb-controller"
    }

    /// One: two at once could give the same address away.
    fn workers(&self) -> usize {
        1
    }

    fn watch(&self, queue: &Queue) {
        let (services, own) = (self.services.clone(), queue.clone());
        self.services.subscribe(move |change: &Change<Service>| {
            let service = change.object();
            let was = change.old().is_some_and(|old| is_ours(old));
            if !was && !is_ours(service) && !is_marked(service) {
                return;
            }
            own.add(ObjectKey::of(&service.metadata));
            // What this one gives up, another may be waiting for.
            for waiting in services.list().iter().filter(|it| is_ours(it) && ingress(it).is_empty()) {
                own.add(ObjectKey::of(&waiting.metadata));
            }
        });
        let (services, own) = (self.services.clone(), queue.clone());
        self.nodes.subscribe(move |change: &Change<Node>| {
            let after = (!matches!(change, Change::Deleted(_))).then(|| entrance(change.object())).flatten();
            if change.old().is_some_and(|old| entrance(old) == after) {
                return;
            }
            for service in services.list().iter().filter(|it| is_ours(it)) {
                own.add(ObjectKey::of(&service.metadata));
            }
        });
        let (services, own) = (self.services.clone(), queue.clone());
        self.slices.subscribe(move |change: &Change<EndpointSlice>| {
            if let Some(key) = service_of(change.object())
                && services.get(&key).is_some_and(|service| is_ours(&service))
            {
                own.add(key);
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(service) = self.services.get(key) else { return Ok(Next::Settled) };
        if !is_ours(&service) || service.metadata.deletion_timestamp.is_some() {
            if is_marked(&service) {
                self.release(key, &service).await?;
            }
            return Ok(Next::Settled);
        }
        match self.decide(key, &service) {
            Ok(wanted) => self.ensure(key, &service, &wanted).await?,
            Err(problem) => {
                if !ingress(&service).is_empty() {
                    self.write_ingress(key, &Balanced { ingress: Vec::new(), announcer: None }).await?;
                }
                let message = format!("Error syncing load balancer: failed to ensure load balancer: {problem}");
                self.recorder.event(&object_ref(&*service), EventType::Warning, "SyncLoadBalancerFailed", message);
            }
        }
        Ok(Next::Settled)
    }
}
