//! Tells for every PodDisruptionBudget how many of its pods may be evicted now.
//!
//! Invariant: a pod whose eviction was granted counts as lost until it is gone or the grant has expired, so
//! that two evictions never spend the same allowance.

pub(crate) mod stale;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::context::{Context, seconds_between};
use crate::discovery::discover;
use crate::failure::{Failure, go_selector};
use crate::owners;
use crate::pods;
use crate::proportion::{Round, of_total};
use crate::runner::{Controller, Next, Queue};

/// A granted eviction that led to no deletion within this time is taken back.
const GRANT_SECONDS: i64 = 120;
const CONDITION: &str = "DisruptionAllowed";

pub(crate) struct Disruption {
    context: Arc<Context>,
    recorder: EventRecorder,
    budgets: Arc<Informer<PodDisruptionBudget>>,
    pods: Arc<Informer<Pod>>,
    replica_sets: Arc<Informer<ReplicaSet>>,
    replication_controllers: Arc<Informer<ReplicationController>>,
    deployments: Arc<Informer<Deployment>>,
    stateful_sets: Arc<Informer<StatefulSet>>,
}

impl Disruption {
    pub fn new(context: &Arc<Context>) -> Self {
        Disruption {
            context: context.clone(),
            recorder: context.recorder("controllermanager"),
            budgets: context.informer(),
            pods: context.informer(),
            replica_sets: context.informer(),
            replication_controllers: context.informer(),
            deployments: context.informer(),
            stateful_sets: context.informer(),
        }
    }

    /// How many pods the pods' controllers want together; the controllers are counted once each.
    async fn expected_scale(&self, pods: &[Arc<Pod>]) -> Result<i32, Failure> {
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        for pod in pods {
            let Some(owner) = owners::controller_of(&pod.metadata) else { continue };
            if scales.contains_key(&owner.uid) {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let (uid, scale) = self.scale_of(namespace, owner).await?;
            scales.insert(uid, scale);
        }
        Ok(scales.values().sum())
    }

    /// The uid of who decides, and what it wants.
    async fn scale_of(&self, namespace: &str, owner: &OwnerReference) -> Result<(String, i32), Failure> {
        let key = ObjectKey::new(namespace, owner.name.clone());
        let wanted = |replicas: Option<i32>| replicas.unwrap_or(1);
        let group = owners::group_of(&owner.api_version);
        match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                if let Some(set) = self.replica_sets.get(&key) {
                    let deployment = owners::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment");
                    if let Some(owner) = deployment
                        && let Some(deployment) = self.deployments.get(&ObjectKey::new(namespace, owner.name.clone()))
                    {
                        return Ok((owner.uid.clone(), wanted(deployment.spec.as_ref().and_then(|spec| spec.replicas))));
                    }
                    return Ok((owner.uid.clone(), wanted(set.spec.as_ref().and_then(|spec| spec.replicas))));
                }
            }
            ("", "ReplicationController") => {
                if let Some(set) = self.replication_controllers.get(&key) {
                    return Ok((owner.uid.clone(), wanted(set.spec.as_ref().and_then(|spec| spec.replicas))));
                }
            }
            ("apps", "StatefulSet") => {
                if let Some(set) = self.stateful_sets.get(&key) {
                    return Ok((owner.uid.clone(), wanted(set.spec.as_ref().and_then(|spec| spec.replicas))));
                }
            }
            _ => {}
        }
        let resources = discover(&self.context.rest).await?.resources;
        let found = resources.into_iter().find(|resource| resource.group == group && resource.kind == owner.kind);
        let unknown = || Failure::Other(format!("no matches for kind \"{}\" in version \"{}\"", owner.kind, owner.api_version));
        let resource = found.ok_or_else(unknown)?;
        let no_scale = || Failure::Other(format!("{} does not implement the scale subresource", resource.group_resource()));
        let path = format!("{}/{}/scale", resource.path(Some(namespace)), owner.name);
        let scale: Value = self.context.rest.get_at(path).await.map_err(|_| no_scale())?;
        Ok((owner.uid.clone(), scale["spec"]["replicas"].as_i64().unwrap_or(0) as i32))
    }
}

