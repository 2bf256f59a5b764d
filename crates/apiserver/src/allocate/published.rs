//! The objects by which users see the addresses: one IPAddress for each cluster IP, and the ServiceCIDRs to give from.
//!
//! Invariant: the IPAddress of a cluster IP is written, and deleted, in the transaction of its Service. Its key is what
//! servers that share a store agree on: who would give an address a second time finds the key taken. Deliberately
//! absent: who puts right what other hands did (`repair`), and who says when a ServiceCIDR may go (a controller).

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{Compare, Revision, Transaction, Write};

use super::ip_range::IpRange;
use super::service::{Holdings, holdings};
use crate::cache::{Cache, Entry, Filter, encode};
use crate::kinds::{Kind, registry};
use crate::rest::write::{seconds, text};
use crate::server::ApiServer;

pub const GROUP: &str = "networking.k8s.io";
pub const DEFAULT_RANGE: &str = "kubernetes";
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
pub const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
pub const MANAGER: &str = "ipallocator.k8s.io";

pub fn address_kind() -> &'static Kind {
    registry::by_plural(GROUP, "v1", "ipaddresses").expect("a built-in kind")
}

pub fn range_kind() -> &'static Kind {
    registry::by_plural(GROUP, "v1", "servicecidrs").expect("a built-in kind")
}

/// What the allocator asks of the published objects.
pub trait Published: Send + Sync {
    /// Whether somebody has an object of this address.
    fn holds(&self, ip: IpAddr) -> bool;

    /// From where addresses may be given.
    fn ranges(&self) -> Arc<[IpRange]>;
}

pub struct FromCache {
    cache: Arc<Cache>,
    /// Until the default ServiceCIDR is there.
    configured: Vec<IpNet>,
    /// As of the revision of the shelf.
    ranges: Mutex<(Revision, Arc<[IpRange]>)>,
}

impl FromCache {
    pub fn new(cache: Arc<Cache>, configured: Vec<IpNet>) -> Self {
        FromCache { cache, configured, ranges: Mutex::new((-1, Arc::default())) }
    }
}

impl Published for FromCache {
    fn holds(&self, ip: IpAddr) -> bool {
        self.cache.get(address_kind(), "", &ip.to_string()).is_some()
    }

    fn ranges(&self) -> Arc<[IpRange]> {
        let kind = range_kind();
        let mut known = self.ranges.lock();
        let revision = self.cache.shelf(kind).revision();
        if known.0 != revision {
            let objects = self.cache.select(kind, &Filter::default(), None, 0);
            let objects: Vec<Value> = objects.entries.iter().map(|entry| entry.value()).collect();
            *known = (revision, in_force(&objects, &self.configured).into_iter().map(IpRange::new).collect());
        }
        known.1.clone()
    }
}

/// The ranges of the ServiceCIDRs that are ready and stay, each once.
fn in_force(objects: &[Value], configured: &[IpNet]) -> Vec<IpNet> {
    let mut all: Vec<IpNet> = Vec::new();
    let own = objects.iter().any(|object| text(object, "name") == DEFAULT_RANGE);
    if !own {
        all.extend(configured);
    }
    for object in objects.iter().filter(|object| is_ready(object) && text(object, "deletionTimestamp").is_empty()) {
        for range in ranges_of(object) {
            if !all.contains(&range) {
                all.push(range);
            }
        }
    }
    all
}

/// Without a word about it, it is: whoever gives the word may not be running.
fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().find(|own| own["type"] == "Ready").is_none_or(|own| own["status"] == "True")
}

pub fn ranges_of(object: &Value) -> impl Iterator<Item = IpNet> {
    let ranges = object.pointer("/spec/cidrs").and_then(Value::as_array);
    ranges.into_iter().flatten().filter_map(|range| range.as_str()?.parse::<IpNet>().ok())
}

