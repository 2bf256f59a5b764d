//! What a cluster has from its first moment: namespaces, its own Service, priorities, roles and bindings.
//!
//! Invariant: what is missing is written, each object with the condition that it is still missing; what is there is
//! only ever added to.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};
use store::{Compare, TRANSACTION_MAX, Transaction, Write};

use crate::api_services;
use crate::authz::{Rule, policy, rbac};
use crate::cache::{api_version, encode};
use crate::error::RequestError;
use crate::flow::{self, built_in};
use crate::kinds::{Kind, registry};
use crate::rest::write::seconds;
use crate::server::ApiServer;

/// How often it is tried when another server writes the same.
const ATTEMPTS: usize = 5;

pub async fn run(server: &Arc<ApiServer>) -> Result<(), RequestError> {
    for _ in 0..ATTEMPTS {
        let mut pending = Pending { server, transaction: Transaction::default(), reservations: Vec::new() };
        pending.namespaces();
        pending.priorities();
        pending.policy();
        pending.flow_control();
        pending.api_services();
        pending.authentication();
        pending.own_service()?;
        if pending.transaction.writes.is_empty() {
            return Ok(());
        }
        let Transaction { compares, writes } = pending.transaction;
        let mut written = true;
        for (compares, writes) in compares.chunks(TRANSACTION_MAX).zip(writes.chunks(TRANSACTION_MAX)) {
            let transaction = Transaction { compares: compares.to_vec(), writes: writes.to_vec() };
            let response = server.cache.store().commit(transaction).await?;
            server.cache.reach(response.revision).await?;
            written &= response.succeeded;
        }
        if written {
            return Ok(());
        }
    }
    Err(RequestError::Internal("other servers keep changing what a cluster starts with".into()))
}

struct Pending<'a> {
    server: &'a Arc<ApiServer>,
    transaction: Transaction,
    reservations: Vec<crate::allocation::Reservation>,
}

