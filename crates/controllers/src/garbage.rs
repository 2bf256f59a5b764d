//! Deletes objects whose owners are all gone, as their owner references say.
//!
//! Invariant: nothing is deleted before a live lookup has shown that every owner it names is absent (or is
//! waiting for it in the foreground); caches only tell where to look. Owners are looked for in the
//! dependent's own namespace or in the cluster, never in another namespace.
//!
//! ```text
//! informers of all kinds (metadata only) -> graph -> wakes -> delete workers / orphan workers -> API
//! ```

mod graph;
mod object;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{
    DeleteOptions, ErrorKind, EventRecorder, EventType, Informer, Patch, Propagation, Scope, Source, WorkQueue,
    error_kind, run_workers,
};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::context::Context;
use crate::discovery::{Resource, discover};
use crate::failure::{Failure, error_text};
use crate::owners::group_of;
use graph::{Graph, Node, Place, Uid, Wake};
use object::{FOREGROUND, ORPHAN, Object};

const WORKERS: usize = 20;
/// After a change of what is served, discovery is given this long to tell of it.
const DISCOVERY_DELAY: Duration = Duration::from_secs(1);
const DISCOVERY_RETRY: Duration = Duration::from_secs(5);

pub(crate) struct GarbageCollector {
    context: Arc<Context>,
    recorder: EventRecorder,
    graph: Mutex<Graph>,
    to_delete: WorkQueue<Uid>,
    to_orphan: WorkQueue<Uid>,
    monitors: Mutex<BTreeMap<Resource, Monitor>>,
    /// All kinds of discovery, watched or not, to find owners by kind.
    kinds: Mutex<Vec<Arc<Resource>>>,
}

struct Monitor {
    informer: Arc<Informer<Object>>,
    cancel: CancellationToken,
}