#[async_trait]
impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.budgets.subscribe(move |change: &Change<PodDisruptionBudget>| own.add(ObjectKey::of(&change.object().metadata)));
        let (budgets, queue) = (self.budgets.clone(), queue.clone());
        self.pods.subscribe(move |change: &Change<Pod>| {
            let pod = change.object();
            for budget in budgets.list_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
                let Some(selector) = selector(&budget) else { continue };
                let selected = |pod: &Pod| owners::matches(&selector, &pod.metadata);
                if selected(pod) || change.old().is_some_and(|old| selected(old)) {
                    queue.add(ObjectKey::of(&budget.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Settled) };
        let mut selected = self.pods.list_namespace(&key.namespace);
        match selector(&budget) {
            Some(selector) => selected.retain(|pod| owners::matches(&selector, &pod.metadata)),
            None => selected.clear(),
        }
        let about = client::object_ref(&*budget);
        if selected.is_empty() {
            self.recorder.event(&about, EventType::Normal, "NoPods", "No matching pods found");
        }
        let now = self.context.now();
        let needs_scale = expectation(&budget).is_some_and(|value| !matches!(value, Expectation::Available(IntOrString::Int(_))));
        let scale = if needs_scale { self.expected_scale(&selected).await } else { Ok(selected.len() as i32) };
        if needs_scale && scale.is_ok() && selected.iter().any(|pod| owners::controller_of(&pod.metadata).is_none()) {
            self.recorder.event(&about, EventType::Warning, "UnmanagedPods", unmanaged(&budget));
        }
        for pod in overdue(&budget, &selected, now) {
            // The namespace twice, as the original has it.
            let text = format!("Pod was expected by PDB {0}/{0} to be deleted but it wasn't", key.namespace);
            self.recorder.event(&client::object_ref(pod), EventType::Warning, "NotDeleted", text);
        }
        let (status, next) = match &scale {
            Ok(scale) => decide(&budget, &selected, *scale, now),
            Err(failure) => {
                self.recorder.event(&about, EventType::Warning, "CalculateExpectedPodCountFailed", format!("Failed to calculate the number of expected pods: {failure}"));
                (failed(&budget, &failure.to_string(), now), Next::Settled)
            }
        };
        if budget.status.as_ref() != Some(&status) {
            let mut updated = (*budget).clone();
            updated.status = Some(status);
            self.context.update_status(&updated).await?;
        }
        scale?;
        Ok(next)
    }
}

/// Nothing selects nothing; the empty selector selects the whole namespace.
fn selector(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    LabelSelector::from_typed(budget.spec.as_ref()?.selector.as_ref()?).ok()
}

enum Expectation<'a> {
    Unavailable(&'a IntOrString),
    Available(&'a IntOrString),
}

fn expectation(budget: &PodDisruptionBudget) -> Option<Expectation<'_>> {
    let spec = budget.spec.as_ref()?;
    let unavailable = spec.max_unavailable.as_ref().map(Expectation::Unavailable);
    unavailable.or_else(|| spec.min_available.as_ref().map(Expectation::Available))
}

/// Pure. `expected` is how many pods there should be.
fn decide(budget: &PodDisruptionBudget, selected: &[Arc<Pod>], expected: i32, now: Timestamp) -> (PodDisruptionBudgetStatus, Next) {
    let desired = match expectation(budget) {
        Some(Expectation::Unavailable(value)) => (expected - of_total(value, expected, Round::Up)).max(0),
        Some(Expectation::Available(value)) => of_total(value, expected, Round::Up),
        None => 0,
    };
    let old = budget.status.clone().unwrap_or_default();
    let mut granted = old.disrupted_pods.clone().unwrap_or_default();
    let mut soonest: Option<i64> = None;
    granted.retain(|name, since| {
        let pod = selected.iter().find(|pod| pod.metadata.name.as_ref() == Some(name));
        let left = GRANT_SECONDS - seconds_between(since, now);
        let holds = pod.is_some_and(|pod| !pods::is_terminating(pod)) && left >= 0;
        if holds {
            soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
        }
        holds
    });
    let healthy = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let is_granted = granted.get(name).is_some_and(|since| seconds_between(since, now) < GRANT_SECONDS);
        pods::is_ready(pod) && !pods::is_terminating(pod) && !is_granted
    };
    let current = selected.iter().filter(healthy).count() as i32;
    let allowed = if expected <= 0 { 0 } else { (current - desired).max(0) };
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(with_condition(budget, status, reason, "", now)),
        current_healthy: current,
        desired_healthy: desired,
        disrupted_pods: (!granted.is_empty()).then_some(granted),
        disruptions_allowed: allowed,
        expected_pods: expected,
        observed_generation: budget.metadata.generation,
    };
    (status, Next::after_seconds(soonest))
}

/// When in doubt nothing may be evicted.
fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = 0;
    let mut conditions = with_condition(budget, "False", "SyncFailed", why, now);
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == CONDITION) {
        condition.observed_generation = status.observed_generation; // What was observed since is not told.
    }
    status.conditions = Some(conditions);
    status
}

/// Pods that were granted an eviction and are still there.
fn overdue<'a>(budget: &'a PodDisruptionBudget, selected: &'a [Arc<Pod>], now: Timestamp) -> impl Iterator<Item = &'a Pod> {
    let granted = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let late = move |pod: &&Arc<Pod>| {
        let since = granted.and_then(|granted| granted.get(pod.metadata.name.as_deref().unwrap_or_default()));
        !pods::is_terminating(pod) && since.is_some_and(|since| seconds_between(since, now) > GRANT_SECONDS)
    };
    selected.iter().filter(late).map(|pod| &**pod)
}

fn unmanaged(budget: &PodDisruptionBudget) -> String {
    let selector = go_selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the \
         PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
         \".spec.minAvailable\" field of the PDB to an integer value."
    )
}

fn with_condition(budget: &PodDisruptionBudget, status: &str, reason: &str, message: &str, now: Timestamp) -> Vec<Condition> {
    let old = budget.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let known = old.iter().find(|condition| condition.type_ == CONDITION && condition.status == status);
    let since = known.map_or(Time(now), |known| known.last_transition_time.clone());
    let mut conditions: Vec<Condition> = old.iter().filter(|condition| condition.type_ != CONDITION).cloned().collect();
    conditions.push(Condition {
        type_: CONDITION.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since,
        observed_generation: budget.metadata.generation,
    });
    conditions
}

#[cfg(test)]
mod tests;