impl Pending<'_> {
    fn kind(&self, group: &str, plural: &str) -> &'static Kind {
        let found = registry::REGISTRY.iter().find(|kind| kind.group == group && kind.plural == plural);
        self.server.cache.shelf(found.expect("a built-in kind")).kind
    }

    /// Writes the object unless there is one.
    fn create(&mut self, group: &str, plural: &str, object: Value) {
        let kind = self.kind(group, plural);
        let (namespace, name) = names(&object);
        if self.server.cache.get(kind, &namespace, &name).is_some() {
            return;
        }
        let object = self.complete(kind, object);
        self.put(kind, &namespace, &name, &object, 0);
    }

    fn complete(&self, kind: &'static Kind, mut object: Value) -> Value {
        object["apiVersion"] = api_version(kind).into();
        object["kind"] = kind.kind.into();
        object["metadata"]["uid"] = self.server.new_uid().into();
        object["metadata"]["creationTimestamp"] = seconds(self.server.config.clock.now()).into();
        (kind.defaults)(&mut object);
        (kind.prepare_create)(&mut object);
        object
    }

    fn put(&mut self, kind: &'static Kind, namespace: &str, name: &str, object: &Value, expected: i64) {
        let key = self.server.cache.shelf(kind).store_key(namespace, name);
        self.transaction.compares.push(Compare::ModRevision { key: key.clone(), equals: expected });
        self.transaction.writes.push(Write::Put { key, value: encode(kind, object) });
    }

    fn namespaces(&mut self) {
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let labels = json!({"kubernetes.io/metadata.name": name});
            self.create("", "namespaces", json!({"metadata": {"name": name, "labels": labels}}));
        }
    }

    fn priorities(&mut self) {
        for (name, value, what) in [
            ("system-node-critical", 2_000_001_000_i64, "Used for system critical pods that must not be moved from their current node."),
            ("system-cluster-critical", 2_000_000_000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
        ] {
            let object = json!({"metadata": {"name": name, "generation": 1}, "value": value, "description": what, "preemptionPolicy": "PreemptLowerPriority"});
            self.create("scheduling.k8s.io", "priorityclasses", object);
        }
    }

    fn policy(&mut self) {
        const GROUP: &str = "rbac.authorization.k8s.io";
        for (plural, wanted) in policy::objects() {
            let kind = self.kind(GROUP, plural);
            let (namespace, name) = names(&wanted);
            let Some(entry) = self.server.cache.get(kind, &namespace, &name) else {
                self.create(GROUP, plural, wanted);
                continue;
            };
            let mut object = entry.value();
            if object["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] == "false" {
                continue;
            }
            if add_missing(&mut object, &wanted) {
                self.put(kind, &namespace, &name, &object, entry.revision);
            }
        }
    }

    fn flow_control(&mut self) {
        use built_in::{GROUP, LEVELS, SCHEMAS};
        for (plural, mut wanted) in built_in::objects() {
            let kind = self.kind(GROUP, plural);
            let (_, name) = names(&wanted);
            if let Some(entry) = self.server.cache.get(kind, "", &name) {
                if let Some(new) = built_in::amended(&entry.value(), &wanted) {
                    self.put(kind, "", &name, &new, entry.revision);
                }
                continue;
            }
            if plural == SCHEMAS {
                let level = wanted["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or("");
                // All the levels that these name are written together with them.
                let condition = built_in::dangling(level, true, &seconds(self.server.config.clock.now()));
                wanted["status"] = json!({"conditions": [condition]});
            } else {
                debug_assert_eq!(plural, LEVELS);
                wanted["status"] = json!({});
            }
            let object = flow::fresh(self.server, wanted);
            self.put(kind, "", &name, &object, 0);
        }
    }

    fn api_services(&mut self) {
        use api_services::{GROUP, PLURAL};
        for wanted in api_services::objects(&seconds(self.server.config.clock.now())) {
            let kind = self.kind(GROUP, PLURAL);
            let (_, name) = names(&wanted);
            let entry = self.server.cache.get(kind, "", &name);
            let object = match &entry {
                None => {
                    // Its status stands in it: nobody else writes it.
                    let status = wanted["status"].clone();
                    let mut object = self.complete(kind, wanted);
                    object["status"] = status;
                    object
                }
                Some(entry) => {
                    let mut object = entry.value();
                    // One of the same name that leads elsewhere is an administrator's.
                    if object["spec"].get("service").is_some() || object["spec"] == wanted["spec"] {
                        continue;
                    }
                    object["spec"] = wanted["spec"].clone();
                    object
                }
            };
            self.put(kind, "", &name, &object, entry.map_or(0, |entry| entry.revision));
        }
    }

    /// By what servers of their own (aggregated ones, webhooks) know the cluster's clients.
    fn authentication(&mut self) {
        let Some(authority) = self.server.config.client_authority_pem.clone() else { return };
        self.ensure("", "configmaps", json!({
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": {"client-ca-file": authority},
        }), &["data"]);
    }

    /// The Service by which pods reach this server, and where it leads.
    fn own_service(&mut self) -> Result<(), RequestError> {
        let config = &self.server.config;
        let services = self.kind("", "services");
        if self.server.cache.get(services, "default", "kubernetes").is_none() {
            let address = config.service_cidrs.first().and_then(first_address).ok_or_else(|| {
                RequestError::Internal("no network for Services".into())
            })?;
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let object = json!({
                "metadata": {
                    "name": "kubernetes", "namespace": "default",
                    "labels": {"component": "apiserver", "provider": "kubernetes"},
                },
                "spec": {
                    "type": "ClusterIP", "clusterIP": address.to_string(), "clusterIPs": [address.to_string()],
                    "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
                    "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.advertise_port}],
                },
            });
            let mut object = self.complete(services, object);
            if self.server.allocator.handles(services) {
                self.server.observe_allocations(services);
                self.reservations.push(self.server.allocator.create(services, &mut object)?);
            }
            self.put(services, "default", "kubernetes", &object, 0);
            let along = self.server.along(services, "default", "kubernetes", None, Some(&object));
            self.transaction.compares.extend(along.compares);
            self.transaction.writes.extend(along.writes);
        }
        self.service_range();
        let address = config.advertise_address.to_string();
        let port = json!([{"name": "https", "port": config.advertise_port, "protocol": "TCP"}]);
        self.ensure("", "endpoints", json!({
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{"addresses": [{"ip": address}], "ports": port}],
        }), &["subsets"]);
        let address_type = if config.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" };
        self.ensure("discovery.k8s.io", "endpointslices", json!({
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": address_type,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": port,
        }), &["endpoints", "ports"]);
        Ok(())
    }

    /// The ServiceCIDR of the configured ranges. One that says otherwise is left to the administrator, as upstream.
    fn service_range(&mut self) {
        let (config, kind) = (&self.server.config, self.kind("networking.k8s.io", "servicecidrs"));
        let ranges: Vec<String> = config.service_cidrs.iter().map(ToString::to_string).collect();
        let entry = self.server.cache.get(kind, "", "kubernetes");
        let old = entry.as_ref().map_or(Value::Null, |entry| entry.value());
        let mut new = match entry {
            None => self.complete(kind, json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ranges}})),
            // From one family to two.
            Some(_) if old["spec"]["cidrs"].as_array().is_some_and(|own| own.len() == 1 && *own == ranges[..1]) => {
                let mut new = old.clone();
                new["spec"]["cidrs"] = json!(ranges);
                new
            }
            Some(_) => old.clone(),
        };
        let unsaid = new["status"]["conditions"].as_array().is_none_or(Vec::is_empty);
        if unsaid && new["spec"]["cidrs"] == json!(ranges) && old["metadata"]["deletionTimestamp"].is_null() {
            new["status"] = json!({"conditions": [{
                "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
                "lastTransitionTime": seconds(config.clock.now()),
            }]});
        }
        if new != old {
            self.put(kind, "", "kubernetes", &new, entry_revision(&old));
        }
    }

    /// Writes the object, or these fields of the one that is there.
    fn ensure(&mut self, group: &str, plural: &str, wanted: Value, fields: &[&str]) {
        let kind = self.kind(group, plural);
        let (namespace, name) = names(&wanted);
        let Some(entry) = self.server.cache.get(kind, &namespace, &name) else {
            return self.create(group, plural, wanted);
        };
        let old = entry.value();
        let mut new = old.clone();
        for field in fields {
            new[*field] = wanted[*field].clone();
        }
        (kind.defaults)(&mut new);
        if new != old {
            self.put(kind, &namespace, &name, &new, entry.revision);
        }
    }
}