/// What is written along with a Service, or with its deletion.
pub fn along(server: &ApiServer, namespace: &str, name: &str, old: Option<&Value>, new: Option<&Value>) -> Transaction {
    let of = |service: Option<&Value>| service.map_or_else(Holdings::default, holdings);
    let (before, after) = (of(old), of(new));
    let kind = address_kind();
    let shelf = server.cache.shelf(kind);
    let mut transaction = Transaction::default();
    let mut take = |key: Bytes, value: Bytes| {
        transaction.compares.push(Compare::ModRevision { key: key.clone(), equals: 0 });
        transaction.writes.push(Write::Put { key, value });
    };
    for ip in after.ips.iter().filter(|ip| !before.ips.contains(ip)) {
        take(shelf.store_key("", &ip.to_string()), encode(kind, &address(server, *ip, namespace, name)));
    }
    // Ports have no objects; where there is but one server, its memory is enough.
    let shared = server.cache.store().is_shared();
    let port_key = |(protocol, number): &(String, u16)| Bytes::from(format!("/coracle/allocations/ports/{protocol}/{number}"));
    if shared {
        for port in after.ports.iter().filter(|port| !before.ports.contains(port)) {
            take(port_key(port), format!("{namespace}/{name}").into());
        }
        for port in before.ports.iter().filter(|port| !after.ports.contains(port)) {
            transaction.writes.push(Write::Delete { key: port_key(port) });
        }
    }
    for ip in before.ips.iter().filter(|ip| !after.ips.contains(ip)) {
        let entry = server.cache.get(kind, "", &ip.to_string());
        if let Some(entry) = entry.filter(|entry| parent_service(&entry.value()) == Some((namespace.into(), name.into()))) {
            transaction.writes.push(removal(server, &entry));
        }
    }
    transaction
}

/// The object of an address that a Service has.
pub fn address(server: &ApiServer, ip: IpAddr, namespace: &str, name: &str) -> Value {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "metadata": {
            "name": ip.to_string(),
            "uid": server.new_uid(),
            "creationTimestamp": seconds(server.config.clock.now()),
            "labels": {FAMILY: family, MANAGED_BY: MANAGER},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    })
}

/// Namespace and name of the Service that an IPAddress refers to; None: it refers to something else.
pub fn parent_service(address: &Value) -> Option<(String, String)> {
    let parent = address.pointer("/spec/parentRef")?;
    let field = |name: &str| parent.get(name).and_then(Value::as_str).unwrap_or("");
    (field("group").is_empty() && field("resource") == "services").then(|| (field("namespace").into(), field("name").into()))
}

pub fn is_managed(address: &Value) -> bool {
    address["metadata"]["labels"][MANAGED_BY] == MANAGER
}

/// Somebody's finalizer holds an address as it does any object.
pub fn removal(server: &ApiServer, entry: &Entry) -> Write {
    let key = server.cache.shelf(address_kind()).store_key("", entry.name());
    let mut object = entry.value();
    if object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
        return Write::Delete { key };
    }
    object["metadata"]["deletionTimestamp"] = seconds(server.config.clock.now()).into();
    object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
    Write::Put { key, value: encode(address_kind(), &object) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ready_and_stays_is_in_force() {
        #[track_caller]
        fn check(objects: Value, expected: &[&str]) {
            let objects: Vec<Value> = objects.as_array().cloned().unwrap_or_default();
            let ranges = in_force(&objects, &["10.43.0.0/16".parse().expect("a range")]);
            assert_eq!(ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
        let named = |name: &str, range: &str| json!({"metadata": {"name": name}, "spec": {"cidrs": [range]}});
        let with = |mut object: Value, status: &str| {
            object["status"] = json!({"conditions": [{"type": "Ready", "status": status}]});
            object
        };
        check(json!([]), &["10.43.0.0/16"]); // Nothing is written yet.
        check(json!([named("kubernetes", "10.44.0.0/16")]), &["10.44.0.0/16"]);
        check(
            json!([with(named("kubernetes", "10.43.0.0/16"), "True"), named("more", "10.45.0.0/24"), named("again", "10.45.0.0/24")]),
            &["10.43.0.0/16", "10.45.0.0/24"],
        );
        check(json!([with(named("kubernetes", "10.43.0.0/16"), "False")]), &[]);
        let mut going = named("more", "10.45.0.0/24");
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        check(json!([named("kubernetes", "10.43.0.0/16"), going]), &["10.43.0.0/16"]);
    }

    #[test]
    fn parents() {
        let refers = |parent: Value| parent_service(&json!({"spec": {"parentRef": parent}}));
        assert_eq!(refers(json!({"resource": "services", "namespace": "a", "name": "b"})), Some(("a".into(), "b".into())));
        assert_eq!(refers(json!({"group": "gateway.networking.k8s.io", "resource": "gateways", "name": "b"})), None);
    }
}
