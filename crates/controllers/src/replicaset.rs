//! Keeps `spec.replicas` pods alive for every ReplicaSet and every ReplicationController.
//!
//! Invariant: a ready pod is never deleted while an unready one could go instead, and pods are never
//! created twice for the same want, since own creations are in the cache at once.

pub(crate) mod ranking;
mod set;

use std::cell::LazyCell;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Change, EventRecorder, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tracing::warn;

use crate::context::{Context, Object};
use crate::failure::{Failure, error_text};
use crate::owners;
use crate::pods;
use crate::runner::{Controller, Next, Queue};
use set::{Kind, Set, SetStatus};

/// Bounds the damage of a bad template; the next round continues where this one stopped.
const BURST_MAX: usize = 500;

pub(crate) struct ReplicaSetController<K> {
    context: Arc<Context>,
    recorder: EventRecorder,
    sets: Arc<Informer<K>>,
    pods: Arc<Informer<Pod>>,
}

struct Observed<'a> {
    set: &'a dyn Set,
    /// All that the set controls, whatever their state.
    pods: &'a [Arc<Pod>],
}

#[derive(Debug, PartialEq)]
struct Plan {
    create: usize,
    /// In the order of their uselessness.
    delete: Vec<Arc<Pod>>,
    status: SetStatus,
    /// When the next ready pod becomes available.
    next: Next,
}

impl<K: Object + Set + Kind> ReplicaSetController<K> {
    pub fn new(context: &Arc<Context>) -> Self {
        let pods = context.informer::<Pod>();
        owners::index_orphans(&pods);
        ReplicaSetController {
            context: context.clone(),
            recorder: context.recorder(K::COMPONENT),
            sets: context.informer::<K>(),
            pods,
        }
    }

    async fn reconcile_set(&self, set: &K) -> Result<Next, Failure> {
        let Some(selector) = set.selector() else {
            warn!(set = ?set.meta().name, "the selector cannot be read");
            return Ok(Next::Settled);
        };
        let candidates = owners::candidates(&self.pods, set.meta());
        let owned = owners::claim_all(&self.context, set, &selector, candidates).await?;
        let now = self.context.now();
        let mut plan = {
            // Only looked at when there are too many.
            let crowding = LazyCell::new(|| ranking::Crowding::of(&self.crowd(set)));
            decide(&Observed { set, pods: &owned }, now, &|pod| crowding.of_pod(pod))
        };
        if plan.create > 0 && !owners::still_there(&self.context, set).await? {
            return Ok(Next::Settled);
        }
        let failure = self.act(set, &plan).await;
        plan.status.conditions = failure_condition(set.status().conditions, failure.as_ref(), now);
        if plan.status != set.status() {
            let mut updated = set.clone();
            updated.set_status(&plan.status);
            self.context.update_status(&updated).await?;
        }
        match failure {
            Some((_, error)) => Err(error.into()),
            None => Ok(plan.next),
        }
    }

    async fn act(&self, set: &K, plan: &Plan) -> Option<(&'static str, kube::Error)> {
        let about = client::object_ref(set);
        if plan.create > 0 {
            let owner = owners::controller_reference(set);
            let namespace = set.meta().namespace.as_deref().unwrap_or_default();
            let pod = pods::from_template(set.template(), namespace, owner);
            let wanted = vec![pod; plan.create];
            let created = pods::create_slow_start(&self.context, &self.recorder, &about, wanted).await;
            return created.error.map(|error| ("FailedCreate", error));
        }
        let deleted = pods::delete_all(&self.context, &self.recorder, &about, &plan.delete).await;
        deleted.err().map(|error| ("FailedDelete", error))
    }

    /// Active pods of all sets with the same controller: those next to many of their like go first.
    fn crowd(&self, set: &K) -> Vec<Arc<Pod>> {
        let Some(controller) = owners::controller_of(set.meta()) else {
            return self.pods.owned_by(set.meta().uid.as_deref().unwrap_or_default());
        };
        let siblings = self.sets.owned_by(&controller.uid);
        siblings.iter().flat_map(|sibling| self.pods.owned_by(sibling.meta().uid.as_deref().unwrap_or_default())).collect()
    }
}