/// 0: it is not there.
fn entry_revision(object: &Value) -> i64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

fn names(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
    (text("namespace"), text("name"))
}

/// Rules, subjects, labels and the aggregation that a role or binding lacks.
fn add_missing(object: &mut Value, wanted: &Value) -> bool {
    let before = object.clone();
    // The rules of aggregated roles are the business of who aggregates.
    if wanted["aggregationRule"].is_object() {
        if !object["aggregationRule"].is_object() {
            object["aggregationRule"] = wanted["aggregationRule"].clone();
        }
    } else if wanted["rules"].is_array() {
        let mut rules = rbac::rules_of(object);
        let added: Vec<Rule> = rbac::rules_of(wanted).into_iter().filter(|rule| !rules.contains(rule)).collect();
        if !added.is_empty() {
            rules.extend(added);
            object["rules"] = json!(rules);
        }
    }
    if let Some(subjects) = wanted["subjects"].as_array() {
        let mut list = object["subjects"].as_array().cloned().unwrap_or_default();
        list.extend(subjects.iter().filter(|subject| !before["subjects"].as_array().is_some_and(|own| own.contains(subject))).cloned());
        object["subjects"] = list.into();
    }
    for map in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][map].as_object().into_iter().flatten() {
            if object["metadata"][map].get(key).is_none() {
                object["metadata"][map][key] = value.clone();
            }
        }
    }
    *object != before
}

fn first_address(network: &IpNet) -> Option<IpAddr> {
    network.hosts().next()
}

/// `10.0.0.1:6443`, `[fd00::1]:6443`
pub fn host_and_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}
