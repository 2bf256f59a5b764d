//! Recounts what each ResourceQuota's namespace uses, into `status.used`.
//!
//! Invariant: admission alone raises usage between two counts; a count replaces whatever stood there, so that
//! deletes and failed creates are given back. A lower count waits until admission has been silent for a moment: it
//! writes usage before the object that it is for exists, and whoever counts just then would give it away twice. Objects of every kind the server offers can be counted by
//! `count/<resource>.<group>`.
//!
//! Deliberately absent: resource claims of DRA by device class.

mod usage;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity;
use async_trait::async_trait;
use client::{Change, Informer, Metadata, ObjectKey};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, ResourceQuotaStatus, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::context::{Context, Object};
use crate::discovery::{Resource, discover};
use crate::failure::Failure;
use crate::pods;
use crate::runner::{Controller, Next, Queue};
use usage::{Amounts, Scopes};

/// Kinds without an informer here are counted again this often while a quota counts them: the original's figure.
const RECOUNT: Duration = Duration::from_secs(5 * 60);

/// How long a quota must have stood unchanged before its usage is lowered: an object admitted is seen by then.
const CALM: Duration = Duration::from_secs(1);

pub(crate) struct ResourceQuotas {
    context: Arc<Context>,
    /// The revision at which a lower count was first seen, and when.
    lowered: Mutex<HashMap<ObjectKey, (String, Timestamp)>>,
    quotas: Arc<Informer<ResourceQuota>>,
    pods: Arc<Informer<Pod>>,
    services: Arc<Informer<Service>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    secrets: Arc<Informer<Metadata<Secret>>>,
    config_maps: Arc<Informer<Metadata<ConfigMap>>>,
    replication_controllers: Arc<Informer<ReplicationController>>,
    counted: Vec<Counted>,
}

/// A kind of which only the number counts, and that this process watches for others anyway.
struct Counted {
    /// As in `count/<name>`.
    name: &'static str,
    count: Box<dyn Fn(&str) -> usize + Send + Sync>,
    watch: Box<dyn Fn(&ResourceQuotas, &Queue) + Send + Sync>,
}

impl Counted {
    fn of<K: Object>(context: &Context, name: &'static str) -> Self {
        let (counted, watched) = (context.informer::<K>(), context.informer::<K>());
        Counted {
            name,
            count: Box::new(move |namespace| counted.list_namespace(namespace).len()),
            watch: Box::new(move |quotas, queue| quotas.watch_kind(&watched, queue, |_, _| false)),
        }
    }
}

impl ResourceQuotas {
    pub fn new(context: &Arc<Context>) -> Self {
        ResourceQuotas {
            context: context.clone(),
            lowered: Mutex::default(),
            quotas: context.informer(),
            pods: context.informer(),
            services: context.informer(),
            claims: context.informer(),
            secrets: context.metadata_informer(),
            config_maps: context.metadata_informer(),
            replication_controllers: context.informer(),
            counted: vec![
                Counted::of::<DaemonSet>(context, "daemonsets.apps"),
                Counted::of::<Deployment>(context, "deployments.apps"),
                Counted::of::<ReplicaSet>(context, "replicasets.apps"),
                Counted::of::<StatefulSet>(context, "statefulsets.apps"),
                Counted::of::<Job>(context, "jobs.batch"),
                Counted::of::<CronJob>(context, "cronjobs.batch"),
            ],
        }
    }