impl GarbageCollector {
    pub fn new(context: &Arc<Context>) -> Arc<Self> {
        Arc::new(GarbageCollector {
            context: context.clone(),
            recorder: context.recorder("garbage-collector-controller"),
            graph: Mutex::new(Graph::default()),
            to_delete: WorkQueue::new().named("garbage_collector_attempt_to_delete"),
            to_orphan: WorkQueue::new().named("garbage_collector_attempt_to_orphan"),
            monitors: Mutex::new(BTreeMap::new()),
            kinds: Mutex::new(Vec::new()),
        })
    }

    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let changed = Arc::new(Notify::new());
        self.watch_served_kinds(&changed);
        let watcher = self.clone().follow_discovery(changed, cancel.clone());
        let deleting = self.clone();
        let delete = run_workers(self.to_delete.clone(), WORKERS, cancel.clone(), move |uid: Uid| {
            let collector = deleting.clone();
            async move { collector.quietly(&collector.to_delete, &uid, collector.attempt_to_delete(&uid).await) }
        });
        let orphaning = self.clone();
        let orphan = run_workers(self.to_orphan.clone(), WORKERS, cancel.clone(), move |uid: Uid| {
            let collector = orphaning.clone();
            async move { collector.quietly(&collector.to_orphan, &uid, collector.attempt_to_orphan(&uid).await) }
        });
        tokio::join!(watcher, delete, orphan);
    }

    fn watch_served_kinds(&self, changed: &Arc<Notify>) {
        let notify = changed.clone();
        self.context.informer::<CustomResourceDefinition>().subscribe(move |change| {
            let stands = change.old().is_some_and(|old| {
                let new = change.object();
                old.spec == new.spec && old.status == new.status
            });
            if !stands {
                notify.notify_one();
            }
        });
        let notify = changed.clone();
        self.context.informer::<APIService>().subscribe(move |_| notify.notify_one());
    }

    async fn follow_discovery(self: Arc<Self>, changed: Arc<Notify>, cancel: CancellationToken) {
        loop {
            let wait = match discover(&self.context.rest).await {
                Ok(discovered) => {
                    let complete = discovered.failures.is_empty();
                    self.monitor(discovered.resources, complete, &cancel);
                    (!complete).then_some(DISCOVERY_RETRY)
                }
                Err(error) => {
                    warn!(error = error_text(&error), "discovery failed");
                    Some(DISCOVERY_RETRY)
                }
            };
            let retry = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = cancel.cancelled() => return,
                _ = changed.notified() => tokio::time::sleep(DISCOVERY_DELAY).await,
                _ = retry => {}
            }
        }
    }

    /// Watches what is served now; what is served no longer is forgotten, unless discovery was incomplete.
    fn monitor(self: &Arc<Self>, resources: Vec<Resource>, complete: bool, cancel: &CancellationToken) {
        *self.kinds.lock() = resources.iter().cloned().map(Arc::new).collect();
        let wanted: Vec<Resource> = resources.into_iter().filter(is_collectable).collect();
        let mut monitors = self.monitors.lock();
        if complete {
            let gone: Vec<Resource> = monitors.keys().filter(|known| !wanted.contains(known)).cloned().collect();
            for resource in gone {
                if let Some(monitor) = monitors.remove(&resource) {
                    monitor.cancel.cancel();
                }
                let wakes = self.graph.lock().forget_resource(&resource);
                self.wake(wakes);
            }
        }
        for resource in wanted {
            if monitors.contains_key(&resource) {
                continue;
            }
            let cancel = cancel.child_token();
            let source = Source { path: resource.path(None), metadata_only: true };
            let client = self.context.rest.client();
            let informer = Informer::<Object>::start_at(client, source, Scope::default(), cancel.clone());
            let (collector, shared) = (Arc::downgrade(self), Arc::new(resource.clone()));
            informer.subscribe(move |change| {
                let Some(collector) = collector.upgrade() else { return };
                let wakes = match change {
                    client::Change::Deleted(object) => collector.graph.lock().forget(&object.metadata.uid),
                    change => collector.graph.lock().observe(change.object(), &shared),
                };
                collector.wake(wakes);
            });
            monitors.insert(resource, Monitor { informer, cancel });
        }
    }

    fn wake(&self, wakes: Vec<Wake>) {
        for wake in wakes {
            match wake {
                Wake::Delete(uid) => self.to_delete.add(uid),
                Wake::Orphan(uid) => self.to_orphan.add(uid),
                Wake::ForeignOwner { dependent, owner } => self.report_foreign_owner(&dependent, &owner),
            }
        }
    }

    fn report_foreign_owner(&self, dependent: &str, owner: &str) {
        let graph = self.graph.lock();
        let Some(dependent) = graph.node(dependent) else { return };
        let Some(reference) = dependent.owners.iter().find(|reference| reference.uid == owner) else { return };
        let Place::Observed(resource) = &dependent.place else { return };
        let about = ObjectReference {
            api_version: Some(api_version(resource)),
            kind: Some(resource.kind.clone()),
            namespace: Some(dependent.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(dependent.name.clone()),
            uid: Some(dependent.uid.clone()),
            ..ObjectReference::default()
        };
        let text = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
            reference.api_version, reference.kind, dependent.namespace, reference.name, reference.uid, dependent.namespace
        );
        self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", text);
    }

    /// Every kind must have been listed once before absence means anything.
    async fn synced(&self) {
        loop {
            let waiting: Vec<_> = {
                let monitors = self.monitors.lock();
                monitors.values().filter(|monitor| !monitor.informer.has_synced()).map(|monitor| monitor.informer.clone()).collect()
            };
            let Some(informer) = waiting.into_iter().next() else { return };
            // A kind that cannot be listed must not hold up the others for ever.
            let _ = tokio::time::timeout(Duration::from_secs(30), informer.synced()).await;
            if !informer.has_synced() {
                return;
            }
        }
    }

    /// A conflict only means that the object moved on: no line in the log for that.
    fn quietly(&self, queue: &WorkQueue<Uid>, uid: &Uid, outcome: Result<(), Failure>) -> Result<(), Failure> {
        match outcome {
            Err(failure) if failure.kind() == Some(ErrorKind::Conflict) => {
                queue.add_rate_limited(uid.clone());
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn attempt_to_delete(&self, uid: &str) -> Result<(), Failure> {
        self.synced().await;
        let Some(node) = self.graph.lock().node(uid).cloned() else { return Ok(()) };
        if node.deleting && !node.deleting_dependents {
            return Ok(());
        }
        let path = self.path_of(&node)?;
        let live = self.get_live(&path).await?.filter(|live| live.metadata.uid == uid);
        let Some(live) = live else {
            let wakes = self.graph.lock().forget(uid);
            self.wake(wakes);
            return Ok(());
        };
        if node.deleting_dependents {
            return self.finish_foreground(&node, &live, &path).await;
        }
        if node.is_virtual() || live.is_deleting() {
            return Ok(()); // It exists; the watch will say more.
        }
        let Some(verdict) = self.judge(&live).await? else { return Ok(()) };
        self.carry_out(&node, &live, &path, verdict).await
    }

    async fn carry_out(&self, node: &Node, live: &Object, path: &str, verdict: Verdict) -> Result<(), Failure> {
        let (owners, propagation) = match decide(live, verdict, !node.dependents.is_empty(), || self.is_in_foreground_cycle(node)) {
            Act::Nothing => return Ok(()),
            Act::WriteOwners(owners) => return self.write_owners(path, live, owners).await,
            Act::Delete { first_write, propagation } => (first_write, propagation),
        };
        if let Some(owners) = owners {
            self.write_owners(path, live, owners).await?;
        }
        let options = DeleteOptions {
            uid: Some(live.metadata.uid.clone()),
            resource_version: Some(live.metadata.resource_version.clone()),
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        debug!(path, ?propagation, "deleting: no owner is left");
        match self.context.rest.delete_at(path.to_owned(), &options).await {
            Err(error) if error_kind(&error) == ErrorKind::NotFound => Ok(()),
            outcome => outcome.map(|_| ()).map_err(Failure::from),
        }
    }

    /// A dependent that itself waits for its dependents might wait for us: then neither would ever go.
    fn is_in_foreground_cycle(&self, node: &Node) -> bool {
        let graph = self.graph.lock();
        node.dependents.iter().filter_map(|uid| graph.node(uid)).any(|dependent| dependent.deleting_dependents)
    }

    async fn finish_foreground(&self, node: &Node, live: &Object, path: &str) -> Result<(), Failure> {
        let waiting: Option<Vec<Uid>> = {
            let graph = self.graph.lock();
            let blocking = graph.blocking_dependents(&node.uid);
            let awake = blocking.iter().filter(|dependent| !dependent.deleting_dependents).map(|dependent| dependent.uid.clone());
            (!blocking.is_empty()).then(|| awake.collect())
        };
        match waiting {
            None => self.remove_finalizer(path, live, FOREGROUND).await,
            Some(dependents) => {
                self.wake(dependents.into_iter().map(Wake::Delete).collect());
                Ok(())
            }
        }
    }

    async fn attempt_to_orphan(&self, uid: &str) -> Result<(), Failure> {
        self.synced().await;
        let (node, dependents) = {
            let graph = self.graph.lock();
            let Some(node) = graph.node(uid).cloned() else { return Ok(()) };
            let dependents: Vec<Node> = node.dependents.iter().filter_map(|uid| graph.node(uid).cloned()).collect();
            (node, dependents)
        };
        for dependent in dependents {
            let path = self.path_of(&dependent)?;
            let Some(live) = self.get_live(&path).await? else { continue };
            if live.metadata.uid != dependent.uid {
                continue;
            }
            let mut owners = live.metadata.owner_references.clone();
            owners.retain(|owner| owner.uid != uid);
            if owners.len() != live.metadata.owner_references.len() {
                self.write_owners(&path, &live, owners).await?;
            }
        }
        let path = self.path_of(&node)?;
        match self.get_live(&path).await? {
            Some(live) if live.metadata.uid == uid => self.remove_finalizer(&path, &live, ORPHAN).await,
            _ => Ok(()),
        }
    }

    /// Looks at every owner. `None` when a cluster-wide object names an owner in a namespace, which is
    /// invalid and for somebody else to mend.
    async fn judge(&self, live: &Object) -> Result<Option<Verdict>, Failure> {
        let mut verdict = Verdict::default();
        for reference in &live.metadata.owner_references {
            let resource = self.resource_of(&reference.api_version, &reference.kind)?;
            if resource.namespaced && live.metadata.namespace.is_empty() {
                return Ok(None);
            }
            let namespace = if resource.namespaced { live.metadata.namespace.as_str() } else { "" };
            match self.state_of_owner(reference, &resource, namespace).await? {
                Owner::Absent => verdict.dangling.push(reference.clone()),
                Owner::WaitsForDependents => verdict.waiting.push(reference.clone()),
                Owner::Present => verdict.solid.push(reference.clone()),
            }
        }
        Ok(Some(verdict))
    }

    async fn state_of_owner(&self, reference: &OwnerReference, resource: &Resource, namespace: &str) -> Result<Owner, Failure> {
        {
            let graph = self.graph.lock();
            if graph.is_absent(namespace, &reference.uid) {
                return Ok(Owner::Absent);
            }
            // What the watch still knows is there; when it goes, the watch will wake us again.
            if let Some(owner) = graph.node(&reference.uid)
                && matches!(&owner.place, Place::Observed(known) if known.kind == resource.kind && known.group == resource.group)
                && owner.namespace == namespace
                && owner.name == reference.name
            {
                return Ok(if owner.deleting_dependents { Owner::WaitsForDependents } else { Owner::Present });
            }
        }
        let path = format!("{}/{}", resource.path(Some(namespace)), reference.name);
        Ok(match self.get_live(&path).await? {
            Some(owner) if owner.metadata.uid == reference.uid => {
                if owner.is_deleting() && owner.has_finalizer(FOREGROUND) {
                    Owner::WaitsForDependents
                } else {
                    Owner::Present
                }
            }
            _ => {
                self.graph.lock().set_absent(namespace, &reference.uid);
                Owner::Absent
            }
        })
    }

    async fn get_live(&self, path: &str) -> Result<Option<Object>, Failure> {
        match self.context.rest.get_at::<Object>(path.to_owned()).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error_kind(&error) == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn write_owners(&self, path: &str, live: &Object, owners: Vec<OwnerReference>) -> Result<(), Failure> {
        self.patch_metadata(path, live, "ownerReferences", json!(owners)).await
    }

    async fn remove_finalizer(&self, path: &str, live: &Object, finalizer: &str) -> Result<(), Failure> {
        let mut left = live.metadata.finalizers.clone();
        left.retain(|known| known != finalizer);
        if left.len() == live.metadata.finalizers.len() {
            return Ok(());
        }
        self.patch_metadata(path, live, "finalizers", json!(left)).await
    }

    async fn patch_metadata(&self, path: &str, live: &Object, field: &str, value: Value) -> Result<(), Failure> {
        let mut patch = json!({"metadata": {
            "uid": live.metadata.uid,
            "resourceVersion": live.metadata.resource_version,
        }});
        // An empty list is the same as none, but only null takes the field away.
        patch["metadata"][field] = if value.as_array().is_some_and(Vec::is_empty) { Value::Null } else { value };
        match self.context.rest.patch_at::<Value>(path.to_owned(), &Patch::Merge(patch)).await {
            Err(error) if error_kind(&error) == ErrorKind::NotFound => Ok(()),
            outcome => outcome.map(|_| ()).map_err(Failure::from),
        }
    }

    fn path_of(&self, node: &Node) -> Result<String, Failure> {
        let resource = match &node.place {
            Place::Observed(resource) => resource.clone(),
            Place::Virtual { api_version, kind } => self.resource_of(api_version, kind)?,
        };
        Ok(format!("{}/{}", resource.path(Some(&node.namespace)), node.name))
    }

    fn resource_of(&self, api_version: &str, kind: &str) -> Result<Arc<Resource>, Failure> {
        let group = group_of(api_version);
        let kinds = self.kinds.lock();
        let found = kinds.iter().find(|resource| resource.group == group && resource.kind == kind);
        found.cloned().ok_or_else(|| Failure::Other(format!("no matches for kind \"{kind}\" in version \"{api_version}\"")))
    }
}

/// Events own nothing and are too many to watch.
fn is_collectable(resource: &Resource) -> bool {
    let events = resource.name == "events" && matches!(resource.group.as_str(), "" | "events.k8s.io");
    !events && ["delete", "list", "watch"].iter().all(|verb| resource.can(verb))
}

fn api_version(resource: &Resource) -> String {
    if resource.group.is_empty() { resource.version.clone() } else { format!("{}/{}", resource.group, resource.version) }
}

fn unblock(mut reference: OwnerReference) -> OwnerReference {
    reference.block_owner_deletion = Some(false);
    reference
}

#[derive(Debug, PartialEq)]
enum Act {
    Nothing,
    /// Some owners are gone, or wait: it stays for the others' sake.
    WriteOwners(Vec<OwnerReference>),
    Delete { first_write: Option<Vec<OwnerReference>>, propagation: Propagation },
}

/// Pure. `in_cycle` is asked only when the object is to go before an owner that waits for it.
fn decide(live: &Object, verdict: Verdict, has_dependents: bool, in_cycle: impl FnOnce() -> bool) -> Act {
    if live.metadata.owner_references.is_empty() {
        return Act::Nothing;
    }
    if !verdict.solid.is_empty() {
        let all_stand = verdict.dangling.is_empty() && verdict.waiting.is_empty();
        return if all_stand { Act::Nothing } else { Act::WriteOwners(verdict.solid) };
    }
    if !verdict.waiting.is_empty() && has_dependents {
        let unblocked = || live.metadata.owner_references.iter().cloned().map(unblock).collect();
        return Act::Delete { first_write: in_cycle().then(unblocked), propagation: Propagation::Foreground };
    }
    // As it was wished when it was deleted before.
    let propagation = if live.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if live.has_finalizer(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    Act::Delete { first_write: None, propagation }
}

enum Owner {
    Present,
    WaitsForDependents,
    Absent,
}

#[derive(Default)]
struct Verdict {
    solid: Vec<OwnerReference>,
    waiting: Vec<OwnerReference>,
    dangling: Vec<OwnerReference>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owners are `name:solid`, `name:waiting` (for its dependents) or `name:gone`; `finalizers` are those of the object.
    #[track_caller]
    fn check(owners: &str, finalizers: &[&str], has_dependents: bool, in_cycle: bool, expected: &str) {
        let mut verdict = Verdict::default();
        let mut references = Vec::new();
        for word in owners.split_whitespace() {
            let (name, state) = word.split_once(':').unwrap();
            let reference = OwnerReference { name: name.into(), block_owner_deletion: Some(true), ..OwnerReference::default() };
            references.push(reference.clone());
            match state {
                "solid" => verdict.solid.push(reference),
                "waiting" => verdict.waiting.push(reference),
                _ => verdict.dangling.push(reference),
            }
        }
        let live = json!({"metadata": {"uid": "u", "name": "o", "finalizers": finalizers, "ownerReferences": references}});
        let live: Object = serde_json::from_value(live).unwrap();
        let names = |owners: &[OwnerReference]| {
            let mark = |owner: &OwnerReference| if owner.block_owner_deletion == Some(true) { "!" } else { "" };
            owners.iter().map(|owner| format!("{}{}", owner.name, mark(owner))).collect::<Vec<_>>().join(",")
        };
        let told = match decide(&live, verdict, has_dependents, || in_cycle) {
            Act::Nothing => "nothing".to_owned(),
            Act::WriteOwners(owners) => format!("owners={}", names(&owners)),
            Act::Delete { first_write: None, propagation } => format!("delete {propagation:?}"),
            Act::Delete { first_write: Some(owners), propagation } => format!("owners={} delete {propagation:?}", names(&owners)),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn owners_decide() {
        //    owners                       finalizers            dependents  cycle
        check("", &[], true, false, "nothing");
        check("a:solid", &[], true, false, "nothing");
        check("a:solid b:solid", &[], false, false, "nothing");
        check("a:solid b:gone", &[], false, false, "owners=a!"); // One is left to live for.
        check("a:solid b:waiting", &[], false, false, "owners=a!"); // The other must not wait for it.
        check("a:gone", &[], true, false, "delete Background");
        check("a:gone b:gone", &[], true, false, "delete Background");
        check("a:waiting", &[], false, false, "delete Background");
        check("a:waiting", &[], true, false, "delete Foreground"); // Its own dependents go first as well.
        check("a:waiting b:gone", &[], true, false, "delete Foreground");
        check("a:waiting", &[], true, true, "owners=a delete Foreground"); // They would wait for each other.
        check("a:gone", &[ORPHAN], true, false, "delete Orphan");
        check("a:gone", &[FOREGROUND], true, false, "delete Foreground");
        check("a:waiting", &[ORPHAN], false, false, "delete Orphan");
        check("a:gone", &["x/y"], true, true, "delete Background");
    }

    #[test]
    fn what_is_collected() {
        #[track_caller]
        fn check(group: &str, name: &str, verbs: &[&str], expected: bool) {
            let resource = Resource {
                group: group.into(),
                version: "v1".into(),
                name: name.into(),
                kind: String::new(),
                namespaced: true,
                verbs: verbs.iter().map(|&verb| verb.into()).collect(),
            };
            assert_eq!(is_collectable(&resource), expected);
        }
        let all = ["delete", "list", "watch", "get"];
        check("", "pods", &all, true);
        check("example.com", "widgets", &all, true);
        check("", "events", &all, false); // Own nothing, and are too many.
        check("events.k8s.io", "events", &all, false);
        check("example.com", "events", &all, true);
        check("", "bindings", &["create"], false);
        check("metrics.k8s.io", "pods", &["get", "list"], false);
    }
}