#[async_trait]
impl<K: Object + Set + Kind> Controller for ReplicaSetController<K> {
    fn name(&self) -> &'static str {
        K::COMPONENT
    }

    fn watch(&self, queue: &Queue) {
        let own = queue.clone();
        self.sets.subscribe(move |change: &Change<K>| own.add(ObjectKey::of(change.object().meta())));
        let sets = self.sets.clone();
        owners::watch_owned(&self.pods, (K::KIND, K::GROUP), queue, move |pod: &Pod| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let sets = sets.list_namespace(namespace);
            let may_adopt = |set: &&Arc<K>| set.selector().is_some_and(|selector| owners::matches(&selector, &pod.metadata));
            sets.iter().filter(may_adopt).map(|set| ObjectKey::of(set.meta())).collect()
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        match self.sets.get(key) {
            Some(set) => self.reconcile_set(&set).await,
            None => Ok(Next::Settled), // The garbage collector takes its pods.
        }
    }
}

/// Pure: the same observation always yields the same plan. `rank` says how crowded a pod's node is.
fn decide(observed: &Observed<'_>, now: Timestamp, rank: &dyn Fn(&Pod) -> usize) -> Plan {
    let Observed { set, pods } = observed;
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
    let wanted = usize::try_from(set.replicas()).unwrap_or(0);
    let (mut create, mut delete) = (0, Vec::new());
    if !set.is_deleting() {
        create = wanted.saturating_sub(active.len()).min(BURST_MAX);
        let surplus = active.len().saturating_sub(wanted).min(BURST_MAX);
        if surplus > 0 {
            delete = ranking::least_useful_first(&active, now, rank);
            delete.truncate(surplus);
        }
    }
    Plan { create, delete, status: status(set, pods, &active, now), next: next_available(&active, set.min_ready_seconds(), now) }
}

fn status(set: &&dyn Set, pods: &[Arc<Pod>], active: &[&Arc<Pod>], now: Timestamp) -> SetStatus {
    let count = |test: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| test(pod)).count() as i32;
    SetStatus {
        replicas: active.len() as i32,
        fully_labeled: count(&|pod| set.labels_match(pod)),
        ready: count(&pods::is_ready),
        available: count(&|pod| pods::is_available(pod, set.min_ready_seconds(), now)),
        terminating: set.counts_terminating().then(|| {
            pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod)).count() as i32
        }),
        observed_generation: set.generation(),
        conditions: set.status().conditions,
    }
}

