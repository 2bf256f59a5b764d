//! Says of each ServiceCIDR whether addresses may be given from it, and holds one that goes until none of its addresses
//! would be left without a range.
//!
//! Invariant: the finalizer goes only some time after the deletion was asked for, so that every server has stopped
//! giving from the range before it is looked at for the last time.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey, Patch};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde_json::{Value, json};

use crate::context::{Context, seconds_between, whole_seconds};
use crate::failure::{Failure, ignore_not_found};
use crate::runner::{Controller, Next, Queue};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// How long other servers may go on giving from a range that goes.
const DELETION_GRACE_SECONDS: i64 = 10;
const READY: &str = "Kubernetes Service CIDR is ready";
const HELD: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

pub(crate) struct ServiceRanges {
    context: Arc<Context>,
    ranges: Arc<Informer<ServiceCIDR>>,
    addresses: Arc<Informer<IPAddress>>,
}

impl ServiceRanges {
    pub fn new(context: &Arc<Context>) -> Self {
        ServiceRanges { context: context.clone(), ranges: context.informer(), addresses: context.informer() }
    }
}

#[derive(Debug, PartialEq)]
enum Step {
    AddFinalizer,
    /// The condition, without its time.
    Condition { status: &'static str, reason: &'static str, message: &'static str },
    RemoveFinalizer,
    Wait { seconds: i64 },
}

fn cidrs(range: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|cidr| cidr.parse().ok())
}

/// Neither a network's own address nor a broadcast is given from it.
fn gives(net: &IpNet, ip: IpAddr) -> bool {
    net.contains(&ip) && ip != net.network() && !(ip.is_ipv4() && ip == net.broadcast())
}

/// The address, if it is one that the API server gave.
fn given(address: &IPAddress) -> Option<IpAddr> {
    let labels = address.metadata.labels.as_ref()?;
    if labels.get(MANAGED_BY).map(String::as_str) != Some(ALLOCATOR) {
        return None;
    }
    address.metadata.name.as_ref()?.parse().ok()
}

/// Pure.
fn decide(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[IpAddr], now: Timestamp) -> Vec<Step> {
    let held = range.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        let mut steps = Vec::new();
        if !held {
            steps.push(Step::AddFinalizer);
        }
        steps.extend(condition(range, "True", "", READY));
        return steps;
    };
    if !may_go(range, all, addresses) {
        return condition(range, "False", "Terminating", HELD).into_iter().collect();
    }
    if !held {
        return Vec::new();
    }
    match DELETION_GRACE_SECONDS - seconds_between(deleted, now) {
        seconds if seconds > 0 => vec![Step::Wait { seconds }],
        _ => vec![Step::RemoveFinalizer],
    }
}

fn condition(range: &ServiceCIDR, status: &'static str, reason: &'static str, message: &'static str) -> Option<Step> {
    let conditions = range.status.as_ref().and_then(|status| status.conditions.as_ref());
    let same = conditions.into_iter().flatten().any(|own| {
        own.type_ == "Ready" && own.status == status && own.reason == reason && own.message == message
    });
    (!same).then_some(Step::Condition { status, reason, message })
}

/// Whether other ranges hold all that this one held.
fn may_go(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[IpAddr]) -> bool {
    let others: Vec<IpNet> =
        all.iter().filter(|other| other.metadata.name != range.metadata.name).flat_map(|other| cidrs(other)).collect();
    cidrs(range).all(|own| others.iter().any(|other| other.contains(&own)))
        || cidrs(range).all(|own| {
            let mut inside = addresses.iter().filter(|ip| gives(&own, **ip));
            inside.all(|ip| others.iter().any(|other| gives(other, *ip)))
        })
}