    /// What the quota's namespace uses of the resources that it limits; those that cannot be counted are missing.
    async fn count(&self, quota: &ResourceQuota, namespace: &str) -> Result<(Amounts, Next), Failure> {
        let spec = quota.spec.clone().unwrap_or_default();
        let hard: BTreeSet<&str> = spec.hard.iter().flatten().map(|(name, _)| name.as_str()).collect();
        let scopes = Scopes::of(&spec);
        let mut used = Amounts::new();
        let mut add = |amounts: Amounts| {
            for (name, amount) in amounts {
                let total = used.remove(&name).unwrap_or_default() + amount;
                used.insert(name, total);
            }
        };
        for pod in self.pods.list_namespace(namespace).iter().filter(|pod| scopes.cover_pod(pod)) {
            add(usage::of_pod(pod, self.context.now()));
        }
        for claim in self.claims.list_namespace(namespace).iter().filter(|claim| scopes.cover_claim(claim)) {
            add(usage::of_claim(claim));
        }
        let mut next = Next::Settled;
        if scopes.is_empty() {
            for service in self.services.list_namespace(namespace) {
                add(usage::of_service(&service));
            }
            for (plural, count) in [
                ("secrets", self.secrets.list_namespace(namespace).len()),
                ("configmaps", self.config_maps.list_namespace(namespace).len()),
                ("replicationcontrollers", self.replication_controllers.list_namespace(namespace).len()),
                ("resourcequotas", self.quotas.list_namespace(namespace).len()),
            ] {
                add(usage::of_objects(plural, count));
            }
            for kind in self.counted.iter().filter(|kind| hard.contains(format!("count/{}", kind.name).as_str())) {
                add(usage::of_objects(kind.name, (kind.count)(namespace)));
            }
            let known = ["pods", "persistentvolumeclaims", "services", "secrets", "configmaps", "replicationcontrollers", "resourcequotas"];
            let others =
                hard.iter().filter_map(|name| name.strip_prefix("count/")).filter(|name| !known.contains(name));
            let others: Vec<&str> = others.filter(|name| self.counted.iter().all(|kind| kind.name != *name)).collect();
            if !others.is_empty() {
                for (name, count) in self.count_others(&others, namespace).await? {
                    add([(format!("count/{name}"), Quantity::from_value(count))].into());
                }
                next = Next::After(RECOUNT);
            }
        }
        let mut counted = Amounts::new();
        for name in hard {
            let amount = used.remove(name);
            if amount.is_some() || usage::is_counted(name) {
                counted.insert(name.to_owned(), amount.unwrap_or_default());
            }
        }
        Ok((counted, next))
    }

    /// Counts kinds that nobody here watches. A kind that the server does not offer is left out.
    async fn count_others(&self, names: &[&str], namespace: &str) -> Result<Vec<(String, i64)>, Failure> {
        let mut counts = Vec::new();
        let offered = discover(&self.context.rest).await?.resources;
        for resource in offered.iter().filter(|resource| resource.namespaced && resource.can("list")) {
            let name = resource.group_resource();
            if names.contains(&name.as_str()) && !counts.iter().any(|(counted, _)| *counted == name) {
                counts.push((name, self.count_one(resource, namespace).await?));
            }
        }
        Ok(counts)
    }

    async fn count_one(&self, resource: &Resource, namespace: &str) -> Result<i64, Failure> {
        let page: Value = self.context.rest.get_at(format!("{}?limit=1", resource.path(Some(namespace)))).await?;
        let shown = page["items"].as_array().map_or(0, Vec::len);
        let remaining = page["metadata"]["remainingItemCount"].as_i64();
        match (page["metadata"]["continue"].as_str().unwrap_or_default(), remaining) {
            ("", _) => Ok(i64::try_from(shown).unwrap_or(i64::MAX)),
            (_, Some(remaining)) => Ok(remaining + i64::try_from(shown).unwrap_or(0)),
            (_, None) => {
                let all: Value = self.context.rest.get_at(resource.path(Some(namespace))).await?;
                Ok(all["items"].as_array().map_or(0, |items| i64::try_from(items.len()).unwrap_or(i64::MAX)))
            }
        }
    }

    /// Whether the quota has stood as it is for a moment.
    fn is_calm(&self, key: &ObjectKey, quota: &ResourceQuota) -> bool {
        let revision = quota.metadata.resource_version.clone().unwrap_or_default();
        let now = self.context.now();
        let mut lowered = self.lowered.lock();
        let (seen, since) = lowered.entry(key.clone()).or_insert_with(|| (revision.clone(), now));
        if *seen != revision {
            (*seen, *since) = (revision, now);
        }
        // Milliseconds: timers and clocks round.
        now.as_millisecond() - since.as_millisecond() + 50 >= CALM.as_millis() as i64
    }

    /// Queues the quotas of the namespace of whatever comes or goes.
    fn watch_count<K: 'static>(&self, informer: &Informer<Metadata<K>>, queue: &Queue) {
        let (quotas, queue) = (self.quotas.clone(), queue.clone());
        informer.subscribe(move |change| {
            if change.old().is_none() {
                for quota in quotas.list_namespace(change.object().namespace()) {
                    queue.add(ObjectKey::of(&quota.metadata));
                }
            }
        });
    }

    /// Queues the quotas of the namespace of whatever changes so that its usage may.
    fn watch_kind<K: Object>(&self, informer: &Informer<K>, queue: &Queue, matters: fn(&K, &K) -> bool) {
        let (quotas, queue) = (self.quotas.clone(), queue.clone());
        informer.subscribe(move |change: &Change<K>| {
            let object = change.object();
            if let Some(old) = change.old()
                && !matters(old, object)
            {
                return;
            }
            for quota in quotas.list_namespace(object.meta().namespace.as_deref().unwrap_or_default()) {
                queue.add(ObjectKey::of(&quota.metadata));
            }
        });
    }
}

