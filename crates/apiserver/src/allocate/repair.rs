//! Puts right what other hands did to IPAddresses: every cluster IP has its object, and no object of ours lacks its
//! Service.
//!
//! Invariant: looks at all once at the start, and then at the addresses that changed. A Service's own writes bring
//! their addresses with them, so that Services need not be looked at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{StreamExt as _, iter};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::{Compare, Transaction, Write};

use super::events::{About, Voice};
use super::published::{DEFAULT_RANGE, FAMILY, address, address_kind, is_managed, parent_service, range_kind, ranges_of, removal};
use super::service::holdings;
use crate::cache::{Filter, TooOld, encode};
use crate::error::RequestError;
use crate::kinds::{Kind, registry};
use crate::rest::write::text;
use crate::server::ApiServer;

/// An address of a Service that is not there may be one that somebody is about to make, as in the original.
const LEAKED_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Writes under way at once.
const PARALLEL: usize = 64;
/// Changes of addresses looked at at a time.
const EVENTS: usize = 256;

fn service_kind() -> &'static Kind {
    registry::by_plural("", "v1", "services").expect("a built-in kind")
}

/// Before the first request: whatever has an address has its object.
pub async fn once(server: &Arc<ApiServer>) -> Result<(), RequestError> {
    let voice = Voice::default();
    let services = server.cache.select(service_kind(), &Filter::default(), None, 0).entries;
    let repairs = services.into_iter().map(|service| {
        let server = server.clone();
        let voice = &voice;
        async move { repair_service(&server, voice, service.namespace(), service.name(), None).await }
    });
    let mut repairs = iter(repairs).buffer_unordered(PARALLEL);
    while let Some(result) = repairs.next().await {
        result?;
    }
    Ok(())
}

pub async fn run(server: Arc<ApiServer>) {
    let cancel = server.config.cancel.clone();
    let mut addresses = server.cache.shelf(address_kind()).subscribe();
    let mut ranges = server.cache.shelf(range_kind()).subscribe();
    let clock = server.config.clock.clone();
    let mut state = Loop { seen: 0, leaked: BTreeMap::new(), voice: Voice::default() };
    let server = {
        // The loop must not keep the server alive.
        let weak = Arc::downgrade(&server);
        drop(server);
        weak
    };
    loop {
        addresses.borrow_and_update();
        ranges.borrow_and_update();
        let Some(strong) = server.upgrade() else { return };
        if let Err(cause) = state.round(&strong).await {
            tracing::warn!("addresses of Services: {cause}");
        }
        drop(strong);
        let due = state.leaked.values().min().map(|due| Duration::try_from(due.duration_since(clock.now())).unwrap_or_default());
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => true,
            result = addresses.changed() => result.is_err(),
            result = ranges.changed() => result.is_err(),
            () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => false,
        };
        if ended {
            return;
        }
    }
}

struct Loop {
    seen: store::Revision,
    /// Addresses without a Service, and when they are taken away.
    leaked: BTreeMap<String, Timestamp>,
    voice: Voice,
}

impl Loop {
    async fn round(&mut self, server: &Arc<ApiServer>) -> Result<(), RequestError> {
        if server.cache.get(range_kind(), "", DEFAULT_RANGE).is_none() {
            crate::bootstrap::run(server).await?;
        }
        let shelf = server.cache.shelf(address_kind());
        loop {
            match shelf.events_after(self.seen, EVENTS) {
                Ok((events, reached)) => {
                    self.seen = reached;
                    if events.is_empty() {
                        break;
                    }
                    for event in events {
                        // Shelves are filled one after the other: the Service's may not have got there yet.
                        server.cache.reach(event.revision).await?;
                        match (&event.new, &event.old) {
                            (Some(new), _) => self.look(server, new.name()).await?,
                            (None, Some(old)) => {
                                self.leaked.remove(old.name());
                                if let Some((namespace, name)) = parent_service(&old.value()) {
                                    repair_service(server, &self.voice, &namespace, &name, Some(event.revision)).await?;
                                }
                            }
                            (None, None) => {}
                        }
                    }
                }
                Err(TooOld { oldest }) => {
                    once(server).await?;
                    for entry in server.cache.select(address_kind(), &Filter::default(), None, 0).entries {
                        self.look(server, entry.name()).await?;
                    }
                    self.seen = oldest;
                }
            }
        }
        let now = server.config.clock.now();
        let due: Vec<String> = self.leaked.iter().filter(|(_, due)| **due <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.leaked.remove(&name);
            self.look(server, &name).await?;
        }
        Ok(())
    }