#[async_trait]
impl Controller for ServiceRanges {
    fn name(&self) -> &'static str {
        "service-cidrs-controller"
    }

    fn watch(&self, queue: &Queue) {
        // There are few ranges, and each may hold or free another.
        let (ranges, own) = (self.ranges.clone(), queue.clone());
        self.ranges.subscribe(move |_: &Change<ServiceCIDR>| {
            ranges.list().iter().for_each(|range| own.add(ObjectKey::of(&range.metadata)));
        });
        let (ranges, own) = (self.ranges.clone(), queue.clone());
        self.addresses.subscribe(move |change: &Change<IPAddress>| {
            // Addresses matter to ranges that go alone.
            if let Some(ip) = given(change.object()) {
                let ranges = ranges.list();
                let going = ranges.iter().filter(|range| range.metadata.deletion_timestamp.is_some());
                for range in going.filter(|range| cidrs(range).any(|cidr| gives(&cidr, ip))) {
                    own.add(ObjectKey::of(&range.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(range) = self.ranges.get(key) else { return Ok(Next::Settled) };
        let addresses: Vec<IpAddr> = match range.metadata.deletion_timestamp {
            Some(_) => self.addresses.list().iter().filter_map(|address| given(address)).collect(),
            None => Vec::new(),
        };
        let mut next = Next::Settled;
        for step in decide(&range, &self.ranges.list(), &addresses, self.context.now()) {
            let changed = match step {
                Step::Wait { seconds } => {
                    next = Next::after_seconds(Some(seconds));
                    continue;
                }
                Step::Condition { status, reason, message } => {
                    let condition = json!({
                        "type": "Ready", "status": status, "reason": reason, "message": message,
                        "lastTransitionTime": whole_seconds(self.context.now()).to_string(),
                    });
                    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
                    self.context.patch_status::<ServiceCIDR>(key, &patch).await
                }
                Step::AddFinalizer => self.patch_finalizers(key, json!({"finalizers": [FINALIZER]})).await,
                Step::RemoveFinalizer => {
                    self.patch_finalizers(key, json!({"$deleteFromPrimitiveList/finalizers": [FINALIZER]})).await
                }
            };
            ignore_not_found(changed)?;
        }
        Ok(next)
    }
}

impl ServiceRanges {
    async fn patch_finalizers(&self, key: &ObjectKey, metadata: Value) -> Result<ServiceCIDR, kube::Error> {
        self.context.patch(key, &Patch::Strategic(json!({"metadata": metadata}))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:01:00Z";

    /// `name cidr flags`: `deleted@seconds-ago`, `held` (has the finalizer), `ready`.
    fn range(text: &str) -> Arc<ServiceCIDR> {
        let mut words = text.split(' ');
        let (name, cidr) = (words.next().unwrap(), words.next().unwrap());
        let mut object = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
        for flag in words {
            match flag.split_once('@') {
                Some(("deleted", seconds)) => {
                    let now: Timestamp = NOW.parse().unwrap();
                    let time = now - jiff::SignedDuration::from_secs(seconds.parse().unwrap());
                    object["metadata"]["deletionTimestamp"] = time.to_string().into();
                }
                _ if flag == "held" => object["metadata"]["finalizers"] = json!([FINALIZER]),
                _ => {
                    object["status"] = json!({"conditions": [{
                        "type": "Ready", "status": "True", "reason": "", "message": READY,
                        "lastTransitionTime": NOW,
                    }]});
                }
            }
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[track_caller]
    fn check(ranges: &[&str], addresses: &[&str], expected: &str) {
        let all: Vec<Arc<ServiceCIDR>> = ranges.iter().map(|text| range(text)).collect();
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let steps: Vec<String> = decide(&all[0], &all, &addresses, NOW.parse().unwrap())
            .into_iter()
            .map(|step| match step {
                Step::AddFinalizer => "hold".to_owned(),
                Step::RemoveFinalizer => "let go".to_owned(),
                Step::Wait { seconds } => format!("wait {seconds}"),
                Step::Condition { status, reason, .. } => format!("{status} {reason}").trim().to_owned(),
            })
            .collect();
        assert_eq!(steps.join(", "), expected);
    }

    #[test]
    fn ranges_are_held_while_they_are_used() {
        check(&["a 10.0.0.0/24"], &[], "hold, True");
        check(&["a 10.0.0.0/24 held ready"], &["10.0.0.1"], "");
        check(&["a 10.0.0.0/24 held ready deleted@3"], &[], "wait 7");
        check(&["a 10.0.0.0/24 held ready deleted@10"], &[], "let go");
        check(&["a 10.0.0.0/24 ready deleted@10"], &[], "");
        check(&["a 10.0.0.0/24 held ready deleted@10"], &["10.0.0.1"], "False Terminating");
        check(&["a 10.0.0.0/24 held ready deleted@10"], &["10.0.1.1"], "let go");
        // Another range holds the whole of it, or the addresses at least.
        check(&["a 10.0.0.0/24 held ready deleted@10", "b 10.0.0.0/16"], &["10.0.0.1"], "let go");
        check(&["a 10.0.0.0/24 held ready deleted@10", "b 10.0.0.0/28"], &["10.0.0.1"], "let go");
        check(&["a 10.0.0.0/24 held ready deleted@10", "b 10.0.0.0/28"], &["10.0.0.15"], "False Terminating");
    }
}
