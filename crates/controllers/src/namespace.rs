//! Empties namespaces that are being deleted, then lets them go.
//!
//! Invariant: the finalizer `kubernetes` is removed only after every kind that the server offers was found
//! empty in that namespace; pods go before all else, so that nothing they use is taken from under them.
//! What holds a namespace is told in its conditions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, DeleteOptions, ErrorKind, Informer, ObjectKey, Propagation, error_kind};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::context::{Context, seconds_between};
use crate::discovery::{Discovered, Resource, discover};
use crate::failure::{Failure, error_text};
use crate::pods;
use crate::runner::{Controller, Next, Queue};

const FINALIZER: &str = "kubernetes";
/// Requests under way at once for one namespace.
const PARALLEL: usize = 16;

pub(crate) struct Namespaces {
    context: Arc<Context>,
    namespaces: Arc<Informer<Namespace>>,
    pods: Arc<Informer<Pod>>,
}

/// What one round found and did.
#[derive(Debug, Default, PartialEq)]
struct Emptied {
    /// How many group versions did not answer, and what they said.
    discovery_failure: Option<(usize, String)>,
    deletion_failures: Vec<String>,
    /// Objects left, by resource.
    remaining: BTreeMap<String, usize>,
    /// Finalizers left, by name.
    finalizers: BTreeMap<String, usize>,
}

impl Emptied {
    fn is_done(&self) -> bool {
        self.discovery_failure.is_none() && self.deletion_failures.is_empty() && self.remaining.is_empty()
    }
}

impl Namespaces {
    pub fn new(context: &Arc<Context>) -> Self {
        Namespaces { context: context.clone(), namespaces: context.informer(), pods: context.informer() }
    }

    async fn empty(&self, namespace: &str) -> Emptied {
        let mut emptied = Emptied::default();
        let Discovered { resources, failures } = match discover(&self.context.rest).await {
            Ok(discovered) => discovered,
            Err(error) => {
                emptied.discovery_failure = Some((1, error_text(&error)));
                return emptied;
            }
        };
        if !failures.is_empty() {
            let texts: BTreeMap<&String, String> = failures.iter().map(|(group_version, error)| (group_version, error_text(error))).collect();
            let texts: Vec<String> = texts.iter().map(|(group_version, text)| format!("{group_version}: {text}")).collect();
            let text = format!("unable to retrieve the complete list of server APIs: {}", texts.join(", "));
            emptied.discovery_failure = Some((failures.len(), text));
        }
        let mut resources: Vec<Resource> =
            resources.into_iter().filter(|resource| resource.namespaced && resource.can("delete") && resource.can("list")).collect();
        // Pods first, and alone as long as there are any.
        if let Some(at) = resources.iter().position(|resource| resource.group.is_empty() && resource.name == "pods") {
            let pods = resources.remove(at);
            self.empty_resource(&pods, namespace, &mut emptied).await;
            if !emptied.is_done() {
                return emptied;
            }
        }
        let rounds = stream::iter(resources)
            .map(|resource| async move {
                let mut found = Emptied::default();
                self.empty_resource(&resource, namespace, &mut found).await;
                found
            })
            .buffer_unordered(PARALLEL)
            .collect::<Vec<_>>()
            .await;
        for found in rounds {
            emptied.deletion_failures.extend(found.deletion_failures);
            emptied.remaining.extend(found.remaining);
            for (finalizer, count) in found.finalizers {
                *emptied.finalizers.entry(finalizer).or_insert(0) += count;
            }
        }
        emptied
    }

    async fn empty_resource(&self, resource: &Resource, namespace: &str, found: &mut Emptied) {
        if let Err(error) = self.try_empty_resource(resource, namespace, found).await {
            match error_kind(&error) {
                ErrorKind::NotFound | ErrorKind::MethodNotAllowed => {} // No longer served, or not for this.
                _ => found.deletion_failures.push(error_text(&error)),
            }
        }
    }