    /// An address that is there: is it whose it says?
    async fn look(&mut self, server: &Arc<ApiServer>, name: &str) -> Result<(), RequestError> {
        self.leaked.remove(name);
        let Some(entry) = server.cache.get(address_kind(), "", name) else { return Ok(()) };
        let object = entry.value();
        let parent = parent_service(&object);
        let mut wrong = "has a wrong reference; cleaning up";
        if let Some((namespace, name)) = &parent {
            match server.cache.get(service_kind(), namespace, name) {
                // Written together.
                Some(service) if service.revision == entry.revision => return Ok(()),
                Some(service) if holds(&service.value(), entry.name()) => {
                    return repair_service(server, &self.voice, namespace, name, None).await;
                }
                Some(_) => {}
                None if is_managed(&object) => {
                    let made: Timestamp = text(&object, "creationTimestamp").parse().unwrap_or(Timestamp::MIN);
                    let due = made.checked_add(LEAKED_AFTER).unwrap_or(Timestamp::MAX);
                    if due > server.config.clock.now() {
                        self.leaked.insert(entry.name().to_owned(), due);
                        return Ok(());
                    }
                    wrong = "appears to have leaked: cleaning up";
                }
                None => {}
            }
        }
        if !is_managed(&object) || !text(&object, "deletionTimestamp").is_empty() {
            return Ok(());
        }
        let (reason, note) = match &parent {
            Some((namespace, service)) => {
                let reason = if wrong.starts_with("has") { "IPAddressWrongReference" } else { "IPAddressNotAllocated" };
                (reason, format!("IPAddress: {name} for Service {namespace}/{service} {wrong}"))
            }
            None => {
                let field = |field: &str| object["spec"]["parentRef"][field].as_str().unwrap_or("").to_owned();
                let [group, resource, namespace, parent] = ["group", "resource", "namespace", "name"].map(field);
                let parent = format!("&ParentReference{{Group:{group},Resource:{resource},Namespace:{namespace},Name:{parent},}}");
                let note = format!("IPAddress {name} appears to have been modified, not referencing a Service {parent}: cleaning up");
                ("IPAddressNotAllocated", note)
            }
        };
        self.voice.warn(server, About::Address(&entry), reason, &note).await;
        replace(server, entry.revision, removal(server, &entry)).await
    }
}

fn holds(service: &Value, name: &str) -> bool {
    holdings(service).ips.iter().any(|ip| ip.to_string() == name)
}

/// Makes the objects of the Service's addresses that lack or are wrong. `after`: only if the Service is older than that.
async fn repair_service(server: &Arc<ApiServer>, voice: &Voice, namespace: &str, name: &str, after: Option<store::Revision>) -> Result<(), RequestError> {
    let Some(entry) = server.cache.get(service_kind(), namespace, name) else { return Ok(()) };
    if after.is_some_and(|revision| entry.revision >= revision) {
        return Ok(());
    }
    for ip in holdings(&entry.value()).ips {
        let key = ip.to_string();
        let found = server.cache.get(address_kind(), "", &key);
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let (expected, reason, note) = match &found {
            None if !in_any_range(server, ip) => {
                let note = format!("Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service");
                voice.warn(server, About::Service(&entry), "ClusterIPOutOfRange", &note).await;
                continue;
            }
            None => (0, "ClusterIPNotAllocated", format!("Cluster IP [{family}]: {ip} is not allocated; repairing")),
            Some(found) => match standing(server, &found.value(), ip, namespace, name) {
                Standing::Right => continue,
                Standing::Elsewhere => {
                    let note = format!("Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service");
                    voice.warn(server, About::Service(&entry), "ClusterIPAlreadyAllocated", &note).await;
                    continue;
                }
                Standing::Unlabelled => (found.revision, "", String::new()),
                Standing::Wrong => {
                    let note = format!("the ClusterIP [{family}]: {ip} for Service {namespace}/{name} has a wrong reference; repairing");
                    (found.revision, "ClusterIPNotAllocated", note)
                }
            },
        };
        if !reason.is_empty() {
            voice.warn(server, About::Service(&entry), reason, &note).await;
        }
        let kind = address_kind();
        let value = encode(kind, &address(server, ip, namespace, name));
        let write = Write::Put { key: server.cache.shelf(kind).store_key("", &key), value };
        replace(server, expected, write).await?;
    }
    Ok(())
}

/// How an address that is there stands to a Service that has it.
enum Standing {
    Right,
    /// Another Service has it as rightfully, and keeps it.
    Elsewhere,
    /// The labels lack.
    Unlabelled,
    Wrong,
}

fn standing(server: &ApiServer, found: &Value, ip: IpAddr, namespace: &str, name: &str) -> Standing {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let Some((own_namespace, own_name)) = parent_service(found) else { return Standing::Wrong };
    if (own_namespace.as_str(), own_name.as_str()) != (namespace, name) {
        let other = server.cache.get(service_kind(), &own_namespace, &own_name);
        let holds = other.is_some_and(|other| holdings(&other.value()).ips.contains(&ip));
        return if holds { Standing::Elsewhere } else { Standing::Wrong };
    }
    let labelled = is_managed(found) && found["metadata"]["labels"][FAMILY] == family;
    if labelled { Standing::Right } else { Standing::Unlabelled }
}

fn in_any_range(server: &ApiServer, ip: IpAddr) -> bool {
    let ranges = server.cache.select(range_kind(), &Filter::default(), None, 0).entries;
    ranges.iter().any(|entry| ranges_of(&entry.value()).any(|range| range.contains(&ip)))
}

/// Who else changed it meanwhile is looked at when the cache tells of that.
async fn replace(server: &ApiServer, equals: store::Revision, write: Write) -> Result<(), RequestError> {
    let compares = vec![Compare::ModRevision { key: write.key().clone(), equals }];
    let response = server.cache.store().commit(Transaction { compares, writes: vec![write] }).await?;
    server.cache.reach(response.revision).await
}
