//! Puts right what other hands did to IPAddresses: every cluster IP has its object, and no object of ours lacks its
//! Service.
//!
//! Invariant: looks at all once at the start, and then at the addresses that changed. A Service's own writes bring
//! their addresses with them, so that Services need not be looked at. Deliberately absent: the original's events.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{StreamExt as _, iter};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::{Compare, Transaction, Write};

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
    let services = server.cache.select(service_kind(), &Filter::default(), None, 0).entries;
    let repairs = services.into_iter().map(|service| {
        let server = server.clone();
        async move { repair_service(&server, service.namespace(), service.name(), None).await }
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
    let mut state = Loop { seen: 0, leaked: BTreeMap::new() };
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
                                    repair_service(server, &namespace, &name, Some(event.revision)).await?;
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
        if let Some((namespace, name)) = &parent {
            match server.cache.get(service_kind(), namespace, name) {
                // Written together.
                Some(service) if service.revision == entry.revision => return Ok(()),
                Some(service) if holds(&service.value(), entry.name()) => {
                    return repair_service(server, namespace, name, None).await;
                }
                Some(_) => {}
                None if is_managed(&object) => {
                    let made: Timestamp = text(&object, "creationTimestamp").parse().unwrap_or(Timestamp::MIN);
                    let due = made.checked_add(LEAKED_AFTER).unwrap_or(Timestamp::MAX);
                    if due > server.config.clock.now() {
                        self.leaked.insert(entry.name().to_owned(), due);
                        return Ok(());
                    }
                }
                None => {}
            }
        }
        if !is_managed(&object) || !text(&object, "deletionTimestamp").is_empty() {
            return Ok(());
        }
        tracing::warn!(address = entry.name(), "an IPAddress of no Service: cleaning up");
        replace(server, entry.revision, removal(server, &entry)).await
    }
}

fn holds(service: &Value, name: &str) -> bool {
    holdings(service).ips.iter().any(|ip| ip.to_string() == name)
}

/// Makes the objects of the Service's addresses that lack or are wrong. `after`: only if the Service is older than that.
async fn repair_service(server: &Arc<ApiServer>, namespace: &str, name: &str, after: Option<store::Revision>) -> Result<(), RequestError> {
    let Some(entry) = server.cache.get(service_kind(), namespace, name) else { return Ok(()) };
    if after.is_some_and(|revision| entry.revision >= revision) {
        return Ok(());
    }
    for ip in holdings(&entry.value()).ips {
        let key = ip.to_string();
        let found = server.cache.get(address_kind(), "", &key);
        let expected = match &found {
            None if !in_any_range(server, ip) => continue,
            None => 0,
            Some(found) if is_right(server, &found.value(), ip, namespace, name) => continue,
            Some(found) => found.revision,
        };
        let kind = address_kind();
        let value = encode(kind, &address(server, ip, namespace, name));
        let write = Write::Put { key: server.cache.shelf(kind).store_key("", &key), value };
        tracing::warn!(address = key, service = format!("{namespace}/{name}"), "the cluster IP is not allocated; repairing");
        replace(server, expected, write).await?;
    }
    Ok(())
}

/// What another Service holds as rightfully stays with that one.
fn is_right(server: &ApiServer, found: &Value, ip: IpAddr, namespace: &str, name: &str) -> bool {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let labelled = is_managed(found) && found["metadata"]["labels"][FAMILY] == family;
    match parent_service(found) {
        Some((own_namespace, own_name)) if (own_namespace.as_str(), own_name.as_str()) != (namespace, name) => server
            .cache
            .get(service_kind(), &own_namespace, &own_name)
            .is_some_and(|other| holdings(&other.value()).ips.contains(&ip)),
        parent => parent.is_some() && labelled,
    }
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