    async fn try_empty_resource(&self, resource: &Resource, namespace: &str, found: &mut Emptied) -> Result<(), kube::Error> {
        if self.list(resource, namespace, 1).await?.is_empty() {
            return Ok(());
        }
        let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        if resource.can("deletecollection") {
            self.context.rest.delete_at(resource.path(Some(namespace)), &options).await?;
        } else {
            for item in self.list(resource, namespace, 0).await? {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                let path = format!("{}/{name}", resource.path(Some(namespace)));
                match self.context.rest.delete_at(path, &options).await {
                    Err(error) if error_kind(&error) != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        let left = self.list(resource, namespace, 0).await?;
        if !left.is_empty() {
            found.remaining.insert(resource.group_resource(), left.len());
        }
        for item in &left {
            for finalizer in item["metadata"]["finalizers"].as_array().into_iter().flatten() {
                *found.finalizers.entry(finalizer.as_str().unwrap_or_default().to_owned()).or_insert(0) += 1;
            }
        }
        Ok(())
    }

    /// Up to `limit` objects, or all for 0.
    async fn list(&self, resource: &Resource, namespace: &str, limit: usize) -> Result<Vec<Value>, kube::Error> {
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let page_limit = if limit > 0 { limit } else { 500 };
            let path = format!("{}?limit={page_limit}{token}", resource.path(Some(namespace)));
            let mut page: Value = self.context.rest.get_at(path).await?;
            if let Some(found) = page["items"].as_array_mut() {
                items.append(found);
            }
            match page["metadata"]["continue"].as_str() {
                Some(next) if limit == 0 && !next.is_empty() => token = format!("&continue={next}"),
                _ => return Ok(items),
            }
        }
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Failure> {
        let mut updated = namespace.clone();
        let finalizers = updated.spec.get_or_insert_default().finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        let path = format!("/api/v1/namespaces/{}/finalize", namespace.metadata.name.as_deref().unwrap_or_default());
        let mut body = serde_json::to_value(&updated).expect("typed objects are representable as JSON");
        if body["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            body["spec"] = json!({});
        }
        match self.context.rest.put_at::<Value>(path, &body).await {
            Ok(_) => Ok(()),
            Err(error) if error_kind(&error) == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn workers(&self) -> usize {
        10
    }

    /// Somebody waits for the namespace to go.
    fn longest_delay(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.namespaces.subscribe(move |change: &Change<Namespace>| {
            if change.object().metadata.deletion_timestamp.is_some() {
                own.add(ObjectKey::of(&change.object().metadata));
            }
        });
        // The last pod that goes may be what a namespace waits for.
        let (namespaces, queue) = (self.namespaces.clone(), queue.clone());
        self.pods.subscribe(move |change: &Change<Pod>| {
            let Change::Deleted(pod) = change else { return };
            let key = ObjectKey::cluster(pod.metadata.namespace.clone().unwrap_or_default());
            if namespaces.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
                queue.add(key);
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Next::Settled) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Next::Settled);
        }
        let emptied = self.empty(&key.name).await;
        let now = self.context.now();
        let mut namespace = (*namespace).clone();
        let old = namespace.status.clone().unwrap_or_default();
        let conditions = conditions(old.conditions.clone().unwrap_or_default(), &emptied, now);
        if Some(&conditions) != old.conditions.as_ref() || old.phase.as_deref() != Some("Terminating") {
            let status = namespace.status.get_or_insert_default();
            status.conditions = Some(conditions);
            status.phase = Some("Terminating".into());
            namespace = self.context.update_status(&namespace).await?;
        }
        if emptied.is_done() {
            self.finalize(&namespace).await?;
            return Ok(Next::Settled);
        }
        if !emptied.deletion_failures.is_empty() || emptied.discovery_failure.is_some() {
            let discovery = emptied.discovery_failure.as_ref().map(|(_, text)| text);
            let why = discovery.into_iter().chain(&emptied.deletion_failures).next();
            return Err(Failure::Other(why.cloned().unwrap_or_default()));
        }
        Ok(Next::After(patience(&self.pods.list_namespace(&key.name), now)))
    }
}

/// Pods are awaited by events, this is only in case one is missed; other objects wait for finalizers that
/// nobody tells us about.
fn patience(pods: &[Arc<Pod>], now: Timestamp) -> Duration {
    let grace = pods.iter().filter(|pod| pods::is_terminating(pod)).filter_map(|pod| {
        let until = pod.metadata.deletion_timestamp.as_ref()?;
        Some(-seconds_between(until, now))
    });
    match grace.max() {
        Some(seconds) => Duration::from_secs(seconds.clamp(0, 600) as u64 / 2 + 5),
        None => Duration::from_secs(2),
    }
}

/// Pure. Five conditions, each with the first thing that stands in the way.
fn conditions(old: Vec<NamespaceCondition>, emptied: &Emptied, now: Timestamp) -> Vec<NamespaceCondition> {
    let count = |counts: &BTreeMap<String, usize>, what: &str| {
        counts.iter().map(|(name, count)| format!("{name}{what}{count} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let or_fine = |problem: Option<(&'static str, String)>, reason: &'static str, message: &str| match problem {
        Some((reason, message)) => ("True", reason, message),
        None => ("False", reason, message.to_owned()),
    };
    let discovery = emptied.discovery_failure.clone().map(|(count, text)| ("DiscoveryFailed", format!("Discovery failed for some groups, {count} failing: {text}")));
    let failures = (!emptied.deletion_failures.is_empty())
        .then(|| ("ContentDeletionFailed", format!("Failed to delete all resource types, {} remaining: {}", emptied.deletion_failures.len(), emptied.deletion_failures.join(", "))));
    // The original writes `resource.group` also where the group has no name.
    let dotted = emptied.remaining.iter().map(|(name, count)| match name.contains('.') {
        true => (name.clone(), *count),
        false => (format!("{name}."), *count),
    });
    let dotted: BTreeMap<String, usize> = dotted.collect();
    let remaining = (!dotted.is_empty())
        .then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {}", count(&dotted, " has "))));
    let finalizers = (!emptied.finalizers.is_empty())
        .then(|| ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {}", count(&emptied.finalizers, " in "))));
    let wanted = [
        ("NamespaceDeletionDiscoveryFailure", or_fine(discovery, "ResourcesDiscovered", "All resources successfully discovered")),
        ("NamespaceDeletionGroupVersionParsingFailure", or_fine(None, "ParsedGroupVersions", "All legacy kube types successfully parsed")),
        ("NamespaceDeletionContentFailure", or_fine(failures, "ContentDeleted", "All content successfully deleted, may be waiting on finalization")),
        ("NamespaceContentRemaining", or_fine(remaining, "ContentRemoved", "All content successfully removed")),
        ("NamespaceFinalizersRemaining", or_fine(finalizers, "ContentHasNoFinalizers", "All content-preserving finalizers finished")),
    ];
    let mut conditions: Vec<NamespaceCondition> =
        old.iter().filter(|condition| !wanted.iter().any(|(kind, _)| *kind == condition.type_)).cloned().collect();
    for (kind, (status, reason, message)) in wanted {
        let since = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
        conditions.push(NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: since.and_then(|condition| condition.last_transition_time.clone()).or(Some(Time(now))),
        });
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[track_caller]
    fn check(emptied: Emptied, kind: &str, expected: &str) {
        let conditions = conditions(Vec::new(), &emptied, fixtures::now());
        let condition = conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        let told = format!("{} {}: {}", condition.status, condition.reason.as_deref().unwrap(), condition.message.as_deref().unwrap());
        assert_eq!(told, expected);
    }

    #[test]
    fn conditions_say_what_holds_it() {
        let fine = |kind, expected| check(Emptied::default(), kind, expected);
        fine("NamespaceDeletionDiscoveryFailure", "False ResourcesDiscovered: All resources successfully discovered");
        fine("NamespaceDeletionGroupVersionParsingFailure", "False ParsedGroupVersions: All legacy kube types successfully parsed");
        fine("NamespaceDeletionContentFailure", "False ContentDeleted: All content successfully deleted, may be waiting on finalization");
        fine("NamespaceContentRemaining", "False ContentRemoved: All content successfully removed");
        fine("NamespaceFinalizersRemaining", "False ContentHasNoFinalizers: All content-preserving finalizers finished");
        let failing = || Emptied {
            discovery_failure: Some((2, "unable to retrieve the complete list of server APIs: a/v1: gone, b/v1: gone".into())),
            deletion_failures: vec!["one".into(), "two".into()],
            ..Emptied::default()
        };
        check(
            failing(),
            "NamespaceDeletionDiscoveryFailure",
            "True DiscoveryFailed: Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server APIs: a/v1: gone, b/v1: gone",
        );
        check(
            failing(),
            "NamespaceDeletionContentFailure",
            "True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: one, two",
        );
        let held = || Emptied {
            remaining: [("pods".to_owned(), 2), ("widgets.example.com".to_owned(), 1)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
            ..Emptied::default()
        };
        check(
            held(),
            "NamespaceContentRemaining",
            "True SomeResourcesRemain: Some resources are remaining: pods. has 2 resource instances, widgets.example.com has 1 resource instances",
        );
        check(
            held(),
            "NamespaceFinalizersRemaining",
            "True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
        );
    }

    #[test]
    fn a_transition_time_stays_while_the_status_does() {
        let now = fixtures::now();
        let first = conditions(Vec::new(), &Emptied::default(), now);
        let later = now + jiff::SignedDuration::from_secs(60);
        assert_eq!(conditions(first.clone(), &Emptied::default(), later), first);
    }
}