/// Pure. The status to write, if it is not there yet.
fn decide(quota: &ResourceQuota, counted: &Amounts) -> Option<ResourceQuotaStatus> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone());
    let used: BTreeMap<String, Text> = counted.iter().map(|(name, amount)| (name.clone(), Text(amount.to_string()))).collect();
    let wanted = ResourceQuotaStatus { hard, used: Some(used) };
    let held = quota.status.clone().unwrap_or_default();
    let same = |a: &Option<BTreeMap<String, Text>>, b: &Option<BTreeMap<String, Text>>| {
        let parse = |amounts: &Option<BTreeMap<String, Text>>| -> Amounts {
            amounts.iter().flatten().map(|(name, amount)| (name.clone(), Quantity::parse(&amount.0).unwrap_or_default())).collect()
        };
        parse(a) == parse(b)
    };
    (!same(&held.hard, &wanted.hard) || !same(&held.used, &wanted.used)).then_some(wanted)
}

/// Whether some usage that is told is more than what was counted.
fn lowers(quota: &ResourceQuota, counted: &Amounts) -> bool {
    let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
    used.into_iter().flatten().any(|(name, amount)| {
        let told = Quantity::parse(&amount.0).unwrap_or_default();
        counted.get(name).is_some_and(|counted| *counted < told)
    })
}

#[async_trait]
impl Controller for ResourceQuotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.quotas.subscribe(move |change: &Change<ResourceQuota>| {
            if !matches!(change, Change::Deleted(_)) {
                own.add(ObjectKey::of(&change.object().metadata));
            }
        });
        self.watch_kind(&self.pods, queue, |old, new| {
            pods::is_finished(old) != pods::is_finished(new)
                || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
                || usage::resources_differ(old, new)
        });
        self.watch_kind(&self.services, queue, |old, new| old.spec != new.spec);
        self.watch_kind(&self.claims, queue, |old, new| old.spec != new.spec);
        self.watch_count(&self.secrets, queue);
        self.watch_count(&self.config_maps, queue);
        self.watch_kind(&self.replication_controllers, queue, |_, _| false);
        self.counted.iter().for_each(|kind| (kind.watch)(self, queue));
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(quota) = self.quotas.get(key) else {
            self.lowered.lock().remove(key);
            return Ok(Next::Settled);
        };
        let (counted, next) = self.count(&quota, &key.namespace).await?;
        if let Some(status) = decide(&quota, &counted) {
            if lowers(&quota, &counted) && !self.is_calm(key, &quota) {
                return Ok(next.or(Next::After(CALM)));
            }
            self.lowered.lock().remove(key);
            let mut wanted = (*quota).clone();
            wanted.status = Some(status);
            self.context.update_status(&wanted).await?;
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(status: Value, counted: &[(&str, &str)], expected: Option<&str>) {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "10", "cpu": "2"}}, "status": status});
        let quota = serde_json::from_value(quota).unwrap();
        let counted = counted.iter().map(|(name, amount)| ((*name).to_owned(), Quantity::parse(amount).unwrap())).collect();
        let told = decide(&quota, &counted).map(|status| serde_json::to_string(&status).unwrap());
        assert_eq!(told.as_deref(), expected);
    }

    #[test]
    fn lower_counts_are_told_from_others() {
        let lower = |told: &str, counted: &str| {
            let quota = json!({"metadata": {}, "status": {"used": {"pods": told}}});
            let counted = [("pods".to_owned(), Quantity::parse(counted).unwrap())].into_iter().collect();
            lowers(&serde_json::from_value(quota).unwrap(), &counted)
        };
        assert!(lower("3", "2") && !lower("2", "2") && !lower("1", "2"));
    }

    #[test]
    fn a_count_replaces_what_stood_there() {
        let written = r#"{"hard":{"cpu":"2","pods":"10"},"used":{"cpu":"1500m","pods":"3"}}"#;
        check(json!({}), &[("pods", "3"), ("cpu", "1500m")], Some(written));
        check(json!({"hard": {"cpu": "2", "pods": "10"}, "used": {"cpu": "1.5", "pods": "3"}}), &[("pods", "3"), ("cpu", "1500m")], None);
        check(json!({"hard": {"cpu": "2", "pods": "10"}, "used": {"cpu": "1", "pods": "4"}}), &[("pods", "3"), ("cpu", "1500m")], Some(written));
    }
}