fn next_available(active: &[&Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Next {
    let waits = active.iter().filter_map(|pod| pods::seconds_until_available(pod, min_ready_seconds, now));
    Next::after_seconds(waits.min())
}

/// `ReplicaFailure` is set by the first failure and taken away by the first round without one.
fn failure_condition(
    mut conditions: Vec<ReplicaSetCondition>,
    failure: Option<&(&'static str, kube::Error)>,
    now: Timestamp,
) -> Vec<ReplicaSetCondition> {
    const KIND: &str = "ReplicaFailure";
    match failure {
        None => conditions.retain(|condition| condition.type_ != KIND),
        Some(_) if conditions.iter().any(|condition| condition.type_ == KIND) => {}
        Some((reason, error)) => conditions.push(ReplicaSetCondition {
            type_: KIND.into(),
            status: "True".into(),
            reason: Some((*reason).into()),
            message: Some(error_text(error)),
            last_transition_time: Some(Time(now)),
        }),
    }
    conditions
}

pub(crate) type ReplicaSets = ReplicaSetController<ReplicaSet>;
pub(crate) type ReplicationControllers = ReplicaSetController<ReplicationController>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;
    use k8s_openapi::api::core::v1::PodTemplateSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    /// Pods are words `name[:flag[,flag]]`; see `fixtures::pods`.
    #[track_caller]
    fn check(wanted: i32, pods: &str, expected: &str) {
        let spec = ReplicaSetSpec { replicas: Some(wanted), ..ReplicaSetSpec::default() };
        check_set(ReplicaSet { spec: Some(spec), ..ReplicaSet::default() }, pods, expected);
    }

    #[track_caller]
    fn check_set(set: ReplicaSet, pods: &str, expected: &str) {
        let pods = fixtures::pods(pods);
        let plan = decide(&Observed { set: &set, pods: &pods }, fixtures::now(), &|_| 0);
        let mut steps: Vec<String> = vec!["create".into(); plan.create];
        steps.extend(plan.delete.iter().map(|pod| format!("delete({})", pod.metadata.name.as_deref().unwrap())));
        steps.push(format!("status={}/{}", plan.status.ready, plan.status.replicas));
        assert_eq!(steps.join(" "), expected);
    }

    #[test]
    fn converges_on_the_wanted_count() {
        //    wanted  pods now       steps
        check(3, "", "create create create status=0/0");
        check(2, "a b", "status=2/2");
        check(2, "a b:deleting", "create status=1/1");
        check(2, "a b:failed", "create status=1/1");
        check(1, "a b:unready", "delete(b) status=1/2");
        check(1, "old:age=900 new:age=5", "delete(new) status=2/2"); // Youngest goes first.
        check(0, "a b", "delete(a) delete(b) status=2/2");
        check(2, "a b:succeeded", "create status=1/1");
        check(2, "a:failed,deleting b:deleting", "create create status=0/0");
        check(0, "", "status=0/0");
        check(1, "a:node=n b:pending c:node=n,pending", "delete(b) delete(c) status=1/3"); // The early stages first,
        check(1, "a:cost=5 b:unready,cost=9", "delete(b) status=1/2"); // whatever they cost,
        check(1, "a:cost=5 b", "delete(b) status=2/2"); // and of equals the cheaper.
        check(1, "a:restarts=1 b:restarts=3", "delete(b) status=2/2");
    }

    #[test]
    fn a_set_on_its_way_out_is_left_alone() {
        let mut set = ReplicaSet::default();
        set.metadata.deletion_timestamp = Some(Time(fixtures::now()));
        check_set(set, "", "status=0/0");
    }

    #[test]
    fn a_round_is_limited() {
        check(600, "", &format!("{}status=0/0", "create ".repeat(500)));
    }

    #[test]
    fn the_status_counts() {
        let template = PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some([("app".to_owned(), "web".to_owned())].into()), ..ObjectMeta::default() }),
            spec: None,
        };
        let spec = ReplicaSetSpec { replicas: Some(3), template: Some(template), ..ReplicaSetSpec::default() };
        let mut set = ReplicaSet { spec: Some(spec), ..ReplicaSet::default() };
        set.metadata.generation = Some(4);
        let pods = fixtures::pods("a:label=app/web b:unready,label=app/web c d:deleting e:deleting,failed f:failed");
        let status = decide(&Observed { set: &set, pods: &pods }, fixtures::now(), &|_| 0).status;
        let counts = (status.replicas, status.fully_labeled, status.ready, status.available, status.terminating);
        assert_eq!(counts, (3, 2, 2, 2, Some(1)));
        assert_eq!(status.observed_generation, 4);
    }

    #[test]
    fn availability_takes_min_ready_seconds() {
        let spec = ReplicaSetSpec { replicas: Some(2), min_ready_seconds: Some(30), ..ReplicaSetSpec::default() };
        let set = ReplicaSet { spec: Some(spec), ..ReplicaSet::default() };
        let pods = fixtures::pods("a:age=100 b:age=10");
        let plan = decide(&Observed { set: &set, pods: &pods }, fixtures::now(), &|_| 0);
        assert_eq!((plan.status.ready, plan.status.available), (2, 1));
        assert_eq!(plan.next, Next::after_seconds(Some(20)));
    }

    #[test]
    fn the_failure_condition_stays_until_a_round_succeeds() {
        let now = fixtures::now();
        let error = || kube::Error::Api(kube::core::Status::failure("exceeded quota", "Forbidden").boxed());
        let failed = failure_condition(vec![], Some(&("FailedCreate", error())), now);
        assert_eq!(failed[0].message.as_deref(), Some("exceeded quota"));
        let again = failure_condition(failed, Some(&("FailedDelete", error())), now);
        assert_eq!(again[0].reason.as_deref(), Some("FailedCreate"));
        assert!(failure_condition(again, None, now).is_empty());
    }
}
